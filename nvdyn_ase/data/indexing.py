"""Which systems of a batch an index means."""

from collections.abc import Sequence
from typing import Any, SupportsIndex

import numpy as np
from torch import Tensor

Index = SupportsIndex | slice | Sequence[SupportsIndex] | np.ndarray | Tensor


def is_one_system(index: Any) -> bool:
    """Say whether an index is a number, and not a choice of several systems."""
    if isinstance(index, (Tensor, np.ndarray)):
        return index.ndim == 0 and not _is_mask(index)
    return isinstance(index, (int, np.integer)) and not isinstance(index, bool)


def _is_mask(index: Tensor | np.ndarray) -> bool:
    return str(index.dtype).endswith("bool")


def system_rows(index: Index, count: int) -> np.ndarray:
    """Return the rows that an index chooses among ``count`` systems, in its order.

    Parameters
    ----------
    index
        A number, a slice, numbers (negative ones count from the end) or a mask of one bool per
        system. What is on a device is waited for.
    count
        Number of systems.

    Returns
    -------
    ndarray
        (n,) int64, none negative.

    Raises
    ------
    IndexError
        There is no such system, or the mask has another length.
    TypeError
        Neither whole numbers nor bools.
    """
    if isinstance(index, slice):
        return np.arange(count)[index].copy()
    rows = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
    if rows.dtype == bool:
        if rows.shape != (count,):
            raise IndexError(f"a mask of shape {rows.shape} for {count} systems")
        return np.flatnonzero(rows)
    if rows.shape == (0,):  # an empty list has no type of its own
        return np.zeros(0, np.int64)
    if rows.dtype.kind not in "iu":
        raise TypeError(f"systems are chosen by whole numbers or bools, not {rows.dtype}")
    if rows.ndim > 1:
        raise IndexError(f"an index of shape {rows.shape}; one dimension is needed")
    rows = np.atleast_1d(rows).astype(np.int64)
    wrong = (rows < -count) | (rows >= count)
    if wrong.any():
        raise IndexError(f"there is no system {rows[wrong][0]} among {count}")
    return rows % max(count, 1)
