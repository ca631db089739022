"""Cutting a batch into runs of systems that go through a network one after the other."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from nvdyn_ase.data.joining import boundaries


class Chunk(NamedTuple):
    """Systems that are evaluated together, as slices of systems, atoms and bonds."""

    systems: slice
    atoms: slice
    bonds: slice


def chunks(
    ptr: np.ndarray,
    bonds: np.ndarray,
    cost: np.ndarray,
    size: int,
    kinds: Sequence[object] | None = None,
) -> Iterator[Chunk]:
    """Cut a batch into runs of systems that follow each other.

    Parameters
    ----------
    ptr
        (B + 1,), first atom of each system, and the end.
    bonds
        (B,), of each system.
    cost
        (B,), what counts towards the size.
    size
        Most cost of a run, unless one system has more.
    kinds
        One for each system; those of different kinds are not put together. All are the same by
        default.
    """
    costs, bond_ptr = cost.tolist(), boundaries(bonds).tolist()
    kinds = kinds or [None] * len(costs)
    first, total = 0, 0
    for row in range(len(costs) + 1):
        end = row == len(costs)
        if row > first and (end or total + costs[row] > size or kinds[row] != kinds[first]):
            atoms = slice(int(ptr[first]), int(ptr[row]))
            yield Chunk(slice(first, row), atoms, slice(bond_ptr[first], bond_ptr[row]))
            first, total = row, 0
        if not end:
            total += costs[row]


def check_size(chunk_size: int | None) -> None:
    """Raise ValueError if a size of chunks that was given is not positive."""
    if chunk_size is not None and chunk_size < 1:
        raise ValueError(f"chunk_size must be positive, not {chunk_size}")
