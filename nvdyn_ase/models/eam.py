"""``EAM``: the embedded atom method with tabulated functions, for a batch."""

from typing import Any

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.models.eam_kernel import evaluate
from nvdyn_ase.models.eam_tables import EAMTables, read_tables
from nvdyn_ase.models.many_body import ManyBodyPotential, Structure
from nvdyn_ase.models.near_pairs import Results
from nvdyn_ase.models.pair_geometry import sums_by_atom
from nvdyn_ase.models.pair_potential import Geometry, Slots
from nvdyn_ase.models.potential_files import FilePath
from nvdyn_ase.neighbors import FlatPairs


class EAM(ManyBodyPotential):
    """The embedded atom method, with functions from a file.

    Equal to ``ase.calculators.eam.EAM``, with its cubic splines. M. S. Daw and M. I. Baskes, Phys.
    Rev. B 29, 6443 (1984); M. W. Finnis and J. E. Sinclair, Phil. Mag. A 50, 45 (1984), for
    densities that depend on both elements; Y. Mishin, M. J. Mehl and D. A. Papaconstantopoulos,
    Acta Mater. 53, 4029 (2005), for dipoles μ and quadrupoles λ (the angular-dependent potential)::

        E_i = F(ρ_i) + Σ_j φ(r_ij) / 2 [ + |μ_i|² / 2 + |λ_i|² / 2 - (tr λ_i)² / 6 ]
        ρ_i = Σ_j ρ(r_ij),  μ_i = Σ_j u(r_ij) r_ij,  λ_i = Σ_j w(r_ij) r_ij ⊗ r_ij

    Beyond the densities in the file, and at distances shorter than the first in it, the outermost
    polynomials go on, as in ASE. It gives ``energy``, and ``forces``, ``stress``, ``free_energy``
    (the energy) and ``atomic_energies``, the E_i, if asked.

    Parameters
    ----------
    potential
        A file in the format of LAMMPS: ``.alloy`` (setfl), ``.fs``, ``.adp``, or ``.eam`` (funcfl,
        of one element). Or the tables of one.
    form
        ``"alloy"``, ``"fs"``, ``"adp"`` or ``"eam"``; the end of the file's name by default.
    skin
        How much further than the cutoff the list of pairs reaches, Å.

    Raises
    ------
    ValueError
        An unknown form.
    PotentialFileError
        The file is not of this form; a ``ValueError``.
    FileNotFoundError
        There is no such file.
    """

    def __init__(
        self, potential: FilePath | EAMTables, form: str | None = None, *, skin: float = 1.0
    ) -> None:
        given = isinstance(potential, EAMTables)
        tables = potential if isinstance(potential, EAMTables) else read_tables(potential, form)
        super().__init__(tables.elements, tables.cutoff, skin)
        self.potential = None if given else str(potential)
        self.form = tables.form
        self._embedding, self._radial = tables.embedding, tables.radial
        self._scales = tables.cutoff, tables.dr, tables.drho

    def __repr__(self) -> str:
        """Say which file and elements."""
        symbols = "-".join(chemical_symbols[number] for number in self.elements)
        return f"EAM(potential={self.potential!r}, form={self.form!r}, elements={symbols!r})"

    def _tables(self) -> tuple[np.ndarray, ...]:
        return self._embedding, self._radial, np.array(self._scales)

    def _run(self, geometry: Geometry, slots: Slots, with_forces: bool, results: Results) -> None:
        tables = self._embedding, self._radial, self._scales
        evaluate(geometry, slots, *tables, self.form == "adp", with_forces, results)

    # ---------------------------------------------------------------- torch operations

    def _arrange(self, flat: FlatPairs, kinds: Int[Tensor, " V"]) -> Any:
        """Return where the tables of each pair begin, and those of each atom."""
        count = len(self.elements)
        pairs = (kinds[flat.i] * count + kinds[flat.j]) * self._radial.shape[2]
        return pairs, kinds * self._embedding.shape[1]

    def _pulls(
        self, structure: Structure, vector: Float[Tensor, "P 3"]
    ) -> tuple[Float[Tensor, " V"], Float[Tensor, "P 3"]]:
        flat, device = structure.flat, vector.device
        of_pair, of_atom = structure.more
        cutoff, dr, drho = self._scales
        radial = self._on(device, "_radial").flatten(0, 2)
        x, y, z = vector.unbind(1)
        r = (x * x + y * y + z * z).sqrt()
        values, slopes = _interpolate(radial, of_pair, r, dr, self._radial.shape[2])
        values = torch.where((r > cutoff)[:, None], 0.0, values)
        slopes = torch.where((r >= cutoff)[:, None], 0.0, slopes)
        density = torch.add(
            *sums_by_atom(flat, values[:, 0].contiguous(), values[:, 1].contiguous())
        )
        embedding = self._on(device, "_embedding").flatten(0, 1)[:, None]
        energies, slope = (
            term[:, 0]
            for term in _interpolate(embedding, of_atom, density, drho, self._embedding.shape[1])
        )
        half = 0.5 * values[:, 2]
        energies = energies + torch.add(*sums_by_atom(flat, half, half))
        change = slope[flat.i] * slopes[:, 0] + slope[flat.j] * slopes[:, 1] + slopes[:, 2]
        pulls = (change / r)[:, None] * vector
        if self.form == "adp":
            more, angular = _angular(flat, vector, r, values[:, 3:], slopes[:, 3:])
            energies, pulls = energies + more, pulls + angular
        return energies, torch.where((r > cutoff)[:, None], 0.0, pulls)


def _interpolate(
    table: Float[Tensor, "T F 4"],
    begin: Int[Tensor, " N"],
    x: Float[Tensor, " N"],
    step: float,
    count: int,
) -> tuple[Float[Tensor, "N F"], Float[Tensor, "N F"]]:
    """Return functions and derivatives, from tables that begin at these rows."""
    # What is not a number gets a row as well, and stays none.
    k = torch.nan_to_num(x / step, 0.0).clamp(0, count - 1).long()
    t = (x - k.double() * step)[:, None]
    c0, c1, c2, c3 = table[begin + k].unbind(-1)
    return ((c3 * t + c2) * t + c1) * t + c0, (3.0 * c3 * t + 2.0 * c2) * t + c1


def _angular(
    flat: FlatPairs,
    vector: Float[Tensor, "P 3"],
    r: Float[Tensor, " P"],
    values: Float[Tensor, "P 2"],
    slopes: Float[Tensor, "P 2"],
) -> tuple[Float[Tensor, " V"], Float[Tensor, "P 3"]]:
    """Return the energies of dipoles and quadrupoles, and the derivatives by vectors."""
    (u, w), (du, dw) = values[:, :, None].unbind(1), slopes[:, :, None].unbind(1)
    dipoles = u * vector
    squares = (vector[:, :, None] * vector[:, None]).view(-1, 9)
    quadrupoles = w * squares
    mu = torch.sub(*sums_by_atom(flat, dipoles, dipoles))
    lam = torch.add(*sums_by_atom(flat, quadrupoles, quadrupoles))
    trace = lam[:, 0] + lam[:, 4] + lam[:, 8]
    energies = 0.5 * ((mu * mu).sum(1) + (lam * lam).sum(1)) - trace * trace / 6.0
    difference, both = mu[flat.i] - mu[flat.j], lam[flat.i] + lam[flat.j]
    traces = (trace[flat.i] + trace[flat.j])[:, None]
    turned = (both.view(-1, 3, 3) * vector[:, None]).sum(2)
    along = (difference * vector).sum(1, keepdim=True)
    through = (turned * vector).sum(1, keepdim=True)
    r = r[:, None]
    radial = (du * along + dw * through) / r - traces * (dw * r + 2.0 * w) / 3.0
    return energies, u * difference + 2.0 * w * turned + radial * vector
