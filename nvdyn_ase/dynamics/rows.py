"""The rows that an optimizer moves, and their norms."""

from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import segment_max


def largest_norm(rows: Float[Tensor, "V 3"], ptr: Int[Tensor, " B1"]) -> Float[Tensor, "B 1"]:
    """Return the largest norm among the rows of each system, whose boundaries are ``ptr``.

    The three squares are added one by one: the bits of a reduction over the last dimension could
    depend on how many rows there are.
    """
    squares = rows * rows
    norms = squares[:, 0] + squares[:, 1] + squares[:, 2]
    return segment_max(norms, ptr).sqrt().view(-1, 1)
