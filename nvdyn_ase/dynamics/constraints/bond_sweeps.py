"""The sweeps of SHAKE and RATTLE over bonds, one bond after the other as ASE makes them.

On the CPU one compiled loop does each constraint until it has converged. Any other device takes
bonds that share no atom together, which gives the same numbers, and does a fixed number of sweeps:
who is done does not move any more.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float
from numba import njit
from torch import Tensor

# As many as ASE does.
_MOST = 500


class Bonds(NamedTuple):
    """Who is bound to whom, as rows of the batch.

    Parameters
    ----------
    first, second
        The two atoms of each bond, (m,) int64.
    ptr
        The first bond of each constraint and the end, (g + 1,) int64.
    owner
        The constraint of each bond, (m,) int64.
    levels
        Bonds that are done together, level after level. A bond comes after those before it that
        share an atom with it.
    tolerance
        Of each bond, (m, 1) float64.
    """

    first: Tensor
    second: Tensor
    ptr: Tensor
    owner: Tensor
    levels: list[Tensor]
    tolerance: Tensor


class Terms(NamedTuple):
    """What a sweep needs to know of each bond beside its atoms.

    The multiplier of a bond is ``(c - d.d) / (2 o.d)`` where positions are corrected, d being the
    present bond vector plus a constant, and ``-d.o / c`` where velocities are.

    Parameters
    ----------
    old
        The bond vector o along which the atoms are moved, (m, 3).
    offset
        What is added to the difference of the two rows, (m, 3).
    square
        Square c of the bond length, (m, 1).
    weight_first, weight_second
        What the rows are multiplied with before their difference is taken, (m, 1).
    gain_first, gain_second
        What the correction of each atom is multiplied with, (m, 1).
    """

    old: Tensor
    offset: Tensor
    square: Tensor
    weight_first: Tensor
    weight_second: Tensor
    gain_first: Tensor
    gain_second: Tensor


def swept(
    rows: Float[Tensor, "V 3"], bonds: Bonds, terms: Terms, of_positions: bool, sweeps: int
) -> tuple[Float[Tensor, "V 3"], Bool[Tensor, " g"]]:
    """Return rows that obey the bonds, and the constraints that did not converge.

    Parameters
    ----------
    rows
        Positions, or velocities or forces.
    bonds, terms
        Who is bound to whom, and how.
    of_positions
        Which they are, and so which of the two multipliers it is.
    sweeps
        How many there are on a device where nobody waits for the outcome.
    """
    if rows.dtype is not torch.float64:  # the tolerance asks for it
        wide = Terms(*(term.double() for term in terms))
        found, unsettled = swept(rows.double(), bonds, wide, of_positions, sweeps)
        return found.to(rows.dtype), unsettled
    if rows.device.type != "cpu":
        return swept_torch(rows, bonds, terms, of_positions, sweeps)
    out = rows.detach().clone()
    failed = np.zeros(len(bonds.ptr) - 1, np.bool_)
    given: list[Any] = [t.numpy() for t in (bonds.first, bonds.second, bonds.ptr, bonds.tolerance)]
    given += [term.numpy() for term in terms]
    sweep: Callable[..., None] = _sweep
    sweep(out.numpy(), *given, of_positions, _MOST, failed)
    return out, torch.from_numpy(failed)


@njit(cache=True, error_model="numpy")
def _sweep(
    rows: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    ptr: np.ndarray,
    tolerance: np.ndarray,
    old: np.ndarray,
    offset: np.ndarray,
    square: np.ndarray,
    weight_first: np.ndarray,
    weight_second: np.ndarray,
    gain_first: np.ndarray,
    gain_second: np.ndarray,
    of_positions: bool,
    most: int,
    failed: np.ndarray,
) -> None:
    now = np.empty(3)
    for g in range(len(ptr) - 1):
        converged = False
        for sweep in range(most):
            converged = True
            for k in range(ptr[g], ptr[g + 1]):
                a, b = first[k], second[k]
                along = 0.0
                length = 0.0
                for c in range(3):
                    now[c] = weight_first[k, 0] * rows[a, c] - weight_second[k, 0] * rows[b, c]
                    now[c] += offset[k, c]
                    along += old[k, c] * now[c]
                    length += now[c] * now[c]
                x = -along / square[k, 0]
                if of_positions:
                    x = 0.5 * (square[k, 0] - length) / along
                if np.isnan(x) and sweep > 0:  # it was a number at first: this will not end well
                    failed[g] = True
                if abs(x) > tolerance[k, 0]:
                    converged = False
                    for c in range(3):
                        rows[a, c] += x * gain_first[k, 0] * old[k, c]
                        rows[b, c] -= x * gain_second[k, 0] * old[k, c]
            if converged:
                break
        failed[g] |= not converged


def swept_torch(
    rows: Float[Tensor, "V 3"], bonds: Bonds, terms: Terms, of_positions: bool, sweeps: int
) -> tuple[Float[Tensor, "V 3"], Bool[Tensor, " g"]]:
    """Return what :func:`swept` returns, as torch operations, a given number of sweeps."""
    levels = [_Level.of(bonds, terms, chosen) for chosen in bonds.levels]
    first: list[Tensor] = []
    last: list[Tensor] = []
    for sweep in range(sweeps):
        last = []
        for level in levels:
            rows, x = level.corrected(rows, of_positions)
            last.append(x)
        first = last if sweep == 0 else first
    failed = rows.new_zeros(len(bonds.ptr) - 1)
    order = torch.cat([bonds.owner.index_select(0, chosen) for chosen in bonds.levels])
    # What was a number at first and is none now did not converge either.
    x, known = torch.cat(last), ~torch.cat(first).isnan()
    unsettled = ((x != 0) & known).view(-1).to(failed)
    return rows, failed.scatter_reduce(0, order, unsettled, "amax") > 0


class _Level(NamedTuple):
    """Bonds that share no atom."""

    first: Tensor
    second: Tensor
    both: Tensor
    tolerance: Tensor
    old: Tensor
    offset: Tensor
    square: Tensor
    weight_first: Tensor
    weight_second: Tensor
    change: Tensor

    @classmethod
    def of(cls, bonds: Bonds, terms: Terms, chosen: Tensor) -> "_Level":
        first, second = (t.index_select(0, chosen) for t in (bonds.first, bonds.second))
        tolerance = bonds.tolerance.index_select(0, chosen)
        own = Terms(*(term.index_select(0, chosen) for term in terms))
        return cls(
            first,
            second,
            torch.cat((first, second)),
            tolerance,
            *own[:5],
            change=torch.cat((own.gain_first * own.old, -own.gain_second * own.old)),
        )

    def corrected(self, rows: Tensor, of_positions: bool) -> tuple[Tensor, Tensor]:
        """Return the rows after these bonds were done, and the multipliers that it took."""
        now = self.weight_first * rows.index_select(0, self.first)
        now = now - self.weight_second * rows.index_select(0, self.second) + self.offset
        along = (self.old * now).unbind(1)
        along_old = (along[0] + along[1] + along[2]).unsqueeze(1)
        if of_positions:
            squares = (now * now).unbind(1)
            length = (squares[0] + squares[1] + squares[2]).unsqueeze(1)
            x = 0.5 * (self.square - length) / along_old
        else:
            x = -along_old / self.square
        x = torch.where(x.abs() <= self.tolerance, 0.0, x)
        return rows.index_add(0, self.both, torch.cat((x, x)) * self.change), x
