"""Parameters of the effective medium potential, and the tables its loops read."""

from math import log, sqrt
from typing import NamedTuple

import numpy as np
from ase.units import Bohr

# E0 (eV), s0 (bohr), V0 (eV), eta2, kappa and lambda (1/bohr), n0 (1/bohr³). The metals are those
# of K. W. Jacobsen, P. Stoltze and J. K. Nørskov, Surf. Sci. 366, 394 (1996); H, C, N and O are the
# ones ASE has, which describe nothing real. By growing s0, so that the element of a system with the
# highest row is the one that sets its cutoff.
PARAMETERS = {
    "H": (-3.21, 1.31, 0.132, 2.652, 2.790, 3.892, 0.00547),
    "C": (-3.50, 1.81, 0.332, 1.652, 2.790, 1.892, 0.01322),
    "N": (-5.10, 1.88, 0.132, 1.652, 2.790, 1.892, 0.01222),
    "O": (-4.60, 1.95, 0.332, 1.652, 2.790, 1.892, 0.00850),
    "Ni": (-4.44, 2.60, 3.673, 1.669, 2.757, 1.948, 0.01030),
    "Cu": (-3.51, 2.67, 2.476, 1.652, 2.740, 1.906, 0.00910),
    "Pd": (-3.90, 2.87, 2.773, 1.818, 3.107, 2.155, 0.00688),
    "Pt": (-5.85, 2.90, 4.067, 1.812, 3.145, 2.192, 0.00802),
    "Al": (-3.28, 3.00, 1.493, 1.240, 2.000, 1.169, 0.00700),
    "Au": (-3.80, 3.00, 2.321, 1.674, 2.873, 2.182, 0.00703),
    "Ag": (-2.96, 3.01, 2.132, 1.652, 2.790, 1.892, 0.00547),
}

# Nearest-neighbour distance of fcc over s0, (16 π / 3)^(1/3) / √2, rounded as by everyone who has
# fitted or used these parameters.
BETA = 1.809

# Value of the cutoff function at the fourth neighbours of fcc.
_REMAINDER = 1e-4


class Tables(NamedTuple):
    """Numbers of each element and each pair of them; N elements, in the order of ``PARAMETERS``.

    Those that depend on the cutoff have a leading axis: the element that sets it in a system.

    Parameters
    ----------
    rate
        (N, 2), eta2 and kappa / beta: decay of the two exponentials of an element, 1/Å.
    pair
        (N, N, N, 4), by cutoff, i and j: prefactors of j's term in sigma1 of i, of i's term in
        sigma1 of j, and of their terms in the pair energy, eV, that decay with the rate of j and i.
    atom
        (N, N, 6), by cutoff and element: E0 (eV), lambda and kappa (1/Å), 6 V0 (eV),
        1 / (12 gamma1) and 1 / (beta eta2) (Å).
    cutoff
        (N, 3): middle of the cutoff function (Å), its slope (1/Å), and the distance from which on
        atoms are no neighbours (Å).
    """

    rate: np.ndarray
    pair: np.ndarray
    atom: np.ndarray
    cutoff: np.ndarray


def make_tables(asap_cutoff: bool) -> Tables:
    """Work out the tables.

    Parameters
    ----------
    asap_cutoff
        The element with the largest s0 in a system sets its cutoff, as in ASAP, instead of that
        with the largest s0 of all.
    """
    e0, s0, v0, eta2, kappa, lamda, n0 = np.array(list(PARAMETERS.values())).T
    s0, eta2, kappa, lamda, n0 = s0 * Bohr, eta2 / Bohr, kappa / Bohr, lamda / Bohr, n0 / Bohr**3
    rate = np.stack([eta2, kappa / BETA], axis=1)
    radius = s0 if asap_cutoff else np.full_like(s0, s0.max())
    cutoff = np.array([_cutoff(r, asap_cutoff) for r in radius])
    gamma1, gamma2 = (_shells(cutoff, s0, rate[:, k]) for k in (0, 1))

    chi = n0 / n0[:, None]
    density = chi * np.exp(eta2 * BETA * s0)
    energy = chi * np.exp(kappa * s0) * (-0.5 * v0 / gamma2)[:, :, None]
    density = np.broadcast_to(density, energy.shape)
    pair = [density, density.swapaxes(1, 2), energy, energy.swapaxes(1, 2)]

    atom = [e0, lamda, kappa, 6.0 * v0, 1.0 / (12.0 * gamma1), 1.0 / (BETA * eta2)]
    atom = [np.broadcast_to(column, gamma1.shape) for column in atom]
    return Tables(rate, np.stack(pair, axis=3), np.stack(atom, axis=2), cutoff)


def _cutoff(radius: float, asap_cutoff: bool) -> tuple[float, float, float]:
    """Return a row of ``Tables.cutoff``: midway between third and fourth neighbours of fcc."""
    nearest = BETA * radius
    middle = nearest * 0.5 * (sqrt(3.0) + 2.0)
    slope = log(1.0 / _REMAINDER - 1.0) / (2.0 * nearest - middle)
    return middle, slope, middle * 1.045 if asap_cutoff else middle + 0.5


def _shells(cutoff: np.ndarray, s0: np.ndarray, rate: np.ndarray) -> np.ndarray:
    """Return gamma1 or gamma2, (N, N): what the neighbours in fcc sum to per nearest one.

    Three shells, weighed with the cutoff function.
    """
    distance = BETA * s0[:, None] * np.sqrt([1.0, 2.0, 3.0])
    middle, slope = cutoff[:, 0, None, None], cutoff[:, 1, None, None]
    weight = np.array([12.0, 6.0, 24.0]) / 12.0 / (1.0 + np.exp(slope * (distance - middle)))
    return (weight * np.exp(-rate[:, None] * (distance - BETA * s0[:, None]))).sum(axis=2)
