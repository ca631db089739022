"""Atoms held to lines, and to planes."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.constraints.kind import Description, Kind, Member, numbers, rows_of
from nvdyn_ase.dynamics.constraints.vectors import dot


@dataclass(frozen=True, eq=False)
class Line(Description):
    """Atoms that move along a line only: ``FixedLine``.

    Parameters
    ----------
    index
        The atoms, (m,) int, each once.
    direction
        Unit vector along the line of each, (m, 3).
    """

    index: np.ndarray
    direction: np.ndarray

    def atoms(self) -> np.ndarray:
        """Return the atoms that it holds."""
        return self.index

    def removed_dof(self, num_atoms: int) -> int:
        """Return two for each atom."""
        return 2 * len(self.index)

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Line]]") -> "LineKind":
        """Return what acts for all of them."""
        return LineKind(batch, members)


@dataclass(frozen=True, eq=False)
class Plane(Description):
    """Atoms that move in a plane only: ``FixedPlane``.

    Parameters
    ----------
    index
        The atoms, (m,) int, each once.
    direction
        Unit vector normal to the plane of each, (m, 3).
    """

    index: np.ndarray
    direction: np.ndarray

    def atoms(self) -> np.ndarray:
        """Return the atoms that it holds."""
        return self.index

    def removed_dof(self, num_atoms: int) -> int:
        """Return one for each atom."""
        return len(self.index)

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Plane]]") -> "PlaneKind":
        """Return what acts for all of them."""
        return PlaneKind(batch, members)


class DirectedKind(Kind):
    """Has a direction for each of its atoms."""

    def __init__(self, batch: Batch, members: Sequence[Member[Line]] | Sequence[Member[Plane]]):
        self._rows = rows_of(batch, members, [own.index for _, own in members])
        self._direction = numbers(batch, np.concatenate([own.direction for _, own in members]))

    def _along(self, vectors: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Return the part of each vector that is along the direction."""
        return self._direction * dot(vectors, self._direction)

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Do with them as with forces."""
        return self.forces(batch, velocities)


class LineKind(DirectedKind):
    """Keeps what is along the line."""

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Keep the part of the step that is along the line."""
        before, after = old.index_select(0, self._rows), new.index_select(0, self._rows)
        return new.index_copy(0, self._rows, before + self._along(after - before))

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Keep the part that is along the line."""
        return forces.index_copy(0, self._rows, self._along(forces.index_select(0, self._rows)))


class PlaneKind(DirectedKind):
    """Takes away what is normal to the plane."""

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Take away the part of the step that is normal to the plane."""
        before, after = old.index_select(0, self._rows), new.index_select(0, self._rows)
        return new.index_copy(0, self._rows, after - self._along(after - before))

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Take away the part that is normal to the plane."""
        own = forces.index_select(0, self._rows)
        return forces.index_copy(0, self._rows, own - self._along(own))
