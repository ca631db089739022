"""Constraints that act on the host, one system at a time: correct, and slower."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.constraints.kind import Description, Kind, Member


class Constraint(Protocol):
    """What one system's constraints do to its coordinates, on the host, as ``ase.Atoms`` does it.

    Arrays are float64; ``positions`` (n, 3) in Å, ``cell`` (3, 3) in Å. ``adjust_stress`` and
    ``adjust_cell`` are called if ``adjusts_stress`` and ``adjusts_cell`` are there and true. If
    there is a ``place``, it is called before each of these with positions, cell and momenta.
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


@dataclass(frozen=True, eq=False)
class Hosted(Description):
    """An object that follows the protocol :class:`Constraint`."""

    constraint: Any

    def atoms(self) -> None:
        """Say that it may act on all atoms."""
        return None

    def removed_dof(self, num_atoms: int) -> int:
        """Return what the object says."""
        return int(self.constraint.removed_dof())

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Hosted]]") -> "HostedKind":
        """Return what calls them all."""
        return HostedKind(batch, members)


class Raised(NamedTuple):
    """What an object could not do.

    Parameters
    ----------
    reason
        What people are told.
    error
        What it raised.
    """

    reason: str
    error: Exception

    @classmethod
    def by(cls, constraint: Any, method: str, error: Exception) -> "Raised":
        """Return what is told of a method of a constraint, or of a :class:`Hosted` one."""
        constraint = getattr(constraint, "constraint", constraint)
        at_fault = getattr(constraint, "acting", None)
        name = type(constraint if at_fault is None else at_fault).__name__
        return cls(f"{name}.{method} raised {type(error).__name__}: {error}", error)


class HostedKind(Kind):
    """Calls one object after the other.

    What an object raises ends its own system alone: the object has then changed nothing, in
    ``positions`` and ``cell`` the system stays where it was, and the engine puts it back and
    retires it, with what is in ``raised``.

    Attributes
    ----------
    raised
        Why objects could not do what they were asked, by row, since the engine took note of it.
    """

    def __init__(self, batch: Batch, members: Sequence[Member[Hosted]]) -> None:
        ptr = batch.host_ptr
        self._members = [
            (row, slice(int(ptr[row]), int(ptr[row + 1])), own.constraint) for row, own in members
        ]
        self.raised: dict[int, Raised] = {}
        self.has_potential = True  # what an integrator sees is for each object to say
        self.adjusts_stress = any(_says(own, "adjusts_stress") for _, _, own in self._members)
        self.adjusts_cell = any(_says(own, "adjusts_cell") for _, _, own in self._members)

    @contextmanager
    def _guarding(self, row: int, constraint: Any, method: str) -> Iterator[None]:
        """Keep what an object raises to its own system."""
        try:
            yield
        except Exception as error:
            self.raised.setdefault(row, Raised.by(constraint, method, error))

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Let the objects adjust positions."""
        for row, atoms, constraint in self._members:
            before, cell, after = _on_host(old[atoms], batch["cell"][row], new[atoms])
            allowed = before
            self._tell(batch, row, atoms, constraint, before)
            with self._guarding(row, constraint, "adjust_positions"):
                allowed = _like(after, constraint.adjust_positions(before.copy(), after, cell))
            new = _replaced(new, atoms, allowed)
        return new

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Let the objects adjust forces."""
        for row, atoms, constraint in self._members:
            place, (own,) = self._place(batch, row, atoms), _on_host(forces[atoms])
            self._tell(batch, row, atoms, constraint, place[0])
            with self._guarding(row, constraint, "adjust_forces"):
                adjusted = _like(own, constraint.adjust_forces(*place, own, md))
                forces = _replaced(forces, atoms, adjusted)
        return forces

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Let the objects adjust momenta."""
        for row, atoms, constraint in self._members:
            own, masses = _on_host(velocities[atoms], batch["atomic_masses"][atoms].view(-1, 1))
            place = self._place(batch, row, atoms)
            self._tell(batch, row, atoms, constraint, place[0])
            with self._guarding(row, constraint, "adjust_momenta"):
                momenta = _like(own, constraint.adjust_momenta(*place, own * masses))
                velocities = _replaced(velocities, atoms, momenta / masses)
        return velocities

    def noise(self, batch: Batch, noise: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Let the objects adjust random forces."""
        for row, atoms, constraint in self._members:
            own, here = _on_host(noise[atoms], batch["positions"][atoms])
            self._tell(batch, row, atoms, constraint, here)
            with self._guarding(row, constraint, "redistribute_forces_md"):
                noise = _replaced(noise, atoms, _like(own, constraint.adjust_noise(own)))
        return noise

    def energy(self, batch: Batch, energy: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """Add what the objects add; NaN if one cannot say."""
        for row, atoms, constraint in self._members:
            if constraint.has_potential:
                energy, added = energy.clone(), float("nan")
                place = self._place(batch, row, atoms)
                with self._guarding(row, constraint, "adjust_potential_energy"):
                    added = float(constraint.adjust_potential_energy(*place))
                energy[row] += added
        return energy

    def stress(self, batch: Batch, stress: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
        """Let the objects adjust the stress."""
        for row, atoms, constraint in self._members:
            if _says(constraint, "adjusts_stress"):
                place, (own,) = self._place(batch, row, atoms), _on_host(stress[row])
                with self._guarding(row, constraint, "adjust_stress"):
                    adjusted = _like(own, constraint.adjust_stress(*place, own))
                    stress = _replaced(stress, row, adjusted)
        return stress

    def cell(
        self, batch: Batch, old: Float[Tensor, "B 3 3"], new: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "B 3 3"]:
        """Let the objects adjust the cell."""
        for row, atoms, constraint in self._members:
            before, after, place = _on_host(old[row], new[row], batch["positions"][atoms])
            if _says(constraint, "adjusts_cell") and not np.array_equal(before, after):
                allowed = before
                with self._guarding(row, constraint, "adjust_cell"):
                    allowed = _like(after, constraint.adjust_cell(before.copy(), after, place))
                new = _replaced(new, row, allowed)
        return new

    @staticmethod
    def _tell(batch: Batch, row: int, atoms: slice, constraint: Any, positions: np.ndarray) -> None:
        """Tell an object that wants to know where its system is, and how fast."""
        if not hasattr(constraint, "place") or "velocities" not in batch:
            return
        fields = batch["cell"][row], batch["velocities"][atoms], batch["atomic_masses"][atoms]
        cell, velocities, masses = _on_host(*fields)
        constraint.place(positions.copy(), cell, velocities * masses.reshape(-1, 1))

    @staticmethod
    def _place(batch: Batch, row: int, atoms: slice) -> list[np.ndarray]:
        """Return positions and cell of a system."""
        return _on_host(batch["positions"][atoms], batch["cell"][row])


def _says(constraint: Any, what: str) -> bool:
    return bool(getattr(constraint, what, False))


def _on_host(*tensors: Tensor) -> list[np.ndarray]:
    return [tensor.detach().cpu().double().numpy().copy() for tensor in tensors]


def _like(given: np.ndarray, answer: Any) -> np.ndarray:
    """Return an object's answer; raise ValueError if it has not the shape of what was given."""
    answer = np.asarray(answer, float)
    if answer.shape != given.shape:
        raise ValueError(f"it returned shape {answer.shape} where {given.shape} is needed")
    return answer


def _replaced(field: Tensor, place: slice | int, rows: np.ndarray) -> Tensor:
    field = field.clone()
    field[place] = torch.as_tensor(rows).to(field)
    return field
