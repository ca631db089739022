"""ASE's databases, in SQLite."""

import numbers
import os
import random
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Self

import ase
import ase.db
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db.core import check, now
from ase.db.row import AtomsRow
from ase.db.sqlite import SQLite3Database
from ase.io.jsonio import encode

from nvdyn_ase.files.extras import KEY, Extras, plain, restore, results_of
from nvdyn_ase.files.joined_databases import join_databases
from nvdyn_ase.files.structure_file import INDEX, DamagedFileError, StructureFile, owners
from nvdyn_ase.replacing import replacing

#: Rows, and seconds, after which what was added is committed. A commit waits for the disk.
ROWS_PER_COMMIT = 1000
SECONDS_PER_COMMIT = 5.0

_RESULTS = {
    **dict.fromkeys(("energy", "free_energy", "magmom"), 0),
    **dict.fromkeys(("stress", "dipole", "magmoms", "charges"), 1),
    "forces": 2,
}
# Of its own, so that no seed of the user's makes rows that are not unique; the system's random
# numbers, which uuid4 asks for, take as long as half of a row.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)
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
            self._database = _Rows(str(self.path.absolute()), use_lock_file=False).__enter__()
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
        row, pairs, data = as_row(atoms, marks)
        index = marks.get(INDEX)
        before = None if index is None else self._newest.get(index)
        try:
            if before is None:  # ASE takes the pairs of a row without looking at them again
                place = database.write(row, data=data)
            else:
                place = database.write(row, key_value_pairs=pairs, data=data, id=before)
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


# -------------------------------------------------------------------- rows


def as_row(
    atoms: ase.Atoms, marks: Mapping[str, Any]
) -> tuple[AtomsRow, dict[str, Any], dict[str, Any]]:
    """Return what ``ase.db`` writes for a structure: the row, its key-value pairs and its data."""
    extras = Extras("db")
    info = dict(atoms.info)
    of_row = info.pop("key_value_pairs", {})
    if not isinstance(of_row, Mapping):
        info["key_value_pairs"], of_row = of_row, {}
    more = info.pop("data", {})
    if not isinstance(more, Mapping):
        info["data"], more = more, {}
    if "unique_id" in info:
        of_row = {**of_row, "input_unique_id": info.pop("unique_id")}
    pairs = {key: value for key, value in {**of_row, **marks}.items() if _is_pair(key, value)}
    refused = {key: value for key, value in {**of_row, **marks}.items() if key not in pairs}
    data = _plain_entries(extras.take_info({**more, **info}, refused, _is_entry))
    data |= _plain_entries(refused)
    fields = _fields(atoms, extras)
    if (rest := extras.text()) is not None:
        data[KEY] = rest
    return _Row(fields, pairs), pairs, data


class _Rows(SQLite3Database):
    """A database in which other programs may have tables of their own, which is asked only once."""

    _tables: list[str] | None = None

    def _get_external_table_names(self, db_con: Any = None) -> list[str]:
        if self._tables is None:
            self._tables = super()._get_external_table_names(db_con)
        return self._tables


class _Row(AtomsRow):
    """A row that is about to be written.

    ASE would look at each pair once more, and make an Atoms to know which forces count.

    Parameters
    ----------
    fields
        What the columns hold.
    pairs
        Its key-value pairs, of which each has passed :func:`_is_pair`.
    """

    #: A column, if there are any; ASE sets it.
    forces: np.ndarray

    def __init__(self, fields: dict[str, Any], pairs: dict[str, Any]) -> None:
        super().__init__(fields)
        self._pairs = pairs

    @property
    def key_value_pairs(self) -> dict[str, Any]:
        """The pairs."""
        return self._pairs

    @property
    def constrained_forces(self) -> np.ndarray:
        """Forces, and zero on atoms that are held."""
        if any(own["name"] != "FixAtoms" for own in self._constraints):
            found: np.ndarray = super().constrained_forces
            return found
        forces = self.forces
        if self._constraints:
            forces = forces.copy()
        for own in self._constraints:
            forces[own["kwargs"]["indices"]] = 0.0
        return forces


def from_row(row: AtomsRow) -> tuple[ase.Atoms, dict[str, Any]]:
    """Return the structure of a row as it was, and the key-value pairs."""
    atoms = row.toatoms()
    data = dict(row.data)
    text = data.pop(KEY, None)
    atoms.info = data
    marks = dict(row.key_value_pairs)
    if text is not None:
        marks |= restore(atoms, text)
    return atoms, marks


def _fields(atoms: ase.Atoms, extras: Extras) -> dict[str, Any]:
    arrays = extras.take_arrays(atoms.arrays, _has_column)
    fields: dict[str, Any] = {
        name: np.ascontiguousarray(array, int if name in ("numbers", "tags") else float)
        for name, array in arrays.items()
    }
    extras.take_displacement(atoms)
    constraints = extras.take_constraints(atoms.constraints)
    unique = f"{_random.getrandbits(128):032x}"
    fields |= {"unique_id": unique, "ctime": now(), "user": os.getenv("USER")}
    fields |= {"cell": atoms.cell.array, "pbc": atoms.pbc}
    fields["constraints"] = [constraint.todict() for constraint in constraints]
    if atoms.calc is not None:
        fields |= _calculator(atoms.calc)
    results = extras.take_results(results_of(atoms), _has_result)
    return fields | {
        name: np.asarray(value, float) if _RESULTS[name] else float(value)
        for name, value in results.items()
    }


def _calculator(calc: Any) -> dict[str, Any]:
    """Return the name and the parameters of a calculator, if they can be written."""
    name = getattr(calc, "name", None) or type(calc).__name__
    if type(calc) is SinglePointCalculator and not calc.parameters:
        return {"calculator": name.lower(), "calculator_parameters": {}}
    try:
        parameters = calc.todict()
        encode(parameters)
    except Exception:  # a calculator may not tell its parameters; its results count
        parameters = {}
    return {"calculator": name.lower(), "calculator_parameters": parameters}


def _has_column(name: str, array: np.ndarray) -> bool:
    if name in ("positions", "numbers"):
        return True
    if name == "tags":  # they become int32
        return array.dtype.kind == "i" and bool((abs(array.astype(float)) < 2**31).all())
    of_atoms = {"masses": 1, "initial_charges": 1, "initial_magmoms": 1, "momenta": 2}
    return (
        of_atoms.get(name) == array.ndim and array.dtype.kind in "fi" and array.dtype.itemsize <= 8
    )


def _has_result(name: str, value: Any) -> bool:
    return name in _RESULTS and np.ndim(value) == _RESULTS[name]


def _is_pair(key: Any, value: Any) -> bool:
    if not isinstance(key, str) or key == "external_tables" or not _is_key(key):
        return False
    if isinstance(value, str):
        return _is_word(value)
    return type(value) in (int, float, bool) or isinstance(value, (numbers.Real, np.bool_))


@cache
def _is_key(key: str) -> bool:
    return _passes({key: 0})


def _is_word(value: str) -> bool:
    """Say whether a text is taken for one: ASE refuses texts that could be numbers."""
    # No number and no flag begins with any other letter.
    plain_word = value[:1].isalpha() and not value.lower().startswith(("n", "i", "t", "f"))
    return plain_word or _passes({"key": value})


def _passes(pairs: dict[str, Any]) -> bool:
    try:
        check(pairs)
    except ValueError:
        return False
    return True


def _is_entry(key: Any, value: Any) -> bool:
    if not isinstance(key, str) or key == KEY:
        return False
    try:
        plain(value, arrays=True)
    except TypeError:
        return False
    return True


def _plain_entries(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plain(value, arrays=True) for key, value in info.items()}
