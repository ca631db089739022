"""The search for the CPU: a grid of bins at least as wide as the reach, compiled by numba.

Each atom meets the atoms of its own bin that come after it and those of half of the bins around, so
that each pair is seen once. Where the cell is smaller than the reach there is one bin, and the bins
around are its images. Bins along the last axis follow each other in memory: their atoms are gone
through in one loop that the compiler can vectorise.
"""

import math

import numpy as np
from numba import njit

from nvdyn_ase.neighbors.canonical import Found
from nvdyn_ase.neighbors.sorting import sort
from nvdyn_ase.neighbors.standard import (
    FINE,
    LARGEST_SHIFT,
    SMALL_SYSTEM,
    TOO_DENSE,
    Standard,
    give_up,
    largest_number_of_pairs,
)

_BINS_PER_ATOM = 8

# So many images of a cell, whose vectors are as short as they get, are there only if those within
# reach are more than a system may have pairs.
_MOST_IMAGES = 10 * SMALL_SYSTEM


def search_grid(form: Standard) -> Found:
    """Return the pairs within reach, each once; see the module.

    Systems that turn out to have too many get a ``problem``.

    Parameters
    ----------
    form
        The systems.
    """
    return Found(*_search(form, True))


def mark_too_dense(form: Standard) -> None:
    """Give systems with too many pairs a ``problem``, without keeping the pairs."""
    _search(form, False)


@njit(cache=True, error_model="numpy")
def _search(form: Standard, keep: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    systems = len(form.cell)
    ptr = np.zeros(systems + 1, np.int64)
    room = 64 * len(form.positions) if keep else 0
    found = np.empty(room, np.int32), np.empty(room, np.int32), np.empty((room, 3), np.int32)
    n = 0
    for b in range(systems):
        ptr[b] = n
        lo, hi = form.ptr[b], form.ptr[b + 1]
        if form.problem[b] != FINE or hi == lo:
            continue
        x, reach = form.positions[lo:hi], form.reach[b]
        bins, around, where = _divide(x, form.inverse[b], form.pbc[b], reach)
        images = (2.0 * around[0] + 1) * (2.0 * around[1] + 1) * (2.0 * around[2] + 1)
        if images > _MOST_IMAGES:
            give_up(form, b, TOO_DENSE)
            continue
        first, member, packed = _fill(x, bins, where)
        grid = bins, around, form.pbc[b], where, first, member, packed
        most = largest_number_of_pairs(hi - lo) // 2
        perhaps = 0.5 * images * (hi - lo) * _fullest(first) > most
        # They are counted before any memory is taken for them.
        if perhaps and _visit(grid, form.cell[b], reach, most, False, found, 0, 0)[0] > most:
            give_up(form, b, TOO_DENSE)
            continue
        place = 0
        while keep and place < hi - lo:
            n, place = _visit(grid, form.cell[b], reach, n + most, True, found, n, place)
            if place < hi - lo:
                found = _longer(found, n)
    ptr[systems] = n
    return found[0][:n], found[1][:n], found[2][:n], ptr


@njit(cache=True, error_model="numpy")
def _divide(
    x: np.ndarray, inverse: np.ndarray, pbc: np.ndarray, reach: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of bins, how many of them the reach extends over, and the bin of each atom.

    Along each axis; (3,), (3,) and (N, 3). The outermost bins of an axis that is not periodic
    extend to infinity, so that a few atoms that fly away do not make the bins of the others large.
    """
    low, height = np.zeros(3), np.empty(3)
    f = np.empty((3, len(x)))
    for a in range(3):
        for i in range(len(x)):
            f[a, i] = x[i, 0] * inverse[0, a] + x[i, 1] * inverse[1, a] + x[i, 2] * inverse[2, a]
        square = inverse[0, a] ** 2 + inverse[1, a] ** 2 + inverse[2, a] ** 2
        height[a] = 1.0 / math.sqrt(square)
        if not pbc[a]:
            low[a], height[a] = _extent(f[a], reach)
    bins = np.empty(3)
    for a in range(3):
        bins[a] = max(np.floor(height[a] / reach), 1.0)
    while bins[0] * bins[1] * bins[2] > _BINS_PER_ATOM * len(x):
        widest = 0 if bins[0] >= max(bins[1], bins[2]) else 1 if bins[1] >= bins[2] else 2
        bins[widest] = np.ceil(bins[widest] / 2)
    number, around = np.empty(3, np.int64), np.ones(3, np.int64)
    where = np.empty((len(x), 3), np.int64)
    for a in range(3):
        number[a] = np.int64(bins[a])
        wide = max(height[a] / bins[a], reach)
        if pbc[a]:
            wide = 1.0 / bins[a]
            around[a] = np.int64(min(np.ceil(reach * bins[a] / height[a]), LARGEST_SHIFT + 1.0))
        for i in range(len(x)):
            place = np.floor((f[a, i] - low[a]) / wide)
            where[i, a] = np.int64(min(max(place, 0.0), bins[a] - 1.0))
    return number, around, where


@njit(cache=True, error_model="numpy")
def _extent(f: np.ndarray, reach: float) -> tuple[float, float]:
    """Return where the atoms begin along a line, and over what length they extend.

    Of atoms that are widely scattered it is the middle nine tenths.
    """
    low, high = f[0], f[0]
    for v in f:
        low, high = min(low, v), max(high, v)
    if high - low > reach * len(f) ** (1.0 / 3.0):
        ordered = f.copy()
        sort(ordered)
        low, high = ordered[len(f) // 20], ordered[len(f) - 1 - len(f) // 20]
    return low, high - low


@njit(cache=True, error_model="numpy")
def _fill(
    x: np.ndarray, bins: np.ndarray, where: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Lay the atoms out bin by bin.

    Returns
    -------
    first
        First place of each bin, and the end.
    member
        (N,), which atom is in each place.
    packed
        (3, N), the coordinates in the order of the places.
    """
    first = np.zeros(bins[0] * bins[1] * bins[2] + 1, np.int64)
    number = np.empty(len(x), np.int64)
    for i in range(len(x)):
        number[i] = (where[i, 0] * bins[1] + where[i, 1]) * bins[2] + where[i, 2]
        first[number[i] + 1] += 1
    for k in range(len(first) - 1):
        first[k + 1] += first[k]
    free = first.copy()
    member, packed = np.empty(len(x), np.int32), np.empty((3, len(x)))
    for i in range(len(x)):
        place = free[number[i]]
        free[number[i]] += 1
        member[place] = i
        for c in range(3):
            packed[c, place] = x[i, c]
    return first, member, packed


@njit(cache=True, error_model="numpy")
def _fullest(first: np.ndarray) -> int:
    """Return the number of atoms in the bin that has most."""
    most = 0
    for k in range(len(first) - 1):
        most = max(most, first[k + 1] - first[k])
    return most


@njit(cache=True, error_model="numpy")
def _visit(
    grid: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
    cell: np.ndarray,
    reach: float,
    limit: int,
    keep: bool,
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    n: int,
    place: int,
) -> tuple[int, int]:
    """Append the pairs of one system to ``found``, from row n on.

    It ends early so that the caller can make more room, or give up: to replace an array in the loop
    would make it twice as slow.

    Parameters
    ----------
    limit
        It gives up when there are more rows than this.
    place
        Where to begin.

    Returns
    -------
    n
        Rows in use.
    place
        Where to go on.
    """
    bins, around, pbc, where, first, member, packed = grid
    x, y, z = packed[0], packed[1], packed[2]
    square, hit = np.empty(len(member)), np.empty(len(member) + 1, np.int64)
    steps = _half_of_the_rows(around)
    for s in range(place, len(member)):
        before = n
        atom = member[s]
        bx, by, bz = where[atom, 0], where[atom, 1], where[atom, 2]
        for step in range(len(steps)):
            ox, oy = steps[step, 0], steps[step, 1]
            sx, kx = _folded(bx + ox, bins[0])
            sy, ky = _folded(by + oy, bins[1])
            if (sx != 0 and not pbc[0]) or (sy != 0 and not pbc[1]):
                continue
            own = ox == 0 and oy == 0
            row = (kx * bins[1] + ky) * bins[2]
            q, top = _along_the_row(bz, own, around[2], bins[2], pbc[2])
            while q <= top:
                sz, kz = _folded(q, bins[2])
                stop = min(top + 1, (sz + 1) * bins[2])
                lo, hi = first[row + kz], first[row + kz + stop - q]
                if own and q == bz:
                    lo = s + 1
                q = stop
                cx = x[s] - (sx * cell[0, 0] + sy * cell[1, 0] + sz * cell[2, 0])
                cy = y[s] - (sx * cell[0, 1] + sy * cell[1, 1] + sz * cell[2, 1])
                cz = z[s] - (sx * cell[0, 2] + sy * cell[1, 2] + sz * cell[2, 2])
                hits = _within(x[lo:hi], y[lo:hi], z[lo:hi], cx, cy, cz, reach, square, hit)
                if keep and n + hits > len(found[0]):
                    return before, s
                if keep:
                    _store(found, n, atom, member[lo:hi], hit, hits, sx, sy, sz)
                n += hits
            if n > limit:
                return n, len(member)
    return n, len(member)


@njit(cache=True, error_model="numpy")
def _half_of_the_rows(around: np.ndarray) -> np.ndarray:
    """Return the steps to the rows of bins where an atom looks for others, its own row first."""
    steps = np.empty(((2 * around[0] + 1) * (2 * around[1] + 1) // 2 + 1, 2), np.int64)
    n = 0
    for ox in range(around[0] + 1):
        for oy in range(-around[1] if ox > 0 else 0, around[1] + 1):
            steps[n, 0], steps[n, 1] = ox, oy
            n += 1
    return steps


@njit(cache=True, error_model="numpy")
def _folded(k: int, bins: int) -> tuple[int, int]:
    """Return which image of the cell bin k is in, and which bin of the cell it is the image of."""
    image = k // bins
    return image, k - image * bins


@njit(cache=True, error_model="numpy")
def _along_the_row(home: int, own: bool, around: int, bins: int, periodic: bool) -> tuple[int, int]:
    """Return the first and last bin of a row to look in; of the own row it is the later half."""
    first, last = home if own else home - around, home + around
    return (first, last) if periodic else (max(first, 0), min(last, bins - 1))


@njit(cache=True, error_model="numpy")
def _store(
    found: tuple[np.ndarray, np.ndarray, np.ndarray],
    n: int,
    atom: int,
    member: np.ndarray,
    hit: np.ndarray,
    hits: int,
    sx: int,
    sy: int,
    sz: int,
) -> None:
    i, j, shift = found
    for h in range(hits):
        i[n + h], j[n + h] = atom, member[hit[h]]
        shift[n + h, 0], shift[n + h, 1], shift[n + h, 2] = sx, sy, sz


@njit(cache=True, error_model="numpy")
def _within(
    x: np.ndarray,
    y: np.ndarray,
    z: np.ndarray,
    cx: float,
    cy: float,
    cz: float,
    reach: float,
    square: np.ndarray,
    hit: np.ndarray,
) -> int:
    """Write to ``hit`` which of the points are within reach of a point; return how many."""
    # Two loops without a branch: the first becomes vector instructions.
    for p in range(len(x)):
        dx, dy, dz = x[p] - cx, y[p] - cy, z[p] - cz
        square[p] = dx * dx + dy * dy + dz * dz
    hits = 0
    for p in range(len(x)):
        hit[hits] = p
        hits += square[p] <= reach * reach
    return hits


@njit(cache=True, error_model="numpy")
def _longer(
    found: tuple[np.ndarray, np.ndarray, np.ndarray], used: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return arrays of more than twice the length with the same contents."""
    size = 2 * len(found[0]) + 1024
    i, j, shift = np.empty(size, np.int32), np.empty(size, np.int32), np.empty((size, 3), np.int32)
    for e in range(used):
        i[e], j[e] = found[0][e], found[1][e]
        for c in range(3):
            shift[e, c] = found[2][e, c]
    return i, j, shift
