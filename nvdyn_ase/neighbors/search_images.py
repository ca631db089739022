"""The search that goes through all images of all pairs, in torch, on any device."""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.neighbors.standard import FINE, Standard

AT_ONCE = 2**22
"""Images of pairs that are in memory at once."""


class FoundThere(NamedTuple):
    """Pairs of systems in standard form, each once, either way round and in any order, on a device.

    Parameters
    ----------
    i, j
        (E,) int64, atoms, counted over the systems.
    shift
        (E, 3) int64, multiples of the cell vectors.
    system
        (E,) int64.
    """

    i: Int[Tensor, " E"]
    j: Int[Tensor, " E"]
    shift: Int[Tensor, "E 3"]
    system: Int[Tensor, " E"]


def images_around(form: Standard) -> np.ndarray:
    """Return how many cells an image within reach of the cell may be away, (B, 3), float."""
    per_height = np.sqrt((form.inverse**2).sum(1))
    # Two atoms inside the cell are less than one cell apart.
    return np.where(form.pbc, np.floor(form.reach[:, None] * per_height) + 1.0, 0.0)


def number_of_images(form: Standard) -> np.ndarray:
    """Return the images of pairs to go through in each system, (B,), float."""
    images = np.diff(form.ptr) ** 2.0 * (2.0 * images_around(form) + 1.0).prod(1)
    return np.where(form.problem == FINE, images, 0.0)


def search_images(form: Standard, device: torch.device) -> FoundThere:
    """Return the pairs within reach, each once.

    Parameters
    ----------
    form
        The systems.
    device
        Where to search.
    """
    around = torch.from_numpy(images_around(form).astype(np.int64)).to(device)
    atoms = torch.from_numpy(np.diff(form.ptr)).to(device)
    first = torch.from_numpy(form.ptr).to(device)
    positions, cell = (torch.from_numpy(a).to(device) for a in (form.positions, form.cell))
    square = torch.from_numpy(form.reach**2).to(device)
    ends = boundaries(number_of_images(form))
    ends_there = torch.from_numpy(ends).to(device)
    parts = []
    for start in range(0, int(ends[-1]), AT_ONCE):
        number = torch.arange(start, min(start + AT_ONCE, int(ends[-1])), device=device)
        system = torch.searchsorted(ends_there, number, right=True) - 1
        number = number - ends_there[system]
        # The number of an image of a pair is i, j and the shift written in digits.
        digits = []
        for axis in (2, 1, 0):
            base = 2 * around[system, axis] + 1
            digits.append(number % base - around[system, axis])
            number = torch.div(number, base, rounding_mode="floor")
        z, y, x = digits
        i = torch.div(number, atoms[system], rounding_mode="floor")
        j = number % atoms[system]
        positive = (x > 0) | ((x == 0) & ((y > 0) | ((y == 0) & (z > 0))))
        kept = ((i < j) | ((i == j) & positive)).nonzero().view(-1)
        i, j, system = (t[kept] for t in (i, j, system))
        i, j, shift = i + first[system], j + first[system], torch.stack([x, y, z], 1)[kept]
        vector = positions[j] - positions[i]
        vector = vector + (shift[:, :, None].to(cell.dtype) * cell[system]).sum(1)
        kept = (vector.square().sum(1) <= square[system]).nonzero().view(-1)
        parts.append(FoundThere(*(t[kept] for t in (i, j, shift, system))))
    if not parts:
        none = torch.empty(0, dtype=torch.int64, device=device)
        return FoundThere(none, none, none.view(0, 3), none)
    return FoundThere(*(torch.cat(columns) for columns in zip(*parts, strict=True)))
