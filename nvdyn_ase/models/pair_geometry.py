"""Torch operations over the flat pairs of a batch: vectors, sums by atom, volumes."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.neighbors import FlatPairs

_ALL = slice(0, None)


def vectors(batch: Batch, flat: FlatPairs, edges: slice = _ALL) -> Float[Tensor, "E 3"]:
    """Return the vectors of pairs from i to j, Å, in float64."""
    positions, cell = batch["positions"].detach().double(), batch["cell"].detach().double()
    s, h = flat.shift[edges].double(), cell[flat.system[edges]]
    image = s[:, 0:1] * h[:, 0] + s[:, 1:2] * h[:, 1] + s[:, 2:3] * h[:, 2]
    return positions[flat.j[edges]] - positions[flat.i[edges]] + image


def are_reversed(flat: FlatPairs, edges: slice = _ALL) -> Bool[Tensor, " E"]:
    """Say which pairs of a full list are those of the half list the other way round."""
    i, j = flat.i[edges], flat.j[edges]
    x, y, z = flat.shift[edges].unbind(1)
    back = (x < 0) | ((x == 0) & ((y < 0) | ((y == 0) & (z < 0))))
    return (j < i) | ((j == i) & back)


def sums_by_atom(
    flat: FlatPairs,
    own: Float[Tensor, "E ..."],
    other: Float[Tensor, "E ..."],
    edges: slice = _ALL,
    atoms: slice = _ALL,
) -> tuple[Float[Tensor, "V ..."], Float[Tensor, "V ..."]]:
    """Sum what pairs give to their atoms i, and what they give to their atoms j.

    Parameters
    ----------
    flat
        The pairs.
    own, other
        For the atoms i and j of the pairs ``edges``.
    edges, atoms
        All pairs and atoms of some systems that follow each other; of the batch by default.
    """
    ptrs = slice(atoms.start, None if atoms.stop is None else atoms.stop + 1)
    order = flat.transpose[edges] - edges.start
    return (
        segment_sum(own, flat.ptr[ptrs] - edges.start),
        segment_sum(other[order], flat.transpose_ptr[ptrs] - edges.start),
    )


def volumes(cell: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 1"]:
    """Return volumes, Å³; infinite where there is none, so that stresses vanish."""
    volume = (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(1, keepdim=True).abs()
    return torch.where(volume == 0, torch.inf, volume)
