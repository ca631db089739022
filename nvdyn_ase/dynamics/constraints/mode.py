"""Systems that do not move along a mode."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_dot
from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.dynamics.constraints.kind import Description, Kind, Member, numbers, rows_of


@dataclass(frozen=True, eq=False)
class Mode(Description):
    """A system that moves in directions normal to a mode only: ``FixedMode``.

    Parameters
    ----------
    mode
        (n, 3), of norm 1.
    """

    mode: np.ndarray

    def atoms(self) -> None:
        """Say that it acts on all atoms."""
        return None

    def removed_dof(self, num_atoms: int) -> int:
        """Return the number of atoms: what ASE says, though it is one."""
        return num_atoms

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Mode]]") -> "ModeKind":
        """Return what acts for all of them."""
        return ModeKind(batch, members)


class ModeKind(Kind):
    """Takes the part along the mode out of steps, forces and momenta."""

    def __init__(self, batch: Batch, members: Sequence[Member[Mode]]) -> None:
        counts = [len(own.mode) for _, own in members]
        self._rows = rows_of(batch, members, [np.arange(count) for count in counts])
        self._mode = numbers(batch, np.concatenate([own.mode for _, own in members]))
        owner = np.repeat(np.arange(len(members)), counts)
        self._owner = torch.from_numpy(owner).to(batch.device)
        self._ptr3 = torch.from_numpy(3 * boundaries(np.array(counts))).to(batch.device)

    def _along(self, vectors: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        share = segment_dot(vectors, self._mode, self._ptr3)
        return self._mode * share.index_select(0, self._owner)

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Take it out of the step."""
        before, after = old.index_select(0, self._rows), new.index_select(0, self._rows)
        return new.index_copy(0, self._rows, after - self._along(after - before))

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Take it out of the forces."""
        own = forces.index_select(0, self._rows)
        return forces.index_copy(0, self._rows, own - self._along(own))

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Take it out of the momenta."""
        masses = batch["atomic_masses"].view(-1, 1).index_select(0, self._rows)
        own = velocities.index_select(0, self._rows)
        along = self._along(own * masses)
        return velocities.index_copy(0, self._rows, own - along / masses)
