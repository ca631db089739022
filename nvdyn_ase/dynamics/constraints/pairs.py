"""Pairs of atoms of a batch, at most one in an atom."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.dynamics.constraints.kind import Member, rows_of


class PairRows:
    """One pair of each member, as rows of the batch.

    Parameters
    ----------
    batch
        The systems.
    members
        Whose they are, in the order of the systems.
    pairs
        Two atoms of each, (2,) int, counted in its system.

    Attributes
    ----------
    first, second
        Rows of the two atoms of each pair.
    """

    def __init__(
        self, batch: Batch, members: Sequence[Member[Any]], pairs: Sequence[np.ndarray]
    ) -> None:
        self.first = rows_of(batch, members, [pair[:1] for pair in pairs])
        self.second = rows_of(batch, members, [pair[1:] for pair in pairs])
        self._both = torch.cat((self.first, self.second))
        self._ptr = members_ptr(batch, members)

    def vectors(self, positions: Float[Tensor, "V 3"]) -> Float[Tensor, "m 3"]:
        """Return the position of the first atom seen from the second, Å."""
        return positions.index_select(0, self.first) - positions.index_select(0, self.second)

    def added(
        self,
        values: Float[Tensor, "V 3"],
        first: Float[Tensor, "m 3"],
        second: Float[Tensor, "m 3"],
    ) -> Float[Tensor, "V 3"]:
        """Return the rows with something added to those of the two atoms of each pair."""
        return values.index_add(0, self._both, torch.cat((first, second)))

    def per_system(self, values: Float[Tensor, "m 1"]) -> Float[Tensor, "B 1"]:
        """Sum over the pairs of each system."""
        return segment_sum(values, self._ptr)


def members_ptr(batch: Batch, members: Sequence[Member[Any]]) -> Tensor:
    """Return the first member of each system and the end, (B + 1,)."""
    counts = np.bincount([member.row for member in members], minlength=len(batch))
    return torch.from_numpy(boundaries(counts)).to(batch.device)
