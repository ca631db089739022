"""``Tersoff``: the bond-order potential for covalent crystals, for a batch."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import segment_sum
from nvdyn_ase.models.many_body import ManyBodyPotential, Structure
from nvdyn_ase.models.near_pairs import Results
from nvdyn_ase.models.pair_geometry import sums_by_atom
from nvdyn_ase.models.pair_potential import Geometry, Slots
from nvdyn_ase.models.tersoff_kernel import LARGEST, evaluate
from nvdyn_ase.models.three_body_parameters import (
    Given,
    ThreeBodyTable,
    of_pairs,
    require,
    three_body_table,
)
from nvdyn_ase.models.triplets import Triplets, slopes, triplets_of
from nvdyn_ase.neighbors import FlatPairs

#: In the order of a file; those of ``ase.calculators.tersoff.TersoffParameters``.
NAMES = (
    *("m", "gamma", "lambda3", "c", "d", "h", "n"),
    *("beta", "lambda2", "B", "R", "D", "lambda1", "A"),
)


class Tersoff(ManyBodyPotential):
    """The Tersoff potential, in which the strength of a bond depends on the other ones.

    Equal to ``ase.calculators.tersoff.Tersoff``. J. Tersoff, Phys. Rev. B 37, 6991 (1988) and 39,
    5566 (1989), in the form that LAMMPS has::

        E    = 1/2 Σ_i Σ_j fc(r_ij) (A exp(-λ1 r_ij) - b_ij B exp(-λ2 r_ij))
        b_ij = (1 + (β ζ_ij)^n)^(-1 / 2n)
        ζ_ij = Σ_k fc(r_ik) g(θ_ijk) exp((λ3 (r_ij - r_ik))^m)
        g    = γ (1 + c² / d² - c² / (d² + (h - cos θ)²))

    where fc falls from 1 to 0 between R - D and R + D. Both atoms of a bond have half of its
    energy. It gives ``energy``, and ``forces``, ``stress``, ``free_energy`` (the energy) and
    ``atomic_energies`` if asked. An atom with one neighbour has a bond of order 1, where ASE
    divides by zero if n is less than 1.

    Parameters
    ----------
    potential
        A file in the format of LAMMPS (``.tersoff``), or a dict by triples of symbols as ASE's
        class takes it, with ``TersoffParameters`` or sequences of the 14 numbers.
    skin
        How much further than the cutoff the list of pairs reaches, Å.

    Raises
    ------
    ValueError
        A triple of the elements is missing, or a parameter is out of its range.
    PotentialFileError
        The file is something else; a ``ValueError``.
    FileNotFoundError
        There is no such file.
    """

    def __init__(self, potential: Given, *, skin: float = 0.5) -> None:
        table = three_body_table(potential, NAMES, "a file of Tersoff parameters")
        _check(table)
        cutoff = float((table.rows[..., 10] + table.rows[..., 11]).max())
        super().__init__(table.elements, cutoff, skin)
        self._table = np.ascontiguousarray(table.rows)

    def __repr__(self) -> str:
        """Say the elements."""
        symbols = "-".join(chemical_symbols[number] for number in self.elements)
        return f"Tersoff(elements={symbols!r}, cutoff={self._cutoff!r})"

    def _tables(self) -> tuple[np.ndarray, ...]:
        return (self._table,)

    def _run(self, geometry: Geometry, slots: Slots, with_forces: bool, results: Results) -> None:
        evaluate(geometry, slots, self._table, self._cutoff, results)

    # ---------------------------------------------------------------- torch operations

    def _arrange(self, flat: FlatPairs, kinds: Int[Tensor, " V"]) -> Any:
        triplets = triplets_of(flat, once=False)
        table = self._on(flat.i.device, "_table")
        own, other = kinds[triplets.atom], kinds[triplets.other]
        first, second = triplets.first, triplets.second
        rows = table[own, other, other], table[own[first], other[first], other[second]]
        return _Arranged(triplets, *(row.T.contiguous() for row in rows))

    def _pulls(
        self, structure: Structure, vector: Float[Tensor, "P 3"]
    ) -> tuple[Float[Tensor, " V"], Float[Tensor, "P 3"]]:
        triplets, bonds, others = structure.more
        ends = triplets.ends(vector)
        # Derivatives of what depends on its own row alone, so that no sum is differentiated.
        with torch.enable_grad():
            u, v = (ends[k].requires_grad_() for k in (triplets.first, triplets.second))
            terms, beyond = _zeta_terms(u, v, others)
            by_u, by_v = (torch.where(beyond[:, None], 0.0, s) for s in slopes(terms, u, v))
        zeta = segment_sum(torch.where(beyond, 0.0, terms.detach()), triplets.first_ptr)
        with torch.enable_grad():
            d, zeta = ends.requires_grad_(), zeta.requires_grad_()
            energy, beyond = _bond_energies(d, zeta, bonds)
            by_d, by_zeta = slopes(energy, d, zeta)
        energy = torch.where(beyond, 0.0, energy.detach())
        by_d, by_zeta = torch.where(beyond[:, None], 0.0, by_d), torch.where(beyond, 0.0, by_zeta)
        factor = by_zeta[triplets.first, None]
        pulls = triplets.pulls(by_d, factor * by_u, factor * by_v)
        half = 0.5 * (energy[triplets.begin] + energy[triplets.end])
        return torch.add(*sums_by_atom(structure.flat, half, half)), pulls


class _Arranged(NamedTuple):
    """Triplets, and a column of parameters for each end of a pair and for each triplet."""

    triplets: Triplets
    bonds: Float[Tensor, "14 D"]
    others: Float[Tensor, "14 T"]


def _check(table: ThreeBodyTable) -> None:
    everywhere = np.ones(table.rows.shape[:3], bool)
    require(table, NAMES, ("d", "R", "D"), everywhere)
    require(table, NAMES, ("n",), of_pairs(len(table.elements)))
    powers = table.rows[..., 0]
    if not np.isin(powers, (1.0, 3.0)).all():
        raise ValueError(f"m must be 1 or 3, not {powers[~np.isin(powers, (1.0, 3.0))][0]}")


def _length(vector: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
    x, y, z = vector.unbind(1)
    return (x * x + y * y + z * z).sqrt()


def _zeta_terms(
    u: Float[Tensor, "T 3"], v: Float[Tensor, "T 3"], row: Float[Tensor, "14 T"]
) -> tuple[Tensor, Tensor]:
    """Return the terms of zeta, and which of them are beyond the cutoff."""
    m, gamma, lambda3, c, d, h = row[:6]
    r, s = _length(u), _length(v)
    cosine = (u * v).sum(1) / (r * s)
    c2, d2 = c * c, d * d
    angular = gamma * (1.0 + c2 / d2 - c2 / (d2 + (h - cosine) ** 2))
    x = lambda3 * (r - s)
    argument = torch.where(m == 1.0, x, x * x * x)
    # Where it is cut the derivative is not zero in ASE, but as if it were not.
    held = argument.detach().clamp(-LARGEST, LARGEST)
    scale = torch.where(argument > LARGEST, 1e30, torch.exp(held))
    scale = torch.where(argument < -LARGEST, 0.0, scale)
    longer = scale * (1.0 + (argument - argument.detach()))
    within = _cut(s, row[10], row[11])
    return within * angular * longer, s.detach() > row[10] + row[11]


def _bond_energies(
    d: Float[Tensor, "D 3"], zeta: Float[Tensor, " D"], row: Float[Tensor, "14 D"]
) -> tuple[Tensor, Tensor]:
    """Return half the energy of each bond as an atom sees it, and which are beyond the cutoff."""
    n, beta, lambda2, b, middle, width, lambda1, a = row[6:]
    r, alone = _length(d), zeta == 0.0
    x = beta * torch.where(alone, 1.0, zeta)
    order = torch.exp(-0.5 / n * torch.log1p(torch.exp(n * torch.log(x))))
    order = torch.where(alone, 1.0, order)
    bond = a * torch.exp(-lambda1 * r) - order * b * torch.exp(-lambda2 * r)
    return 0.5 * _cut(r, middle, width) * bond, r.detach() > middle + width


def _cut(
    r: Float[Tensor, " N"], middle: Float[Tensor, " N"], width: Float[Tensor, " N"]
) -> Float[Tensor, " N"]:
    falling = 0.5 * (1.0 - torch.sin(math.pi * (r - middle) / (2.0 * width)))
    return torch.where(r < middle - width, 1.0, falling)
