"""Vectors of three components, and the frames that cells are.

The bits of a reduction over three components may depend on how many rows there are; a system's must
not depend on its neighbours. So sums are written out.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.matrices import inverse

Vectors = Float[Tensor, "m 3"]
Matrices = Float[Tensor, "m 3 3"]


def dot(a: Vectors, b: Vectors) -> Float[Tensor, "m 1"]:
    """Return the scalar product of each row of a with that of b."""
    product = a * b
    return product[:, 0:1] + product[:, 1:2] + product[:, 2:3]


def norm(a: Vectors) -> Float[Tensor, "m 1"]:
    """Return the length of each row."""
    return dot(a, a).sqrt()


def completed(cell: Matrices) -> Matrices:
    """Return cells in which vectors that are missing are replaced as ``ase.Cell.complete`` does.

    A single missing vector becomes the unit normal of the others, three become unit vectors. Where
    two are missing, they are unit vectors normal to the third; ASE may choose them otherwise.
    """
    there = (cell != 0).any(2, keepdim=True)
    unit = torch.eye(3, dtype=cell.dtype, device=cell.device).expand_as(cell)
    # With two vectors missing, the unit vector in whose direction the third goes least comes in.
    flat = (unit * cell.abs().sum(1).unsqueeze(1)).sum(2).argmin(1)
    helper = unit[0].index_select(0, flat)
    vectors, known = list(cell.unbind(1)), list(there.unbind(1))
    for i in range(3):
        a, b = vectors[i - 2], vectors[i - 1]
        has_a, has_b = known[i - 2], known[i - 1]
        a, b = torch.where(has_a, a, helper), torch.where(has_b, b, helper)
        normal = torch.linalg.cross(a, b)
        normal = normal / norm(normal)
        vectors[i] = torch.where(known[i], vectors[i], normal)
        known[i] = known[i] | has_a | has_b
    none = ~there.any(1, keepdim=True)
    return torch.where(none, unit, torch.stack(vectors, dim=1))


class Frame(NamedTuple):
    """Cell vectors, completed, as rows of each matrix, and the inverse."""

    vectors: Matrices
    inverse: Matrices


class Frames:
    """The frames of some systems, computed when a cell is new.

    Parameters
    ----------
    systems
        Row of the system of each frame.
    """

    def __init__(self, systems: Int[Tensor, " m"]) -> None:
        self._systems = systems
        self._known: tuple[Tensor, int, Frame] | None = None

    def __call__(self, batch: Batch) -> Frame:
        """Return the frames of the batch's cells."""
        cell = batch["cell"]
        if self._known is None or self._known[0] is not cell or self._known[1] != cell._version:
            self._known = (cell, cell._version, self.of(cell))
        return self._known[2]

    def of(self, cell: Float[Tensor, "B 3 3"]) -> Frame:
        """Return the frames of these cells, Å."""
        vectors = completed(cell.index_select(0, self._systems))
        return Frame(vectors, inverse(vectors).matrix)
