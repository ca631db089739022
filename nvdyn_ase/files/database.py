"""ASE's databases, in SQLite."""

import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, Self

import ase
import ase.db
from ase.db.sqlite import SQLite3Database

from nvdyn_ase.files.database_rows import as_row, from_row, insert
from nvdyn_ase.files.joined_databases import join_databases
from nvdyn_ase.files.structure_file import INDEX, DamagedFileError, StructureFile, owners
from nvdyn_ase.replacing import replacing

#: Rows, and seconds, after which what was added is committed. A commit waits for the disk.
ROWS_PER_COMMIT = 1000
SECONDS_PER_COMMIT = 5.0

_TEXTS = "SELECT id, key, value FROM text_key_values WHERE key LIKE '%\\_outcome' ESCAPE '\\'"
_ROWS = "SELECT id FROM systems ORDER BY id"
_INDICES = f"SELECT id, value FROM number_key_values WHERE key = '{INDEX}'"


class DatabaseFile(StructureFile):
    """An ``ase.db`` in SQLite: marks can be searched for, ``info`` is the row's data.

    Rows are added in transactions, which end at :meth:`flush`, when there are a thousand rows in
    them, or after five seconds. If the process dies, the database is as it was after the last one.
    Of an ``info`` as ``ase.db`` gives it, ``key_value_pairs`` are those of the row too, ``data``
    are part of its data, and ``unique_id`` is the key ``input_unique_id``. See
    :class:`StructureFile`.
    """

    form = "db"
    others_at_once = 2**62  # they are opened one after the other
    _database: Any = None

    def recover(self) -> list[dict[str, Any]]:
        """Look into the file, or make it; see :class:`StructureFile`."""
        if not self.path.exists():
            with replacing(self.path, durable=False) as file:
                file.write(_empty_database())
        try:
            self.told()
            with closing(sqlite3.connect(self.path)) as connection:
                rows = [row for (row,) in connection.execute(_ROWS)]
                indices = dict(connection.execute(_INDICES))
                outcomes = {row: (key, text) for row, key, text in connection.execute(_TEXTS)}
        except (sqlite3.DatabaseError, TypeError) as error:  # TypeError: tables without a version
            raise DamagedFileError(
                f"{self.path} is not a whole database ({error}); move it away"
            ) from error
        found = []
        self._newest: dict[int, int] = {}
        for row in rows:
            marks: dict[str, Any] = {}
            if row in indices:
                marks[INDEX] = int(indices[row])
                self._newest[marks[INDEX]] = row
            if row in outcomes:
                marks[outcomes[row][0]] = outcomes[row][1]
            found.append(marks)
        self._count = len(rows)
        return found

    def _connected(self) -> Any:
        """Return the open database; it belongs to the thread that first asks."""
        if self._database is None:
            self._database = SQLite3Database(
                str(self.path.absolute()), use_lock_file=False
            ).__enter__()
            self._begin()
        return self._database

    def _begin(self) -> None:
        """Begin a transaction; what is added in it may have to be forgotten."""
        self._added: list[tuple[Any, int | None]] = []
        self._since = time.monotonic()

    def indices(self) -> set[int]:
        """Return the ``INDEX`` of every record that has one."""
        return set(self._newest)

    def records(self) -> int:
        """Return the number of records."""
        return self._count

    def add(self, atoms: ase.Atoms, marks: Mapping[str, Any]) -> None:
        """Write a row; see :class:`StructureFile`."""
        database = self._connected()
        row = as_row(atoms, marks)
        index = marks.get(INDEX)
        before = None if index is None else self._newest.get(index)
        try:
            place = insert(database.connection, row, before)
            self._added.append((index, before))
            self._count += before is None
            if index is not None:
                self._newest[index] = place
            is_full = len(self._added) >= ROWS_PER_COMMIT
            if is_full or time.monotonic() > self._since + SECONDS_PER_COMMIT:
                self.flush()
        except sqlite3.Error as error:
            self._forget()
            raise OSError(f"{self.path}: {error}") from error

    def _forget(self) -> None:
        """Go back to the last commit: after some errors SQLite has done so already."""
        for index, before in reversed(self._added):
            self._count -= before is None
            if index is not None and before is None:
                del self._newest[index]
        try:
            self._database.connection.rollback()
        finally:
            self._database.connection.close()
            self._database = None

    def commit(self) -> None:
        """End the transaction."""
        self.flush()

    def flush(self) -> None:
        """End the transaction, which also has everything on the disk."""
        if self._database is None:
            return
        try:
            self._database.connection.commit()
        except sqlite3.Error as error:
            self._forget()
            raise OSError(f"{self.path}: {error}") from error
        self._begin()

    def tell(self, facts: Mapping[str, Any]) -> None:
        """Write down in the metadata of the database what all of it is about."""
        database = self._connected()
        database.metadata = database.metadata | dict(facts)
        self.flush()

    def told(self) -> dict[str, Any]:
        """Return the metadata of the database."""
        found: dict[str, Any] = ase.db.connect(self.path, type="db", use_lock_file=False).metadata
        return found

    def settle(self) -> None:
        """Drop older rows of an index, which only another program can have made."""
        if len(self._newest) in (0, self._count):
            return
        newest, database = set(self._newest.values()), self._connected()
        rows = [row for (row,) in database.connection.execute(_ROWS)]
        database.delete([row for row in rows if row not in newest])
        self._count = len(newest)
        self.flush()

    def take_over(self, others: Sequence[Self]) -> None:
        """Copy the rows of other databases; see :class:`StructureFile`."""
        files = [self, *others]
        for file in files:
            file.close()
        moves: dict[Path, dict[int, int]] = {file.path: {} for file in files}
        for place, (index, owner) in enumerate(owners(files).items()):
            moves[owner.path][owner._newest[index]] = place + 1
        try:
            join_databases(self.path, list(moves.items()), self.told())
        except sqlite3.Error as error:
            raise OSError(f"{self.path}: {error}") from error
        self.recover()

    def close(self) -> None:
        """Commit, and let go of the file."""
        self.flush()
        if self._database is not None:
            self._database.__exit__(None, None, None)
            self._database = None

    def read(self) -> Iterator[tuple[ase.Atoms, dict[str, Any]]]:
        """Iterate over the structures and their marks."""
        self.flush()
        for row in ase.db.connect(self.path, type="db", use_lock_file=False).select():
            yield from_row(row)

    @classmethod
    def belongings(cls, path: Path) -> list[Path]:
        """Return the database and its journals: one without the other would be spoiled."""
        return [
            path,
            *(path.with_name(path.name + ending) for ending in ("-journal", "-wal", "-shm")),
        ]


def _empty_database() -> bytes:
    """Return what a database without rows has in its file.

    ASE makes one table after the other, and what was killed in between it cannot open again.
    """
    with SQLite3Database(":memory:", use_lock_file=False) as database:
        database.metadata = {}
        return bytes(database.connection.serialize())
