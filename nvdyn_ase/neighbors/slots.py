"""Loops over the slots of ``Pairs``: moving, flattening and filling them."""

from typing import NamedTuple

import numpy as np
from numba import njit

from nvdyn_ase.neighbors.canonical import Ordered


class Slots(NamedTuple):
    """The arrays of ``Pairs``."""

    start: np.ndarray
    stop: np.ndarray
    neighbor: np.ndarray
    image: np.ndarray
    images: np.ndarray


@njit(cache=True, error_model="numpy")
def move_slots(
    rows: np.ndarray,
    old_ptr: np.ndarray,
    new_ptr: np.ndarray,
    old_slot: np.ndarray,
    new_slot: np.ndarray,
    old_image_slot: np.ndarray,
    new_image_slot: np.ndarray,
    num_images: np.ndarray,
    old: Slots,
    new: Slots,
) -> None:
    """Copy systems ``rows`` of the old slots to systems 0, 1, ... of the new ones."""
    for b in range(len(rows)):
        a = rows[b]
        shift = new_slot[b] - old_slot[a]
        first, last = old_slot[a], old_slot[a]
        for k in range(old_ptr[a + 1] - old_ptr[a]):
            new.start[new_ptr[b] + k] = old.start[old_ptr[a] + k] + shift
            new.stop[new_ptr[b] + k] = old.stop[old_ptr[a] + k] + shift
            last = old.stop[old_ptr[a] + k]
        for p in range(first, last):
            new.neighbor[p + shift] = old.neighbor[p]
            new.image[p + shift] = old.image[p]
        for m in range(num_images[a]):
            for c in range(3):
                new.images[new_image_slot[b] + m, c] = old.images[old_image_slot[a] + m, c]


@njit(cache=True, error_model="numpy")
def flatten(
    ptr: np.ndarray,
    image_start: np.ndarray,
    slots: Slots,
    out: tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray],
) -> None:
    """Write the pairs of all systems end to end into ``out``: i, j, shift, system, ptr."""
    start, stop, neighbor, image, images = slots
    e = 0
    for b in range(len(ptr) - 1):
        for a in range(ptr[b], ptr[b + 1]):
            out[4][a] = e
            for p in range(start[a], stop[a]):
                out[0][e] = a
                out[1][e] = ptr[b] + neighbor[p]
                row = image_start[b] + image[p]
                out[2][e, 0] = images[row, 0]
                out[2][e, 1] = images[row, 1]
                out[2][e, 2] = images[row, 2]
                out[3][e] = b
                e += 1
    out[4][len(out[4]) - 1] = e


@njit(cache=True, error_model="numpy")
def place(
    rows: np.ndarray,
    ptr: np.ndarray,
    slot: np.ndarray,
    image_slot: np.ndarray,
    old_images: np.ndarray,
    ordered: Ordered,
    new: Slots,
) -> None:
    """Write pairs in canonical order into the slots of systems ``rows``; there must be room.

    Parameters
    ----------
    old_images
        (B,), rows of images that a system had in use; those that it no longer has become zero.
    """
    n, m, v = 0, 0, 0
    for k in range(len(rows)):
        b = rows[k]
        p, q = slot[b], image_slot[b]
        for a in range(ptr[b], ptr[b + 1]):
            new.start[a] = p
            p += ordered.per_atom[v]
            new.stop[a] = p
            v += 1
        for e in range(ordered.num_pairs[k]):
            new.neighbor[slot[b] + e] = ordered.neighbor[n + e]
            new.image[slot[b] + e] = ordered.image[n + e]
        for e in range(max(ordered.num_images[k], old_images[b])):
            for c in range(3):
                used = e < ordered.num_images[k]
                new.images[q + e, c] = ordered.images[m + e, c] if used else 0
        n += ordered.num_pairs[k]
        m += ordered.num_images[k]
