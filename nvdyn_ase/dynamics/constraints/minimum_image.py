"""The shortest of a vector's periodic images."""

from collections.abc import Sequence
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.constraints.kind import numbers
from nvdyn_ase.dynamics.constraints.vectors import Frames, dot, norm
from nvdyn_ase.dynamics.matrices import applied, inverse


class MinimumImage:
    """Finds shortest images as ``ase.geometry.find_mic`` does, for vectors whose systems are known.

    In three periodic dimensions a vector is rounded to the nearest in scaled coordinates; unless
    that is shorter than half of each cell vector, and in fewer dimensions, the images around it in
    a reduced cell are compared. Which combinations of cell vectors are reduced was found for the
    cell that the system came with.

    Parameters
    ----------
    batch
        The systems.
    systems
        The system of each vector, (m,).
    reductions
        For each vector, (3, 3) int, the reduced cell as combinations of cell vectors. None for a
        system without periodic directions.
    """

    def __init__(
        self,
        batch: Batch,
        systems: Int[Tensor, " m"],
        reductions: Sequence[np.ndarray | None],
    ) -> None:
        self._systems = systems
        self._none = all(reduction is None for reduction in reductions)
        if self._none:
            return
        self._frames = Frames(systems)
        identity = np.eye(3, dtype=int)
        known = [identity if reduction is None else reduction for reduction in reductions]
        self._reduction = numbers(batch, np.stack(known))
        # As ASE, no shift comes first.
        shifts = [(0, 0, 0), *product((-1, 0, 1), repeat=3)]
        self._shifts = numbers(batch, shifts)

    def __call__(self, batch: Batch, vectors: Float[Tensor, "m 3"]) -> Float[Tensor, "m 3"]:
        """Return the shortest images, Å."""
        if self._none:
            return vectors
        frame = self._frames(batch)
        cell = batch["cell"].index_select(0, self._systems)
        periodic = batch["pbc"].index_select(0, self._systems) & (cell != 0).any(2)
        scaled = applied(vectors, frame.inverse)
        near = applied(scaled - (scaled + 0.5).floor(), frame.vectors)
        lengths = torch.cat([norm(cell[:, i]) for i in range(3)], dim=1)
        shortest = lengths.min(1, keepdim=True).values
        safe = periodic.all(1, keepdim=True) & (norm(near) < 0.5 * shortest)
        found = torch.where(safe, near, self._compared(vectors, frame.vectors, periodic))
        return torch.where(periodic.any(1, keepdim=True), found, vectors)

    def _compared(self, vectors: Tensor, cell: Tensor, periodic: Tensor) -> Tensor:
        """Return the shortest of the images around each vector in the reduced cell."""
        reduced = self._reduction @ cell
        scaled = applied(vectors, inverse(reduced).matrix)
        scaled = torch.where(periodic, scaled - scaled.floor(), scaled)
        wrapped = applied(scaled, reduced)
        images, squares = [], []
        for shift in self._shifts.unbind(0):
            moved = torch.where(periodic, shift, torch.zeros_like(shift))
            images.append(wrapped + applied(moved, reduced))
            squares.append(dot(images[-1], images[-1]))
        best = torch.cat(squares, dim=1).sqrt().argmin(1)
        rows = torch.arange(len(best), device=best.device)
        return torch.stack(images, dim=1).flatten(0, 1).index_select(0, rows * len(images) + best)
