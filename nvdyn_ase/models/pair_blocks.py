"""Loops over the pairs of one atom at a time, which the pair potentials share on the CPU.

A potential has the vectors of up to ``LENGTH`` pairs of an atom written into a block, computes its
terms column by column, and has them added up: :func:`fill`, its own loop, :func:`add_forces`.

Filling and adding up jump about in memory; the loop between them does not and becomes vector
instructions. A pair beyond the cutoff gets zeros for its terms instead of being left out: that
costs less than a branch which half of the pairs take, and a sum that began at zero has the same
bits with and without added zeros. Everything is added in the order of the pairs.

Three things that look odd double the speed. Indices read from memory are unsigned, because numba
tests a signed one for being negative; arrays of vectors are flat, because the length of their rows
is then known; and arrays are passed one by one, because taking one out of a tuple counts a
reference.

Numba keeps compiled loops by the file they stand in: who changes something here must touch the
files of the potentials, or clear ``__pycache__``, for it to take effect.
"""

import numpy as np
from numba import njit

Whole = int | np.integer
Sums = tuple[float, float, float, float]

#: Pairs that a block holds. Its columns lie ``LENGTH`` apart in one array, which tells the compiler
#: that they do not overlap.
LENGTH = np.uint64(128)
#: The columns: vector, Å, and its square, Å²; the energy of the pair, eV, and the derivative of the
#: energy by the distance over the distance, eV/Å².
DX, DY, DZ, R2, ENERGY, SLOPE = (np.uint64(column * 128) for column in range(6))

_ONE, _TWO, _THREE = np.uint64(1), np.uint64(2), np.uint64(3)


@njit(cache=True, error_model="numpy")
def make_scratch(
    image_slot: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return a block, and room for the images and the virial of any one system.

    Parameters
    ----------
    image_slot
        As in ``Pairs``.

    Returns
    -------
    block
        A flat array of columns.
    images, back
        Flat vectors, Å, and whether the first component of the shift that is not zero is negative.
    virial
        xx, yy, zz, yz, xz, xy, eV; zeros.
    """
    most = 1
    for b in range(len(image_slot) - 1):
        most = max(most, image_slot[b + 1] - image_slot[b])
    return np.empty(6 * 128), np.empty(3 * most), np.empty(most, np.bool_), np.zeros(6)


@njit(cache=True, error_model="numpy")
def place_images(
    first: Whole,
    last: Whole,
    shifts: np.ndarray,
    h: np.ndarray,
    images: np.ndarray,
    back: np.ndarray,
) -> None:
    """Write where the periodic images of a system are.

    Parameters
    ----------
    first, last
        Its rows of ``shifts``, and one past.
    shifts
        (M, 3), multiples of the cell vectors.
    h
        Its cell, (3, 3), Å.
    images, back
        From :func:`make_scratch`.
    """
    for m in range(last - first):
        x, y, z = shifts[first + m, 0], shifts[first + m, 1], shifts[first + m, 2]
        for c in range(3):
            images[3 * m + c] = x * h[0, c] + y * h[1, c] + z * h[2, c]
        back[m] = x < 0 or (x == 0 and (y < 0 or (y == 0 and z < 0)))


@njit(cache=True, error_model="numpy")
def fill(
    block: np.ndarray,
    count: Whole,
    i: Whole,
    first: Whole,
    begin: Whole,
    positions: np.ndarray,
    neighbor: np.ndarray,
    image: np.ndarray,
    images: np.ndarray,
) -> None:
    """Write vectors and squared distances of pairs of an atom into the block.

    Parameters
    ----------
    block, count
        Where to, and how many.
    i, first, begin
        The atom, the first atom of its system, the first of the pairs.
    positions, images
        Flat, Å.
    neighbor, image
        As in ``Pairs``.
    """
    at = _THREE * i
    x, y, z = positions[at], positions[at + _ONE], positions[at + _TWO]
    for k in range(count):
        j = _THREE * (first + np.uint64(neighbor[begin + k]))
        m = _THREE * np.uint64(image[begin + k])
        dx = positions[j] - x + images[m]
        dy = positions[j + _ONE] - y + images[m + _ONE]
        dz = positions[j + _TWO] - z + images[m + _TWO]
        block[DX + k] = dx
        block[DY + k] = dy
        block[DZ + k] = dz
        block[R2 + k] = dx * dx + dy * dy + dz * dz


@njit(cache=True, error_model="numpy")
def drop_reversed(
    block: np.ndarray,
    count: Whole,
    atom: Whole,
    begin: Whole,
    neighbor: np.ndarray,
    image: np.ndarray,
    back: np.ndarray,
) -> None:
    """Put pairs infinitely far away that are there the other way round as well.

    ``atom`` is counted within its system; the others are as :func:`fill` has them.
    """
    for k in range(count):
        other = np.uint64(neighbor[begin + k])
        if other < atom or (other == atom and back[np.uint64(image[begin + k])]):
            block[R2 + k] = np.inf


@njit(cache=True, error_model="numpy")
def open_atom(i: Whole, positions: np.ndarray) -> Sums:
    """Return the sums that an atom begins with: zeros, or NaN if its position is not finite.

    So such a position shows even where it has no pairs.
    """
    at = _THREE * i
    x, y, z = positions[at], positions[at + _ONE], positions[at + _TWO]
    zero = (x - x) + (y - y) + (z - z)
    return zero, zero, zero, zero


@njit(cache=True, error_model="numpy")
def add_forces(
    block: np.ndarray,
    count: Whole,
    first: Whole,
    begin: Whole,
    neighbor: np.ndarray,
    forces: np.ndarray,
    sums: Sums,
) -> Sums:
    """Add what the pairs in the block give.

    Parameters
    ----------
    block, count, first, begin, neighbor
        The pairs, as :func:`fill` had them, with their terms.
    forces
        Flat, eV/Å; the rows of the other atoms are added to.
    sums
        Energy, eV, and force of the atom itself, eV/Å, so far.

    Returns
    -------
    tuple
        The sums with these pairs.
    """
    energy, fx, fy, fz = sums
    for k in range(count):
        j = _THREE * (first + np.uint64(neighbor[begin + k]))
        slope = block[SLOPE + k]
        gx = slope * block[DX + k]
        gy = slope * block[DY + k]
        gz = slope * block[DZ + k]
        energy += block[ENERGY + k]
        fx += gx
        fy += gy
        fz += gz
        forces[j] -= gx
        forces[j + _ONE] -= gy
        forces[j + _TWO] -= gz
    return energy, fx, fy, fz


@njit(cache=True, error_model="numpy")
def add_virial(block: np.ndarray, count: Whole, virial: np.ndarray) -> None:
    """Add vectors times forces, eV: xx, yy, zz, yz, xz, xy."""
    xx, yy, zz, yz, xz, xy = virial[0], virial[1], virial[2], virial[3], virial[4], virial[5]
    for k in range(count):
        slope, dx, dy, dz = block[SLOPE + k], block[DX + k], block[DY + k], block[DZ + k]
        gx, gy, gz = slope * dx, slope * dy, slope * dz
        xx += gx * dx
        yy += gy * dy
        zz += gz * dz
        yz += gy * dz
        xz += gx * dz
        xy += gx * dy
    virial[0], virial[1], virial[2], virial[3], virial[4], virial[5] = xx, yy, zz, yz, xz, xy


@njit(cache=True, error_model="numpy")
def add_shares(
    block: np.ndarray,
    count: Whole,
    i: Whole,
    first: Whole,
    begin: Whole,
    neighbor: np.ndarray,
    energies: np.ndarray,
    stresses: np.ndarray,
) -> None:
    """Give each atom of a pair half of its energy and virial, eV, where there are rows for them."""
    d = np.empty(3)
    for k in range(count):
        j = first + np.uint64(neighbor[begin + k])
        if len(energies):
            energies[i] += 0.5 * block[ENERGY + k]
            energies[j] += 0.5 * block[ENERGY + k]
        if len(stresses):
            d[0], d[1], d[2] = block[DX + k], block[DY + k], block[DZ + k]
            for r in range(3):
                for c in range(3):
                    half = 0.5 * block[SLOPE + k] * d[r] * d[c]
                    stresses[i, r, c] += half
                    stresses[j, r, c] += half


@njit(cache=True, error_model="numpy")
def close_atom(i: Whole, forces: np.ndarray, sums: Sums) -> float:
    """Add the force on an atom to what it has from the other ends of pairs; return its energy."""
    at = _THREE * i
    forces[at] += sums[1]
    forces[at + _ONE] += sums[2]
    forces[at + _TWO] += sums[3]
    return sums[0]


@njit(cache=True, error_model="numpy")
def close_system(
    b: Whole,
    first: Whole,
    last: Whole,
    h: np.ndarray,
    virial: np.ndarray,
    stress: np.ndarray,
    stresses: np.ndarray,
) -> None:
    """Make stresses of virials, and zeros if there is no volume; begin the next system's virial.

    Parameters
    ----------
    b, first, last
        The system, its first atom, and one past its last.
    h
        Its cell, (3, 3), Å.
    virial
        From :func:`make_scratch`.
    stress, stresses
        (B, 3, 3) and (V, 3, 3), eV/Å³; without rows where nothing is wanted.
    """
    volume = abs(
        h[0, 0] * (h[1, 1] * h[2, 2] - h[1, 2] * h[2, 1])
        + h[0, 1] * (h[1, 2] * h[2, 0] - h[1, 0] * h[2, 2])
        + h[0, 2] * (h[1, 0] * h[2, 1] - h[1, 1] * h[2, 0])
    )
    if volume == 0.0:
        volume = np.inf
    if len(stress):
        for r in range(3):
            for c in range(3):
                stress[b, r, c] = virial[r if r == c else 6 - r - c] / volume
        virial[:] = 0.0
    if len(stresses):
        for i in range(first, last):
            for r in range(3):
                for c in range(3):
                    stresses[i, r, c] /= volume
