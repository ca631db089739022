"""The Tersoff potential over the slots of ``Pairs``: loops for the CPU.

Everything is summed in the order of the pairs.
"""

import math

import numpy as np
from numba import njit

from nvdyn_ase.models.near_pairs import (
    Near,
    Results,
    Whole,
    add_forces,
    close_energy,
    gather,
    make_room,
)
from nvdyn_ase.models.near_stars import Stars, connect, make_stars
from nvdyn_ase.models.pair_potential import Geometry, Slots

_ONE = np.uint64(1)

#: Beyond this an exponential is 1e30, and beyond minus this 0, as in LAMMPS.
LARGEST = 69.0776


@njit(cache=True, error_model="numpy", nogil=True)
def evaluate(
    geometry: Geometry, slots: Slots, table: np.ndarray, cutoff: float, results: Results
) -> None:
    """Compute every system.

    Parameters
    ----------
    geometry, slots
        The batch and its pairs.
    table
        (K, K, K, 14), parameters in the order of the file.
    cutoff
        The largest of all, Å.
    results
        What is filled; zeros at first.
    """
    ptr = geometry.ptr
    near = make_room(ptr, slots)
    stars, pulls = make_stars(ptr, near), np.empty((len(near.r), 3))
    terms = np.empty((1, 5))
    for b in range(len(ptr) - 1):
        n = gather(b, geometry, slots, cutoff, near)
        connect(ptr[b], ptr[b + 1], n, near, stars)
        if stars.most[0] > len(terms):
            terms = np.empty((2 * stars.most[0], 5))
        pulls[:n] = 0.0
        for a in range(np.uint64(ptr[b]), np.uint64(ptr[b + 1])):
            local = a - np.uint64(ptr[b])
            begin, end = stars.bound[local], stars.bound[local + _ONE]
            for e in range(begin, end):
                _add_bond(
                    *(a, e, begin, end, near, stars, geometry.kinds, table),
                    *(terms, results.energies, pulls),
                )
        zero = close_energy(b, geometry, results)
        add_forces(n, zero, near, pulls, b, geometry, results)


@njit(cache=True, error_model="numpy")
def _add_bond(
    a: Whole,
    e: Whole,
    begin: Whole,
    end: Whole,
    near: Near,
    stars: Stars,
    kinds: np.ndarray,
    table: np.ndarray,
    terms: np.ndarray,
    energies: np.ndarray,
    pulls: np.ndarray,
) -> None:
    """Add half of the energy of a bond, as the atom at one end of it sees it."""
    p, sign = stars.pair[e], stars.sign[e]
    j = near.other[p] if sign > 0.0 else near.own[p]
    row = table[kinds[a], kinds[j], kinds[j]]
    r = near.r[p]
    within, within_slope = _cut(r, row[10], row[11])
    if within == 0.0:
        return
    zeta = _environment(a, e, j, begin, end, near, stars, kinds, table, terms)
    order, order_slope = 1.0, 0.0
    if zeta != 0.0:
        power, x = row[6], row[7] * zeta
        base = 1.0 + x**power
        order = base ** (-0.5 / power)
        order_slope = -0.5 * order / base * row[7] * x ** (power - 1.0)
    repulsion, attraction = row[13] * math.exp(-row[12] * r), -row[9] * math.exp(-row[8] * r)
    bond = repulsion + order * attraction
    quarter = 0.25 * within * bond
    energies[a] += quarter
    energies[j] += quarter
    change = -row[12] * repulsion - row[8] * order * attraction
    change = 0.5 * (within_slope * bond + within * change)
    by_zeta = 0.5 * within * order_slope * attraction
    _add_pulls(p, sign, change / r, by_zeta, begin, end, e, near, stars, terms, pulls)


@njit(cache=True, error_model="numpy")
def _environment(
    a: Whole,
    e: Whole,
    j: Whole,
    begin: Whole,
    end: Whole,
    near: Near,
    stars: Stars,
    kinds: np.ndarray,
    table: np.ndarray,
    terms: np.ndarray,
) -> float:
    """Return zeta of a bond, and write the derivatives of the terms of its other neighbours.

    They are those by both distances and by the cosine, the cosine, and whether there are any.
    """
    p, sign = stars.pair[e], stars.sign[e]
    r, x, y, z = near.r[p], near.vector[p, 0], near.vector[p, 1], near.vector[p, 2]
    zeta = 0.0
    for o in range(begin, end):
        q, at = stars.pair[o], o - begin
        k = near.other[q] if stars.sign[o] > 0.0 else near.own[q]
        row, s = table[kinds[a], kinds[j], kinds[k]], near.r[q]
        terms[at, 4] = 0.0
        if o == e or s > row[10] + row[11]:
            continue
        within, within_slope = _cut(s, row[10], row[11])
        dot = x * near.vector[q, 0] + y * near.vector[q, 1] + z * near.vector[q, 2]
        cosine = sign * stars.sign[o] * dot / (r * s)
        c2, d2, off = row[3] * row[3], row[4] * row[4], row[5] - cosine
        below = d2 + off * off
        angular = row[1] * (1.0 + c2 / d2 - c2 / below)
        angular_slope = -2.0 * row[1] * c2 * off / (below * below)
        longer, longer_slope = _longer(r - s, row[2], row[0])
        zeta += within * angular * longer
        terms[at, 0] = within * angular * longer_slope
        terms[at, 1] = within_slope * angular * longer - terms[at, 0]
        terms[at, 2] = within * angular_slope * longer
        terms[at, 3], terms[at, 4] = cosine, 1.0
    return zeta


@njit(cache=True, error_model="numpy")
def _add_pulls(
    p: Whole,
    sign: float,
    change: float,
    by_zeta: float,
    begin: Whole,
    end: Whole,
    e: Whole,
    near: Near,
    stars: Stars,
    terms: np.ndarray,
    pulls: np.ndarray,
) -> None:
    """Add the derivatives of a bond's energy by its own vector and those of its neighbours.

    ``change`` is that by the distance over the distance, ``by_zeta`` that by zeta.
    """
    vector, r = near.vector, near.r[p]
    for c in range(3):
        pulls[p, c] += change * vector[p, c]
    if by_zeta == 0.0:
        return
    for o in range(begin, end):
        at = o - begin
        if o == e or terms[at, 4] == 0.0:
            continue
        q = stars.pair[o]
        s, turn = near.r[q], sign * stars.sign[o]
        by_r, by_s = by_zeta * terms[at, 0] / r, by_zeta * terms[at, 1] / s
        by_cosine, cosine = by_zeta * terms[at, 2], terms[at, 3]
        across = turn * by_cosine / (r * s)
        by_r -= by_cosine * cosine / (r * r)
        by_s -= by_cosine * cosine / (s * s)
        for c in range(3):
            pulls[p, c] += by_r * vector[p, c] + across * vector[q, c]
            pulls[q, c] += by_s * vector[q, c] + across * vector[p, c]


@njit(cache=True, error_model="numpy")
def _cut(r: float, middle: float, width: float) -> tuple[float, float]:
    """Return the cutoff function and its derivative."""
    if r > middle + width:
        return 0.0, 0.0
    if r < middle - width:
        return 1.0, 0.0
    angle = math.pi * (r - middle) / (2.0 * width)
    return 0.5 * (1.0 - math.sin(angle)), -0.25 * math.pi / width * math.cos(angle)


@njit(cache=True, error_model="numpy")
def _longer(difference: float, rate: float, power: float) -> tuple[float, float]:
    """Return the exponential of how much longer a bond is, and its derivative by that."""
    x = rate * difference
    argument = x if power == 1.0 else x * x * x
    slope = rate if power == 1.0 else 3.0 * rate * x * x
    if argument > LARGEST:
        value = 1e30
    elif argument < -LARGEST:
        value = 0.0
    else:
        value = math.exp(argument)
    return value, slope * value
