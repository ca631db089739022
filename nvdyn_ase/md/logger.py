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
    conserved
        Write the energy that is conserved, eV, if an engine moves the Atoms. By default the table
        of a batch has it where the integrator knows one; tables of single systems are ASE's, which
        do not have it.

    Raises
    ------
    ValueError
        A sequence that has not one file per system; ``conserved=True`` where there is no engine or
        it conserves nothing; one Atoms of which a list with several times does not know.
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
        *,
        conserved: bool | None = None,
    ) -> None:
        self._table: BatchTable | SystemTables | None = None
        several = isinstance(atoms, (list, tuple))
        standing = Standing(dyn, atoms if several else [atoms])
        if conserved and standing.conserved() is None:
            name = type(dyn).__name__
            raise ValueError(
                f"conserved=True: {name} has no energy that is conserved, or no engine"
            )
        if not several and not conserved and not standing.has_several_times:
            super().__init__(dyn, atoms, logfile, header, stress, peratom, mode, comm)
            return
        self.atoms: Any
        self.atoms, self.stress, self.peratom = atoms, stress, peratom
        options: dict[str, bool] = {"header": header, "stress": stress, "peratom": peratom}
        if several and one_for_each(logfile):
            files = one_each(logfile, len(atoms), "log", "logs")
            files = [self._file(file, mode, comm) for file in files]
            self._table = SystemTables(standing, files, bool(conserved), **options)
            return
        self.logfile = self.openfile(file=logfile, mode=mode, comm=comm)
        if several:
            has = standing.conserved() is not None if conserved is None else conserved
            self._table = BatchTable(standing, self.logfile, has, **options)
        else:
            self._table = SystemTables(standing, [self.logfile], bool(conserved), **options)

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
    standing
        Knows who moves them.
    files
        One open file each.
    conserved
        Write the conserved energy too.
    **options
        Of ASE's table.
    """

    def __init__(
        self, standing: Standing, files: Sequence[IO[str]], conserved: bool, **options: bool
    ) -> None:
        self._standing, self._conserved = standing, conserved
        self._tables = [
            SystemTable(atoms, file, standing.has_time, conserved, **options)
            for atoms, file in zip(standing.systems, files, strict=True)
        ]

    def write(self) -> None:
        """Write a line for each system that has moved since its last one, and has not failed."""
        due = ~self._standing.have_failed()
        if self._standing.has_time:
            times = self._standing.times()
            due &= times != [table.time for table in self._tables]
            for table, time in zip(self._tables, times.tolist(), strict=True):
                table.time = time
        energies = self._standing.conserved() if self._conserved else None
        for row in np.flatnonzero(due).tolist():
            if energies is not None:
                self._tables[row].conserved = float(energies[row])
            self._tables[row]()


class SystemTable(ase.md.logger.MDLogger):
    """ASE's table of one system, which is told the time and, for a last column, what is conserved.

    Parameters
    ----------
    atoms
        The system.
    file
        Open for writing.
    has_time, has_conserved
        Write these.
    header, stress, peratom
        As in ASE.

    Attributes
    ----------
    time, conserved
        Of the next line, in ASE units and eV.
    """

    def __init__(
        self,
        atoms: Atoms,
        file: IO[str],
        has_time: bool,
        has_conserved: bool,
        header: bool,
        stress: bool,
        peratom: bool,
    ) -> None:
        self.time, self.conserved = float("nan"), float("nan")
        super().__init__(self if has_time else None, atoms, file, False, stress, peratom)
        self._line = self.fmt.removesuffix("\n") if has_conserved else None
        if has_conserved:
            self.hdr += f" {'Econs/N[eV]' if peratom else 'Econs[eV]':>12}"
        if header:
            file.write(self.hdr + "\n")

    def get_time(self) -> float:
        """Return the time of the system, in ASE units."""
        return self.time

    def __call__(self) -> None:
        """Write a line."""
        if self._line is not None:
            energy = self.conserved / (len(self.atoms) if self.peratom else 1)
            self.fmt = f"{self._line} {energy:12.6f}\n"
        super().__call__()


__getattr__ = rest_of_module(__name__)
