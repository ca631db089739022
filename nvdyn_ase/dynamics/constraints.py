"""Constraints of a batch: fixed atoms on the device, any other kind through its own methods."""

from typing import Any, Protocol

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_max, segment_sum


class Constraint(Protocol):
    """What one system's constraints do to its coordinates, on the host, as ``ase.Atoms`` does it.

    Arrays are float64; ``positions`` (n, 3) in Å, ``cell`` (3, 3) in Å.
    """

    has_potential: bool

    def adjust_positions(self, old: np.ndarray, new: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Return the positions that a move from old to new is allowed to end at."""

    def adjust_forces(
        self, positions: np.ndarray, cell: np.ndarray, forces: np.ndarray, md: bool
    ) -> np.ndarray:
        """Return the forces the optimizer sees or, with ``md``, the integrator; eV/Å."""

    def adjust_momenta(
        self, positions: np.ndarray, cell: np.ndarray, momenta: np.ndarray
    ) -> np.ndarray:
        """Return the momenta that are allowed."""

    def adjust_potential_energy(self, positions: np.ndarray, cell: np.ndarray) -> float:
        """Return the energy that the constraint adds, eV."""

    def adjust_noise(self, noise: np.ndarray) -> np.ndarray:
        """Return random forces (n, 3) as an integrator has to use them."""

    def removed_dof(self) -> int:
        """Return how many degrees of freedom the constraint takes away."""


class BatchConstraints:
    """The constraints of one batch.

    Atoms marked in the field ``fixed`` are held on the device. A system that brings constraint
    objects goes through them on the host, one system at a time: correct, and slower.

    Parameters
    ----------
    batch
        The batch; whether it has fixed atoms is looked up once, here.

    Attributes
    ----------
    constrained
        Whether the system of an atom has constraints, (V, 1); None if no system has.
    """

    def __init__(self, batch: Batch) -> None:
        self._source = self._sources(batch)
        self.fixed: Bool[Tensor, "V 1"] | None = None
        if "fixed" in batch and bool(batch["fixed"].any()):
            self.fixed = batch["fixed"].view(-1, 1)
        ptr = batch.host_ptr
        self._hosted = [
            (row, slice(int(ptr[row]), int(ptr[row + 1])), constraint)
            for row, own in enumerate(batch.constraints)
            for constraint in own
        ]
        self.constrained = self._constrained(batch) if self else None
        self._dof: Float[Tensor, "B 1"] | None = None

    def _constrained(self, batch: Batch) -> Bool[Tensor, "V 1"]:
        systems = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        if self.fixed is not None:
            systems |= segment_max(self.fixed.view(-1).double(), batch.ptr) > 0
        for row, _, _ in self._hosted:
            systems[row] = True
        return systems.index_select(0, batch.batch).view(-1, 1)

    @staticmethod
    def _sources(batch: Batch) -> tuple[Any, ...]:
        if "fixed" not in batch:
            return None, None, batch.constraints
        return batch["fixed"], batch["fixed"]._version, batch.constraints

    def are_of(self, batch: Batch) -> bool:
        """Say whether they are still those of the batch, as far as the host can tell."""
        now, version, objects = self._sources(batch)
        return now is self._source[0] and version == self._source[1] and objects is self._source[2]

    def __bool__(self) -> bool:
        """Whether anything is constrained."""
        return self.fixed is not None or bool(self._hosted)

    def forces(self, batch: Batch, md: bool = False) -> Float[Tensor, "V 3"]:
        """Return the forces that an optimizer sees or, with ``md``, an integrator.

        As in ASE an integrator sees the forces of constraints that have a potential only: those
        that hold atoms act on its positions and momenta.
        """
        forces = batch["forces"]
        if self.fixed is not None and not md:
            forces = torch.where(self.fixed, 0.0, forces)
        for row, atoms, constraint in self._hosted:
            positions, cell, own = _on_host(batch, row, atoms, forces)
            adjusted = constraint.adjust_forces(positions, cell, own, md)
            forces = _replaced(forces, atoms, adjusted)
        return forces

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Return where a move from old to new is allowed to end."""
        if self.fixed is not None:
            new = torch.where(self.fixed, old, new)
        for row, atoms, constraint in self._hosted:
            before, cell, after = _on_host(batch, row, atoms, new, positions=old)
            new = _replaced(new, atoms, constraint.adjust_positions(before, after, cell))
        return new

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Return the velocities that are allowed at the present positions."""
        if self.fixed is not None:
            velocities = torch.where(self.fixed, 0.0, velocities)
        for row, atoms, constraint in self._hosted:
            positions, cell, own = _on_host(batch, row, atoms, velocities)
            masses = batch["atomic_masses"][atoms].cpu().double().numpy()[:, None]
            momenta = constraint.adjust_momenta(positions, cell, own * masses)
            velocities = _replaced(velocities, atoms, momenta / masses)
        return velocities

    def noise(self, batch: Batch, noise: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Return random forces as an integrator has to use them."""
        for _, atoms, constraint in self._hosted:
            own = noise[atoms].cpu().double().numpy().copy()
            noise = _replaced(noise, atoms, constraint.adjust_noise(own))
        return noise

    def stress(self, batch: Batch, stress: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
        """Return the stress as ``Atoms.get_stress`` would, eV/Å³."""
        for row, atoms, constraint in self._hosted:
            if constraint.adjusts_stress:
                positions, cell, _ = _on_host(batch, row, atoms, batch["positions"])
                own = stress[row].detach().cpu().double().numpy().copy()
                adjusted = torch.as_tensor(constraint.adjust_stress(positions, cell, own))
                stress = stress.clone()
                stress[row] = adjusted.to(stress)
        return stress

    def cell(
        self, batch: Batch, old: Float[Tensor, "B 3 3"], new: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "B 3 3"]:
        """Return the cells that a change from old to new is allowed to end at, Å."""
        for row, atoms, constraint in self._hosted:
            if constraint.adjusts_cell:
                positions = batch["positions"][atoms].detach().cpu().double().numpy().copy()
                cells = (t[row].detach().cpu().double().numpy().copy() for t in (old, new))
                adjusted = torch.as_tensor(constraint.adjust_cell(*cells, positions))
                new = new.clone()
                new[row] = adjusted.to(new)
        return new

    def degrees_of_freedom(self, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the number of degrees of freedom of each system, as ASE counts them."""
        if self._dof is None:
            counts = 3.0 * np.asarray(batch.num_nodes_list, float)
            for row, _, constraint in self._hosted:
                counts[row] -= constraint.removed_dof()
            dof = torch.from_numpy(counts).to(batch["positions"])
            if self.fixed is not None:
                dof = dof - 3.0 * segment_sum(self.fixed.view(-1).to(dof), batch.ptr)
            self._dof = dof.view(-1, 1)
        return self._dof

    def energy(self, batch: Batch, energy: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """Return the energy with what the constraints add to it."""
        for row, atoms, constraint in self._hosted:
            if constraint.has_potential:
                positions, cell, _ = _on_host(batch, row, atoms, batch["positions"])
                energy = energy.clone()
                energy[row] += constraint.adjust_potential_energy(positions, cell)
        return energy


def _on_host(
    batch: Batch, row: int, atoms: slice, field: Tensor, positions: Tensor | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    where = batch["positions"] if positions is None else positions
    tensors = (where[atoms], batch["cell"][row], field[atoms])
    a, b, c = (t.detach().cpu().double().numpy().copy() for t in tensors)
    return a, b, c


def _replaced(field: Tensor, atoms: slice, rows: np.ndarray) -> Tensor:
    field = field.clone()
    field[atoms] = torch.as_tensor(rows).to(field)
    return field
