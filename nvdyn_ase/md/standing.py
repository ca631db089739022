"""What a log of several Atoms asks of who moves them: times, outcomes, what is conserved."""

import weakref
from collections.abc import Sequence
from typing import Any

import numpy as np
from ase import Atoms

from nvdyn_ase.dynamics import Outcome


class Standing:
    """How systems of a list stand.

    Parameters
    ----------
    dyn
        Who moves them: a facade, anything with ``get_time``, or something else for no time. Only a
        weak reference is kept.
    systems
        The Atoms; all of those that are moved, or some of them.
    """

    def __init__(self, dyn: Any, systems: Sequence[Atoms]) -> None:
        self.systems = systems
        self.has_time = hasattr(dyn, "get_time")
        self._dyn = weakref.proxy(dyn) if self.has_time else None
        driver = getattr(dyn, "_driver", None)
        places = {} if driver is None else {id(a): row for row, a in enumerate(driver.atoms)}
        are_moved = bool(places) and all(id(atoms) in places for atoms in systems)
        self._rows = [places[id(atoms)] for atoms in systems] if are_moved else []
        self._driver = weakref.proxy(driver) if are_moved else None
        #: Whether who moves them has several times, or may come to have them.
        self.has_several_times = self.has_time and (len(places) > 1 or np.ndim(dyn.get_time()) > 0)
        counts = {1, len(systems)}
        if self.has_several_times and not are_moved and np.size(dyn.get_time()) not in counts:
            raise ValueError(
                f"{type(dyn).__name__} moves systems with times of their own, and these Atoms are "
                "none of them"
            )

    def times(self) -> np.ndarray:
        """Return the time of each system at its own last step, (B,), in ASE units."""
        assert self._dyn is not None
        if self._driver is not None:
            return self._dyn.system_times()[self._rows]
        return np.broadcast_to(np.ravel(self._dyn.get_time()), len(self.systems)).copy()

    def have_failed(self) -> np.ndarray:
        """Return who has failed, (B,) bool."""
        if self._driver is None:
            return np.zeros(len(self.systems), bool)
        return self._driver.outcomes()[self._rows] >= int(Outcome.NAN)

    def conserved(self) -> np.ndarray | None:
        """Return the conserved energy of each system, (B,) eV, or None; NaN for who has left."""
        energies = None if self._driver is None else self._driver.conserved()
        return None if energies is None else energies[self._rows]
