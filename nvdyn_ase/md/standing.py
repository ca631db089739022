"""What a log of several Atoms asks of who moves them: times, outcomes, what is conserved."""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from nvdyn_ase.dynamics import Outcome


class Standing:
    """How each system of a list stands.

    Parameters
    ----------
    dyn
        Who moves them: a facade, anything with ``get_time``, or something else for no time. Only a
        weak reference is kept.
    systems
        The Atoms.
    """

    def __init__(self, dyn: Any, systems: Sequence[Atoms]) -> None:
        self.systems = systems
        self.has_time = hasattr(dyn, "get_time")
        self._dyn = weakref.proxy(dyn) if self.has_time else None
        driver = getattr(dyn, "_driver", None)
        same = driver is not None and [id(a) for a in driver.atoms] == [id(a) for a in systems]
        self._driver = weakref.proxy(driver) if same else None

    def times(self) -> np.ndarray:
        """Return the time of each system at its own last step, (B,), in ASE units."""
        assert self._dyn is not None
        if self._driver is not None:
            return self._dyn.system_times()
        return np.broadcast_to(np.ravel(self._dyn.get_time()), len(self.systems)).copy()

    def have_failed(self) -> np.ndarray:
        """Return who has failed, (B,) bool."""
        if self._driver is None:
            return np.zeros(len(self.systems), bool)
        return self._driver.outcomes() >= int(Outcome.NAN)

    def conserved(self) -> np.ndarray | None:
        """Return the conserved energy of each system, (B,) eV, or None; NaN for who has left."""
        return None if self._driver is None else self._driver.conserved()
