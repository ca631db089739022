"""``PairTable``: pair energies between tabulated points."""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import combinations_with_replacement
from os import PathLike
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Bool, Float, Int
from numba import njit
from scipy.interpolate import CubicHermiteSpline, CubicSpline, PPoly
from torch import Tensor

from nvdyn_ase.models import pair_blocks as blocks
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, NeighborConfig
from nvdyn_ase.models.mixing import rows_by_number
from nvdyn_ase.models.pair_blocks import ENERGY, LENGTH, R2, SLOPE, Whole
from nvdyn_ase.models.pair_potential import PER_ATOM, Geometry, PairPotential, Results, Slots
from nvdyn_ase.models.pair_table_files import read_sections
from nvdyn_ase.models.potential_files import FilePath

Table = Sequence[Any]
Pair = tuple[int, int]


class PairTable(PairPotential):
    """A pair energy that is interpolated between points, for one kind of atom or several.

    With energies and forces it is the cubic Hermite spline, which has both at each point; with
    energies alone, the cubic spline that is not bent at the second and second to last points.
    Forces are its derivatives. Pairs that are farther apart than the last point have no energy. A
    system with a pair that is nearer than the first point has no energy, but NaN.

    Parameters
    ----------
    potential
        Arrays ``(r, energy)`` or ``(r, energy, force)`` in Å, eV and eV/Å, of any elements; or a
        dict of these by pair of elements, ``("Ar", "Kr")``, in either order, with each pair of the
        elements that are named. Or a file in the format of LAMMPS' ``pair_style table``, in these
        units; its sections are those of pairs if they are all called like ``Ar-Kr`` or ``Ar_Kr``.
    section
        Which section of a file, for any elements; needed if there are several without such names.
    skin
        How much further than the cutoff the list of pairs reaches, Å; an eighth of it by default.

    Raises
    ------
    ValueError
        Too few points, distances that do not grow, numbers that are not finite, a pair without a
        table or with two, an unknown section.
    PotentialFileError
        The file is something else; a ``ValueError``.
    FileNotFoundError
        There is no such file.
    """

    def __init__(
        self,
        potential: FilePath | Table | Mapping[tuple[str, str], Table],
        section: str | None = None,
        *,
        skin: float | None = None,
    ) -> None:
        elements, splines = _splines(potential, section)
        self.elements, self.skin = elements, skin
        super().__init__(None if elements is None else rows_by_number(elements))
        size = len(splines)
        self._knots = np.concatenate([spline.x for row in splines for spline in row])
        # The last point has no polynomial of its own; it is never looked up.
        self._coefficients = np.concatenate(
            [np.pad(spline.c[::-1].T, ((0, 1), (0, 0))) for row in splines for spline in row]
        )
        lengths = np.array([[len(spline.x) for spline in row] for row in splines])
        last = lengths.cumsum().reshape(size, size) - 1
        bounds = np.stack([last - lengths + 1, last], axis=2)
        if elements is not None:
            # Unknown elements are taken for others; what comes of it is thrown away.
            bounds = np.pad(bounds, ((0, 1), (0, 1), (0, 0)), mode="edge")
        self._bounds = np.ascontiguousarray(bounds)
        cutoff = float(self._knots[last].max())
        self.model_card = ModelCard(
            supports_stress=True,
            extra_outputs=PER_ATOM,
            neighbor_config=NeighborConfig(
                cutoff=cutoff, half_list=True, skin=cutoff / 8 if skin is None else skin
            ),
            supported_elements=None if elements is None else frozenset(elements),
        )

    def __repr__(self) -> str:
        """Say the elements and the cutoff."""
        symbols = "any"
        if self.elements is not None:
            symbols = "-".join(chemical_symbols[number] for number in self.elements)
        config = self.model_card.neighbor_config
        assert config is not None
        return f"PairTable(elements={symbols!r}, cutoff={config.cutoff!r})"

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the other has the same tables."""
        if self is other:
            return True
        if not isinstance(other, PairTable) or self.elements != other.elements:
            return False
        names = ("_knots", "_coefficients", "_bounds")
        same = all(np.array_equal(getattr(self, name), getattr(other, name)) for name in names)
        return same and self.device == other.device

    def _run(self, geometry: Geometry, slots: Slots, results: Results) -> None:
        tables = self._knots, self._coefficients, self._bounds
        _evaluate(geometry, slots, *tables, results)

    def _terms(
        self, r2: Float[Tensor, " E"], kinds: tuple[Int[Tensor, " E"], Int[Tensor, " E"]] | None
    ) -> tuple[Bool[Tensor, " E"], Float[Tensor, " E"], Float[Tensor, " E"]]:
        device = r2.device
        knots, bounds = self._on(device, "_knots"), self._on(device, "_bounds")
        row = bounds[0, 0].expand(len(r2), 2) if kinds is None else bounds[kinds]
        r, (first, last) = r2.sqrt(), row.unbind(1)
        low, high = first, last
        for _ in range(int(np.diff(self._bounds, axis=2).max()).bit_length()):
            middle = (low + high) // 2
            ahead = knots[middle] <= r
            low, high = torch.where(ahead, middle, low), torch.where(ahead, high, middle)
        t = r - knots[low]
        c0, c1, c2, c3 = self._on(device, "_coefficients")[low].unbind(1)
        c0 = torch.where(r < knots[first], torch.nan, c0)
        slope = (3.0 * c3 * t + 2.0 * c2) * t + torch.where(c0.isnan(), torch.nan, c1)
        return r > knots[last], ((c3 * t + c2) * t + c1) * t + c0, slope / r


# ---------------------------------------------------------------- from tables to splines


def _splines(
    potential: Any, section: str | None
) -> tuple[tuple[int, ...] | None, list[list[PPoly]]]:
    """Return the elements, None for any, and a spline for each two of them."""
    if isinstance(potential, str | PathLike):
        potential = _of_file(potential, section)
    elif section is not None:
        raise ValueError(f"section={section!r} is of a file, and none is given")
    if not isinstance(potential, Mapping):
        return None, [[_spline("the table", potential)]]
    return _by_pair(potential)


def _of_file(path: FilePath, section: str | None) -> Any:
    """Return the table of one section, or tables by pair."""
    sections = read_sections(path)
    if section is not None:
        if section not in sections:
            raise ValueError(f"{path} has no section {section!r}; it has {', '.join(sections)}")
        return sections[section]
    pairs = {name: tuple(re.split("[-_]", name)) for name in sections}
    known = (len(pair) == 2 and all(s in atomic_numbers for s in pair) for pair in pairs.values())
    if all(known):
        return {pairs[name]: table for name, table in sections.items()}
    if len(sections) > 1:
        raise ValueError(
            f"{path} has the sections {', '.join(sections)}; choose one with section=, or call "
            "them by pairs of elements, such as Ar-Kr"
        )
    return next(iter(sections.values()))


def _by_pair(tables: Mapping[Any, Table]) -> tuple[tuple[int, ...], list[list[PPoly]]]:
    splines: dict[Pair, PPoly] = {}
    for key, table in tables.items():
        if not (isinstance(key, tuple) and len(key) == 2 and all(s in atomic_numbers for s in key)):
            raise ValueError(f"{key!r} is not a pair of elements")
        pair = tuple(sorted(atomic_numbers[symbol] for symbol in key))
        if pair in splines:
            raise ValueError(f"there are two tables for {'-'.join(key)}")
        splines[pair[0], pair[1]] = _spline(f"the table of {'-'.join(key)}", table)
    elements = tuple(sorted({number for pair in splines for number in pair}))
    if not elements:
        raise ValueError("there are no tables")
    for one, other in combinations_with_replacement(elements, 2):
        if (one, other) not in splines:
            names = f"{chemical_symbols[one]}-{chemical_symbols[other]}"
            raise ValueError(f"there is no table for {names}")
    return elements, [[splines[min(a, b), max(a, b)] for b in elements] for a in elements]


def _spline(name: str, table: Table) -> PPoly:
    if len(table) not in (2, 3):
        raise ValueError(f"{name} should be (r, energy) or (r, energy, force)")
    columns = [np.asarray(column, dtype=float) for column in table]
    r = columns[0]
    if r.ndim != 1 or any(column.shape != r.shape for column in columns):
        raise ValueError(f"{name} should have as many energies and forces as distances")
    if not all(np.isfinite(column).all() for column in columns):
        raise ValueError(f"{name} should have finite numbers")
    least = 4 if len(columns) == 2 else 2
    if len(r) < least or r[0] < 0 or not (np.diff(r) > 0).all():
        raise ValueError(f"{name} should have at least {least} distances that grow")
    if len(columns) == 2:
        return CubicSpline(*columns)
    return CubicHermiteSpline(r, columns[1], -columns[2])


# ---------------------------------------------------------------- loops on the CPU


@njit(cache=True, error_model="numpy", nogil=True)
def _evaluate(
    geometry: Geometry,
    slots: Slots,
    knots: np.ndarray,
    coefficients: np.ndarray,
    bounds: np.ndarray,
    results: Results,
) -> None:
    """Fill the results of a batch."""
    ptr, positions, cell, kinds = geometry
    start, stop, neighbor, image, image_slot, shifts, half = slots
    energy, forces, stress, energies, stresses = results
    block, images, back, virial = blocks.make_scratch(image_slot)
    for b in range(len(ptr) - 1):
        blocks.place_images(image_slot[b], image_slot[b + 1], shifts, cell[b], images, back)
        first = np.uint64(ptr[b])
        for i in range(first, np.uint64(ptr[b + 1])):
            sums = blocks.open_atom(i, positions)
            p, end = np.uint64(start[i]), np.uint64(stop[i])
            while p < end:
                count = min(end - p, LENGTH)
                blocks.fill(block, count, i, first, p, positions, neighbor, image, images)
                if not half:
                    blocks.drop_reversed(block, count, i - first, p, neighbor, image, back)
                for k in range(count):
                    low, high = bounds[0, 0]
                    if len(kinds):
                        low, high = bounds[kinds[i], kinds[first + np.uint64(neighbor[p + k])]]
                    terms = _interpolate(block[R2 + k], low, high, knots, coefficients)
                    block[ENERGY + k], block[SLOPE + k] = terms
                sums = blocks.add_forces(block, count, first, p, neighbor, forces, sums)
                if len(stress):
                    blocks.add_virial(block, count, virial)
                if len(energies) or len(stresses):
                    blocks.add_shares(block, count, i, first, p, neighbor, energies, stresses)
                p += count
            energy[b] += blocks.close_atom(i, forces, sums)
        blocks.close_system(b, ptr[b], ptr[b + 1], cell[b], virial, stress, stresses)


@njit(cache=True, error_model="numpy")
def _interpolate(
    r2: float, first: Whole, last: Whole, knots: np.ndarray, coefficients: np.ndarray
) -> tuple[float, float]:
    """Return energy and slope of a pair; zeros beyond the last point, NaN before the first."""
    r = math.sqrt(r2)
    if r > knots[last]:
        return 0.0, 0.0
    if not r >= knots[first]:
        return np.nan, np.nan
    low, high = first, last
    while high - low > 1:
        middle = (low + high) // 2
        if knots[middle] <= r:
            low = middle
        else:
            high = middle
    t = r - knots[low]
    c0, c1, c2, c3 = (
        *(coefficients[low, 0], coefficients[low, 1]),
        *(coefficients[low, 2], coefficients[low, 3]),
    )
    energy = ((c3 * t + c2) * t + c1) * t + c0
    return energy, ((3.0 * c3 * t + 2.0 * c2) * t + c1) / r
