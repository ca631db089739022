"""The Stillinger-Weber potential over the slots of ``Pairs``: loops for the CPU.

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


@njit(cache=True, error_model="numpy", nogil=True)
def evaluate(
    geometry: Geometry,
    slots: Slots,
    table: np.ndarray,
    cutoff: float,
    results: Results,
) -> None:
    """Compute every system.

    Parameters
    ----------
    geometry, slots
        The batch and its pairs.
    table
        (K, K, K, 11), parameters in the order of the file.
    cutoff
        The largest of all, Å.
    results
        What is filled; zeros at first.
    """
    ptr = geometry.ptr
    near = make_room(ptr, slots)
    stars, pulls = make_stars(ptr, near), np.empty((len(near.r), 3))
    # The decay of the angular terms with the distance, seen from either end, and its derivative.
    decay = np.empty((len(near.r), 4))
    for b in range(len(ptr) - 1):
        n = gather(b, geometry, slots, cutoff, near)
        connect(ptr[b], ptr[b + 1], n, near, stars)
        _add_pairs(n, near, geometry.kinds, table, decay, results.energies, pulls)
        for a in range(np.uint64(ptr[b]), np.uint64(ptr[b + 1])):
            local = a - np.uint64(ptr[b])
            begin, end = stars.bound[local], stars.bound[local + _ONE]
            _add_angles(
                *(a, begin, end, near, stars, geometry.kinds, table),
                *(decay, results.energies, pulls),
            )
        zero = close_energy(b, geometry, results)
        add_forces(n, zero, near, pulls, b, geometry, results)


@njit(cache=True, error_model="numpy")
def _add_pairs(
    n: Whole,
    near: Near,
    kinds: np.ndarray,
    table: np.ndarray,
    decay: np.ndarray,
    energies: np.ndarray,
    pulls: np.ndarray,
) -> None:
    """Add the energies of pairs; write their derivatives, and the decay of angular terms."""
    own, other, vector = near.own, near.other, near.vector
    for p in range(n):
        i, j, r = own[p], other[p], near.r[p]
        one = table[kinds[i], kinds[j], kinds[j]]
        two = table[kinds[j], kinds[i], kinds[i]]
        epsilon, sigma, a, big_a, big_b, power, lesser = (
            *(one[0], one[1], one[2], one[6], one[7], one[8], one[9]),
        )
        decay[p, 0], decay[p, 1] = _decay(r, one[1], one[2], one[4])
        decay[p, 2], decay[p, 3] = _decay(r, two[1], two[2], two[4])
        tail, tail_slope = _decay(r, sigma, a, 1.0)
        ratio = sigma / r
        first, second = big_b * ratio**power, ratio**lesser
        energy = epsilon * big_a * (first - second)
        slope = -epsilon * big_a * (power * first - lesser * second) / r
        half = 0.5 * energy * tail
        energies[i] += half
        energies[j] += half
        change = (slope * tail + energy * tail_slope) / r
        for c in range(3):
            pulls[p, c] = change * vector[p, c]


@njit(cache=True, error_model="numpy")
def _decay(r: float, sigma: float, a: float, gamma: float) -> tuple[float, float]:
    """Return what falls to zero at the cutoff with all derivatives, and the first of them."""
    left = r - a * sigma
    if left >= 0.0:
        return 0.0, 0.0
    value = math.exp(gamma * sigma / left)
    return value, -value * gamma * sigma / (left * left)


@njit(cache=True, error_model="numpy")
def _add_angles(
    a: Whole,
    begin: Whole,
    end: Whole,
    near: Near,
    stars: Stars,
    kinds: np.ndarray,
    table: np.ndarray,
    decay: np.ndarray,
    energies: np.ndarray,
    pulls: np.ndarray,
) -> None:
    """Add the energies of the angles at an atom, and their derivatives."""
    vector = near.vector
    for e in range(begin, end):
        p, sign = stars.pair[e], stars.sign[e]
        ahead = sign > 0.0
        j, r = (near.other[p] if ahead else near.own[p]), near.r[p]
        f, f_slope = (decay[p, 0], decay[p, 1]) if ahead else (decay[p, 2], decay[p, 3])
        if f == 0.0:
            continue
        for o in range(e + _ONE, end):
            q, turn = stars.pair[o], sign * stars.sign[o]
            ahead = stars.sign[o] > 0.0
            k, s = (near.other[q] if ahead else near.own[q]), near.r[q]
            g, g_slope = (decay[q, 0], decay[q, 1]) if ahead else (decay[q, 2], decay[q, 3])
            if g == 0.0:
                continue
            row = table[kinds[a], kinds[j], kinds[k]]
            dot = vector[p, 0] * vector[q, 0] + vector[p, 1] * vector[q, 1]
            cosine = turn * (dot + vector[p, 2] * vector[q, 2]) / (r * s)
            off, scale = cosine - row[5], row[0] * row[3]
            energies[a] += scale * off * off * f * g
            by_cosine = 2.0 * scale * off * f * g
            across = turn * by_cosine / (r * s)
            by_r = scale * off * off * f_slope * g / r - by_cosine * cosine / (r * r)
            by_s = scale * off * off * f * g_slope / s - by_cosine * cosine / (s * s)
            for c in range(3):
                pulls[p, c] += by_r * vector[p, c] + across * vector[q, c]
                pulls[q, c] += by_s * vector[q, c] + across * vector[p, c]
