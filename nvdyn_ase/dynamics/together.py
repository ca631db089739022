"""Systems put together that do not all have the same fields."""

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch

from nvdyn_ase.data import FIELDS, Batch, Level

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


def laid_behind(first: Batch, second: Batch, needed: Collection[str] = ()) -> Batch:
    """Return the systems of both.

    Parameters
    ----------
    first, second
        The systems; they get each other's fields.
    needed
        Fields that a system without them has no value for, unless they declare one.

    Raises
    ------
    ValueError
        One of these, and only one side has it; it is named.
    """
    _complete(first, second, needed)
    _complete(second, first, needed)
    return first.followed_by(second)


def put_together(parts: Sequence[Batch], order: np.ndarray) -> Batch:
    """Return the systems of all parts, in an order of them laid end to end."""
    bare = [part.index_select(slice(None)) for part in parts]
    for part in bare:
        for other in bare:
            _complete(part, other)
    whole, *rest = bare
    whole.append(*rest)
    return whole.index_select(order)


def name_unknown(batch: Batch, brought: Collection[str]) -> None:
    """Give fields that a run has made a default, for systems that had left before it made them.

    Parameters
    ----------
    batch
        The systems.
    brought
        Fields that they came with: nobody else can say what these are for another system.
    """
    keys = batch.keys()
    for key in keys:
        if key not in FIELDS and key not in brought:
            batch.defaults.setdefault(key, _unknown(batch[key]))


def _unknown(like: torch.Tensor) -> float | int:
    return float("nan") if like.is_floating_point() else 0


def _complete(part: Batch, other: Batch, needed: Collection[str] = ()) -> None:
    """Fill what was added after these systems had left: NaN, or zero where there is no NaN.

    A field that declares a default gets that when the parts are joined.
    """
    keys = other.keys()
    for key in keys:
        if key in part or key in FIELDS or key in other.defaults or key in needed:
            continue
        level, like = other.level(key), other[key]
        rows = part.num_rows(level)
        part.add_key(key, like.new_full((rows, *like.shape[1:]), _unknown(like)), level)


def forget_pairs(engine: "BaseDynamics", batch: Batch) -> Batch:
    """Return a batch without the pairs that an engine finds by itself; the user's own stay."""
    if engine.finds_pairs:
        batch.set_edges({}, np.zeros(len(batch), np.int64))
    return batch


def replace_fields(batch: Batch, new: Batch) -> None:
    """Give a batch the fields of another one of the same systems."""
    edges = {key: tensor for key, tensor in new if new.level(key) is Level.EDGE}
    batch.set_edges(edges, new.num_edges_list)
    for key, tensor in new:
        if key not in edges:
            batch.add_key(key, tensor, new.level(key), overwrite=True)
    batch.neighbors = batch.evaluated = None
    batch.host = new.host


def rows_behind(mask: torch.Tensor | None, staying: np.ndarray, more: int) -> torch.Tensor | None:
    """Return a mask (B, 1) for systems that stay, and False for so many that come behind them."""
    if mask is None:
        return None
    kept = mask.index_select(0, torch.from_numpy(np.array(staying)).to(mask.device))
    return torch.cat([kept, kept.new_zeros(more, 1)])
