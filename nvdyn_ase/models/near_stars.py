"""The near pairs of a system by atom: loops for the CPU that three-body potentials share."""

from typing import NamedTuple

import numpy as np
from numba import njit

from nvdyn_ase.models.near_pairs import Near, Whole


class Stars(NamedTuple):
    """Room for what meets at each atom of any one system: each pair at both of its ends.

    Parameters
    ----------
    bound
        (V + 2,), where the ends at each atom begin, counted within the system.
    pair
        (2 P,) uint64, the pair of an end.
    sign
        (2 P,), 1 where the pair's vector begins and -1 where it ends.
    most
        (1,), how many ends any atom of the system has at most.
    """

    bound: np.ndarray
    pair: np.ndarray
    sign: np.ndarray
    most: np.ndarray


@njit(cache=True, error_model="numpy")
def make_stars(ptr: np.ndarray, near: Near) -> Stars:
    """Return room for the stars of any one system of a batch."""
    atoms, pairs = 0, len(near.r)
    for b in range(len(ptr) - 1):
        atoms = max(atoms, ptr[b + 1] - ptr[b])
    return Stars(
        np.empty(atoms + 2, np.uint64),
        np.empty(2 * pairs, np.uint64),
        np.empty(2 * pairs),
        np.zeros(1, np.int64),
    )


@njit(cache=True, error_model="numpy")
def connect(first: Whole, last: Whole, n: Whole, near: Near, stars: Stars) -> None:
    """Write which of the near pairs meet at each atom, in their order."""
    own, other, begin = near.own, near.other, np.uint64(first)
    bound, pair, sign = stars.bound, stars.pair, stars.sign
    count = np.uint64(last - first)
    one, two = np.uint64(1), np.uint64(2)
    bound[: count + two] = 0
    # Two places up, so that they have come down to where they belong when all is written.
    for p in range(n):
        bound[own[p] - begin + two] += one
        bound[other[p] - begin + two] += one
    most = np.uint64(0)
    for a in range(two, count + two):
        most = max(most, bound[a])
        bound[a] += bound[a - one]
    stars.most[0] = most
    for p in range(np.uint64(n)):
        at = own[p] - begin + one
        pair[bound[at]], sign[bound[at]] = p, 1.0
        bound[at] += one
        at = other[p] - begin + one
        pair[bound[at]], sign[bound[at]] = p, -1.0
        bound[at] += one
