"""Atoms held along axes of space."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.constraints.kind import Description, Kind, Member


@dataclass(frozen=True, eq=False)
class Cartesian(Description):
    """Atoms held along axes of space: ``FixCartesian``, and ``FixAtoms`` beside other constraints.

    Parameters
    ----------
    index
        The atoms, (m,) int, each once.
    mask
        Along which axes each is held, (m, 3) bool.
    """

    index: np.ndarray
    mask: np.ndarray

    def atoms(self) -> np.ndarray:
        """Return the atoms that it holds."""
        return self.index

    def removed_dof(self, num_atoms: int) -> int:
        """Return one for each axis of each atom."""
        return int(self.mask.sum())

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Cartesian]]") -> "CartesianKind":
        """Return what acts for all of them."""
        held = np.zeros((batch.num_nodes, 3), bool)
        for row, own in members:
            held[batch.host_ptr[row] + own.index] = own.mask
        return CartesianKind(batch, held)


class CartesianKind(Kind):
    """Holds components of positions, forces and velocities."""

    def __init__(self, batch: Batch, held: np.ndarray) -> None:
        self.held = torch.from_numpy(held).to(batch.device)

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Keep the old components."""
        return torch.where(self.held, old, new)

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Take the components away."""
        return torch.where(self.held, 0.0, forces)

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Take the components away."""
        return torch.where(self.held, 0.0, velocities)
