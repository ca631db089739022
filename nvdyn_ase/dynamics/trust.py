"""The longest step that is trusted: where on the curve of damped Newton steps it lies."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.dynamics.spectra import dots, ends_of

# Of ASE's search: how far below the lowest eigenvalue it starts, its steps, how many of them are of
# one length, the factor to the next length, and when its bisection ends.
_BELOW, _STEP, _REPEAT, _GROWTH, _END = 1e-12, 0.1, 100, 1.25, 1e-6
_LENGTHS = 110  # offsets of up to 1e12 eV/Å²
_ITERATIONS = 12


class Brackets(NamedTuple):
    """The brackets in which ASE looks for a shift: how wide, and what bisection makes of them."""

    widths: Float[Tensor, " K"]
    cells: Float[Tensor, " K"]


@lru_cache
def brackets(device: torch.device) -> Brackets:
    """Return all brackets, ascending: ASE widens its bracket step by step until it holds the root.

    ``cells`` are the widths before the last halving.
    """
    lengths = _STEP * _GROWTH ** np.arange(_LENGTHS)
    widths = np.cumsum(np.append(0.0, np.repeat(lengths, _REPEAT)))
    halvings = np.floor(np.log2(np.maximum(widths, _END) / _END))
    cells = widths / 2.0**halvings
    return Brackets(*(torch.from_numpy(column).to(device) for column in (widths, cells)))


def trust_shift(
    values: Float[Tensor, "G d"],
    gradient: Float[Tensor, "G d"],
    radius: Float[Tensor, "G 1"],
    brackets: Brackets,
) -> Float[Tensor, "G 1"]:
    """Return the shift of the eigenvalues that makes a Newton step as long as the trust radius.

    The step ``-g / (b - shift)`` gets shorter the further the shift lies below the eigenvalues b.
    Newton's method finds where its length is the radius: J. Nocedal and S. J. Wright, Numerical
    Optimization, 2nd ed., Springer 2006, algorithm 4.3 and equation 4.44, from the point at which
    the largest component alone is that long. From there it comes closer with every iteration, and
    their number is fixed. ASE bisects to 1e-6 eV/Å²; what is returned is where it ends, so that
    every step is ASE's. A step that is short enough without gets no shift.

    Parameters
    ----------
    values
        Eigenvalues, ascending, eV/Å².
    gradient
        Along the eigenvectors, eV/Å.
    radius
        Å.
    brackets
        See :func:`brackets`.
    """
    if not values.shape[1]:
        return torch.zeros_like(radius)
    ends, newton = ends_of(values), gradient / values
    short = dots(newton, newton, ends).sqrt() < radius
    top = values[:, :1].clamp(max=0.0) - _BELOW
    gaps = (values - top).clamp(min=1e-40)
    wanted = gradient / radius
    depth = (wanted.abs() - gaps).amax(1, keepdim=True).clamp(min=0.0)
    for _ in range(_ITERATIONS):
        damped = gaps + depth
        step = wanted / damped
        square, slope = dots(step, step, ends), dots(step, step / damped, ends)
        depth = (depth + square / slope * (square.sqrt() - 1.0)).clamp(min=0.0)
    place = torch.searchsorted(brackets.widths, depth).clamp(max=len(brackets.widths) - 1).view(-1)
    width, cell = brackets.widths[place].view(-1, 1), brackets.cells[place].view(-1, 1)
    last = torch.minimum((depth / cell).floor(), (width / cell).round() - 1.0)
    depth = torch.where(width > 0.0, cell * (last + 0.5), 0.0)
    return torch.where(short, 0.0, top - depth)
