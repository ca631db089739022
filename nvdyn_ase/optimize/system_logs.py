"""Logs of optimizers, one per system, each ending at its system's own last step."""

from pathlib import Path
from typing import Any

import numpy as np
from ase.optimize.optimize import Log

from nvdyn_ase.optimize.trajectories import has_index, one_each


def one_for_each(logfile: Any) -> bool:
    """Say whether what was given as ``logfile`` is a log for each system and not one for all."""
    return isinstance(logfile, (list, tuple)) or has_index(logfile)


class SystemLogs:
    """Where an optimizer of a list writes ASE's table of each system.

    Parameters
    ----------
    targets
        One name or open file per system, or a name with ``{index}`` in it.
    count
        Systems.
    comm
        As in ASE: the first process writes.

    Attributes
    ----------
    files
        ASE's log of each system; files by name are open only while they are written to.

    Raises
    ------
    ValueError
        Not one target per system.
    """

    def __init__(self, targets: Any, count: int, comm: Any) -> None:
        each = one_each(targets, count, "log", "logs")
        self.files = [Log(str(t) if isinstance(t, Path) else t, comm) for t in each]
        self._written = np.full(count, -1)

    def due(self, steps: np.ndarray, failed: np.ndarray) -> list[int]:
        """Return who has moved since the last line, and has not failed.

        Parameters
        ----------
        steps, failed
            (B,), steps done by each system, and whether it has failed.
        """
        due = (steps != self._written) & ~failed
        self._written = steps.copy()
        return np.flatnonzero(due).tolist()

    def write(self, text: str) -> None:
        """Write the same to all."""
        for file in self.files:
            file.write(text)


class SystemLine:
    """One system of a list, as ASE's optimizers look at themselves when they log.

    Parameters
    ----------
    facade
        The optimizer of the list, which has whatever is the same for all.
    atoms
        The Atoms, or a filter on them.
    nsteps, force_calls
        Steps, and trials of a line search.
    value, norm
        Energy, eV, and largest force, eV/Å.
    logfile
        ASE's log.
    """

    def __init__(
        self,
        facade: Any,
        atoms: Any,
        nsteps: int,
        force_calls: int,
        value: float,
        norm: float,
        logfile: Log,
    ) -> None:
        name = type(facade).__name__
        self.__class__ = type(name, (SystemLine,), {})  # ASE writes the name of the class
        self._facade, self.atoms, self.nsteps, self.force_calls = facade, atoms, nsteps, force_calls
        self.logfile, self.optimizable = logfile, self
        self._value, self._norm = value, norm

    def __getattr__(self, key: str) -> Any:
        """Return what is the same for all systems."""
        return getattr(self.__dict__["_facade"], key)

    def get_value(self) -> float:
        """Return the energy, eV."""
        return self._value

    def gradient_norm(self, gradient: np.ndarray) -> float:
        """Return the largest force, eV/Å."""
        return self._norm
