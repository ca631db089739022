"""Systems that are done: who they are, and keeping them as they are."""

from collections.abc import Callable, Iterable
from functools import cached_property

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nvdyn_ase.data import Batch, Level


class ActiveMask:
    """Who moves.

    Parameters
    ----------
    system
        One entry per system, (B, 1).
    batch
        The systems.

    Attributes
    ----------
    node
        One entry per atom, (V, 1).
    ones
        1 for a system that moves and 0 for one that does not, (B, 1), for counting.
    """

    def __init__(self, system: Bool[Tensor, "B 1"], batch: Batch) -> None:
        self.system = system
        self._index, self._sizes = batch.batch, batch.num_nodes_list

    @cached_property
    def node(self) -> Bool[Tensor, "V 1"]:
        """One entry per atom, (V, 1)."""
        return self.system.index_select(0, self._index)

    @cached_property
    def ones(self) -> Int[Tensor, "B 1"]:
        """1 for a system that moves and 0 for one that does not, (B, 1)."""
        return self.system.long()

    def rows_of(self, holder: Batch, key: str) -> Bool[Tensor, "N 1"]:
        """Return one entry per row of a field, of the batch or of a state with rows of its own."""
        level = holder.level(key)
        if level is Level.BLOCK:
            return holder.blocks.spread(self.system)
        if level is not Level.NODE:
            return self.system
        if holder.num_nodes_list != self._sizes:
            return self.system.index_select(0, holder.batch)
        return self.node

    def merge(self, holder: Batch, key: str, new: Tensor, old: Tensor) -> Tensor:
        """Return new rows where systems move and old rows where they do not."""
        mask = self.rows_of(holder, key)
        shape = (len(mask),) + (1,) * (new.ndim - 1)
        return torch.where(mask.view(shape), new, old)


def masked(
    update: Callable[[Batch], None],
    batch: Batch,
    state: Batch,
    fields: Iterable[str],
    active: ActiveMask,
    writes_in_place: bool,
) -> None:
    """Run an update, then put back every field and state row of the systems that do not move.

    An update that may write in place is handed copies.
    """
    kept = [(batch, key, batch[key]) for key in fields if key in batch]
    kept += [(state, key, tensor) for key, tensor in state]
    handed = [tensor.clone() if writes_in_place else tensor for _, _, tensor in kept]
    for (holder, key, _), tensor in zip(kept, handed, strict=True):
        holder[key] = tensor
    versions = [tensor._version for tensor in handed]
    update(batch)
    for (holder, key, old), tensor, version in zip(kept, handed, versions, strict=True):
        new = holder[key]
        if new is tensor and new._version == version:
            holder[key] = old  # nothing was written: results that belong to this tensor still do
        else:
            holder[key] = active.merge(holder, key, new, old)
