"""The embedded atom method over the slots of ``Pairs``: loops for the CPU.

Everything is summed in the order of the pairs.
"""

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
from nvdyn_ase.models.pair_potential import Geometry, Slots

Numbers = tuple[float, float, float]


@njit(cache=True, error_model="numpy", nogil=True)
def evaluate(
    geometry: Geometry,
    slots: Slots,
    embedding: np.ndarray,
    radial: np.ndarray,
    scales: Numbers,
    angular: bool,
    with_forces: bool,
    results: Results,
) -> None:
    """Compute every system.

    Parameters
    ----------
    geometry, slots
        The batch and its pairs.
    embedding, radial
        As in ``EAMTables``.
    scales
        Cutoff, dr, drho.
    angular
        There are dipole and quadrupole functions.
    with_forces
        Fill forces and stress too.
    results
        What is filled; zeros at first.
    """
    near = make_room(geometry.ptr, slots)
    atoms, pairs = len(geometry.kinds), len(near.r)
    density, slope = np.zeros(atoms), np.empty(atoms)
    # Density at the atom, at the other one, pair energy, dipole and quadrupole; and derivatives.
    values, slopes = np.empty((pairs, 5)), np.empty((pairs, 5))
    dipole = np.zeros((atoms if angular else 0, 3))
    quadrupole = np.zeros((atoms if angular else 0, 3, 3))
    pulls = np.empty((pairs, 3))
    for b in range(len(geometry.ptr) - 1):
        n = gather(b, geometry, slots, scales[0], near)
        _look_up(n, near, geometry.kinds, radial, scales, values, slopes)
        _add_pairs(n, near, values, density, results.energies)
        first, last = geometry.ptr[b], geometry.ptr[b + 1]
        _embed(first, last, geometry.kinds, embedding, scales[2], density, results.energies, slope)
        if angular:
            _add_moments(n, near, values, dipole, quadrupole)
            _add_angular(first, last, dipole, quadrupole, results.energies)
        zero = close_energy(b, geometry, results)
        if with_forces:
            _pull(n, near, slope, slopes, pulls)
            if angular:
                _pull_angular(n, near, values, slopes, dipole, quadrupole, pulls)
            add_forces(n, zero, near, pulls, b, geometry, results)


@njit(cache=True, error_model="numpy")
def _cell_of(x: float, step: float, count: Whole) -> tuple[np.uint64, float]:
    """Return which polynomial holds at x, and how far x is from its beginning."""
    k = np.uint64(0)
    if x > 0.0:
        last = count - 1
        k = np.uint64(last if x >= last * step else np.int64(x / step))
    return k, x - k * step


@njit(cache=True, error_model="numpy")
def _look_up(
    n: Whole,
    near: Near,
    kinds: np.ndarray,
    radial: np.ndarray,
    scales: Numbers,
    values: np.ndarray,
    slopes: np.ndarray,
) -> None:
    """Write the functions of each pair, and their derivatives; those are zero at the cutoff."""
    cutoff, dr, _ = scales
    own, other, r = near.own, near.other, near.r
    for p in range(n):
        k, t = _cell_of(r[p], dr, radial.shape[2])
        row = radial[kinds[own[p]], kinds[other[p]], k]
        inside = 0.0 if r[p] >= cutoff else 1.0
        for f in range(row.shape[0]):
            c0, c1, c2, c3 = row[f, 0], row[f, 1], row[f, 2], row[f, 3]
            values[p, f] = ((c3 * t + c2) * t + c1) * t + c0
            slopes[p, f] = inside * ((3.0 * c3 * t + 2.0 * c2) * t + c1)


@njit(cache=True, error_model="numpy")
def _add_pairs(
    n: Whole, near: Near, values: np.ndarray, density: np.ndarray, energies: np.ndarray
) -> None:
    own, other = near.own, near.other
    for p in range(n):
        i, j = own[p], other[p]
        density[i] += values[p, 0]
        density[j] += values[p, 1]
        half = 0.5 * values[p, 2]
        energies[i] += half
        energies[j] += half


@njit(cache=True, error_model="numpy")
def _embed(
    first: Whole,
    last: Whole,
    kinds: np.ndarray,
    embedding: np.ndarray,
    drho: float,
    density: np.ndarray,
    energies: np.ndarray,
    slope: np.ndarray,
) -> None:
    """Add the energy that each atom has in its density; write the derivative by the density."""
    for a in range(first, last):
        k, t = _cell_of(density[a], drho, embedding.shape[1])
        row = embedding[kinds[a], k]
        c0, c1, c2, c3 = row[0], row[1], row[2], row[3]
        energies[a] += ((c3 * t + c2) * t + c1) * t + c0
        slope[a] = (3.0 * c3 * t + 2.0 * c2) * t + c1


@njit(cache=True, error_model="numpy")
def _add_moments(
    n: Whole, near: Near, values: np.ndarray, dipole: np.ndarray, quadrupole: np.ndarray
) -> None:
    """Add what each pair gives to the dipoles and quadrupoles of its atoms."""
    own, other, vector = near.own, near.other, near.vector
    for p in range(n):
        i, j = own[p], other[p]
        for c in range(3):
            term = values[p, 3] * vector[p, c]
            dipole[i, c] += term
            dipole[j, c] -= term
            for d in range(3):
                term = values[p, 4] * vector[p, c] * vector[p, d]
                quadrupole[i, c, d] += term
                quadrupole[j, c, d] += term


@njit(cache=True, error_model="numpy")
def _add_angular(
    first: Whole,
    last: Whole,
    dipole: np.ndarray,
    quadrupole: np.ndarray,
    energies: np.ndarray,
) -> None:
    """Add the energy of dipoles and quadrupoles."""
    for a in range(first, last):
        squares = 0.0
        for c in range(3):
            squares += dipole[a, c] * dipole[a, c]
            for d in range(3):
                squares += quadrupole[a, c, d] * quadrupole[a, c, d]
        trace = quadrupole[a, 0, 0] + quadrupole[a, 1, 1] + quadrupole[a, 2, 2]
        energies[a] += 0.5 * squares - trace * trace / 6.0


@njit(cache=True, error_model="numpy")
def _pull(n: Whole, near: Near, slope: np.ndarray, slopes: np.ndarray, pulls: np.ndarray) -> None:
    """Write the derivatives of densities and pair energies by the vectors of pairs."""
    own, other, vector, r = near.own, near.other, near.vector, near.r
    for p in range(n):
        change = slope[own[p]] * slopes[p, 0] + slope[other[p]] * slopes[p, 1] + slopes[p, 2]
        change /= r[p]
        for c in range(3):
            pulls[p, c] = change * vector[p, c]


@njit(cache=True, error_model="numpy")
def _pull_angular(
    n: Whole,
    near: Near,
    values: np.ndarray,
    slopes: np.ndarray,
    dipole: np.ndarray,
    quadrupole: np.ndarray,
    pulls: np.ndarray,
) -> None:
    """Add the derivatives of dipoles and quadrupoles, without the ones at the cutoff."""
    own, other, vector = near.own, near.other, near.vector
    mu, both, turned = np.empty(3), np.empty((3, 3)), np.empty(3)
    for p in range(n):
        i, j, r = own[p], other[p], near.r[p]
        along, through, trace = 0.0, 0.0, 0.0
        for c in range(3):
            mu[c] = dipole[i, c] - dipole[j, c]
            for d in range(3):
                both[c, d] = quadrupole[i, c, d] + quadrupole[j, c, d]
        for c in range(3):
            turned[c] = both[c, 0] * vector[p, 0] + both[c, 1] * vector[p, 1]
            turned[c] += both[c, 2] * vector[p, 2]
            along += mu[c] * vector[p, c]
            through += turned[c] * vector[p, c]
            trace += both[c, c]
        u, w, du, dw = values[p, 3], values[p, 4], slopes[p, 3], slopes[p, 4]
        radial = (du * along + dw * through) / r - trace * (dw * r + 2.0 * w) / 3.0
        for c in range(3):
            pulls[p, c] += u * mu[c] + 2.0 * w * turned[c] + radial * vector[p, c]
