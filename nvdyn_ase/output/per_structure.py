"""A file for every result."""

import glob
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ase.io

from nvdyn_ase.atoms import Result
from nvdyn_ase.files import INDEX
from nvdyn_ase.output.errors import OutputError, one_line
from nvdyn_ase.output.result_file import ResultFile

#: Where the index goes in a name, and the digits that it is filled up to.
_PLACE = re.compile(r"\{index(?::(0\d+)d?)?\}")


class FilePerStructure(ResultFile):
    """A file for every structure, with its index in the name.

    Each is written under the name with ``partial`` for the index, and gets its own when it is
    whole: what there is under a number is done. So a run that begins removes the files of earlier
    ones first. Several processes write side by side.
    """

    _unfinished = "partial"

    @staticmethod
    def is_meant_by(name: str) -> bool:
        """Say whether a name is of a file for each structure.

        Raises
        ------
        OutputError
            It asks for an index in a way that there is none.
        """
        if re.search(r"\{index\W", _PLACE.sub("", name)):
            raise OutputError(
                f"{name}: the place of the index is {{index}} or, with zeros, {{index:04d}}"
            )
        return _PLACE.search(name) is not None

    def existing(self) -> list[Path]:
        """Return what is there already and might be lost."""
        return [Path(name) for name in self._matching("*") if self._index_in(name) is not None]

    def _matching(self, index: str) -> list[str]:
        """Return the names with something in the place of the index, where ``*`` is anything."""
        return glob.glob(index.join(glob.escape(part) for part in self._parts()))

    def _parts(self) -> list[str]:
        """Return what is around the index in the name."""
        return _PLACE.sub("\0", str(self.path)).split("\0")

    def _index_in(self, name: str) -> int | None:
        """Return the index in a name; None if it is not the name of such a file."""
        found = self._place_in(name, r"\d+")
        return None if found is None else int(found)

    def _place_in(self, name: str, pattern: str) -> str | None:
        """Return what is in the place of the index in a name; None if it is none of that kind."""
        first, *others = (re.escape(part) for part in self._parts())
        found = re.fullmatch(rf"{first}({pattern})" + f"(?:{pattern})".join(others), name)
        if found is None:
            return None
        text = found[1]
        is_own = self._named(int(text) if text.isdecimal() else text) == Path(name)
        return text if is_own else None

    def is_complete(self) -> bool:
        """Say that one cannot know: there is nothing that only a complete output has."""
        return False

    def failed(self) -> set[int]:
        """Return nothing: most of these formats do not say how a structure ended."""
        return set()

    def open(
        self,
        at_least: int = 1,
        provenance: Mapping[str, Any] | None = None,
        resume: bool = False,
        retry: bool = False,
    ) -> None:
        """Begin, or go on; see :class:`ResultFile`. No structure is written before there is one."""
        if retry:
            raise OutputError(
                "with a file for each structure one cannot say which have failed; one file in "
                "extxyz, traj or db can be tried again"
            )
        found = []
        if resume:
            indices = [self._index_in(str(path)) for path in self.existing()]
            found = [{INDEX: index} for index in indices if index is not None]
            self._take_up(found, provenance, retry)
            return
        self._remove_old()
        if provenance is not None:
            self._account.tell(provenance)

    def _remove_old(self) -> None:
        """Delete what earlier runs have written: it would be taken for this one's."""
        try:
            # The sidecar first: without it nothing is gone on with, should this be interrupted.
            for path in [self._sidecar, *self.removed_first()]:
                path.unlink(missing_ok=True)
        except OSError as error:
            raise OutputError(f"cannot replace {self.path}: {one_line(error)}") from error

    def removed_first(self) -> list[Path]:
        """Return what there is that is removed when a run begins."""
        return [*self.existing(), *self._unfinished_ones()]

    def _unfinished_ones(self) -> list[Path]:
        found = self._matching("partial*")
        return [Path(name) for name in found if self._place_in(name, r"partial\d*") is not None]

    @property
    def _sidecar(self) -> Path:
        return Path(f"{self._named('all')}.provenance.json")

    @property
    def _while_it_grows(self) -> Path:
        return self._named("all")

    def _named(self, index: int | str) -> Path:
        return Path(_PLACE.sub(lambda place: _filled(place[1], index), str(self.path)))

    def _look_what_is_left(self) -> None:
        """Do nothing: every file is by itself."""

    @property
    def has_parts(self) -> bool:
        """True: each file is written by one process."""
        return True

    def part(self, rank: int) -> ResultFile:
        """Return what writes the files of one of several processes."""
        return _FilesOfRank(self, rank)

    def gather(self) -> None:
        """Look what there is, and delete what was not finished."""
        for path in self._unfinished_ones():
            path.unlink()
        indices = [self._index_in(str(path)) for path in self.existing()]
        self._note_outcomes([{INDEX: index} for index in indices if index is not None])

    def _add(self, result: Result, marks: dict[str, Any]) -> None:
        result.atoms.info |= marks
        partial = self._named(self._unfinished)
        ase.io.write(partial, result.atoms, format=self.form)
        partial.replace(self._named(result.index))

    def flush(self) -> None:
        """Do nothing: every file was closed."""

    def close(self, complete: bool, unreadable: Mapping[int, str] | None = None) -> None:
        """End."""
        self._named(self._unfinished).unlink(missing_ok=True)
        self._complete = complete

    def state(self) -> str:
        """Say where the structures are."""
        before = "" if self._complete else "stopped: "
        return f"{before}{self.written} structures written to {self.path}"


class _FilesOfRank(FilePerStructure):
    """The files that one of several processes writes.

    Parameters
    ----------
    whole
        What they are a part of.
    rank
        Which process.
    """

    def __init__(self, whole: FilePerStructure, rank: int) -> None:
        super().__init__(whole.path, whole.form, whole.method)
        self._unfinished = f"partial{rank}"

    def _remove_old(self) -> None:
        """Do nothing: the whole has done so, and others may have written since."""


def _filled(width: str | None, index: int | str) -> str:
    return format(index, f"{width}d") if width and isinstance(index, int) else str(index)
