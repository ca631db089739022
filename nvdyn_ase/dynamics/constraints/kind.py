"""What a constraint of one system says of itself, and how those of a batch act together."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch

D = TypeVar("D", bound="Description")


class Description(ABC):
    """One constraint of one system, as plain numbers on the host.

    It rides in ``batch.constraints[row]``, in the user's order, and counts atoms from the first of
    its own system. Subclasses are frozen dataclasses.
    """

    @abstractmethod
    def atoms(self) -> np.ndarray | None:
        """Return the atoms that it reads and writes, (m,), each once; None for all."""

    @abstractmethod
    def removed_dof(self, num_atoms: int) -> int:
        """Return how many degrees of freedom it takes away, as ASE counts them."""

    @staticmethod
    @abstractmethod
    def together(batch: Batch, members: "Sequence[Member[Any]]") -> "Kind":
        """Return what acts for all constraints of this kind that act at the same time.

        Parameters
        ----------
        batch
            The systems.
        members
            Whose they are, in the order of the systems; no two of them share an atom.
        """


class Member(NamedTuple, Generic[D]):
    """A constraint and the row of its system in the batch."""

    row: int
    own: D


class Kind:
    """Constraints of one kind, of all systems that have them at the same place in their order.

    All methods return new values for the rows that they have a say in, and the very same bits for
    the others. None of them waits for the device.

    Attributes
    ----------
    members
        Whose they are.
    has_potential, adjusts_stress, adjusts_cell
        Whether the methods of that name do anything.
    failed
        Systems that could not be held, (B,) bool on the device; None if that cannot happen. Nothing
        takes a system back.
    reason
        What is said of these.
    """

    members: "Sequence[Member[Any]]" = ()
    has_potential: bool = False
    adjusts_stress: bool = False
    adjusts_cell: bool = False
    failed: Bool[Tensor, " B"] | None = None
    reason: ClassVar[str] = ""

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Return where a move from old to new is allowed to end, Å."""
        return new

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Return the forces that an optimizer or, with ``md``, an integrator sees, eV/Å."""
        return forces

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Return the velocities that are allowed at the present positions."""
        return velocities

    def noise(self, batch: Batch, noise: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Return random forces as an integrator has to use them."""
        return noise

    def energy(self, batch: Batch, energy: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """Return the energy with what the constraints add to it, eV."""
        return energy

    def stress(self, batch: Batch, stress: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
        """Return the stress that a relaxation of the cell sees, eV/Å³."""
        return stress

    def cell(
        self, batch: Batch, old: Float[Tensor, "B 3 3"], new: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "B 3 3"]:
        """Return the cell that a change from old to new is allowed to end at, Å."""
        return new


def rows_of(
    batch: Batch, members: Sequence[Member[Any]], indices: Sequence[np.ndarray]
) -> Int[Tensor, " m"]:
    """Return atoms, counted in each member's system, as rows of the batch.

    Parameters
    ----------
    batch
        The systems.
    members
        Whose atoms they are.
    indices
        The atoms of each member.
    """
    starts = batch.host_ptr[[member.row for member in members]]
    rows = [start + index for start, index in zip(starts, indices, strict=True)]
    return torch.from_numpy(np.concatenate(rows).astype(np.int64)).to(batch.device)


def systems_of(
    batch: Batch, members: Sequence[Member[Any]], counts: Sequence[int] | None = None
) -> Int[Tensor, " m"]:
    """Return the system of each member, repeated as often as ``counts`` says."""
    rows = np.array([member.row for member in members], np.int64)
    return torch.from_numpy(rows if counts is None else np.repeat(rows, counts)).to(batch.device)


def numbers(batch: Batch, values: Any) -> Tensor:
    """Return numbers in the type and on the device of the positions."""
    return torch.as_tensor(np.asarray(values, float)).to(batch["positions"])


def masses_of(batch: Batch, rows: Int[Tensor, " m"]) -> Float[Tensor, "m 1"]:
    """Return the masses of some atoms, amu."""
    return batch["atomic_masses"].view(-1, 1).index_select(0, rows)
