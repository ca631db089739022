"""Pairs as a search found them, brought to canonical order, on a device."""

from typing import NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.neighbors.pairs import FlatPairs
from nvdyn_ase.neighbors.search_images import FoundThere
from nvdyn_ase.neighbors.standard import LARGEST_SHIFT, TOO_FAR, Standard


class LocalPairs(NamedTuple):
    """Pairs of systems, system after system, with atoms counted within each.

    Parameters
    ----------
    i, j
        (E,) int64.
    shift
        (E, 3) int64.
    """

    i: Int[Tensor, " E"]
    j: Int[Tensor, " E"]
    shift: Int[Tensor, "E 3"]

    @classmethod
    def none(cls, device: torch.device) -> Self:
        """Return no pairs."""
        empty = torch.empty(0, dtype=torch.int64, device=device)
        return cls(empty, empty, empty.view(0, 3))

    @classmethod
    def of(cls, flat: FlatPairs, ptr: Int[Tensor, " B1"]) -> Self:
        """Return the pairs of a batch, of which ``ptr`` is the first atom of each system."""
        base = ptr[flat.system]
        return cls(flat.i - base, flat.j - base, flat.shift)

    def followed_by(self, others: Self) -> Self:
        """Return these pairs and others behind them."""
        return type(self)(*(torch.cat(both) for both in zip(self, others, strict=True)))


def in_canonical_order_there(
    found: FoundThere,
    form: Standard,
    geometry: tuple[Float[Tensor, "V 3"], Float[Tensor, "B 3 3"]],
    reach: float,
    half: bool,
) -> tuple[LocalPairs, np.ndarray]:
    """Translate pairs to the systems as they are, leave out those beyond reach, and sort the rest.

    Parameters
    ----------
    found, form
        What a search found in the systems in standard form. A system whose shifts do not fit gets a
        ``problem`` and no pairs.
    geometry
        Positions and cells as they are, Å, on the device.
    reach
        Largest distance, Å.
    half
        Give each pair once; else both ways.

    Returns
    -------
    pairs
        In canonical order.
    counts
        (B,), pairs of each system, on the host.
    """
    (positions, cell), (i, j, shift, system) = geometry, found
    wraps, turn, ptr = (
        torch.from_numpy(array).to(positions.device) for array in (form.wraps, form.turn, form.ptr)
    )
    shift = ((shift + wraps[i] - wraps[j])[:, :, None] * turn[system]).sum(1)
    within = _within(positions[j] - positions[i], shift, cell[system], reach)
    odd = within & (shift.abs().amax(1) > LARGEST_SHIFT)
    tally = torch.zeros(2, len(form.cell), dtype=torch.int64, device=positions.device)
    tally[0].index_add_(0, system, within.long())
    tally[1].index_add_(0, system, odd.long())
    counts, too_far = tally.cpu().numpy()
    form.problem[too_far > 0] = TOO_FAR
    counts = np.where(too_far > 0, 0, counts)
    kept = (within & (tally[1] == 0)[system]).nonzero().view(-1)
    i, j, shift, system = (t[kept] for t in (i, j, shift, system))
    if half:
        back = (i > j) | ((i == j) & (_packed(shift) < _packed(torch.zeros_like(shift))))
        i, j = torch.where(back, j, i), torch.where(back, i, j)
        shift = torch.where(back[:, None], -shift, shift)
    else:
        i, j, shift = torch.cat([i, j]), torch.cat([j, i]), torch.cat([shift, -shift])
        system, counts = torch.cat([system, system]), 2 * counts
    order = torch.sort(_packed(shift), stable=True).indices
    order = order[torch.sort((i * len(positions) + j)[order], stable=True).indices]
    base = ptr[system]
    return LocalPairs((i - base)[order], (j - base)[order], shift[order]), counts


def _within(
    apart: Float[Tensor, "E 3"],
    shift: Int[Tensor, "E 3"],
    cell: Float[Tensor, "E 3 3"],
    reach: float,
) -> Tensor:
    """Return which pairs are within reach, in the arithmetic of ``canonical``."""
    s = shift.to(cell.dtype)
    moved = s[:, :1] * cell[:, 0] + s[:, 1:2] * cell[:, 1] + s[:, 2:] * cell[:, 2]
    x, y, z = (apart + moved).unbind(1)
    return x * x + y * y + z * z <= reach * reach


def _packed(shift: Int[Tensor, "E 3"]) -> Int[Tensor, " E"]:
    """Return one integer that orders shifts as their components do."""
    x, y, z = (shift + (LARGEST_SHIFT + 1)).unbind(1)
    return (x << 42) | (y << 21) | z
