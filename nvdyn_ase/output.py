"""The files that a command writes its results to."""

import glob
import math
from pathlib import Path
from typing import Any

import ase
import ase.db
import ase.io
from ase.io.formats import UnknownFileTypeError, filetype, get_ioformat

from nvdyn_ase.atoms import Result
from nvdyn_ase.dynamics import Outcome


class OutputError(Exception):
    """Results that cannot be written; it says on one line why, and what to do."""


def result_file(name: str, form: str | None = None, overwrite: bool = False) -> "ResultFile":
    """Return what writes results under a name; nothing is created yet.

    Parameters
    ----------
    name
        Of the file; with ``{index}`` in it, of one file for each structure.
    form
        ASE's name of the format; by default what ``ase.io.write`` takes the name for.
    overwrite
        Replace what exists.

    Raises
    ------
    OutputError
        ASE does not write this format; there is no such directory; something exists already.
    """
    path = Path(name)
    try:
        form = form or filetype(name, read=False)
        able = get_ioformat(form).can_write and "://" not in name
    except UnknownFileTypeError:
        able = False
    if not able or form is None:
        known = f"the format {form!r}" if form else f"the format that {name!r} stands for"
        raise OutputError(f"ase.io cannot write {known}; --output-format names another")
    if not path.parent.is_dir():
        raise OutputError(f"cannot write {name}: there is no directory {path.parent}")
    output = (FilePerStructure if "{index}" in name else ResultFile)(path, form)
    existing = output.existing()
    if existing and not overwrite:
        raise OutputError(f"{existing[0]} exists already; --overwrite replaces it")
    return output


class ResultFile:
    """One file for all structures, under another name until it is complete.

    Until :meth:`close`, and for ever if something stops the command, it is called
    ``NAME.partial.EXT``.

    Parameters
    ----------
    path
        What it is called in the end.
    form
        ASE's name of the format.

    Attributes
    ----------
    written
        Structures written.
    """

    def __init__(self, path: Path, form: str) -> None:
        self.path, self.form = path, form
        self.written = 0
        self._complete = False
        count = 2 if path.suffix in _COMPRESSED else 1
        ending = "".join(path.suffixes[-count:])
        self._partial = path.with_name(f"{path.name.removesuffix(ending)}.partial{ending}")

    def existing(self) -> list[Path]:
        """Return what is there already and would be lost."""
        return [path for path in (self.path, self._partial) if path.exists()]

    def open(self, at_least: int) -> None:
        """Begin a file for so many structures or more.

        Raises
        ------
        OutputError
            The format holds fewer; the file cannot be created.
        """
        if get_ioformat(self.form).single and at_least > 1:
            raise OutputError(
                f"a {self.form} file holds one structure, and there are more; put {{index}} into "
                "the name of the output"
            )
        try:
            self._partial.unlink(missing_ok=True)
            self._partial.touch()
        except OSError as error:
            raise OutputError(f"cannot write {self._partial}: {error.strerror}") from error
        self._writer = _writer(self._partial, self.form)

    def write(self, result: Result) -> None:
        """Write a structure with the marks of how it ended.

        Raises
        ------
        OutputError
            The format cannot take it, or the disk is full.
        """
        if result.outcome.failed and result.outcome is not Outcome.REJECTED:
            # What its calculator has is not of these positions, or not a number.
            result.atoms.calc = None
        try:
            self._add(result)
        except Exception as error:
            raise OutputError(
                f"cannot write structure {result.index} to {self.path}: {_one_line(error)}"
            ) from error
        self.written += 1

    def _add(self, result: Result) -> None:
        self._writer.add(result.atoms, _marks(result))

    def close(self, complete: bool) -> None:
        """End, and give the file its name if it is complete.

        Raises
        ------
        OutputError
            A format that is written at the end cannot take the structures.
        """
        try:
            self._writer.close()
            if complete:
                self._partial.replace(self.path)
            elif not self.written:
                self._partial.unlink()
        except Exception as error:
            raise OutputError(f"cannot write {self.path}: {_one_line(error)}") from error
        self._complete = complete

    def state(self) -> str:
        """Say where the structures are."""
        if self._complete:
            return f"written to {self.path}"
        if not self.written:
            return "stopped before anything was written"
        return f"stopped: the first {self.written} structures are in {self._partial}"


class FilePerStructure(ResultFile):
    """A file for every structure, with its index in the name."""

    def existing(self) -> list[Path]:
        """Return what is there already and might be lost."""
        pattern = "*".join(glob.escape(part) for part in str(self.path).split("{index}"))
        return [Path(name) for name in glob.glob(pattern)]

    def open(self, at_least: int) -> None:
        """Begin; nothing is created before there is a structure."""

    def _add(self, result: Result) -> None:
        result.atoms.info |= _marks(result)
        name = str(self.path).replace("{index}", str(result.index))
        ase.io.write(name, result.atoms, format=self.form)

    def close(self, complete: bool) -> None:
        """End."""
        self._complete = complete

    def state(self) -> str:
        """Say where the structures are."""
        before = "" if self._complete else "stopped: "
        return f"{before}{self.written} structures written to {self.path}"


def _marks(result: Result) -> dict[str, Any]:
    """Return what the output says of how a structure ended."""
    marks = {
        "relax_converged": result.converged,
        "relax_outcome": result.outcome.name.lower(),
        "relax_steps": result.steps,
        "relax_evaluations": result.evaluations,
    }
    if math.isfinite(result.fmax):
        marks["relax_fmax"] = result.fmax
    if result.reason:
        marks["relax_reason"] = " ".join(result.reason.split())
    return marks


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# -------------------------------------------------------------------- the formats


class _Appending:
    """Adds every structure to the file as it comes."""

    def __init__(self, path: Path, form: str) -> None:
        self.path, self.form = path, form

    def add(self, atoms: ase.Atoms, marks: dict[str, Any]) -> None:
        """Take a structure."""
        atoms.info |= marks
        ase.io.write(self.path, atoms, format=self.form, append=True)

    def close(self) -> None:
        """Have everything on the disk."""


class _Trajectory(_Appending):
    """A ``.traj``, which ``ase.io.write`` cannot add to, but its own writer can."""

    def __init__(self, path: Path, form: str) -> None:
        super().__init__(path, form)
        self._writer = ase.io.Trajectory(path, "w")

    def add(self, atoms: ase.Atoms, marks: dict[str, Any]) -> None:
        """Take a structure."""
        atoms.info |= marks
        self._writer.write(atoms)

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


class _Database(_Appending):
    """An ``ase.db``, which keeps no ``info``: it becomes the row's data, and marks its keys."""

    def add(self, atoms: ase.Atoms, marks: dict[str, Any]) -> None:
        """Take a structure."""
        with ase.db.connect(self.path, type=self.form) as database:
            database.write(atoms, key_value_pairs=marks, data=dict(atoms.info))


class _AtTheEnd(_Appending):
    """Holds the structures of a format that is written in one go."""

    def __init__(self, path: Path, form: str) -> None:
        super().__init__(path, form)
        self._images: list[ase.Atoms] = []

    def add(self, atoms: ase.Atoms, marks: dict[str, Any]) -> None:
        """Take a structure."""
        atoms.info |= marks
        self._images.append(atoms)

    def close(self) -> None:
        """Write the file."""
        if self._images:
            ase.io.write(self.path, self._images, format=self.form)


_COMPRESSED = (".gz", ".bz2", ".xz")
_WRITERS: dict[str, type[_Appending]] = {
    "extxyz": _Appending,
    "xyz": _Appending,
    "traj": _Trajectory,
    "db": _Database,
    "json": _Database,
}


def _writer(path: Path, form: str) -> _Appending:
    kind = _WRITERS.get(form, _AtTheEnd)
    if path.suffix in _COMPRESSED and kind is not _Appending:
        kind = _AtTheEnd
    return kind(path, form)
