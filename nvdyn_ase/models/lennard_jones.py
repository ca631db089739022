"""The Lennard-Jones potential, for one kind of atom or several."""

import math
from collections.abc import Mapping

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor

from nvdyn_ase.models import pair_blocks as blocks
from nvdyn_ase.models.base import ModelCard, NeighborConfig
from nvdyn_ase.models.mixing import Values, check_rule, pair_tables, rows_by_number
from nvdyn_ase.models.pair_blocks import ENERGY, LENGTH, R2, SLOPE, Whole
from nvdyn_ase.models.pair_potential import PER_ATOM, Geometry, PairPotential, Results, Slots

#: Columns of the table, which has a row for each pair of kinds: squares of cutoff, onset and sigma,
#: Å²; four times epsilon and the energy at the cutoff, eV.
COLUMNS = ("cutoff2", "onset2", "sigma2", "epsilon4", "shift")


class LennardJones(PairPotential):
    """The 12-6 potential: ``4 epsilon ((sigma / r)**12 - (sigma / r)**6)``, cut off.

    J. E. Lennard-Jones, Proc. Phys. Soc. 43, 461 (1931), with the defaults and the two ways to end
    at the cutoff of ``ase.calculators.lj``, whose numbers it gives.

    With numbers for ``sigma`` and ``epsilon`` all elements are the same. With dicts there are
    several kinds of atoms, and elements that are not named are unknown::

        LennardJones({"Ar": 3.405, "Kr": 3.65}, {"Ar": 0.01032, "Kr": 0.0142}, rc=9.0)
        LennardJones({"Ar": 3.405, "Kr": 3.65, ("Ar", "Kr"): 3.5}, 0.0125)

    Parameters
    ----------
    sigma
        Distance at which the energy is zero, Å; a number, or a dict by element, ``"Ar"`` or 18, and
        by pair of elements, ``("Ar", "Kr")``.
    epsilon
        Depth, eV; likewise.
    rc
        Cutoff, Å; three times the sigma of the pair by default.
    ro
        Where the smooth cutoff begins, Å; 0.66 of the cutoff by default.
    smooth
        Bring energy and forces to zero between ``ro`` and ``rc``. Otherwise the energy is shifted
        to be zero at the cutoff, and the forces jump there.
    mixing
        What a pair of elements has that is not named: ``"lorentz-berthelot"`` (mean of sigma,
        geometric mean of epsilon), ``"geometric"`` or ``"waldman-hagler"``.
    skin
        How much further than the cutoff the list of pairs reaches, Å; an eighth of it by default.

    Raises
    ------
    ValueError
        A parameter out of its range, an unknown rule or element, a pair without parameters.
    """

    def __init__(
        self,
        sigma: Values = 1.0,
        epsilon: Values = 1.0,
        rc: float | None = None,
        ro: float | None = None,
        smooth: bool = False,
        *,
        mixing: str = "lorentz-berthelot",
        skin: float | None = None,
    ) -> None:
        self.sigma, self.epsilon, self.rc, self.ro = sigma, epsilon, rc, ro
        self.smooth, self.mixing, self.skin = bool(smooth), mixing, skin
        check_rule(mixing)
        elements: tuple[int, ...] | None = None
        if isinstance(sigma, Mapping) or isinstance(epsilon, Mapping):
            elements, sigmas, epsilons = pair_tables(sigma, epsilon, mixing)
        else:
            sigmas, epsilons = (np.array([[float(value)]]) for value in (sigma, epsilon))
        cutoffs = 3 * sigmas if rc is None else np.full_like(sigmas, rc)
        onsets = 0.66 * cutoffs if ro is None else np.full_like(sigmas, ro)
        _check(sigmas, epsilons, cutoffs, onsets if smooth else None)
        self._table = _table(sigmas, epsilons, cutoffs, onsets)
        if elements is None:
            super().__init__()
        else:
            super().__init__(rows_by_number(elements))
            # Elements without parameters have a kind of their own, whose energies are no numbers.
            self._table = np.pad(self._table, ((0, 1), (0, 1), (0, 0)), constant_values=np.nan)
        cutoff = float(cutoffs.max())
        self.model_card = ModelCard(
            supports_stress=True,
            extra_outputs=PER_ATOM,
            neighbor_config=NeighborConfig(
                cutoff=cutoff, half_list=True, skin=cutoff / 8 if skin is None else skin
            ),
            supported_elements=None if elements is None else frozenset(elements),
        )

    def __repr__(self) -> str:
        """Say the parameters."""
        names = ("sigma", "epsilon", "rc", "ro", "smooth")
        return f"LennardJones({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    def _run(self, geometry: Geometry, slots: Slots, results: Results) -> None:
        _evaluate(geometry, slots, self._table.reshape(-1), self.smooth, results)

    def _terms(
        self, r2: Float[Tensor, " E"], kinds: tuple[Int[Tensor, " E"], Int[Tensor, " E"]] | None
    ) -> tuple[Bool[Tensor, " E"], Float[Tensor, " E"], Float[Tensor, " E"]]:
        rows = self._on(r2.device, "_table")
        row = rows[0, 0] if kinds is None else rows[kinds]
        cutoff2, onset2, sigma2, epsilon4, shift = row.unbind(-1)
        inverse = 1.0 / r2
        ratio = sigma2 * inverse
        c6 = ratio * ratio * ratio
        c12 = c6 * c6
        energy, slope = epsilon4 * (c12 - c6), -6.0 * epsilon4 * (2.0 * c12 - c6) * inverse
        if not self.smooth:
            return r2 > cutoff2, energy - shift, slope
        left, width, inside = cutoff2 - r2, cutoff2 - onset2, r2 < onset2
        width3 = width * width * width
        factor = left * left * (cutoff2 + 2.0 * r2 - 3.0 * onset2) / width3
        factor = torch.where(inside, 1.0, factor)
        change = torch.where(inside, 0.0, 6.0 * left * (onset2 - r2) / width3)
        return r2 > cutoff2, factor * energy, factor * slope + 2.0 * change * energy


def _check(
    sigmas: np.ndarray, epsilons: np.ndarray, cutoffs: np.ndarray, onsets: np.ndarray | None
) -> None:
    for name, values in (("sigma", sigmas), ("rc, the cutoff,", cutoffs)):
        if not (np.isfinite(values) & (values > 0)).all():
            raise ValueError(f"{name} must be positive, not {values.min()}")
    if not (np.isfinite(epsilons) & (epsilons >= 0)).all():
        raise ValueError(f"epsilon must not be negative, and is {epsilons.min()}")
    if onsets is not None and not ((onsets >= 0) & (onsets < cutoffs)).all():
        raise ValueError(
            f"ro, where the smooth cutoff begins, must be between 0 and rc={cutoffs.min()}, "
            f"not {onsets.max()}"
        )


def _table(
    sigmas: np.ndarray, epsilons: np.ndarray, cutoffs: np.ndarray, onsets: np.ndarray
) -> np.ndarray:
    """Return the table of ``COLUMNS``, (K, K, 5)."""
    sixth = (sigmas / cutoffs) ** 6
    shifts = 4 * epsilons * (sixth**2 - sixth)
    return np.stack([cutoffs**2, onsets**2, sigmas**2, 4 * epsilons, shifts], axis=2)


# ---------------------------------------------------------------- loops on the CPU


@njit(cache=True, error_model="numpy", nogil=True)
def _evaluate(
    geometry: Geometry, slots: Slots, table: np.ndarray, smooth: bool, results: Results
) -> None:
    """Fill the results of a batch; ``table`` is flat."""
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
                if len(kinds) == 0:
                    _uniform(block, count, table, smooth)
                else:
                    _by_kind(block, count, i, first, p, neighbor, kinds, table, smooth)
                sums = blocks.add_forces(block, count, first, p, neighbor, forces, sums)
                if len(stress):
                    blocks.add_virial(block, count, virial)
                if len(energies) or len(stresses):
                    blocks.add_shares(block, count, i, first, p, neighbor, energies, stresses)
                p += count
            energy[b] += blocks.close_atom(i, forces, sums)
        blocks.close_system(b, ptr[b], ptr[b + 1], cell[b], virial, stress, stresses)


@njit(cache=True, error_model="numpy")
def _uniform(block: np.ndarray, count: Whole, table: np.ndarray, smooth: bool) -> None:
    """Write the terms of pairs that are all of one kind."""
    c2, o2, s2, e4, shift = table[0], table[1], table[2], table[3], table[4]
    if smooth:
        for k in range(count):
            block[ENERGY + k], block[SLOPE + k] = _smoothed(block[R2 + k], c2, o2, s2, e4)
    else:
        for k in range(count):
            block[ENERGY + k], block[SLOPE + k] = _shifted(block[R2 + k], c2, s2, e4, shift)


@njit(cache=True, error_model="numpy")
def _by_kind(
    block: np.ndarray,
    count: Whole,
    i: Whole,
    first: Whole,
    begin: Whole,
    neighbor: np.ndarray,
    kinds: np.ndarray,
    table: np.ndarray,
    smooth: bool,
) -> None:
    """Write the terms of pairs of an atom, each from the row of its kinds."""
    number = np.uint64(math.sqrt(len(table) // 5))
    for k in range(count):
        row = kinds[i] * number + kinds[first + np.uint64(neighbor[begin + k])]
        at = row * np.uint64(5)
        c2, o2, s2 = table[at], table[at + np.uint64(1)], table[at + np.uint64(2)]
        e4, shift = table[at + np.uint64(3)], table[at + np.uint64(4)]
        if smooth:
            block[ENERGY + k], block[SLOPE + k] = _smoothed(block[R2 + k], c2, o2, s2, e4)
        else:
            block[ENERGY + k], block[SLOPE + k] = _shifted(block[R2 + k], c2, s2, e4, shift)


@njit(cache=True, error_model="numpy")
def _shifted(
    r2: float, cutoff2: float, sigma2: float, epsilon4: float, shift: float
) -> tuple[float, float]:
    """Return energy and slope of a pair; zeros beyond the cutoff, where NaN is not."""
    inverse = 1.0 / r2
    ratio = sigma2 * inverse
    c6 = ratio * ratio * ratio
    c12 = c6 * c6
    energy = epsilon4 * (c12 - c6) - shift
    slope = -6.0 * epsilon4 * (2.0 * c12 - c6) * inverse
    beyond = r2 > cutoff2
    return 0.0 if beyond else energy, 0.0 if beyond else slope


@njit(cache=True, error_model="numpy")
def _smoothed(
    r2: float, cutoff2: float, onset2: float, sigma2: float, epsilon4: float
) -> tuple[float, float]:
    """Return energy and slope of a pair, brought to zero smoothly."""
    energy, slope = _shifted(r2, cutoff2, sigma2, epsilon4, 0.0)
    width, left = cutoff2 - onset2, cutoff2 - r2
    width3, inside = width * width * width, r2 < onset2
    factor = left * left * (cutoff2 + 2.0 * r2 - 3.0 * onset2) / width3
    change = 6.0 * left * (onset2 - r2) / width3
    factor, change = 1.0 if inside else factor, 0.0 if inside else change
    smooth_energy, smooth_slope = factor * energy, factor * slope + 2.0 * change * energy
    beyond = r2 > cutoff2
    return 0.0 if beyond else smooth_energy, 0.0 if beyond else smooth_slope
