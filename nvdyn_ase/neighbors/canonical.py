"""Pairs as a search found them, brought to canonical order, on the host."""

from typing import NamedTuple

import numpy as np
from numba import njit

from nvdyn_ase.neighbors.sorting import sort, to_starts
from nvdyn_ase.neighbors.standard import FINE, LARGEST_SHIFT, TOO_FAR, Geometry, Standard


class Found(NamedTuple):
    """Pairs of systems in standard form, each once, either way round and in any order.

    Parameters
    ----------
    i, j
        (E,) int, atoms, counted within their system.
    shift
        (E, 3) int, multiples of the cell vectors.
    ptr
        (B + 1,) int64, first pair of each system, and the end.
    """

    i: np.ndarray
    j: np.ndarray
    shift: np.ndarray
    ptr: np.ndarray


class Ordered(NamedTuple):
    """Pairs of some systems in canonical order.

    Parameters
    ----------
    per_atom
        (V,) int64, pairs of each atom i.
    neighbor, image
        (E,) int32, as in ``Pairs``.
    num_pairs, num_images
        (B,) int64.
    images
        (M, 3) int64, the shifts of each system, end to end, in the order in which they first occur.
    """

    per_atom: np.ndarray
    neighbor: np.ndarray
    image: np.ndarray
    num_pairs: np.ndarray
    num_images: np.ndarray
    images: np.ndarray


def in_canonical_order(
    found: Found, form: Standard, geometry: Geometry, reach: float, half: bool
) -> Ordered:
    """Translate pairs to the systems as they are, leave out those beyond reach, and sort the rest.

    Parameters
    ----------
    found, form
        What a search found in the systems in standard form. A system whose shifts do not fit gets a
        ``problem`` and no pairs.
    geometry
        The systems as they are.
    reach
        Largest distance, Å.
    half
        Give each pair once; else both ways.
    """
    return Ordered(*_canonical(found, form, geometry, reach, half))


@njit(cache=True, error_model="numpy")
def pack(x: int, y: int, z: int) -> int:
    """Return one integer that orders shifts as (x, y, z) does."""
    return ((x + 1048576) << 42) | ((y + 1048576) << 21) | (z + 1048576)


@njit(cache=True, error_model="numpy")
def unpack(key: int) -> tuple[int, int, int]:
    """Return the shift that was packed."""
    y = (key >> 21) & 2097151
    return (key >> 42) - 1048576, y - 1048576, (key & 2097151) - 1048576


@njit(cache=True, error_model="numpy")
def _canonical(
    found: Found, form: Standard, geometry: Geometry, reach: float, half: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    systems, most = len(form.cell), len(found.i) * (1 if half else 2)
    count = np.zeros(len(form.positions), np.int64)
    neighbor, image, key = (
        np.empty(most, np.int32),
        np.empty(most, np.int32),
        np.empty(most, np.int64),
    )
    images = np.empty((most, 3), np.int64)
    num_pairs, num_images = np.zeros(systems, np.int64), np.zeros(systems, np.int64)
    n, m = 0, 0
    for b in range(systems):
        if form.problem[b] != FINE:
            continue
        i, j, keys = _translate(found, form, geometry, b, reach, half)
        lo, hi = form.ptr[b], form.ptr[b + 1]
        stop = n + len(i)
        _order(i, j, keys, count[lo:hi], neighbor[n:stop], key[n:stop])
        num_pairs[b] = len(i)
        num_images[b] = _number_images(key[n:stop], image[n:stop], images[m:])
        n = stop
        m += num_images[b]
    return count, neighbor[:n], image[:n], num_pairs, num_images, images[:m]


@njit(cache=True, error_model="numpy")
def _translate(
    found: Found, form: Standard, geometry: Geometry, b: int, reach: float, half: bool
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return i, j and the packed shift of the pairs of system b, in the user's terms."""
    r, h = geometry.positions[form.ptr[b] : form.ptr[b + 1]], geometry.cell[b]
    turn, w = form.turn[b], _wraps(form, b)
    start, stop = found.ptr[b], found.ptr[b + 1]
    most = (stop - start) * (1 if half else 2)
    first, second, keys = (
        np.empty(most, np.int32),
        np.empty(most, np.int32),
        np.empty(most, np.int64),
    )
    zero = pack(0, 0, 0)
    n = 0
    for e in range(start, stop):
        # Unsigned, because numba tests a signed index for being negative.
        i, j = np.uint32(found.i[e]), np.uint32(found.j[e])
        u, v, s = found.shift[e, 0], found.shift[e, 1], found.shift[e, 2]
        x = w[i, 0] - w[j, 0] + (u * turn[0, 0] + v * turn[1, 0] + s * turn[2, 0])
        y = w[i, 1] - w[j, 1] + (u * turn[0, 1] + v * turn[1, 1] + s * turn[2, 1])
        z = w[i, 2] - w[j, 2] + (u * turn[0, 2] + v * turn[1, 2] + s * turn[2, 2])
        # Every search is judged by the same arithmetic, so that all agree at the very edge.
        dx = r[j, 0] - r[i, 0] + (x * h[0, 0] + y * h[1, 0] + z * h[2, 0])
        dy = r[j, 1] - r[i, 1] + (x * h[0, 1] + y * h[1, 1] + z * h[2, 1])
        dz = r[j, 2] - r[i, 2] + (x * h[0, 2] + y * h[1, 2] + z * h[2, 2])
        if not dx * dx + dy * dy + dz * dz <= reach * reach:
            continue
        if max(abs(x), abs(y), abs(z)) > LARGEST_SHIFT:
            form.problem[b] = TOO_FAR
            n = 0
            break
        key = pack(x, y, z)
        forth = i < j or (i == j and key > zero)
        if forth or not half:
            first[n], second[n], keys[n] = i, j, key
            n += 1
        if not forth or not half:
            first[n], second[n], keys[n] = j, i, 2 * zero - key
            n += 1
    return first[:n], second[:n], keys[:n]


@njit(cache=True, error_model="numpy")
def _wraps(form: Standard, b: int) -> np.ndarray:
    """Return where the atoms of a system are, in cells of the user."""
    wraps, turn = form.wraps[form.ptr[b] : form.ptr[b + 1]], form.turn[b]
    w = np.empty_like(wraps)
    for i in range(len(w)):
        for c in range(3):
            w[i, c] = wraps[i, 0] * turn[0, c] + wraps[i, 1] * turn[1, c] + wraps[i, 2] * turn[2, c]
    return w


@njit(cache=True, error_model="numpy")
def _order(
    i: np.ndarray,
    j: np.ndarray,
    keys: np.ndarray,
    count: np.ndarray,
    neighbor: np.ndarray,
    key: np.ndarray,
) -> None:
    """Sort by i, j and key; write how many pairs each i has, and j and key in order.

    Two passes of a counting sort, by j and then by i, and a comparison sort among the images of the
    same two atoms.
    """
    place = np.zeros(len(count), np.int64)
    for e in range(len(i)):
        place[j[e]] += 1
        count[i[e]] += 1
    to_starts(place)
    by_j, j_by_j = np.empty_like(i), np.empty_like(i)
    key_by_j = np.empty_like(keys)
    for e in range(len(i)):
        p = place[j[e]]
        place[j[e]] += 1
        by_j[p], j_by_j[p], key_by_j[p] = i[e], j[e], keys[e]
    place[:] = count
    to_starts(place)
    for e in range(len(i)):
        p = place[by_j[e]]
        place[by_j[e]] += 1
        neighbor[p], key[p] = j_by_j[e], key_by_j[e]
    stop = 0
    for a in range(len(count)):
        run, stop = stop, stop + count[a]
        for p in range(run + 1, stop + 1):
            if p == stop or neighbor[p] != neighbor[run]:
                if p - run > 1:
                    sort(key[run:p])
                run = p


@njit(cache=True, error_model="numpy")
def _number_images(keys: np.ndarray, image: np.ndarray, images: np.ndarray) -> int:
    """Number the distinct keys in the order of their first occurrence, by open addressing."""
    size = 16
    while size < 2 * len(keys):
        size *= 2
    table = np.full(size, -1, np.int32)
    known = np.empty(len(keys), np.int64)
    n = 0
    for e in range(len(keys)):
        slot = (keys[e] ^ (keys[e] >> 15) ^ (keys[e] >> 31)) & (size - 1)
        while table[slot] >= 0 and known[table[slot]] != keys[e]:
            slot = (slot + 1) & (size - 1)
        if table[slot] < 0:
            table[slot], known[n] = n, keys[e]
            images[n, 0], images[n, 1], images[n, 2] = unpack(keys[e])
            n += 1
        image[e] = table[slot]
    return n
