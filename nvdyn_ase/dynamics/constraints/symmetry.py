"""Systems that keep the symmetry of a space group."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.dynamics.constraints.kind import (
    Description,
    Kind,
    Member,
    numbers,
    rows_of,
    systems_of,
)
from nvdyn_ase.dynamics.constraints.vectors import Frame, Frames
from nvdyn_ase.dynamics.matrices import applied

# ASE refuses larger changes of the cell: they are symmetrised as if they were small.
_LARGEST_CHANGE = 0.25


@dataclass(frozen=True, eq=False)
class Symmetry(Description):
    """A system that keeps the symmetry of a space group: ``FixSymmetry``.

    Parameters
    ----------
    rotations
        Of each operation, (s, 3, 3) int, in scaled coordinates.
    maps
        The atom that each operation takes an atom to, (s, n) int.
    of_positions, of_cell
        Whether steps, and changes of the cell, are made symmetric. Forces and stress always are.
    """

    rotations: np.ndarray
    maps: np.ndarray
    of_positions: bool
    of_cell: bool

    def atoms(self) -> None:
        """Say that it acts on all atoms."""
        return None

    def removed_dof(self, num_atoms: int) -> int:
        """Raise: nobody has counted them, in ASE neither."""
        raise NotImplementedError(
            "the degrees of freedom that FixSymmetry takes away are not known, as in ASE; use a "
            "method that does not need them, or another constraint"
        )

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[Symmetry]]") -> "SymmetryKind":
        """Return what acts for all of them."""
        return SymmetryKind(batch, members)


class SymmetryKind(Kind):
    """Replaces vectors, and tensors of the cell, by their average over the operations."""

    adjusts_stress = True
    reason = (
        "FixSymmetry: a step changed the cell by more than a quarter, which cannot be made "
        "symmetric; take smaller steps"
    )

    def __init__(self, batch: Batch, members: Sequence[Member[Symmetry]]) -> None:
        sizes = [own.maps.shape[1] for _, own in members]
        orders = [len(own.rotations) for _, own in members]
        self._rows = rows_of(batch, members, [np.arange(size) for size in sizes])
        self._frames = Frames(systems_of(batch, members, sizes))
        self._systems = systems_of(batch, members)
        self._cells = Frames(self._systems)
        device = batch.device
        # The image of an atom is a sum over operations, of what each of them takes there.
        starts = boundaries(np.array(sizes))[:-1]
        pulled = [
            (start + np.argsort(own.maps, axis=1)).T.reshape(-1)
            for start, (_, own) in zip(starts, members, strict=True)
        ]
        turned = [
            np.tile(own.rotations, (size, 1, 1))
            for size, (_, own) in zip(sizes, members, strict=True)
        ]
        self._source = torch.from_numpy(np.concatenate(pulled)).to(device)
        # Rotations act on columns; they are kept for rows.
        self._turns = numbers(batch, np.concatenate(turned)).transpose(1, 2).contiguous()
        per_atom = np.repeat(orders, sizes)
        self._ptr = torch.from_numpy(boundaries(per_atom)).to(device)
        self._order = numbers(batch, per_atom[:, None])
        steps = np.concatenate([[own.of_positions] * len(own.maps[0]) for _, own in members])
        self._of_positions = torch.from_numpy(steps[:, None]).to(device)
        self._moves = bool(steps.any())

        self._rotations = numbers(batch, np.concatenate([own.rotations for _, own in members]))
        self._cell_ptr = torch.from_numpy(boundaries(np.array(orders))).to(device)
        owner = np.repeat(np.arange(len(members)), orders)
        self._cell_owner = torch.from_numpy(owner).to(device)
        self._cell_order = numbers(batch, np.array(orders)[:, None, None])
        cells = np.array([own.of_cell for _, own in members])
        self._of_cell = torch.from_numpy(cells[:, None, None]).to(device)
        self.adjusts_cell = bool(cells.any())
        if self.adjusts_cell:
            self.failed = torch.zeros(len(batch), dtype=torch.bool, device=device)

    def _symmetric(self, batch: Batch, vectors: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Return the average over the operations."""
        frame = self._frames(batch)
        scaled = applied(vectors, frame.inverse)
        images = applied(scaled.index_select(0, self._source), self._turns)
        return applied(segment_sum(images, self._ptr) / self._order, frame.vectors)

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Make the step symmetric."""
        if not self._moves:
            return new
        before, after = old.index_select(0, self._rows), new.index_select(0, self._rows)
        moved = before + self._symmetric(batch, after - before)
        return new.index_copy(0, self._rows, torch.where(self._of_positions, moved, after))

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Make the forces symmetric."""
        own = self._symmetric(batch, forces.index_select(0, self._rows))
        return forces.index_copy(0, self._rows, own)

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Make the momenta symmetric."""
        masses = batch["atomic_masses"].view(-1, 1).index_select(0, self._rows)
        momenta = self._symmetric(batch, masses * velocities.index_select(0, self._rows))
        return velocities.index_copy(0, self._rows, momenta / masses)

    def _symmetric_tensor(
        self, tensors: Float[Tensor, "g 3 3"], frame: Frame
    ) -> Float[Tensor, "g 3 3"]:
        cell, inverse = frame
        scaled = cell @ tensors @ cell.transpose(1, 2)
        every = scaled.index_select(0, self._cell_owner)
        images = self._rotations.transpose(1, 2) @ every @ self._rotations
        average = segment_sum(images, self._cell_ptr) / self._cell_order
        return inverse @ average @ inverse.transpose(1, 2)

    def stress(self, batch: Batch, stress: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
        """Make the stress symmetric."""
        own = _both_halves(stress.index_select(0, self._systems))
        symmetric = _both_halves(self._symmetric_tensor(own, self._cells(batch)))
        return stress.index_copy(0, self._systems, symmetric)

    def cell(
        self, batch: Batch, old: Float[Tensor, "B 3 3"], new: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "B 3 3"]:
        """Make the change of the cell symmetric; where it is too large, refuse it."""
        if self.failed is None:
            return new
        frame = self._cells.of(old)
        wanted = new.index_select(0, self._systems)
        unit = torch.eye(3, dtype=old.dtype, device=old.device)
        change = (frame.inverse @ wanted).transpose(1, 2) - unit
        too_large = (change.abs() > _LARGEST_CHANGE).flatten(1).any(1).view(-1, 1, 1)
        too_large = too_large & self._of_cell
        symmetric = self._symmetric_tensor(change, frame) + unit
        changed = frame.vectors @ symmetric.transpose(1, 2)
        changed = torch.where(self._of_cell, changed, wanted)
        changed = torch.where(too_large, frame.vectors, changed)
        self.failed = self.failed.index_put(
            (self._systems,), too_large.view(-1) | self.failed.index_select(0, self._systems)
        )
        return new.index_copy(0, self._systems, changed)


def _both_halves(tensors: Float[Tensor, "g 3 3"]) -> Float[Tensor, "g 3 3"]:
    """Return the symmetric part: ASE keeps six components of a stress."""
    return 0.5 * (tensors + tensors.transpose(1, 2))
