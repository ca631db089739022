"""Reductions per system: one function, a fixed order, no atomics.

Every sum over the atoms of a system goes through here. The order of summation depends on the
system alone, never on its neighbours in the batch, so the bits do not either. All of them can be
differentiated once; where several rows are the largest, they share the derivative equally.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def segment_sum(values: Float[Tensor, "V ..."], ptr: Int[Tensor, " B1"]) -> Float[Tensor, "B ..."]:
    """Sum the rows of each segment, first to last.

    Parameters
    ----------
    values
        Rows, (V, ...).
    ptr
        Segment boundaries, (B + 1,): segment b is rows ``ptr[b]`` to ``ptr[b + 1] - 1``.

    Returns
    -------
    Tensor
        One row per segment, (B, ...); zero for an empty segment, NaN for one that holds NaN.
    """
    return torch.segment_reduce(values, "sum", offsets=ptr, unsafe=True, initial=0.0)


def segment_dot(
    a: Float[Tensor, "V 3"], b: Float[Tensor, "V 3"], ptr3: Int[Tensor, " B1"]
) -> Float[Tensor, "B 1"]:
    """Scalar product of two row fields, per segment.

    Parameters
    ----------
    a, b
        Rows, (V, 3).
    ptr3
        Boundaries in units of components, three times those in rows, (B + 1,).

    Returns
    -------
    Tensor
        (B, 1), summed component by component, first to last; zero for an empty segment.
    """
    product = (a * b).reshape(-1)
    return torch.segment_reduce(product, "sum", offsets=ptr3, unsafe=True, initial=0.0).view(-1, 1)


def segment_max(
    values: Float[Tensor, "V ..."], ptr: Int[Tensor, " B1"], least: float = -float("inf")
) -> Float[Tensor, "B ..."]:
    """Largest row of each segment, but no less than ``least``. NaN wins over any number.

    Parameters
    ----------
    values
        Rows, (V, ...).
    ptr
        Segment boundaries, (B + 1,).
    least
        What an empty segment has.

    Returns
    -------
    Tensor
        One row per segment, (B, ...).
    """
    return torch.segment_reduce(values, "max", offsets=ptr, unsafe=True, initial=least)
