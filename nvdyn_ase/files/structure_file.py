"""What a file of structures is to those who write results to it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import ase

#: The mark that says which structure of the input a record is of.
INDEX = "input_index"


class DamagedFileError(Exception):
    """A file that is not what was written to it, and that cannot be gone on with."""


class StructureFile(ABC):
    """A file to which structures are added, one record each.

    The process may be killed at any moment, or the file cut off at any byte: :meth:`recover` finds
    the records that are whole, drops the rest, and adding goes on. A record whose mark ``INDEX`` is
    there already takes the place of the older one. All methods but the constructor and
    :meth:`recover` are for one thread.

    Parameters
    ----------
    path
        The file. Nothing is done to it before :meth:`recover`.

    Attributes
    ----------
    form
        ASE's name of the format.
    path
        As given.
    """

    form: str
    #: So many others may be taken over at once: each is an open file meanwhile.
    others_at_once = 200

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        """Say which file."""
        return f"{type(self).__name__}({str(self.path)!r})"

    @abstractmethod
    def recover(self) -> list[dict[str, Any]]:
        """Open the file, without a half-written last record; make it if it is not there.

        Returns
        -------
        list of dict
            For every record, in their order, the marks ``INDEX`` and ``..._outcome`` it was written
            with, if it was.

        Raises
        ------
        DamagedFileError
            It is of another kind, or damaged elsewhere than at its end. It is left as it is.
        OSError
            It cannot be opened.
        """

    @abstractmethod
    def indices(self) -> set[int]:
        """Return the ``INDEX`` of every record that has one."""

    @abstractmethod
    def records(self) -> int:
        """Return the number of records, of which some may be older ones of an ``INDEX``."""

    @abstractmethod
    def add(self, atoms: ase.Atoms, marks: Mapping[str, Any]) -> None:
        """Write a record; if that fails, the file is as it was.

        Parameters
        ----------
        atoms
            The structure, with what its calculator has for it.
        marks
            What else is said of it: numbers, texts and bools by name, which can be searched for.

        Raises
        ------
        OSError
            The disk is full, or similar. A database may have lost what was added since
            :meth:`flush`.
        """

    def commit(self) -> None:  # noqa: B027 (most formats have nothing to do)
        """Have everything survive the death of the process, as it does anyway in most formats."""

    @abstractmethod
    def flush(self) -> None:
        """Have everything on the disk, so that it survives a loss of power."""

    @abstractmethod
    def settle(self) -> None:
        """Drop the records that others have taken the place of."""

    @abstractmethod
    def close(self) -> None:
        """Have everything on the disk, and let go of the file."""

    @abstractmethod
    def read(self) -> Iterator[tuple[ase.Atoms, dict[str, Any]]]:
        """Iterate over the structures as they were added, and their marks.

        Marks are only told from ``info`` where the format does so: the rest is in ``info``.
        """

    def take_over(self, others: Sequence[Self]) -> None:
        """Add all records of other files as they are, and order everything by ``INDEX``.

        A record takes the place of one with its index, in this file or in one before it. The file
        is the old one or the new one, whenever the process dies. Each of the files has been
        recovered, and every record has an index.

        Raises
        ------
        OSError
            The disk is full, or similar; the file is as it was.
        """
        raise NotImplementedError(f"{type(self).__name__} is written by one process alone")

    @classmethod
    def belongings(cls, path: Path) -> list[Path]:
        """Return the file, and others that are a part of it."""
        return [path]


def owners(files: Sequence[Any]) -> dict[int, Any]:
    """Return by ``INDEX``, in its order, the last of some files that has a record of it."""
    found = {index: file for file in files for index in file.indices()}
    return dict(sorted(found.items()))
