"""Files of formats that are written in one go."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import ase
import ase.io
from ase.db.jsondb import JSONDatabase
from ase.db.row import AtomsRow

from nvdyn_ase.files import INDEX, StructureFile
from nvdyn_ase.files.database_rows import as_row


class FileAtTheEnd(StructureFile):
    """Holds the structures of a format that is written in one go, and writes it when it is closed.

    Parameters
    ----------
    path
        The file.
    form
        ASE's name of the format.
    """

    def __init__(self, path: Path, form: str) -> None:
        super().__init__(path)
        self.form = form
        self._held: dict[Any, tuple[ase.Atoms, dict[str, Any]]] = {}

    def recover(self) -> list[dict[str, Any]]:
        """Begin; there is nothing to go on with."""
        self.path.touch()
        return []

    def indices(self) -> set[int]:
        """Return the indices of the structures that are held."""
        return set(self._held)

    def records(self) -> int:
        """Return the number of records."""
        return len(self._held)

    def add(self, atoms: ase.Atoms, marks: Mapping[str, Any]) -> None:
        """Take a structure."""
        self._held[marks[INDEX]] = atoms, dict(marks)

    def flush(self) -> None:
        """Do nothing: until the end everything is in memory."""

    def settle(self) -> None:
        """Do nothing: a structure that was added twice is there once."""

    def close(self) -> None:
        """Write the file."""
        if not self._held:
            return
        if self.form == "json":
            _write_json(self.path, list(self._held.values()))
            return
        for atoms, marks in self._held.values():
            atoms.info = marks | atoms.info
        ase.io.write(self.path, [atoms for atoms, _ in self._held.values()], format=self.form)

    def read(self) -> Iterator[tuple[ase.Atoms, dict[str, Any]]]:
        """Iterate over the structures and their marks."""
        yield from self._held.values()


def _write_json(path: Path, held: list[tuple[ase.Atoms, dict[str, Any]]]) -> None:
    """Write ASE's database in JSON, which would write all of it anew with every row."""
    database = _InMemory(str(path))
    for atoms, marks in held:
        row = as_row(atoms, marks)
        database.write(AtomsRow(row.fields), key_value_pairs=row.pairs, data=row.data)
    database.save()


class _InMemory(JSONDatabase):
    """ASE's database in JSON, with a file that is written when it is told to."""

    def __init__(self, filename: str) -> None:
        super().__init__(filename, use_lock_file=False)
        self._content: Any = ({}, [], 1)

    def _read_json(self) -> Any:
        return self._content

    def _write_json(self, rows: Any, ids: Any, following: Any) -> None:
        self._content = rows, ids, following

    def save(self) -> None:
        """Write the file."""
        super()._write_json(*self._content)
