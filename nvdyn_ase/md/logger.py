"""``ase.md.logger.MDLogger``, for one Atoms or a list."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import ase.md.logger
import numpy as np
from ase import Atoms
from ase.parallel import world

from nvdyn_ase.md.batch_table import BatchTable
from nvdyn_ase.md.standing import Standing
from nvdyn_ase.optimize.system_logs import one_for_each
from nvdyn_ase.optimize.trajectories import one_each
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["MDLogger"]


class MDLogger(ase.md.logger.MDLogger):
    """The log of molecular dynamics, as ``ase.md.MDLogger``, of one Atoms or of a list.

    For a list there is one table for the batch or, with a file for each, ASE's table of every
    system, which ends at its own last step::

        dyn.attach(MDLogger(dyn, systems, "md.log", stress=True), interval=10)
        dyn.attach(MDLogger(dyn, systems, "md-{index}.log", mode="w"), interval=10)

    Parameters
    ----------
    dyn
        Who moves the Atoms; something without ``get_time``, as None, for a log without time.
    atoms
        The Atoms, or a list of them.
    logfile
        A file name or an open file, ``"-"`` for the standard output. For a list one of these for
        the table of the batch; or a sequence of one per system, or a name with ``{index}`` in it,
        for a table of each.
    header
        Write the titles of the columns.
    stress
        Write the stress with the part of the momenta, GPa; that of a batch is the mean of its
        systems.
    peratom
        Write energies per atom. Those of a batch are otherwise sums over its systems.
    mode
        How files are opened.
    comm
        As in ASE: the first process writes.

    Raises
    ------
    ValueError
        A sequence that has not one file per system.
    """

    def __init__(
        self,
        dyn: Any,
        atoms: Any,
        logfile: Any,
        header: bool = True,
        stress: bool = False,
        peratom: bool = False,
        mode: str = "a",
        comm: Any = world,
    ) -> None:
        self._table: BatchTable | SystemTables | None = None
        if not isinstance(atoms, (list, tuple)):
            super().__init__(dyn, atoms, logfile, header, stress, peratom, mode, comm)
            return
        self.atoms: Any
        self.atoms, self.stress, self.peratom = atoms, stress, peratom
        options: dict[str, bool] = {"header": header, "stress": stress, "peratom": peratom}
        if one_for_each(logfile):
            files = one_each(logfile, len(atoms), "log", "logs")
            files = [self._file(file, mode, comm) for file in files]
            self._table = SystemTables(dyn, atoms, files, **options)
        else:
            self.logfile = self.openfile(file=logfile, mode=mode, comm=comm)
            self._table = BatchTable(dyn, atoms, self.logfile, **options)

    def _file(self, target: Any, mode: str, comm: Any) -> Any:
        """Return a file to write to; files by name are not kept open, as there may be many."""
        if isinstance(target, Path) and str(target) != "-" and comm.rank == 0:
            return Reopened(target, mode)
        return self.openfile(file=str(target) if isinstance(target, Path) else target, comm=comm)

    def __call__(self) -> None:
        """Write a line, or one for each system."""
        if self._table is None:
            super().__call__()
        else:
            self._table.write()


class Reopened:
    """A file that is open only while it is written to: a process may not have many open.

    Parameters
    ----------
    path
        Where it is.
    mode
        How it is opened at first; later it is appended to.
    """

    def __init__(self, path: Path, mode: str) -> None:
        self.path = path
        with open(path, mode, encoding="utf-8"):
            pass

    def write(self, text: str) -> None:
        """Append to it."""
        with open(self.path, "a", encoding="utf-8") as file:
            file.write(text)

    def flush(self) -> None:
        """Do nothing, as everything is written."""

    def close(self) -> None:
        """Do nothing, as it is closed."""


class SystemTables:
    """ASE's table of each system of a list, with its own time.

    Parameters
    ----------
    dyn
        Who moves them, or None.
    systems
        The Atoms.
    files
        One open file each.
    **options
        Of ASE's table.
    """

    def __init__(
        self, dyn: Any, systems: Sequence[Atoms], files: Sequence[IO[str]], **options: Any
    ) -> None:
        self._standing = Standing(dyn, systems)
        self._clocks = [Clock() for _ in systems]
        self._tables = [
            ase.md.logger.MDLogger(
                clock if self._standing.has_time else None, atoms, file, **options
            )
            for clock, atoms, file in zip(self._clocks, systems, files, strict=True)
        ]

    def write(self) -> None:
        """Write a line for each system that has moved since its last one, and has not failed."""
        due = ~self._standing.have_failed()
        if self._standing.has_time:
            times = self._standing.times()
            due &= times != [clock.time for clock in self._clocks]
            for clock, time in zip(self._clocks, times.tolist(), strict=True):
                clock.time = time
        for row in np.flatnonzero(due).tolist():
            self._tables[row]()


class Clock:
    """What ASE's table asks for the time."""

    time = float("nan")

    def get_time(self) -> float:
        """Return the time of a system, in ASE units."""
        return self.time


__getattr__ = rest_of_module(__name__)
