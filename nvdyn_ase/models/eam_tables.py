"""Functions of the embedded atom method: files, and the tables that the loops read."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.data import chemical_symbols
from ase.units import Bohr, Hartree
from scipy.interpolate import InterpolatedUnivariateSpline

from nvdyn_ase.models.potential_files import FilePath, Words, lines_of

#: Kinds of files, as ``ase.calculators.eam`` calls them, and what each of them is.
FORMS = {
    "alloy": "an EAM file of the form 'alloy' (setfl)",
    "fs": "an EAM file of the form 'fs' (Finnis-Sinclair)",
    "adp": "an EAM file of the form 'adp' (angular-dependent)",
    "eam": "an EAM file of the form 'eam' (funcfl)",
}

#: Points that a cubic spline needs, and the first of a pair energy is not used.
_LEAST = 5


class Samples(NamedTuple):
    """The functions in a file, at distances 0, dr, ... and densities 0, drho, ...; K elements.

    Parameters
    ----------
    form
        One of ``FORMS``.
    elements
        Atomic numbers.
    cutoff, dr, drho
        Å, Å, and the unit of density.
    embedding
        (K, nrho), eV.
    density
        (K, K, nr): what an atom of the first element gives to the density at one of the second.
    r_phi
        (K, K, nr), distance times pair energy, Å eV.
    dipole, quadrupole
        (K, K, nr); None unless the form is ``"adp"``.
    """

    form: str
    elements: tuple[int, ...]
    cutoff: float
    dr: float
    drho: float
    embedding: np.ndarray
    density: np.ndarray
    r_phi: np.ndarray
    dipole: np.ndarray | None = None
    quadrupole: np.ndarray | None = None


class EAMTables(NamedTuple):
    """Cubic polynomials between equidistant points, K elements.

    A function is ``c0 + c1 t + c2 t**2 + c3 t**3`` at t beyond a point, and its first and last
    polynomials go on where there are no more points.

    Parameters
    ----------
    form
        One of ``FORMS``.
    elements
        Atomic numbers.
    cutoff, dr, drho
        Å, Å, and the unit of density.
    embedding
        (K, M, 4), eV, of the density.
    radial
        (K, K, N, F, 4), by the element of an atom, that of the other one, and distance: density at
        the atom, density at the other one, pair energy (eV), and if the form is ``"adp"``, dipole
        and quadrupole functions.
    """

    form: str
    elements: tuple[int, ...]
    cutoff: float
    dr: float
    drho: float
    embedding: np.ndarray
    radial: np.ndarray


class Splines(NamedTuple):
    """Functions as splines, of K elements: those of ``Samples``, as nested sequences."""

    embedding: Sequence[InterpolatedUnivariateSpline]
    density: Sequence[Sequence[InterpolatedUnivariateSpline]]
    phi: Sequence[Sequence[InterpolatedUnivariateSpline]]
    dipole: Sequence[Sequence[InterpolatedUnivariateSpline]] | None = None
    quadrupole: Sequence[Sequence[InterpolatedUnivariateSpline]] | None = None


def read_tables(path: FilePath, form: str | None = None) -> EAMTables:
    """Read a file and interpolate as ``ase.calculators.eam`` does.

    Raises
    ------
    ValueError
        An unknown form.
    PotentialFileError
        The file is not of this form.
    """
    return tables_of(read_samples(path, form))


def tables_of(samples: Samples) -> EAMTables:
    """Interpolate, with cubic splines that are not bent at the second and second to last points."""
    count = len(samples.elements)
    r = np.arange(samples.density.shape[2]) * samples.dr
    rho = np.arange(samples.embedding.shape[1]) * samples.drho

    def by_pair(x: np.ndarray, values: np.ndarray) -> list[list[InterpolatedUnivariateSpline]]:
        return [
            [InterpolatedUnivariateSpline(x, values[i, j], k=3) for j in range(count)]
            for i in range(count)
        ]

    # The pair energy at zero is lost, as it was multiplied with the distance.
    splines = Splines(
        [InterpolatedUnivariateSpline(rho, values, k=3) for values in samples.embedding],
        by_pair(r, samples.density),
        by_pair(r[1:], samples.r_phi[:, :, 1:] / r[1:]),
        None if samples.dipole is None else by_pair(r[1:], samples.dipole[:, :, 1:]),
        None if samples.quadrupole is None else by_pair(r[1:], samples.quadrupole[:, :, 1:]),
    )
    grids = samples.dr, len(r), samples.drho, len(rho)
    return tabulated(samples.form, samples.elements, samples.cutoff, splines, grids)


def tabulated(
    form: str,
    elements: tuple[int, ...],
    cutoff: float,
    splines: Splines,
    grids: tuple[float, int, float, int],
) -> EAMTables:
    """Take the polynomials out of splines whose knots lie on grids.

    Parameters
    ----------
    form, elements, cutoff, splines
        The potential.
    grids
        dr, number of distances, drho, number of densities.
    """
    dr, nr, drho, nrho = grids
    r, rho = np.arange(nr - 1) * dr, np.arange(nrho - 1) * drho
    count = len(elements)
    density = _by_pair(splines.density, r, count)
    radial = [density.swapaxes(0, 1), density, _by_pair(splines.phi, r, count)]
    angular = (splines.dipole, splines.quadrupole)
    radial += [_by_pair(more, r, count) for more in angular if more is not None]
    embedding = np.stack([_polynomials(spline, rho) for spline in splines.embedding])
    return EAMTables(
        form, elements, float(cutoff), float(dr), float(drho), embedding, np.stack(radial, axis=3)
    )


def _by_pair(
    splines: Sequence[Sequence[InterpolatedUnivariateSpline]], r: np.ndarray, count: int
) -> np.ndarray:
    pairs = [_polynomials(splines[i][j], r) for i in range(count) for j in range(count)]
    return np.stack(pairs).reshape(count, count, len(r), 4)


def _polynomials(spline: InterpolatedUnivariateSpline, x: np.ndarray) -> np.ndarray:
    """Return the coefficients of a cubic spline to the right of points, (N, 4)."""
    return np.stack([spline(x, k) / (1.0, 1.0, 2.0, 6.0)[k] for k in range(4)], axis=1)


# -------------------------------------------------------------------- files


def read_samples(path: FilePath, form: str | None = None) -> Samples:
    """Read a file.

    M. S. Daw and M. I. Baskes, Phys. Rev. B 29, 6443 (1984), describe the method; the formats are
    those of LAMMPS, as ``ase.calculators.eam`` reads them.

    Parameters
    ----------
    path
        The file.
    form
        One of ``FORMS``; the end of the file's name by default.
    """
    if form is None:
        form = Path(path).suffix[1:]
        if form not in FORMS:
            raise ValueError(
                f"{path}: the name should end with .alloy, .fs, .adp or .eam, or form= should say "
                "which of these it is"
            )
    if form not in FORMS:
        raise ValueError(f"form={form!r} is not one of {', '.join(FORMS)}")
    lines = lines_of(path, FORMS[form])
    return _funcfl(path, lines) if form == "eam" else _setfl(path, lines, form)


def _funcfl(path: FilePath, lines: list[str]) -> Samples:
    words = Words(path, lines[1:], FORMS["eam"])
    element = _head(words)
    nrho, drho, nr, dr, cutoff = _grids(words)
    embedding = words.numbers("embedding energies", nrho)
    charges = words.numbers("effective charges", nr)
    density = words.numbers("densities", nr)
    return Samples(
        *("eam", (element,), cutoff, dr, drho, embedding[None], density[None, None]),
        Bohr * Hartree * charges[None, None] ** 2,
    )


def _setfl(path: FilePath, lines: list[str], form: str) -> Samples:
    words = Words(path, lines[3:], FORMS[form])
    count = words.whole("the number of elements, in the fourth line,")
    elements = tuple(
        words.element("each name of an element in the fourth line") for _ in range(count)
    )
    if len(set(elements)) < count:
        raise words.error("an element is there twice")
    nrho, drho, nr, dr, cutoff = _grids(words)
    embedding, density = np.empty((count, nrho)), np.empty((count, count, nr))
    for i in range(count):
        _head(words)
        embedding[i] = words.numbers("embedding energies", nrho)
        for j in range(count if form == "fs" else 1):
            density[i, j] = words.numbers("densities", nr)
        if form != "fs":
            density[i] = density[i, 0]
    tables = [_lower_half(words, "pair energies", count, nr)]
    if form == "adp":
        tables += [_lower_half(words, what, count, nr) for what in ("dipoles", "quadrupoles")]
    if len(words):
        raise words.error(f"it goes on after {_last(form)}, with {len(words)} words")
    return Samples(form, elements, cutoff, dr, drho, embedding, density, *tables)


def _last(form: str) -> str:
    """Say what a file ends with."""
    return "the quadrupoles" if form == "adp" else "the pair energies"


def _head(words: Words) -> int:
    """Take the line that begins an element; return its atomic number."""
    element = words.whole("an atomic number")
    if element >= len(chemical_symbols):
        raise words.error(f"there is no element {element}")
    words.number("a mass")
    words.number("a lattice constant")
    words.word("the name of a lattice")
    return element


def _grids(words: Words) -> tuple[int, float, int, float, float]:
    nrho = words.whole("the number of densities", _LEAST)
    drho = words.number("the step of the density", positive=True)
    nr = words.whole("the number of distances", _LEAST)
    dr = words.number("the step of the distance", positive=True)
    return nrho, drho, nr, dr, words.number("the cutoff", positive=True)


def _lower_half(words: Words, what: str, count: int, nr: int) -> np.ndarray:
    """Take a table for each pair of elements, of which each is there once; return (K, K, nr)."""
    tables = np.empty((count, count, nr))
    for i in range(count):
        for j in range(i + 1):
            tables[i, j] = tables[j, i] = words.numbers(what, nr)
    return tables
