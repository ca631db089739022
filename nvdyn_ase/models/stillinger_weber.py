"""``StillingerWeber``: pairs and angles, for a batch."""

from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import segment_sum
from nvdyn_ase.models.many_body import ManyBodyPotential, Structure
from nvdyn_ase.models.near_pairs import Results
from nvdyn_ase.models.pair_geometry import sums_by_atom
from nvdyn_ase.models.pair_potential import Geometry, Slots
from nvdyn_ase.models.stillinger_weber_kernel import evaluate
from nvdyn_ase.models.three_body_parameters import (
    Given,
    ThreeBodyTable,
    of_pairs,
    require,
    three_body_table,
)
from nvdyn_ase.models.triplets import Triplets, slopes, triplets_of
from nvdyn_ase.neighbors import FlatPairs

#: In the order of a file.
NAMES = ("epsilon", "sigma", "a", "lambda", "gamma", "costheta0", "A", "B", "p", "q", "tol")

#: What two atoms of a pair must agree on, and the two neighbours of an angle.
_OF_PAIRS = ("epsilon", "sigma", "a", "A", "B", "p", "q")
_OF_ANGLES = ("epsilon", "lambda", "costheta0")

_SILICON = (2.1683, 2.0951, 1.8, 21.0, 1.2, -1.0 / 3.0, 7.049556277, 0.6022245584, 4.0, 0.0, 0.0)

#: F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985).
SILICON = {("Si", "Si", "Si"): _SILICON}


class StillingerWeber(ManyBodyPotential):
    """The Stillinger-Weber potential, in which angles between bonds have an energy.

    F. H. Stillinger and T. A. Weber, Phys. Rev. B 31, 5262 (1985), in the form that LAMMPS has::

        E  = Σ_{i<j} φ2(r_ij) + Σ_i Σ_{j<k} φ3(r_ij, r_ik, θ_ijk)
        φ2 = A ε (B (σ / r)^p - (σ / r)^q) exp(σ / (r - a σ))
        φ3 = λ ε (cos θ - cos θ0)² exp(γ σ / (r_ij - a σ)) exp(γ σ / (r_ik - a σ))

    where ε, λ and cos θ0 of φ3 are those of the triple, and σ, a and γ those of the pairs ij and
    ik. Both atoms of a pair have half of its energy, and the atom in the middle of an angle all of
    it. It gives ``energy``, and ``forces``, ``stress``, ``free_energy`` (the energy) and
    ``atomic_energies`` if asked.

    Parameters
    ----------
    potential
        A file in the format of LAMMPS (``.sw``), or a dict of sequences with its 11 numbers by
        triples of symbols; the published ones of silicon by default. ``tol``, with which LAMMPS
        leaves out small terms, is not used: all terms count.
    skin
        How much further than the cutoff the list of pairs reaches, Å.

    Raises
    ------
    ValueError
        A triple of the elements is missing, a parameter is out of its range, or those of a pair or
        an angle are others the other way round.
    PotentialFileError
        The file is something else; a ``ValueError``.
    FileNotFoundError
        There is no such file.
    """

    def __init__(self, potential: Given = SILICON, *, skin: float = 0.4) -> None:
        table = three_body_table(potential, NAMES, "a file of Stillinger-Weber parameters")
        _check(table)
        pairs = of_pairs(len(table.elements))
        cutoff = float((table.rows[..., 1] * table.rows[..., 2])[pairs].max())
        super().__init__(table.elements, cutoff, skin)
        self._table = np.ascontiguousarray(table.rows)

    def __repr__(self) -> str:
        """Say the elements."""
        symbols = "-".join(chemical_symbols[number] for number in self.elements)
        return f"StillingerWeber(elements={symbols!r}, cutoff={self._cutoff!r})"

    def _tables(self) -> tuple[np.ndarray, ...]:
        return (self._table[..., :10],)

    def _run(self, geometry: Geometry, slots: Slots, with_forces: bool, results: Results) -> None:
        evaluate(geometry, slots, self._table, self._cutoff, results)

    # ---------------------------------------------------------------- torch operations

    def _arrange(self, flat: FlatPairs, kinds: Int[Tensor, " V"]) -> Any:
        triplets = triplets_of(flat, once=True)
        table = self._on(flat.i.device, "_table")
        own, other = kinds[triplets.atom], kinds[triplets.other]
        first, second = triplets.first, triplets.second
        rows = (
            table[kinds[flat.i], kinds[flat.j], kinds[flat.j]],
            table[own, other, other][first],
            table[own, other, other][second],
            table[own[first], other[first], other[second]],
        )
        return _Arranged(triplets, *(row.T.contiguous() for row in rows))

    def _pulls(
        self, structure: Structure, vector: Float[Tensor, "P 3"]
    ) -> tuple[Float[Tensor, " V"], Float[Tensor, "P 3"]]:
        flat, (triplets, bonds, *angles) = structure.flat, structure.more
        ends = triplets.ends(vector)
        # Derivatives of what depends on its own row alone, so that no sum is differentiated.
        with torch.enable_grad():
            d = vector.detach().requires_grad_()
            energy, beyond = _pair_energies(d, bonds)
            (by_d,) = slopes(energy, d)
        energy = torch.where(beyond, 0.0, energy.detach())
        by_d = torch.where(beyond[:, None], 0.0, by_d)
        with torch.enable_grad():
            u, v = (ends[k].requires_grad_() for k in (triplets.first, triplets.second))
            angle, beyond = _angle_energies(u, v, *angles)
            by_u, by_v = (torch.where(beyond[:, None], 0.0, s) for s in slopes(angle, u, v))
        angle = torch.where(beyond, 0.0, angle.detach())
        half = 0.5 * energy
        energies = torch.add(*sums_by_atom(flat, half, half))
        at = torch.searchsorted(triplets.atom, torch.arange(len(flat.ptr), device=vector.device))
        energies = energies + segment_sum(angle, triplets.first_ptr[at])
        return energies, by_d + triplets.pulls(torch.zeros_like(ends), by_u, by_v)


class _Arranged(NamedTuple):
    """Triplets, and a column of parameters for each pair, both pairs of an angle, and the angle."""

    triplets: Triplets
    bonds: Float[Tensor, "11 P"]
    first: Float[Tensor, "11 T"]
    second: Float[Tensor, "11 T"]
    angles: Float[Tensor, "11 T"]


def _check(table: ThreeBodyTable) -> None:
    pairs = of_pairs(len(table.elements))
    require(table, NAMES, ("sigma", "a"), pairs)
    wrong = np.abs(table.rows[..., NAMES.index("costheta0")]) > 1
    if wrong.any():
        raise ValueError("costheta0 must be between -1 and 1")
    of_two = np.einsum("ijjn->ijn", table.rows)
    for names, rows, back, what in (
        (_OF_PAIRS, of_two, of_two.swapaxes(0, 1), "a pair"),
        (_OF_ANGLES, table.rows, table.rows.swapaxes(1, 2), "an angle"),
    ):
        for name in names:
            column = NAMES.index(name)
            if not np.array_equal(rows[..., column], back[..., column]):
                raise ValueError(f"{name} of {what} is another one the other way round")


def _length(vector: Float[Tensor, "N 3"]) -> Float[Tensor, " N"]:
    x, y, z = vector.unbind(1)
    return (x * x + y * y + z * z).sqrt()


def _decay(
    r: Float[Tensor, " N"], row: Float[Tensor, "11 N"], gamma: Tensor | float
) -> tuple[Float[Tensor, " N"], Bool[Tensor, " N"]]:
    """Return what falls to zero at the cutoff, and who is beyond it."""
    left = r - row[2] * row[1]
    return torch.exp(gamma * row[1] / left), left.detach() >= 0.0


def _pair_energies(
    d: Float[Tensor, "P 3"], row: Float[Tensor, "11 P"]
) -> tuple[Float[Tensor, " P"], Bool[Tensor, " P"]]:
    r = _length(d)
    tail, beyond = _decay(r, row, 1.0)
    ratio = torch.log(row[1] / r)
    powers = row[7] * torch.exp(row[8] * ratio) - torch.exp(row[9] * ratio)
    return row[6] * row[0] * powers * tail, beyond


def _angle_energies(
    u: Float[Tensor, "T 3"],
    v: Float[Tensor, "T 3"],
    first: Float[Tensor, "11 T"],
    second: Float[Tensor, "11 T"],
    row: Float[Tensor, "11 T"],
) -> tuple[Float[Tensor, " T"], Bool[Tensor, " T"]]:
    r, s = _length(u), _length(v)
    off = (u * v).sum(1) / (r * s) - row[5]
    (f, far), (g, farther) = _decay(r, first, first[4]), _decay(s, second, second[4])
    return row[3] * row[0] * off * off * f * g, far | farther
