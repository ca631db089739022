"""Velocities are what a batch stores, momenta what ASE stores."""

import numpy as np


def to_velocities(momenta: np.ndarray, masses: np.ndarray) -> np.ndarray:
    """Return velocities, (n, 3) Å per ASE time unit; zero for an atom without mass.

    Parameters
    ----------
    momenta
        (n, 3), amu Å per ASE time unit.
    masses
        (n,), amu.
    """
    heavy = masses != 0
    if heavy.all():
        return momenta / masses[:, None]
    velocities = np.zeros(momenta.shape)
    return np.divide(momenta, masses[:, None], out=velocities, where=heavy[:, None])


def to_momenta(
    velocities: np.ndarray, masses: np.ndarray, origin: np.ndarray | None
) -> np.ndarray | None:
    """Return the momenta of a system, (n, 3), in an array of their own.

    Parameters
    ----------
    velocities, masses
        Rows of the batch, in its type: (n, 3) and (n,).
    origin
        The momenta that velocities were once made from, if there were any.

    Returns
    -------
    ndarray or None
        Those very momenta if the velocities are still what follows from them, as m v can differ
        from them by one ulp; else m v. None for a system at rest that had no momenta.
    """
    if origin is None:
        return _product(velocities, masses) if velocities.any() else None
    before = to_velocities(origin, masses.astype(float, copy=False))
    if velocities.dtype == np.float64:
        untouched = np.array_equal(before, velocities, equal_nan=True)
    else:  # masses were rounded as well
        ulp = np.finfo(velocities.dtype).eps
        untouched = np.allclose(before, velocities, rtol=2 * ulp, atol=0.0, equal_nan=True)
    return origin.copy() if untouched else _product(velocities, masses)


def _product(velocities: np.ndarray, masses: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):  # one without mass may be infinitely fast by now
        return velocities.astype(float, copy=False) * masses.astype(float, copy=False)[:, None]
