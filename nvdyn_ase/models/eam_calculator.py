"""The tables of an ``ase.calculators.eam.EAM``, out of its splines."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from ase.data import atomic_numbers
from scipy.interpolate import InterpolatedUnivariateSpline

from nvdyn_ase.models.eam_tables import FORMS, EAMTables, Splines, tabulated


def tables_of(calculator: Any) -> EAMTables | None:
    """Return the tables of a calculator.

    None if its functions are others than cubic splines through equidistant points, if they have
    derivatives that are not theirs, or if they differ with the order of a pair.
    """
    try:
        form, symbols = calculator.form, list(calculator.elements)
        splines = _splines(calculator, form, len(symbols))
        elements = tuple(atomic_numbers[symbol] for symbol in symbols)
        cutoff = float(calculator.cutoff)
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        return None  # what it would do with these is for the calculator to say
    if form not in FORMS or len(set(elements)) < len(elements) or not 0 < cutoff < np.inf:
        return None
    if not all(_is_cubic(spline) for spline in _all(splines)) or not _own_derivatives(calculator):
        return None
    radial = [f for row in splines.density for f in row]
    later = [f for more in splines[2:] if more is not None for row in more for f in row]
    r, rho = _grid(radial[0]), _grid(splines.embedding[0])
    if r is None or rho is None:
        return None
    same = all(_lies_on(f, *r) for f in radial) and all(
        _lies_on(f, *rho) for f in splines.embedding
    )
    if not (same and all(_lies_on(f, *r) or _lies_on(f, *r, 1) for f in later)):
        return None
    if not all(more[i][j] is more[j][i] for more in splines[2:] if more for i, j in _pairs(more)):
        return None
    return tabulated(form, elements, cutoff, splines, (*r, *rho))


def _splines(calculator: Any, form: str, count: int) -> Splines:
    densities = calculator.electron_density
    density = [
        [densities[i, j] if form == "fs" else densities[i] for j in range(count)]
        for i in range(count)
    ]

    def by_pair(functions: Any) -> list[list[Any]]:
        return [[functions[i, j] for j in range(count)] for i in range(count)]

    more = (by_pair(calculator.d), by_pair(calculator.q)) if form == "adp" else (None, None)
    embedding = [calculator.embedded_energy[i] for i in range(count)]
    return Splines(embedding, density, by_pair(calculator.phi), *more)


def _all(splines: Splines) -> Iterator[Any]:
    yield from splines.embedding
    for more in splines[1:]:
        for row in more or ():
            yield from row


def _pairs(rows: Sequence[Sequence[Any]]) -> Iterator[tuple[int, int]]:
    return ((i, j) for i in range(len(rows)) for j in range(i))


def _is_cubic(spline: Any) -> bool:
    # scipy has no public names for the points, the degree and what is done beyond the points.
    data: tuple[Any, ...] = getattr(spline, "_data", ())
    return type(spline) is InterpolatedUnivariateSpline and data[5] == 3 and spline.ext == 0


def _own_derivatives(calculator: Any) -> bool:
    """Say whether the derivatives, if there are some, are those that ASE makes of the splines."""
    for name in ("embedded_energy", "electron_density", "phi", "d", "q"):
        splines, slopes = getattr(calculator, name, None), getattr(calculator, f"d_{name}", None)
        if splines is None or slopes is None:
            continue
        if np.shape(splines) != np.shape(slopes):
            return False
        pairs = zip(np.ravel(splines), np.ravel(slopes), strict=True)
        if not all(_is_derivative(slope, spline) for spline, slope in pairs):
            return False
    return True


def _is_derivative(slope: Any, spline: Any) -> bool:
    cells: tuple[Any, ...] = getattr(slope, "__closure__", None) or ()
    made_by_ase = getattr(slope, "__qualname__", "") == "EAM.deriv.<locals>.d_spline"
    return made_by_ase and len(cells) == 1 and cells[0].cell_contents is spline


def _grid(spline: Any) -> tuple[float, int] | None:
    """Return the step and the number of points that begin at zero; None if they are others."""
    x = spline._data[0]
    step = float(x[-1]) / (len(x) - 1)
    return (step, len(x)) if step > 0 and _lies_on(spline, step, len(x)) else None


def _lies_on(spline: Any, step: float, count: int, skipped: int = 0) -> bool:
    x, grid = spline._data[0], step * np.arange(skipped, count)
    return len(x) == len(grid) and bool(np.allclose(x, grid, rtol=1e-14, atol=1e-14 * grid[-1]))
