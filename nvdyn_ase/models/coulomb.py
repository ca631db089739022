"""``Coulomb``: point charges in a batch, by the Ewald sums of torch-pme.

The package comes with ``pip install 'nvdyn_ase[pme]'``.
"""

import math
from typing import NamedTuple

import numpy as np
import torch
from ase.units import Bohr, Hartree
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs, NeighborConfig
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.network import Bonds, find_bonds
from nvdyn_ase.models.pair_geometry import volumes
from nvdyn_ase.models.pair_model import PairModel
from nvdyn_ase.neighbors import DevicePairs, FlatPairs, Pairs

try:
    from torchpme import Calculator, CoulombPotential, EwaldCalculator, PMECalculator
except ModuleNotFoundError as error:
    raise needs_extra("pme", error) from error

# Points of interpolation on the mesh along each direction: the most that there are, as they cost
# little. P3M is left out: in skewed cells torch-pme's is off by 1e-5, however fine its mesh.
_NODES = 7


class Coulomb(PairModel):
    """The electrostatic energy of fixed point charges, ``initial_charges`` of a batch (V,), e.

    That of a system that is periodic along all cell vectors is an Ewald sum (P. P. Ewald, Ann.
    Phys. 369, 253 (1921)), without a surface term and, if the charges do not add up to zero, with
    a uniform background that makes the cell neutral. Its part in reciprocal space is summed
    directly or on a mesh (T. Darden, D. York and L. Pedersen, J. Chem. Phys. 98, 10089 (1993)).
    That of a system that is not periodic is the sum over all pairs. The sums, and their
    derivatives, are torch-pme's. To be added to a model of what else atoms do to each other, with
    :class:`nvdyn_ase.models.SumModel`.

    It gives ``energy``, and ``forces``, ``stress``, ``free_energy`` (the energy) and
    ``atomic_energies`` if asked. A system whose charges are all zero, or that is periodic along
    some directions only, is a failure.

    One system is evaluated after the other, and a forward pass waits for the device.

    Parameters
    ----------
    method
        ``"ewald"``, whose cost and memory grow as the square of the number of atoms, or ``"pme"``,
        on a mesh, for systems of more than some hundred.
    accuracy
        About what is left out, of the interaction of two charges at the cutoff.
    cutoff
        How far the part in real space reaches, Å. The rest is smeared so as to reach the accuracy.
    mesh_spacing
        Of PME, Å; at most this, as a mesh has powers of two of points. By default half of the width
        of the smeared charges, which suffices for the default accuracy.
    skin
        How much further than the cutoff the list of pairs reaches, Å.

    Raises
    ------
    ValueError
        An unknown method; an accuracy that is not between 0 and 1; a length that is not positive.
    """

    def __init__(
        self,
        method: str = "ewald",
        *,
        accuracy: float = 1e-6,
        cutoff: float = 6.0,
        mesh_spacing: float | None = None,
        skin: float = 0.5,
    ) -> None:
        if method not in ("ewald", "pme"):
            raise ValueError(f"method must be 'ewald' or 'pme', not {method!r}")
        if not 0.0 < accuracy < 1.0:
            raise ValueError(f"accuracy is {accuracy}; it must be between 0 and 1")
        for name, length in (("cutoff", cutoff), ("mesh_spacing", mesh_spacing)):
            if length is not None and not 0.0 < length < math.inf:
                raise ValueError(f"{name} is {length}; it must be positive")
        super().__init__()
        self.method, self.accuracy, self.cutoff, self.skin = method, accuracy, cutoff, skin
        self.mesh_spacing = mesh_spacing
        self._open = Calculator(CoulombPotential(prefactor=Hartree * Bohr)).double()
        self._periodic = self._ewald().double()
        self.model_card = ModelCard(
            forces_via_autograd=True,
            supports_stress=True,
            required_inputs=frozenset({"initial_charges"}),
            extra_outputs=frozenset({"atomic_energies"}),
            neighbor_config=NeighborConfig(cutoff=cutoff, half_list=True, skin=skin),
        )

    def _ewald(self) -> Calculator:
        """Return what sums over images, both parts cut off where they are equally small."""
        reach = math.sqrt(-2.0 * math.log(self.accuracy))  # in widths of a Gaussian
        width = self.cutoff / reach
        potential = CoulombPotential(smearing=width, prefactor=Hartree * Bohr)
        if self.method == "ewald":
            # Of the waves along a cell vector torch-pme takes those of twice this length and more.
            return EwaldCalculator(potential, lr_wavelength=math.pi * width / reach)
        spacing = 0.5 * width if self.mesh_spacing is None else self.mesh_spacing
        return PMECalculator(potential, mesh_spacing=spacing, interpolation_nodes=_NODES)

    def __repr__(self) -> str:
        """Say the method and how far it goes."""
        names = ("accuracy", "cutoff", "mesh_spacing", "skin")
        options = ", ".join(f"{name}={getattr(self, name)!r}" for name in names)
        return f"Coulomb({self.method!r}, {options})"

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the other has the same parameters."""
        return type(self) is type(other) and repr(self) == repr(other)

    # ---------------------------------------------------------------- the forward pass

    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        return self._forward_flat(batch, pairs)

    def _forward_flat(self, batch: Batch, pairs: Pairs | DevicePairs) -> ModelOutputs:
        flat = pairs.flat()
        bonds = find_bonds(batch, flat, pairs.half, self.cutoff)
        counts = torch.bincount(batch.batch[bonds.i], minlength=len(batch)).cpu().numpy()
        ends = np.cumsum([0, *counts])
        like = batch["positions"].detach().double()
        values = {
            "energy": like.new_full((len(batch), 1), torch.nan),
            "atomic_energies": like.new_full((len(like),), torch.nan),
            "forces": torch.full_like(like, torch.nan),
            "stress": like.new_full((len(batch), 3, 3), torch.nan),
        }
        failures = _failures(batch)
        finite = _are_finite(batch)
        for row in range(len(batch)):
            if row in failures or not finite[row]:
                continue
            atoms = slice(int(batch.host_ptr[row]), int(batch.host_ptr[row + 1]))
            own = slice(int(ends[row]), int(ends[row + 1]))
            found = self._evaluate(_system(batch, flat, bonds, row, atoms, own))
            values["energy"][row], values["stress"][row] = found.energies.sum(), found.stress
            values["atomic_energies"][atoms], values["forces"][atoms] = found.energies, found.forces
        values["free_energy"] = values["energy"].clone()  # a hook may add to one of them
        asked = self.model_config.outputs | {"energy"}
        values = {name: value for name, value in values.items() if name in asked}
        return self._outputs(batch, values, failures)

    def _evaluate(self, system: "_System") -> "_Found":
        """Evaluate one system, and differentiate by its positions and by a strain."""
        sloped = not self.model_config.outputs.isdisjoint({"forces", "stress"})
        with torch.set_grad_enabled(sloped):
            strain = torch.zeros_like(system.cell).requires_grad_(sloped)
            places = system.positions.requires_grad_(sloped)
            energies = self._energies(system, places + places @ strain, strain)
        forces, stress = torch.zeros_like(places), torch.zeros_like(strain)
        if sloped and energies.requires_grad:
            slope, virial = torch.autograd.grad(energies.sum(), (places, strain))
            forces, stress = -slope, 0.5 * (virial + virial.mT) / volumes(system.cell[None])[0]
        return _Found(energies.detach(), forces, stress)

    def _energies(
        self, system: "_System", places: Float[Tensor, "n 3"], strain: Float[Tensor, "3 3"]
    ) -> Float[Tensor, " n"]:
        cell = system.cell + system.cell @ strain
        i, j = system.pairs.unbind(1)
        lengths = (places[j] - places[i] + system.shifts @ cell).norm(dim=1)
        calculator = self._periodic if system.periodic else self._open
        potential = calculator.to(places.device)(
            system.charges[:, None], cell, places, system.pairs, lengths
        )
        return system.charges * potential[:, 0]


class _System(NamedTuple):
    """One system, with what it sums over.

    Parameters
    ----------
    charges
        (n,), e.
    positions, cell
        (n, 3) and (3, 3), Å.
    periodic
        Along all cell vectors, or none.
    pairs, shifts
        (P, 2) int64 and (P, 3) in cell vectors: those within the cutoff, or all.
    """

    charges: Float[Tensor, " n"]
    positions: Float[Tensor, "n 3"]
    cell: Float[Tensor, "3 3"]
    periodic: bool
    pairs: Int[Tensor, "P 2"]
    shifts: Float[Tensor, "P 3"]


class _Found(NamedTuple):
    """Energies of atoms (n,), eV, forces (n, 3), eV/Å, and stress (3, 3), eV/Å³."""

    energies: Float[Tensor, " n"]
    forces: Float[Tensor, "n 3"]
    stress: Float[Tensor, "3 3"]


def _system(
    batch: Batch, flat: FlatPairs, bonds: Bonds, row: int, atoms: slice, own: slice
) -> _System:
    """Cut a system out of a batch; ``own`` are its bonds."""
    charges, places, cell = (
        batch[name].detach().double() for name in ("initial_charges", "positions", "cell")
    )
    periodic = bool(batch["pbc"][row].all())
    if periodic:
        pairs = torch.stack([bonds.i[own], bonds.j[own]], 1) - atoms.start
        shifts = flat.shift[bonds.pair[own]].double()
    else:
        size = atoms.stop - atoms.start
        pairs = torch.combinations(torch.arange(size, device=places.device))
        shifts = places.new_zeros(len(pairs), 3)
    return _System(charges[atoms], places[atoms].clone(), cell[row], periodic, pairs, shifts)


def _failures(batch: Batch) -> dict[int, str]:
    """Return the systems that have no sum, with the reason."""
    failures, pbc, ptr = {}, batch["pbc"].cpu().numpy(), batch.host_ptr
    charged = np.zeros(batch.num_nodes, bool)
    if "initial_charges" in batch:
        charged = batch["initial_charges"].cpu().numpy() != 0.0
    for row, periodic in enumerate(pbc):
        if not charged[ptr[row] : ptr[row + 1]].any():
            failures[row] = "it has no charges; give them with atoms.set_initial_charges"
        elif periodic.any() and not periodic.all():
            failures[row] = (
                "it is periodic along some directions only, for which Coulomb has no sum; make it "
                "periodic along all, with vacuum, or along none"
            )
    return failures


def _are_finite(batch: Batch) -> np.ndarray:
    """Say of which systems all numbers are finite, (B,)."""
    strange = (~torch.isfinite(batch["positions"])).any(1).double()
    cells = torch.isfinite(batch["cell"]).flatten(1).all(1)
    return ((segment_sum(strange, batch.ptr) == 0.0) & cells).cpu().numpy()
