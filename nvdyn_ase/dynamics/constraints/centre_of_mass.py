"""Systems, or some atoms of them, whose centre of mass does not move."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.dynamics.constraints.kind import Description, Kind, Member, masses_of, rows_of


@dataclass(frozen=True, eq=False)
class CentreOfMass(Description):
    """Atoms whose centre of mass is held: ``FixCom`` and ``FixSubsetCom``.

    As in ASE, the whole system is shifted to bring it back, and the forces are projected in
    mass-weighted coordinates: J. Phys. Chem. A 102, 6990 (1998), equations 3 and 7.

    Parameters
    ----------
    index
        The atoms, (m,) int, each once; None for all.
    """

    index: np.ndarray | None

    def atoms(self) -> None:
        """Say that it acts on all atoms."""
        return None

    def removed_dof(self, num_atoms: int) -> int:
        """Return three."""
        return 3

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[CentreOfMass]]") -> "CentreOfMassKind":
        """Return what acts for all of them."""
        return CentreOfMassKind(batch, members)


class CentreOfMassKind(Kind):
    """Keeps centres of mass where they are."""

    def __init__(self, batch: Batch, members: Sequence[Member[CentreOfMass]]) -> None:
        sizes = [batch.num_nodes_list[row] for row, _ in members]
        whole = [np.arange(size) for size in sizes]
        parts = [
            every if own.index is None else own.index
            for (_, own), every in zip(members, whole, strict=True)
        ]
        counts = [len(part) for part in parts]
        self._rows, self._all_rows = (rows_of(batch, members, each) for each in (parts, whole))
        self._ptr = torch.from_numpy(boundaries(np.array(counts))).to(batch.device)
        order = np.arange(len(members))
        self._owner = torch.from_numpy(np.repeat(order, counts)).to(batch.device)
        self._all_owner = torch.from_numpy(np.repeat(order, sizes)).to(batch.device)

    def _sum(self, values: Float[Tensor, "m c"]) -> Float[Tensor, "g c"]:
        """Sum over the atoms of each centre."""
        return segment_sum(values, self._ptr)

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Shift all atoms by what the centre has moved."""
        masses = masses_of(batch, self._rows)
        moved = old.index_select(0, self._rows) - new.index_select(0, self._rows)
        shift = self._sum(masses * moved) / self._sum(masses)
        return new.index_add(0, self._all_rows, shift.index_select(0, self._all_owner))

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Take out, in mass-weighted coordinates, what moves the centre."""
        masses = masses_of(batch, self._rows)
        own = forces.index_select(0, self._rows)
        share = self._sum(masses * own) / self._sum(masses * masses)
        own = own - masses * share.index_select(0, self._owner)
        return forces.index_copy(0, self._rows, own)

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Take the velocity of the centre out."""
        masses = masses_of(batch, self._rows)
        own = velocities.index_select(0, self._rows)
        centre = self._sum(masses * own) / self._sum(masses)
        return velocities.index_copy(0, self._rows, own - centre.index_select(0, self._owner))
