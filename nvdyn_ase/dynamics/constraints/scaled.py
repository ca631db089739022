"""Atoms held along vectors of the cell."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.constraints.kind import Description, Kind, Member, rows_of, systems_of
from nvdyn_ase.dynamics.constraints.vectors import Frames
from nvdyn_ase.dynamics.matrices import applied


@dataclass(frozen=True, eq=False)
class Scaled(Description):
    """Atoms of which scaled coordinates are held: ``FixScaled``.

    The cell is that of the moment. A cell vector that is missing is the normal of the two others.

    Parameters
    ----------
    index
        The atoms, (m,) int, each once.
    mask
        Which scaled coordinates of each are held, (m, 3) bool.
    """

    index: np.ndarray
    mask: np.ndarray

    def atoms(self) -> np.ndarray:
        """Return the atoms that it holds."""
        return self.index

    def removed_dof(self, num_atoms: int) -> int:
        """Return one for each coordinate of each atom."""
        return int(self.mask.sum())

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Scaled]]") -> "ScaledKind":
        """Return what acts for all of them."""
        return ScaledKind(batch, members)


class ScaledKind(Kind):
    """Holds scaled coordinates; forces and velocities are covariant to these."""

    def __init__(self, batch: Batch, members: Sequence[Member[Scaled]]) -> None:
        indices = [own.index for _, own in members]
        self._rows = rows_of(batch, members, indices)
        held = np.concatenate([own.mask for _, own in members])
        self._held = torch.from_numpy(held).to(batch.device)
        self._frames = Frames(systems_of(batch, members, [len(index) for index in indices]))

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Keep the old coordinates."""
        vectors, inverse = self._frames(batch)
        before = applied(old.index_select(0, self._rows), inverse)
        after = applied(new.index_select(0, self._rows), inverse)
        scaled = torch.where(self._held, before, after)
        return new.index_copy(0, self._rows, applied(scaled, vectors))

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Take the components away that would change the coordinates."""
        vectors, inverse = self._frames(batch)
        scaled = applied(forces.index_select(0, self._rows), vectors)
        scaled = torch.where(self._held, 0.0, scaled)
        return forces.index_copy(0, self._rows, applied(scaled, inverse))

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Do with them as with forces, as ASE does with momenta."""
        return self.forces(batch, velocities)
