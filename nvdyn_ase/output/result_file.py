"""One file for all results."""

import glob
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ase.io.formats import get_ioformat, open_with_compression

from nvdyn_ase.atoms import Result
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.files import (
    INDEX,
    DamagedFileError,
    DatabaseFile,
    ExtxyzFile,
    StructureFile,
    TrajectoryFile,
)
from nvdyn_ase.output.account import UNREADABLE, Account
from nvdyn_ase.output.at_the_end import FileAtTheEnd
from nvdyn_ase.output.errors import OutputError, one_line
from nvdyn_ase.output.lock import Lock, joined, locked
from nvdyn_ase.output.marks import marks_of
from nvdyn_ase.output.parts import any_part, part_path, part_paths
from nvdyn_ase.replacing import remove_half_written, replacing, sync_directory

COMPRESSED = (".gz", ".bz2", ".xz")
#: Formats that can be added to. A plain xyz has no place for how a structure ended.
_GROWING: dict[str, type[StructureFile]] = {
    kind.form: kind for kind in (ExtxyzFile, TrajectoryFile, DatabaseFile)
}


class ResultFile:
    """One file for all structures, under another name until it is complete.

    Until :meth:`close`, and for ever if something stops the command, it is called
    ``NAME.partial.EXT``, so that a file without ``.partial`` is complete. Whatever stops the
    command, ``kill -9`` included, ``open(resume=True)`` finds what is in it, drops a half-written
    last structure, and goes on. The order of the file is that in which structures are written; each
    carries the mark ``input_index``. Compressed files are compressed when they are complete.

    After :meth:`open` everything is for one thread, which may be another one.

    Parameters
    ----------
    path
        What it is called in the end.
    form
        ASE's name of the format.
    method
        What is done to the structures: names of marks begin with it.

    Attributes
    ----------
    written
        Structures in the file.
    """

    def __init__(self, path: Path, form: str, method: str = "relax") -> None:
        self.path, self.form, self.method = path, form, method
        self._outcomes: dict[int, str] = {}
        self._complete = False
        plain = path.with_suffix("") if path.suffix in COMPRESSED else path
        self._partial = plain.with_name(f"{plain.stem}.partial{plain.suffix}")
        kind = _GROWING.get(form)
        self._file = FileAtTheEnd(self._partial, form) if kind is None else kind(self._partial)

    @property
    def written(self) -> int:
        """Structures in the file."""
        return len(self._outcomes)

    # ---------------------------------------------------------------- what is there

    def existing(self) -> list[Path]:
        """Return what is there already and would be lost."""
        found = [path for path in (self.path, self._partial) if path.exists()]
        return found + part_paths(self._partial)

    def removed_first(self) -> list[Path]:
        """Return what there is that is removed when a run begins, and not when it is complete."""
        return [path for path in self.existing() if path != self.path]

    @contextmanager
    def locked(self) -> Iterator[Lock]:
        """Keep other runs away while a block is run; see :func:`nvdyn_ase.output.lock.locked`.

        A run holds it from before it looks at what there is to its end. What one that was killed
        was in the middle of writing is removed, its checkpoints included.
        """
        with locked(self._lock_path, self.path) as lock:
            for path in (self._sidecar, self._partial):
                remove_half_written(path.parent, glob.escape(path.name))
            remove_half_written(self.path.parent, f"{glob.escape(self.path.name)}.*checkpoint.npz")
            remove_half_written(self._partial.parent, any_part(self._partial))
            yield lock

    def joined(self, signature: str | None) -> AbstractContextManager[None]:
        """Hold the lock of this run together with another process that has shared it."""
        return joined(self._lock_path, self.path, signature)

    @property
    def _lock_path(self) -> Path:
        return self.path.with_name(f".{self._while_it_grows.name}.lock")

    @property
    def _while_it_grows(self) -> Path:
        """What no two runs may write at once."""
        return self._partial

    def is_complete(self) -> bool:
        """Say whether there is a complete file, and none that was begun."""
        return self.existing() == [self.path]

    def is_begun(self) -> bool:
        """Say whether there is anything to go on with."""
        return bool(self.existing())

    def done(self) -> set[int]:
        """Return which structures of the input are in the file."""
        return set(self._outcomes)

    def failed(self) -> set[int]:
        """Return which structures in the file have failed."""
        fine = ("converged", "budget")
        return {index for index, outcome in self._outcomes.items() if outcome not in fine}

    def outcomes(self) -> dict[int, str]:
        """Return how each structure in the file ended, by its index: ``converged``, ``error``."""
        return dict(self._outcomes)

    def look_into(self, provenance: Mapping[str, Any]) -> None:
        """Learn how the structures in a complete file have ended, for :meth:`outcomes`.

        What could not be read when it was made is among them, as ``unreadable``. Nothing is learnt
        of a compressed file, nor of a format that does not say.

        Parameters
        ----------
        provenance
            Of the run that it should be of.

        Raises
        ------
        OutputError
            It is not what was written, or of another run.
        """
        found: list[dict[str, Any]] = []
        file = self._file
        if not (isinstance(file, FileAtTheEnd) or self.path.suffix in COMPRESSED):
            file = type(file)(self.path)
            try:
                found = file.recover()
                file.close()
            except (DamagedFileError, OSError) as error:
                problem = f"{self.path} is complete and damaged: {one_line(error)}"
                raise OutputError(problem) from error
        told = Account(file, self._sidecar, self.path).compare(provenance)
        self._note_outcomes(found)
        self._outcomes |= {int(index): UNREADABLE for index in told.get(UNREADABLE, ())}

    # ---------------------------------------------------------------- beginning

    def open(
        self,
        at_least: int = 1,
        provenance: Mapping[str, Any] | None = None,
        resume: bool = False,
        retry: bool = False,
    ) -> None:
        """Begin a file for so many structures or more, or go on with one that was stopped.

        Parameters
        ----------
        at_least
            How many structures there will be, as far as one knows.
        provenance
            What :func:`nvdyn_ase.provenance.provenance` says; it is written into a database as its
            metadata, and beside other files as ``NAME.provenance.json``.
        resume
            Go on with what is there, if anything is.
        retry
            Take up a complete file too; parameters may be others than those that it began with,
            and are told beside them.

        Raises
        ------
        OutputError
            The format holds fewer; the file cannot be made. To resume: the format is written in one
            go, the file is complete or damaged, or what is there is not of this run.
        """
        if get_ioformat(self.form).single and at_least > 1:
            raise OutputError(
                f"a {self.form} file holds one structure, and there are more; put {{index}} into "
                "the name of the output"
            )
        resume = resume and self._can_go_on(retry)
        try:
            if not resume:
                self._remove_partial()
            found = self._file.recover()
        except DamagedFileError as error:
            raise OutputError(f"cannot go on with what is there: {error}") from error
        except OSError as error:
            raise OutputError(f"cannot write {self._partial}: {error.strerror or error}") from error
        if resume:
            self._take_up(found, provenance, retry)
            self.gather()
        if provenance is not None and not resume:
            self._account.tell(provenance)

    def _can_go_on(self, retry: bool) -> bool:
        """Say whether there is something to go on with; raise if one cannot."""
        if not self.existing():
            return False
        if self.is_complete() and not retry:
            raise OutputError(f"{self.path} is complete; there is nothing to resume")
        if isinstance(self._file, FileAtTheEnd):
            raise OutputError(
                f"a {self.form} file is written in one go at the end, so that a run into it cannot "
                "be resumed; start afresh with --overwrite, into extxyz, traj or db if it may stop"
            )
        if self.is_complete():
            self._take_name()
        return True

    def _take_name(self) -> None:
        """Make a complete file one that is not."""
        try:
            if self.path.suffix not in COMPRESSED:
                self.path.replace(self._partial)
                return
            packed = open_with_compression(str(self.path), "rb")
            with packed, replacing(self._partial) as plain:
                shutil.copyfileobj(packed, plain)
            self.path.unlink()
        except OSError as error:
            raise OutputError(f"cannot go on with {self.path}: {one_line(error)}") from error

    def _take_up(
        self, found: list[dict[str, Any]], provenance: Mapping[str, Any] | None, retry: bool
    ) -> None:
        if any(INDEX not in marks for marks in found):
            raise OutputError(
                f"{self._partial} has structures without {INDEX}, so that one cannot say which are "
                "done; it is not of this program, or of an older version: move it away"
            )
        if provenance is not None and (found or self._account or part_paths(self._partial)):
            self._account.compare(provenance, retry)
        elif provenance is not None:
            self._account.tell(provenance)
        self._note_outcomes(found)

    def _note_outcomes(self, found: list[dict[str, Any]]) -> None:
        for marks in found:
            if INDEX in marks:
                outcome = str(marks.get(f"{self.method}_outcome", ""))
                self._outcomes[marks[INDEX]] = sys.intern(outcome)

    def _remove_partial(self) -> None:
        parts = [path for part in part_paths(self._partial) for path in self._file.belongings(part)]
        # Parts first: nothing but the file or its sidecar says what they are of. The sidecar before
        # the file: a complete file of an earlier run may be left alone with it.
        for path in [*parts, self._sidecar, *self._file.belongings(self._partial)]:
            path.unlink(missing_ok=True)

    # ---------------------------------------------------------------- several processes

    @property
    def has_parts(self) -> bool:
        """Whether several processes can write it together."""
        return not isinstance(self._file, FileAtTheEnd)

    def part(self, rank: int) -> "ResultFile":
        """Return what writes results of one of several processes, until :meth:`gather`."""
        return ResultPart(self, rank)

    def gather(self) -> None:
        """Take over what several processes have written, in the order of the input.

        Parts are deleted when they are in the file, so that it can be done again if the process
        dies. A structure that is in a part and in the file was tried again: the part counts.

        Raises
        ------
        OutputError
            A part is damaged; the disk is full.
        """
        paths = part_paths(self._partial)
        some = self._file.others_at_once
        for start in range(0, len(paths), some):
            self._gather(paths[start : start + some])

    def _gather(self, paths: list[Path]) -> None:
        parts = [type(self._file)(path) for path in paths]  # type: ignore[call-arg]
        try:
            found = [marks for part in parts for marks in part.recover()]
            self._file.take_over(parts)
            for part in parts:
                part.close()
        except DamagedFileError as error:
            raise OutputError(f"cannot go on with what is there: {error}") from error
        except OSError as error:
            raise OutputError(f"cannot write {self._partial}: {one_line(error)}") from error
        for path in paths:
            for own in self._file.belongings(path):
                own.unlink(missing_ok=True)
        self._note_outcomes(found)

    @property
    def _sidecar(self) -> Path:
        return self.path.with_name(f"{self.path.name}.provenance.json")

    @property
    def _account(self) -> Account:
        return Account(self._file, self._sidecar, self._partial)

    # ---------------------------------------------------------------- writing

    def write(self, result: Result) -> None:
        """Write a structure with the marks of how it ended; one of that index is replaced.

        Raises
        ------
        OutputError
            The format cannot take it, or the disk is full. What was written since :meth:`flush` may
            be lost.
        """
        atoms = result.atoms
        if result.outcome.failed and result.outcome is not Outcome.REJECTED:
            # What its calculator has is not of these positions, or not a number.
            atoms.calc = None
        marks = marks_of(result, self.method)
        for key in (*marks, f"{self.method}_reason", f"{self.method}_fmax"):
            atoms.info.pop(key, None)  # of an earlier run
        try:
            self._add_what_can_be(result, marks)
        except Exception as error:
            self._look_what_is_left()
            raise OutputError(
                f"cannot write structure {result.index} to {self.path}: {one_line(error)}"
            ) from error
        self._outcomes[result.index] = sys.intern(marks[f"{self.method}_outcome"])

    def _look_what_is_left(self) -> None:
        """Forget what an error took out of the file: a database goes back to its last commit."""
        left = self._file.indices()
        self._outcomes = {index: own for index, own in self._outcomes.items() if index in left}

    def _add_what_can_be(self, result: Result, marks: dict[str, Any]) -> None:
        """Add a structure; one that was rejected may have constraints that cannot be written."""
        try:
            self._add(result, marks)
        except (IndexError, TypeError, ValueError):
            if result.outcome is not Outcome.REJECTED or not result.atoms.constraints:
                raise
            self._look_what_is_left()
            bare = result.atoms.copy()
            bare.set_constraint()
            self._add(replace(result, atoms=bare), marks)

    def _add(self, result: Result, marks: dict[str, Any]) -> None:
        self._file.add(result.atoms, marks)

    def flush(self) -> None:
        """Have everything that was written on the disk, so that it survives a loss of power.

        Raises
        ------
        OutputError
            It cannot be done, as the disk is full.
        """
        try:
            self._file.flush()
        except OSError as error:
            self._look_what_is_left()
            raise OutputError(f"cannot write {self.path}: {one_line(error)}") from error

    def close(self, complete: bool, unreadable: Mapping[int, str] | None = None) -> None:
        """End, and give the file its name if it is complete.

        Parameters
        ----------
        complete
            All structures are in it.
        unreadable
            What of the input could not be read, by position: it is told with the provenance.

        Raises
        ------
        OutputError
            A format that is written at the end cannot take the structures.
        """
        try:
            if complete:
                self._tell_unreadable(unreadable or {})
                self._file.settle()
            self._file.close()
            if complete:
                self._give_name()
            elif not self.written and not self.path.exists():
                # Beside a complete file it says that there was a run to take its place.
                self._remove_partial()
        except Exception as error:
            raise OutputError(f"cannot write {self.path}: {one_line(error)}") from error
        self._complete = complete

    def _tell_unreadable(self, unreadable: Mapping[int, str]) -> None:
        if not self._account:
            return
        before = self._account.read()
        now = {str(index): problem for index, problem in unreadable.items()}
        if before.get(UNREADABLE, {}) != now:
            self._account.tell({**before, UNREADABLE: now})

    def _give_name(self) -> None:
        for path in self._file.belongings(self.path)[1:]:
            path.unlink(missing_ok=True)  # of a file that this one takes the place of
        if self.path.suffix in COMPRESSED:
            self._compress()
        else:
            self._partial.replace(self.path)
        sync_directory(self.path.parent)

    def _compress(self) -> None:
        new = self._partial.with_name(f"{self._partial.name}{self.path.suffix}")
        with self._partial.open("rb") as plain, open_with_compression(str(new), "wb") as packed:
            shutil.copyfileobj(plain, packed)
        new.replace(self.path)
        self._partial.unlink()

    def state(self) -> str:
        """Say where the structures are."""
        if self._complete:
            return f"written to {self.path}"
        if not self.written:
            return "stopped before anything was written"
        first = "first " if self.done() == set(range(self.written)) else ""
        return f"stopped: the {first}{self.written} structures are in {self._partial}"


class ResultPart(ResultFile):
    """What one of several processes has done, until the whole takes it over.

    Parameters
    ----------
    whole
        What it is a part of.
    rank
        Which process.
    """

    def __init__(self, whole: ResultFile, rank: int) -> None:
        super().__init__(whole.path, whole.form, whole.method)
        self._partial = part_path(whole._partial, rank)
        self._file = type(self._file)(self._partial)  # type: ignore[call-arg]

    def _remove_partial(self) -> None:
        for path in self._file.belongings(self._partial):
            path.unlink(missing_ok=True)

    def _tell_unreadable(self, unreadable: Mapping[int, str]) -> None:
        """Do nothing: the whole tells it."""

    def _give_name(self) -> None:
        """Do nothing: the whole will have a name."""
