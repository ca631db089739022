"""The effective medium potential over the slots of ``Pairs``: loops for the CPU.

Everything is summed in the order of the pairs, and a pair beyond the cutoff is left out before
anything is summed, so that the bits of a system depend on nothing but itself.

A chunk of some hundred pairs goes through one short loop after the other, most of which become
vector instructions: half of the time that it takes to finish one pair before the next, with calls
of exp, divisions and branches. Two things that look odd matter as much. Indices are unsigned,
because numba tests a signed one for being negative wherever it cannot see that it is not. And what
an inner loop uses of a tuple or of a row is taken out before it: taking an array out of a tuple
counts a reference, and a number is read again after anything is stored.
"""

import math
from typing import NamedTuple

import numpy as np
from numba import njit

from nvdyn_ase.models.emt_parameters import Tables
from nvdyn_ase.models.near_pairs import Results

_index = np.uint64
_ONE = np.uint64(1)

_CHUNK = 512

_LOG2_E = math.log2(math.e)
_LN2_HIGH = 0.6931471803691238  # ln 2 to 32 bits: products with small whole numbers are exact
_LN2_LOW = 1.9082149292705877e-10
_TO_INTEGER = 1.5 * 2.0**52  # what is added to this is rounded to a whole number
_TAYLOR = tuple(1.0 / math.factorial(k) for k in range(12, 1, -1))


class Slots(NamedTuple):
    """The arrays of ``Pairs``, and whether each pair is there once."""

    start: np.ndarray
    stop: np.ndarray
    neighbor: np.ndarray
    image: np.ndarray
    image_start: np.ndarray
    images: np.ndarray
    num_images: np.ndarray
    half: bool


class Scratch(NamedTuple):
    """Room for numbers on the way; one more than there are pairs where pairs are dropped.

    Parameters
    ----------
    lx, ly, lz, lr
        Per pair listed for a chunk: vector and distance, Å.
    r, terms
        Per pair kept of a chunk: distance, and three to five exponentials.
    other, vector
        Per pair kept of a system: the other atom, and the vector (3), Å.
    slopes
        Per pair kept of a system: derivative by distance, over distance, of sigma1 of the atom, of
        that of the other one, and of the pair energy (3).
    bound
        (V + 1,), where the pairs of each atom begin among those of its system.
    """

    lx: np.ndarray
    ly: np.ndarray
    lz: np.ndarray
    lr: np.ndarray
    r: np.ndarray
    terms: np.ndarray
    other: np.ndarray
    vector: np.ndarray
    slopes: np.ndarray
    bound: np.ndarray


@njit(cache=True, error_model="numpy", nogil=True)
def evaluate(
    ptr: np.ndarray,
    positions: np.ndarray,
    element: np.ndarray,
    cell: np.ndarray,
    slots: Slots,
    tables: Tables,
    with_forces: bool,
    results: Results,
) -> None:
    """Compute every system.

    Parameters
    ----------
    ptr
        First atom of each system, and the end, (B + 1,).
    positions, cell
        (V, 3) and (B, 3, 3), Å.
    element
        (V,) uint64, row of each atom in the tables.
    slots, tables
        The pairs and the parameters.
    with_forces
        Fill forces and stress too.
    results
        What is filled.
    """
    scratch, shifts = _make_scratch(ptr, slots)
    sigma, slope = np.zeros(len(element)), np.empty(len(element))
    results.energies[:] = 0.0
    for b in range(len(ptr) - 1):
        first, last = ptr[b], ptr[b + 1]
        row = _index(0)
        for a in range(first, last):
            row = max(row, element[a])
        pair = tables.pair[row]
        middle, fall, limit = tables.cutoff[row]
        _place_images(b, slots, cell[b], shifts)
        scratch.bound[first] = 0
        begin = first
        while begin < last:
            end = _chunk(begin, last, slots)
            _gather(b, begin, end, first, positions, shifts, slots, limit, scratch)
            _exponentials(begin, end, element, tables.rate, middle, fall, scratch)
            _add_pairs(
                begin, end, element, tables.rate, pair, fall, scratch, results.energies, sigma
            )
            begin = end
        _embed(first, last, element, tables.atom[row], sigma, results.energies, slope)
        energy = _total(first, last, positions, cell[b], results.energies)
        results.energy[b] = energy
        if with_forces:
            zero = energy - energy  # not a number, if the energy is none
            _add_forces(first, last, zero, scratch, slope, results.forces, results.stress[b])
            _divide_by_volume(cell[b], results.stress[b])


@njit(cache=True, error_model="numpy")
def _make_scratch(ptr: np.ndarray, slots: Slots) -> tuple[Scratch, np.ndarray]:
    """Return room for any one system and its images."""
    size, chunk = 1, _CHUNK
    for b in range(len(ptr) - 1):
        pairs = 1
        for a in range(ptr[b], ptr[b + 1]):
            pairs += slots.stop[a] - slots.start[a]
            chunk = max(chunk, slots.stop[a] - slots.start[a])
        size = max(size, pairs)
    images = slots.num_images.max() if len(slots.num_images) else 0
    scratch = Scratch(
        np.empty(chunk),
        np.empty(chunk),
        np.empty(chunk),
        np.empty(chunk),
        np.empty(chunk + 1),
        np.empty(5 * chunk + 2),
        np.empty(size, np.uint64),
        np.empty((size, 3)),
        np.empty((size, 3)),
        np.empty(len(slots.start) + 1, np.uint64),
    )
    return scratch, np.empty((images, 3))


@njit(cache=True, error_model="numpy")
def _place_images(b: int, slots: Slots, cell: np.ndarray, shifts: np.ndarray) -> None:
    """Write the displacement of each periodic image of a system, Å."""
    for m in range(slots.num_images[b]):
        s = slots.images[slots.image_start[b] + m]
        for c in range(3):
            shifts[m, c] = s[0] * cell[0, c] + s[1] * cell[1, c] + s[2] * cell[2, c]


@njit(cache=True, error_model="numpy")
def _chunk(begin: int, last: int, slots: Slots) -> int:
    """Return one past the last atom whose pairs go into a chunk with those of atom ``begin``."""
    size = slots.stop[begin] - slots.start[begin]
    for a in range(begin + 1, last):
        size += slots.stop[a] - slots.start[a]
        if size > _CHUNK:
            return a
    return last


@njit(cache=True, error_model="numpy")
def _gather(
    b: int,
    begin: int,
    end: int,
    first: int,
    positions: np.ndarray,
    shifts: np.ndarray,
    slots: Slots,
    limit: float,
    scratch: Scratch,
) -> None:
    """Find the pairs of a chunk that are nearer than the limit.

    Only the test ``r >= limit`` drops a pair, so that one whose distance is not a number stays.
    """
    start, stop, neighbor, image = slots.start, slots.stop, slots.neighbor, slots.image
    lx, ly, lz, lr, bound = scratch.lx, scratch.ly, scratch.lz, scratch.lr, scratch.bound
    filled = bound[begin]
    n = _index(0)
    for a in range(begin, end):
        ax, ay, az = positions[a, 0], positions[a, 1], positions[a, 2]
        skipped = 0 if slots.half else _backward(b, a, a - first, slots)
        for p in range(_index(start[a] + skipped), _index(stop[a])):
            j, m = _index(first + neighbor[p]), _index(image[p])
            lx[n] = positions[j, 0] - ax + shifts[m, 0]
            ly[n] = positions[j, 1] - ay + shifts[m, 1]
            lz[n] = positions[j, 2] - az + shifts[m, 2]
            n += _ONE
        bound[a + 1] = n
    for p in range(n):
        lr[p] = math.sqrt(lx[p] * lx[p] + ly[p] * ly[p] + lz[p] * lz[p])

    r, other, vector = scratch.r, scratch.other, scratch.vector
    n, near = _index(0), _index(0)
    for a in range(begin, end):
        listed = bound[a + 1] - n
        for p in range(_index(stop[a]) - listed, _index(stop[a])):
            # Written in any case and kept by moving on, without a branch that half of them take.
            other[filled] = first + neighbor[p]
            vector[filled, 0], vector[filled, 1], vector[filled, 2] = lx[n], ly[n], lz[n]
            r[near] = lr[n]
            kept = _index(not lr[n] >= limit)
            filled += kept
            near += kept
            n += _ONE
        bound[a + 1] = filled


@njit(cache=True, error_model="numpy")
def _backward(b: int, a: int, own: int, slots: Slots) -> int:
    """Count the pairs of an atom that a full list has the other way round too; they come first.

    They are those with j < i, or j = i and a shift whose first component that is not 0 is negative.
    """
    for p in range(slots.start[a], slots.stop[a]):
        s = slots.images[slots.image_start[b] + slots.image[p]]
        negative = s[0] < 0 or (s[0] == 0 and (s[1] < 0 or (s[1] == 0 and s[2] < 0)))
        if slots.neighbor[p] > own or (slots.neighbor[p] == own and not negative):
            return p - slots.start[a]
    return slots.stop[a] - slots.start[a]


@njit(cache=True, error_model="numpy")
def _exponentials(
    begin: int,
    end: int,
    element: np.ndarray,
    rate: np.ndarray,
    middle: float,
    fall: float,
    scratch: Scratch,
) -> None:
    """Write the exponentials of a chunk's n pairs to ``terms``.

    First n for the cutoff, n for sigma1 and n for the pair energy, with the rates of the other
    atom's element. Then, for each pair of two elements, two with the rates of its own.
    """
    r, terms, other, bound = scratch.r, scratch.terms, scratch.other, scratch.bound
    offset = bound[begin]
    n = bound[end] - offset
    for p in range(n):
        terms[p] = fall * (r[p] - middle)
    size = n + n + n
    for a in range(begin, end):
        own = element[a]
        for q in range(bound[a], bound[a + 1]):
            e = element[other[q]]
            p = q - offset
            terms[n + p] = -rate[e, 0] * r[p]
            terms[n + n + p] = -rate[e, 1] * r[p]
            terms[size] = -rate[own, 0] * r[p]
            terms[size + _ONE] = -rate[own, 1] * r[p]
            size += _index(2 * (e != own))
    _exponentiate(terms, size)


@njit(cache=True, error_model="numpy")
def _exponentiate(x: np.ndarray, size: int) -> None:
    """Replace the first numbers by their exponentials, to two units in the last place.

    For numbers between -700 and 700. exp(x) is 2^k exp(f) with whole k and |f| <= ln(2) / 2, where
    13 terms of the series suffice. Unlike calls of the library's exp, this becomes vector
    instructions.
    """
    for p in range(size):
        shifted = x[p] * _LOG2_E + _TO_INTEGER
        k = shifted - _TO_INTEGER
        f = (x[p] - k * _LN2_HIGH) - k * _LN2_LOW
        series = _TAYLOR[0]
        for c in _TAYLOR[1:]:
            series = series * f + c
        # The last bits of the shifted number are k; in the place of the exponent they are 2^k.
        power = (np.float64(shifted).view(np.int64) + 1023) << 52
        x[p] = (1.0 + (f + f * f * series)) * np.int64(power).view(np.float64)


@njit(cache=True, error_model="numpy")
def _add_pairs(
    begin: int,
    end: int,
    element: np.ndarray,
    rate: np.ndarray,
    pair: np.ndarray,
    fall: float,
    scratch: Scratch,
    energies: np.ndarray,
    sigma: np.ndarray,
) -> None:
    """Add the pairs of a chunk to sigma1 and to the pair energy; write their derivatives."""
    r, terms, other, bound = scratch.r, scratch.terms, scratch.other, scratch.bound
    slopes = scratch.slopes
    offset = bound[begin]
    n = bound[end] - offset
    for p in range(n):
        terms[p] = 1.0 / (1.0 + terms[p])
        r[p] = 1.0 / r[p]
    size = n + n + n
    for a in range(begin, end):
        own = element[a]
        sigma_a, energy_a = 0.0, 0.0
        for q in range(bound[a], bound[a + 1]):
            p = q - offset
            weight, j = terms[p], other[q]
            e = element[j]
            differ = e != own
            d, u = (size, size + _ONE) if differ else (n + p, n + n + p)
            size += _index(2 * differ)
            own_density = pair[own, e, 0] * (weight * terms[n + p])
            other_density = pair[own, e, 1] * (weight * terms[d])
            own_energy = pair[own, e, 2] * (weight * terms[n + n + p])
            other_energy = pair[own, e, 3] * (weight * terms[u])
            shared = 0.5 * (own_energy + other_energy)
            sigma_a += own_density
            energy_a += shared
            sigma[j] += other_density
            energies[j] += shared
            cut = fall * (weight - 1.0)
            slopes[q, 0] = own_density * (cut - rate[e, 0]) * r[p]
            slopes[q, 1] = other_density * (cut - rate[own, 0]) * r[p]
            slope = own_energy * (cut - rate[e, 1]) + other_energy * (cut - rate[own, 1])
            slopes[q, 2] = slope * r[p]
        sigma[a] += sigma_a
        energies[a] += energy_a


@njit(cache=True, error_model="numpy")
def _embed(
    first: int,
    last: int,
    element: np.ndarray,
    table: np.ndarray,
    sigma: np.ndarray,
    energies: np.ndarray,
    slope: np.ndarray,
) -> None:
    """Add the energy that each atom has from sigma1; write the derivative by sigma1."""
    for a in range(first, last):
        e0, lamda, kappa, six_v0, scale, length = table[element[a]]
        energies[a] -= e0
        slope[a] = 0.0
        if sigma[a] == 0.0:
            continue  # without neighbours
        s = -math.log(sigma[a] * scale) * length
        cohesion = e0 * math.exp(-lamda * s)
        repulsion = six_v0 * math.exp(-kappa * s)
        energies[a] += cohesion * (1.0 + lamda * s) + repulsion
        slope[a] = (cohesion * lamda * lamda * s + kappa * repulsion) * length / sigma[a]


@njit(cache=True, error_model="numpy")
def _total(
    first: int, last: int, positions: np.ndarray, cell: np.ndarray, energies: np.ndarray
) -> float:
    """Return the energy of a system; not a number if a coordinate is none, whatever its pairs."""
    total = 0.0
    for c in range(3):
        for d in range(3):
            total += cell[c, d] - cell[c, d]
    for a in range(first, last):
        for c in range(3):
            energies[a] += positions[a, c] - positions[a, c]
        total += energies[a]
    return total


@njit(cache=True, error_model="numpy")
def _add_forces(
    first: int,
    last: int,
    zero: float,
    scratch: Scratch,
    slope: np.ndarray,
    forces: np.ndarray,
    virial: np.ndarray,
) -> None:
    """Fill the forces and the virial of a system, starting from zero."""
    other, vector, slopes, bound = scratch.other, scratch.vector, scratch.slopes, scratch.bound
    forces[first:last] = zero
    xx = yy = zz = yz = xz = xy = zero
    for a in range(first, last):
        fx = fy = fz = 0.0
        slope_a = slope[a]
        for q in range(bound[a], bound[a + 1]):
            j = other[q]
            x, y, z = vector[q, 0], vector[q, 1], vector[q, 2]
            f = slope_a * slopes[q, 0] + slope[j] * slopes[q, 1] + slopes[q, 2]
            gx, gy, gz = f * x, f * y, f * z
            fx, fy, fz = fx + gx, fy + gy, fz + gz
            forces[j, 0] -= gx
            forces[j, 1] -= gy
            forces[j, 2] -= gz
            xx, yy, zz = xx + gx * x, yy + gy * y, zz + gz * z
            yz, xz, xy = yz + gy * z, xz + gx * z, xy + gx * y
        forces[a, 0] += fx
        forces[a, 1] += fy
        forces[a, 2] += fz
    virial[0, 0], virial[1, 1], virial[2, 2] = xx, yy, zz
    virial[1, 2] = virial[2, 1] = yz
    virial[0, 2] = virial[2, 0] = xz
    virial[0, 1] = virial[1, 0] = xy


@njit(cache=True, error_model="numpy")
def _divide_by_volume(cell: np.ndarray, virial: np.ndarray) -> None:
    """Make a virial the stress; zero without a volume."""
    a, b, c = cell[0], cell[1], cell[2]
    volume = abs(
        a[0] * (b[1] * c[2] - b[2] * c[1])
        + a[1] * (b[2] * c[0] - b[0] * c[2])
        + a[2] * (b[0] * c[1] - b[1] * c[0])
    )
    if volume == 0.0:
        virial[:] = 0.0
    else:
        virial /= volume
