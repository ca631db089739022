"""The pairs of one system that are within a cutoff: loops of many-body potentials on the CPU.

Each pair is once in arrays of its own, in the order of a half list, whichever list it comes from,
and what is farther than the cutoff is left out before anything is summed. So the bits of a system
depend on nothing but itself.

Indices that are read from memory are unsigned, because numba tests a signed one for being negative.
Numba keeps compiled loops by the file they stand in: who changes something here must touch the
files of the potentials, or clear ``__pycache__``, for it to take effect.
"""

from typing import NamedTuple

import numpy as np
from numba import njit

from nvdyn_ase.models.pair_blocks import place_images
from nvdyn_ase.models.pair_potential import Geometry, Slots

Whole = int | np.integer

_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


class Results(NamedTuple):
    """What the loops fill.

    Parameters
    ----------
    energies
        (V,), eV, of the atoms.
    forces
        (V, 3), eV/Å.
    energy
        (B,), eV.
    stress
        (B, 3, 3), eV/Å³.
    """

    energies: np.ndarray
    forces: np.ndarray
    energy: np.ndarray
    stress: np.ndarray

    @classmethod
    def zeros(cls, systems: int, atoms: int) -> "Results":
        """Make room for a batch."""
        return cls(
            np.zeros(atoms), np.zeros((atoms, 3)), np.zeros(systems), np.zeros((systems, 3, 3))
        )


class Near(NamedTuple):
    """Room for the pairs of any one system, and where its periodic images are.

    Parameters
    ----------
    own, other
        (P,) uint64, the atoms of a pair, counted over the batch.
    vector
        (P, 3), from ``own`` to ``other``, Å.
    r
        (P,), its length, Å.
    images, back
        Flat vectors, Å, and whether a shift is that of a pair the other way round.
    """

    own: np.ndarray
    other: np.ndarray
    vector: np.ndarray
    r: np.ndarray
    images: np.ndarray
    back: np.ndarray


@njit(cache=True, error_model="numpy")
def make_room(ptr: np.ndarray, slots: Slots) -> Near:
    """Return room for the pairs of any one system of a batch."""
    size, most = 1, 1
    for b in range(len(ptr) - 1):
        pairs = 1
        for a in range(ptr[b], ptr[b + 1]):
            pairs += slots.stop[a] - slots.start[a]
        size = max(size, pairs)
        most = max(most, slots.image_slot[b + 1] - slots.image_slot[b])
    return Near(
        np.empty(size, np.uint64),
        np.empty(size, np.uint64),
        np.empty((size, 3)),
        np.empty(size),
        np.empty(3 * most),
        np.empty(most, np.bool_),
    )


@njit(cache=True, error_model="numpy")
def gather(b: int, geometry: Geometry, slots: Slots, cutoff: float, near: Near) -> Whole:
    """Write the pairs of a system that are not farther than the cutoff; return how many.

    A pair whose distance is not a number stays, so that it shows.
    """
    ptr, positions, cell, _ = geometry
    start, stop, neighbor, image = slots.start, slots.stop, slots.neighbor, slots.image
    own, other, vector, r = near.own, near.other, near.vector, near.r
    images, back, half = near.images, near.back, slots.half
    place_images(slots.image_slot[b], slots.image_slot[b + 1], slots.images, cell[b], images, back)
    first, n = np.uint64(ptr[b]), np.uint64(0)
    for a in range(first, np.uint64(ptr[b + 1])):
        at, atom = _THREE * a, a - first
        x, y, z = positions[at], positions[at + _ONE], positions[at + _TWO]
        for p in range(np.uint64(start[a]), np.uint64(stop[a])):
            j, m = np.uint64(neighbor[p]), np.uint64(image[p])
            if not half and (j < atom or (j == atom and back[m])):
                continue
            to, shift = _THREE * (first + j), _THREE * m
            dx = positions[to] - x + images[shift]
            dy = positions[to + _ONE] - y + images[shift + _ONE]
            dz = positions[to + _TWO] - z + images[shift + _TWO]
            distance = np.sqrt(dx * dx + dy * dy + dz * dz)
            if distance > cutoff:
                continue
            own[n], other[n], r[n] = a, first + j, distance
            vector[n, 0], vector[n, 1], vector[n, 2] = dx, dy, dz
            n += _ONE
    return n


@njit(cache=True, error_model="numpy")
def close_energy(b: Whole, geometry: Geometry, results: Results) -> float:
    """Sum the energies of the atoms of a system; a coordinate that is not finite makes it NaN.

    Returns
    -------
    float
        Zero, or NaN if the energy is not finite.
    """
    ptr, positions, cell, _ = geometry
    total = 0.0
    for c in range(3):
        for d in range(3):
            total += cell[b, c, d] - cell[b, c, d]
    for a in range(ptr[b], ptr[b + 1]):
        for c in range(3):
            x = positions[3 * a + c]
            results.energies[a] += x - x
        total += results.energies[a]
    results.energy[b] = total
    return total - total


@njit(cache=True, error_model="numpy")
def add_forces(
    n: Whole,
    zero: float,
    near: Near,
    pulls: np.ndarray,
    b: Whole,
    geometry: Geometry,
    results: Results,
) -> None:
    """Make forces and stress of the derivatives of the energy by the vectors of pairs.

    Parameters
    ----------
    n, near
        The pairs of the system.
    zero
        What all sums begin with, from :func:`close_energy`.
    pulls
        (P, 3), derivatives, eV/Å.
    b, geometry, results
        The system, the batch, and what is filled.
    """
    forces, own, other, vector = results.forces, near.own, near.other, near.vector
    virial, h = np.full((3, 3), zero), geometry.cell[b]
    for a in range(geometry.ptr[b], geometry.ptr[b + 1]):
        for c in range(3):
            forces[a, c] += zero
    for p in range(n):
        i, j = own[p], other[p]
        for c in range(3):
            forces[i, c] += pulls[p, c]
            forces[j, c] -= pulls[p, c]
            for d in range(3):
                virial[c, d] += pulls[p, c] * vector[p, d]
    volume = abs(
        h[0, 0] * (h[1, 1] * h[2, 2] - h[1, 2] * h[2, 1])
        + h[0, 1] * (h[1, 2] * h[2, 0] - h[1, 0] * h[2, 2])
        + h[0, 2] * (h[1, 0] * h[2, 1] - h[1, 1] * h[2, 0])
    )
    for c in range(3):
        for d in range(3):
            mean = 0.5 * (virial[c, d] + virial[d, c])
            results.stress[b, c, d] = 0.0 if volume == 0.0 else mean / volume
