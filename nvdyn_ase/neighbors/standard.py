"""Systems in standard form, which is what every search is given.

The periodic cell vectors are reduced to short ones, the others are completed to a basis, and the
atoms are moved into the cell; how to translate the pairs back goes along. A search then meets no
skewed or singular cell, no atom far outside, and how much it will have to do follows from volumes.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from nvdyn_ase.data.joining import boundaries

LARGEST_COORDINATE = 1e9
"""Å; beyond it the distance of two atoms has lost its meaning."""

LARGEST_SHIFT = 2**20 - 1
"""Cell vectors that an atom may be away; three such numbers fit in one integer."""

PAIRS_PER_ATOM = 10_000
"""Pairs an atom may have on the average, each counted both ways."""

SMALL_SYSTEM = 1_000_000
"""Pairs that a system may have however few its atoms are."""

LARGEST_SYSTEM = 2**28
"""Pairs that a system may have however many its atoms are."""

FINE, NOT_FINITE, SINGULAR, TOO_FAR, TOO_DENSE = range(5)

REASONS = {
    NOT_FINITE: "its positions or its cell are not finite",
    SINGULAR: "its cell is singular along its periodic directions",
    TOO_FAR: (
        f"an atom is more than {LARGEST_COORDINATE:.0e} Å or {LARGEST_SHIFT} cell vectors away "
        "from the origin or from another: atoms have flown away, or the cell has collapsed"
    ),
    TOO_DENSE: (
        f"its atoms have more than {PAIRS_PER_ATOM} neighbours each on the average, or it has more "
        f"than {LARGEST_SYSTEM} pairs; its atoms or its cell have collapsed, or the cutoff is too "
        "long"
    ),
}


class Geometry(NamedTuple):
    """Where the atoms of some systems are, on the host.

    Parameters
    ----------
    positions
        (V, 3) float64, Å.
    cell, pbc
        (B, 3, 3) float64, Å, and (B, 3) bool.
    ptr
        (B + 1,) int64, first atom of each system, and the end.
    """

    positions: np.ndarray
    cell: np.ndarray
    pbc: np.ndarray
    ptr: np.ndarray


def reasons(problem: np.ndarray) -> dict[int, str]:
    """Return why systems cannot be searched, by row, from the ``problem`` of each."""
    return {int(row): REASONS[int(problem[row])] for row in np.flatnonzero(problem)}


def part_of(geometry: Geometry, rows: np.ndarray) -> Geometry:
    """Return the geometry of some systems, in increasing order."""
    if len(rows) == len(geometry.cell):
        return geometry
    ptr = boundaries((geometry.ptr[1:] - geometry.ptr[:-1])[rows])
    part = Geometry(
        np.empty((ptr[-1], 3)), np.empty((len(rows), 3, 3)), np.empty((len(rows), 3), bool), ptr
    )
    _copy_part(geometry, rows, part)
    return part


class Standard(NamedTuple):
    """Some systems in standard form.

    Parameters
    ----------
    positions
        (V, 3), Å, inside the cell along periodic directions.
    cell, inverse
        (B, 3, 3), Å and 1/Å; rows of the cell that are not periodic are unit vectors normal to all
        others.
    pbc
        (B, 3) bool.
    ptr
        (B + 1,) int64.
    reach
        (B,), Å, slightly more than the largest distance wanted; rounding is left room.
    turn
        (B, 3, 3) int64, the cell in terms of the user's: ``cell = turn @ cell_of_user``.
    wraps
        (V, 3) int64, ``positions = positions_of_user - wraps @ cell``.
    problem
        (B,) int64, why a system cannot be searched, as in ``REASONS``; 0 if nothing is wrong. It
        has no pairs then, and what else is said of it is void.
    """

    positions: np.ndarray
    cell: np.ndarray
    inverse: np.ndarray
    pbc: np.ndarray
    ptr: np.ndarray
    reach: np.ndarray
    turn: np.ndarray
    wraps: np.ndarray
    problem: np.ndarray


def standard(geometry: Geometry, reach: float) -> Standard:
    """Bring systems to standard form.

    Parameters
    ----------
    geometry
        The systems.
    reach
        Largest distance wanted, Å.
    """
    atoms, systems = len(geometry.positions), len(geometry.cell)
    form = Standard(
        positions=np.zeros((atoms, 3)),
        cell=np.zeros((systems, 3, 3)),
        inverse=np.zeros((systems, 3, 3)),
        pbc=geometry.pbc,
        ptr=geometry.ptr,
        reach=np.zeros(systems),
        turn=np.zeros((systems, 3, 3), np.int64),
        wraps=np.zeros((atoms, 3), np.int64),
        problem=np.zeros(systems, np.int64),
    )
    _standardise(geometry.positions, geometry.cell, reach, form)
    return form


@njit(cache=True, error_model="numpy")
def largest_number_of_pairs(atoms: int) -> int:
    """Return how many pairs, each counted both ways, a system may have."""
    return min(max(PAIRS_PER_ATOM * atoms, SMALL_SYSTEM), LARGEST_SYSTEM)


@njit(cache=True, error_model="numpy")
def _copy_part(geometry: Geometry, rows: np.ndarray, part: Geometry) -> None:
    for k in range(len(rows)):
        b = rows[k]
        shift = geometry.ptr[b] - part.ptr[k]
        for i in range(part.ptr[k], part.ptr[k + 1]):
            for c in range(3):
                part.positions[i, c] = geometry.positions[i + shift, c]
        for a in range(3):
            part.pbc[k, a] = geometry.pbc[b, a]
            for c in range(3):
                part.cell[k, a, c] = geometry.cell[b, a, c]


@njit(cache=True, error_model="numpy")
def give_up(form: Standard, b: int, problem: int) -> None:
    """Note why a system cannot be searched, and leave numbers that do no harm."""
    form.problem[b] = problem
    form.reach[b] = 0.0
    for a in range(3):
        for c in range(3):
            form.inverse[b, a, c] = 0.0


@njit(cache=True, error_model="numpy")
def _standardise(positions: np.ndarray, cell: np.ndarray, reach: float, form: Standard) -> None:
    for b in range(len(cell)):
        lo, hi = form.ptr[b], form.ptr[b + 1]
        x, wraps, pbc = form.positions[lo:hi], form.wraps[lo:hi], form.pbc[b]
        box, inverse, turn = form.cell[b], form.inverse[b], form.turn[b]
        far, long = _largest(positions[lo:hi]), _largest(cell[b])
        if not (far < math.inf and long < math.inf):
            give_up(form, b, NOT_FINITE)
        elif far > LARGEST_COORDINATE or long > LARGEST_COORDINATE:
            give_up(form, b, TOO_FAR)
        elif not _reduce(cell[b], pbc, box, turn) or not _complete(box, pbc, inverse):
            give_up(form, b, SINGULAR)
        elif not _wrap(positions[lo:hi], box, inverse, pbc, x, wraps):
            give_up(form, b, TOO_FAR)
        else:
            # What is added is for the rounding of a pair at the very edge; see ``canonical``.
            rounding = 1e-14 * (far + long * _largest(turn) * (1.0 + _largest(wraps)))
            form.reach[b] = reach * (1.0 + 1e-9) + rounding


@njit(cache=True, error_model="numpy")
def _largest(values: np.ndarray) -> float:
    """Return the largest magnitude; infinity if anything is not finite."""
    most = 0.0
    for a in range(values.shape[0]):
        for c in range(values.shape[1]):
            x = abs(float(values[a, c]))
            if not x <= most:
                most = x if x < math.inf else math.inf
    return most


@njit(cache=True, error_model="numpy")
def _reduce(cell: np.ndarray, pbc: np.ndarray, box: np.ndarray, turn: np.ndarray) -> bool:
    """Write a basis of short vectors of the lattice to ``box``, ``turn @ cell``.

    Vectors are made shorter by multiples of each other, and the longest of three by sums of the
    other two, until no such step helps: I. Semaev, Lect. Notes Comput. Sci. 2146, 181 (2001). False
    if the numbers get out of hand.
    """
    for a in range(3):
        for c in range(3):
            box[a, c] = cell[a, c] if pbc[a] else 0.0
            turn[a, c] = 1 if a == c else 0
    for _ in range(200):
        shorter = _shorten_all(box, turn, pbc)
        if _largest(turn) > LARGEST_SHIFT:
            return False
        if not shorter:
            break
    for a in range(3):
        for c in range(3):
            whole = turn[a, 0] * cell[0, c] + turn[a, 1] * cell[1, c] + turn[a, 2] * cell[2, c]
            box[a, c] = whole if pbc[a] else 0.0
    return True


@njit(cache=True, error_model="numpy")
def _dot(m: np.ndarray, a: int, b: int) -> float:
    return m[a, 0] * m[b, 0] + m[a, 1] * m[b, 1] + m[a, 2] * m[b, 2]


@njit(cache=True, error_model="numpy")
def _shorten(box: np.ndarray, turn: np.ndarray, a: int, b: int) -> bool:
    """Take a multiple of row b off row a if that makes it shorter."""
    square, before = _dot(box, b, b), _dot(box, a, a)
    if not square > 0.0:
        return False
    times = np.rint(_dot(box, a, b) / square)
    if times == 0.0 or not abs(times) <= LARGEST_SHIFT:
        return False
    if not before - 2.0 * times * _dot(box, a, b) + times * times * square < (1.0 - 1e-9) * before:
        return False
    for c in range(3):
        box[a, c] -= times * box[b, c]
        turn[a, c] -= np.int64(times) * turn[b, c]
    return True


@njit(cache=True, error_model="numpy")
def _shorten_all(box: np.ndarray, turn: np.ndarray, pbc: np.ndarray) -> bool:
    shorter = False
    for a in range(3):
        for b in range(3):
            if a != b and pbc[a] and pbc[b] and _shorten(box, turn, a, b):
                shorter = True
    if pbc[0] and pbc[1] and pbc[2] and _shorten_longest(box, turn):
        shorter = True
    return shorter


@njit(cache=True, error_model="numpy")
def _shorten_longest(box: np.ndarray, turn: np.ndarray) -> bool:
    """Add or take off both other rows from the longest if that makes it shorter."""
    a = 0
    for k in range(1, 3):
        if _dot(box, k, k) > _dot(box, a, a):
            a = k
    b, c = (a + 1) % 3, (a + 2) % 3
    before, others = _dot(box, a, a), _dot(box, b, b) + _dot(box, c, c)
    ab, ac, bc = _dot(box, a, b), _dot(box, a, c), _dot(box, b, c)
    for p in (-1, 1):
        for q in (-1, 1):
            if before + others + 2 * (p * ab + q * ac + p * q * bc) < (1.0 - 1e-9) * before:
                for k in range(3):
                    box[a, k] += p * box[b, k] + q * box[c, k]
                    turn[a, k] += p * turn[b, k] + q * turn[c, k]
                return True
    return False


@njit(cache=True, error_model="numpy")
def _complete(box: np.ndarray, pbc: np.ndarray, inverse: np.ndarray) -> bool:
    """Make the rows that are not periodic unit vectors normal to all others, and invert.

    False if the volume is zero or lost in rounding.
    """
    for a in range(3):
        if not pbc[a]:
            _normal(box, a)
    for a in range(3):
        b, c = (a + 1) % 3, (a + 2) % 3
        for k in range(3):
            m, n = (k + 1) % 3, (k + 2) % 3
            inverse[k, a] = box[b, m] * box[c, n] - box[b, n] * box[c, m]
    volume = box[0, 0] * inverse[0, 0] + box[0, 1] * inverse[1, 0] + box[0, 2] * inverse[2, 0]
    # The vectors are as short as they get, so that a cell with a volume has at least half of this.
    size = math.sqrt(_dot(box, 0, 0)) * math.sqrt(_dot(box, 1, 1)) * math.sqrt(_dot(box, 2, 2))
    if not abs(volume) > 1e-3 * size:
        return False
    for a in range(3):
        for c in range(3):
            inverse[a, c] /= volume
    return True


@njit(cache=True, error_model="numpy")
def _normal(box: np.ndarray, a: int) -> None:
    """Make row a a unit vector normal to the other rows, of which zero, one or both are zero."""
    b, c = (a + 1) % 3, (a + 2) % 3
    first = b if _dot(box, b, b) > 0.0 else c
    other = c if first == b and _dot(box, c, c) > 0.0 else a
    if other == a:
        axis = 0
        for k in range(1, 3):
            if abs(box[first, k]) < abs(box[first, axis]):
                axis = k
        box[a, axis] = 1.0
        if not _dot(box, first, first) > 0.0:
            return
    normal = (
        box[first, 1] * box[other, 2] - box[first, 2] * box[other, 1],
        box[first, 2] * box[other, 0] - box[first, 0] * box[other, 2],
        box[first, 0] * box[other, 1] - box[first, 1] * box[other, 0],
    )
    length = math.sqrt(normal[0] ** 2 + normal[1] ** 2 + normal[2] ** 2)
    for k in range(3):
        box[a, k] = normal[k] / length


@njit(cache=True, error_model="numpy")
def _wrap(
    positions: np.ndarray,
    box: np.ndarray,
    inverse: np.ndarray,
    pbc: np.ndarray,
    inside: np.ndarray,
    wraps: np.ndarray,
) -> bool:
    """Move the atoms into the cell; False if one is too many cells away."""
    for i in range(len(positions)):
        x, y, z = positions[i, 0], positions[i, 1], positions[i, 2]
        for c in range(3):
            inside[i, c] = positions[i, c]
        for a in range(3):
            whole = np.floor(x * inverse[0, a] + y * inverse[1, a] + z * inverse[2, a])
            if pbc[a]:
                if not abs(whole) <= LARGEST_SHIFT:
                    return False
                wraps[i, a] = np.int64(whole)
                for c in range(3):
                    inside[i, c] -= whole * box[a, c]
    return True
