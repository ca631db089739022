"""Springs that pull when they are stretched, and walls that push back."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.dynamics.constraints.kind import (
    Description,
    Kind,
    Member,
    numbers,
    rows_of,
    systems_of,
)
from nvdyn_ase.dynamics.constraints.minimum_image import MinimumImage
from nvdyn_ase.dynamics.constraints.pairs import PairRows, members_ptr
from nvdyn_ase.dynamics.constraints.vectors import dot, norm

# A. A. Peterson, Top. Catal. 57, 40 (2014): all of them are ASE's Hookean.


@dataclass(frozen=True, eq=False)
class Spring(Description):
    """A spring between two atoms.

    Parameters
    ----------
    pair
        The two atoms, (2,) int.
    stiffness, threshold
        eV/Å², and the length up to which there is no force, Å.
    reduction
        The reduced cell; see ``MinimumImage``.
    """

    pair: np.ndarray
    stiffness: float
    threshold: float
    reduction: np.ndarray | None

    def atoms(self) -> np.ndarray:
        """Return the two atoms."""
        return self.pair

    def removed_dof(self, num_atoms: int) -> int:
        """Return zero."""
        return 0

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Spring]]") -> "SpringKind":
        """Return what acts for all of them."""
        return SpringKind(batch, members)


@dataclass(frozen=True, eq=False)
class Tether(Description):
    """A spring between an atom and a point.

    Parameters
    ----------
    index
        The atom, (1,) int.
    point
        (3,), Å.
    stiffness, threshold, reduction
        As in ``Spring``.
    """

    index: np.ndarray
    point: np.ndarray
    stiffness: float
    threshold: float
    reduction: np.ndarray | None

    def atoms(self) -> np.ndarray:
        """Return the atom."""
        return self.index

    def removed_dof(self, num_atoms: int) -> int:
        """Return zero."""
        return 0

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Tether]]") -> "TetherKind":
        """Return what acts for all of them."""
        return TetherKind(batch, members)


@dataclass(frozen=True, eq=False)
class Wall(Description):
    """A plane that pushes an atom back that has crossed it.

    Parameters
    ----------
    index
        The atom, (1,) int.
    plane
        (A, B, C, D) of the plane A x + B y + C z + D = 0; its normal points to the forbidden side.
    stiffness
        eV/Å².
    """

    index: np.ndarray
    plane: np.ndarray
    stiffness: float

    def atoms(self) -> np.ndarray:
        """Return the atom."""
        return self.index

    def removed_dof(self, num_atoms: int) -> int:
        """Return zero."""
        return 0

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Wall]]") -> "WallKind":
        """Return what acts for all of them."""
        return WallKind(batch, members)


class HookeanKind(Kind):
    """What is proportional to how far something is stretched beyond its threshold."""

    has_potential = True

    def __init__(self, batch: Batch, members: Sequence[Member]) -> None:
        self._stiffness = numbers(batch, [[own.stiffness] for _, own in members])
        self._ptr = members_ptr(batch, members)

    @abstractmethod
    def _stretch(
        self, positions: Float[Tensor, "V 3"], batch: Batch
    ) -> tuple[Float[Tensor, "m 1"], Float[Tensor, "m 3"]]:
        """Return by how much each is stretched, and the unit vector that the force is along."""

    def _pull(self, batch: Batch) -> Float[Tensor, "m 3"]:
        stretch, direction = self._stretch(batch["positions"], batch)
        return torch.where(stretch > 0, direction * (self._stiffness * stretch), 0.0)

    def energy(self, batch: Batch, energy: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """Add what is stored in the springs."""
        stretch, _ = self._stretch(batch["positions"], batch)
        stored = torch.where(stretch > 0, 0.5 * self._stiffness * (stretch * stretch), 0.0)
        return energy + segment_sum(stored, self._ptr)


class SpringKind(HookeanKind):
    """Springs between two atoms."""

    def __init__(self, batch: Batch, members: Sequence[Member[Spring]]) -> None:
        super().__init__(batch, members)
        self._pairs = PairRows(batch, members, [own.pair for _, own in members])
        self._threshold = numbers(batch, [[own.threshold] for _, own in members])
        reductions = [own.reduction for _, own in members]
        self._image = MinimumImage(batch, systems_of(batch, members), reductions)

    def _stretch(
        self, positions: Float[Tensor, "V 3"], batch: Batch
    ) -> tuple[Float[Tensor, "m 1"], Float[Tensor, "m 3"]]:
        return _stretched(self._image(batch, -self._pairs.vectors(positions)), self._threshold)

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Pull the atoms together."""
        pull = self._pull(batch)
        return self._pairs.added(forces, pull, -pull)


class TetherKind(HookeanKind):
    """Springs between an atom and a point."""

    def __init__(self, batch: Batch, members: Sequence[Member[Tether]]) -> None:
        super().__init__(batch, members)
        self._rows = rows_of(batch, members, [own.index for _, own in members])
        self._point = numbers(batch, np.stack([own.point for _, own in members]))
        self._threshold = numbers(batch, [[own.threshold] for _, own in members])
        reductions = [own.reduction for _, own in members]
        self._image = MinimumImage(batch, systems_of(batch, members), reductions)

    def _stretch(
        self, positions: Float[Tensor, "V 3"], batch: Batch
    ) -> tuple[Float[Tensor, "m 1"], Float[Tensor, "m 3"]]:
        apart = self._point - positions.index_select(0, self._rows)
        return _stretched(self._image(batch, apart), self._threshold)

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Pull the atoms towards their points."""
        return forces.index_add(0, self._rows, self._pull(batch))


class WallKind(HookeanKind):
    """Planes."""

    def __init__(self, batch: Batch, members: Sequence[Member[Wall]]) -> None:
        super().__init__(batch, members)
        self._rows = rows_of(batch, members, [own.index for _, own in members])
        planes = numbers(batch, np.stack([own.plane for _, own in members]))
        length = norm(planes[:, :3])
        self._normal, self._offset = planes[:, :3] / length, planes[:, 3:] / length

    def _stretch(
        self, positions: Float[Tensor, "V 3"], batch: Batch
    ) -> tuple[Float[Tensor, "m 1"], Float[Tensor, "m 3"]]:
        there = positions.index_select(0, self._rows)
        return dot(there, self._normal) + self._offset, -self._normal

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Push the atoms back."""
        return forces.index_add(0, self._rows, self._pull(batch))


def _stretched(
    apart: Float[Tensor, "m 3"], threshold: Float[Tensor, "m 1"]
) -> tuple[Float[Tensor, "m 1"], Float[Tensor, "m 3"]]:
    length = norm(apart)
    return length - threshold, apart / length
