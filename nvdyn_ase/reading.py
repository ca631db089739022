"""Structures from files, one at a time, past everything that cannot be read."""

import bz2
import gzip
import io
import lzma
from collections.abc import Callable, Container, Iterator, Sequence
from functools import cache, partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ase
import ase.db
import ase.io
from ase.db.core import parse_selection
from ase.db.row import AtomsRow
from ase.io.formats import UnknownFileTypeError, filetype, string2index

from nvdyn_ase.files.extras import KEY, restore
from nvdyn_ase.files.extxyz import from_text
from nvdyn_ase.files.frames import frames
from nvdyn_ase.files.trajectory import whole_items
from nvdyn_ase.input_identity import path_of

#: Endings of files that are unpacked as they are read.
COMPRESSED: dict[str, Callable[..., Any]] = {
    ".gz": lambda raw: gzip.GzipFile(fileobj=raw),
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
}
_ROWS_AT_ONCE = 64


class Unreadable(NamedTuple):
    """A record that cannot be read, in the place of a structure.

    Parameters
    ----------
    file
        Name of the file, as it was given.
    record
        Which one in the file, from 0; None if it is the file as a whole.
    problem
        What is wrong.
    """

    file: str
    record: int | None
    problem: str

    def __str__(self) -> str:
        """Say which and why."""
        where = self.file if self.record is None else f"record {self.record} of {self.file}"
        return f"cannot read {where}: {self.problem}"


_Record = Callable[[], ase.Atoms] | str
"""What reads a record that is whole, before the next one is asked for; or why it cannot be read."""


def structures(
    names: Sequence[str], form: str | None = None, skip: Container[int] = ()
) -> Iterator[tuple[int, ase.Atoms | Unreadable]]:
    """Iterate over the structures in files; what cannot be read is among them, in its place.

    Files are read as they are asked for, one structure in memory at a time, and up to the size that
    they have when they are opened: one that grows is read as it was. A record in the middle that
    cannot be read is passed over, in extxyz up to the next line with a number of atoms; in formats
    of which only ``ase.io`` knows where records begin, nothing is read behind it. A file that ends
    in the middle of a record, is empty or missing counts as a record that cannot be read.

    Rows of an ``ase.db``, in SQLite or JSON, also of a part or query, have ``unique_id``,
    ``key_value_pairs`` and ``data`` in ``info``, as with
    ``row.toatoms(add_additional_information=True)``; what ``nvdyn_ase`` wrote comes back as it was.

    Parameters
    ----------
    names
        The files; ``NAME@START:STOP`` is a part of one, ``NAME@QUERY`` of a database.
    form
        ASE's name of the format; what the name or the content says by default.
    skip
        Positions that are not wanted: they are counted, not read.

    Returns
    -------
    Iterator of (int, ase.Atoms or Unreadable)
        The position over all files, from 0, and the structure.
    """
    position = 0
    for name in names:
        for number, record in _guarded(name, form, partial(_is_in, skip, position)):
            if position not in skip:
                yield position, _read(name, number, record)
            position += 1


def _is_in(positions: Container[int], first: int, own: int) -> bool:
    return first + own in positions


def count(names: Sequence[str], form: str | None = None) -> int:
    """Return how many positions there are in files, as :func:`structures` counts them.

    Extended xyz, trajectories and databases are not read for it, only looked through. Other formats
    are read.
    """
    return sum(1 for name in names for _ in _guarded(name, form, lambda own: True))


def _guarded(
    name: str, form: str | None, unwanted: Callable[[int], bool]
) -> Iterator[tuple[int | None, _Record]]:
    """Iterate over the records of a file; an error ends it, and is the last record.

    Those that are unwanted, counted from 0 as they come, need not be such as can be read.
    """
    following: int | None = None
    try:
        for number, record in _selected(name, form, unwanted):
            yield number, record
            following = number + 1
    except Exception as error:
        yield following, _why(error)
        return
    if following is None:
        yield None, "there are no structures in it"


def _selected(
    name: str, form: str | None, unwanted: Callable[[int], bool]
) -> Iterator[tuple[int, _Record]]:
    """Iterate over the records that the name selects, with their numbers in the file."""
    path = path_of(name)
    path.open("rb").close()  # raises what is wrong with it
    form = form or filetype(str(path))
    index = selection(name, path)
    read = _READERS.get(form)
    if index is None and form in _QUERIED:
        read, index = partial(_QUERIED[form], query=query_of(name)), slice(None)
    if read is None or index is None:
        yield from enumerate(partial(_restored, a) for a in ase.io.iread(name, format=form))
        return
    start, stop, step = index.start or 0, index.stop, index.step or 1
    if step < 1:
        raise ValueError("structures are read forwards only")
    if start < 0 or (stop or 0) < 0:
        total = sum(1 for _ in read(path, lambda number: True))
        start, stop, step = index.indices(total)

    def passed(number: int) -> bool:
        own, rest = divmod(number - start, step)
        return own < 0 or rest != 0 or (stop is not None and number >= stop) or unwanted(own)

    yield from islice(enumerate(read(path, passed)), start, stop, step)


def selection(name: str, path: Path) -> slice | None:
    """Return the part of a file that a name selects; None for a query."""
    if Path(name) == path:
        return slice(None)
    try:
        index = string2index(name.rsplit("@", 1)[1])
    except ValueError:
        return None
    if isinstance(index, int):
        return slice(index, index + 1 or None)
    return index if isinstance(index, slice) else None


def query_of(name: str) -> str:
    """Return what a name selects, as it stands there."""
    return name.rsplit("@", 1)[1]


def _read(name: str, number: int | None, record: _Record) -> ase.Atoms | Unreadable:
    if isinstance(record, str):
        return Unreadable(name, number, record)
    try:
        return record()
    except Exception as error:  # what comes of wrong bytes is of many types
        return Unreadable(name, number, _why(error))


def _why(error: Exception) -> str:
    """Return on one line why something cannot be read."""
    if isinstance(error, UnknownFileTypeError) and " " not in str(error):
        return "it is in no format that ase.io knows"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if isinstance(error, EOFError):
        return "it is cut off"
    return " ".join(str(error).split()) or f"it is not as it should be ({type(error).__name__})"


# -------------------------------------------------------------------- the formats


# Each takes a file and what says of which of its records nobody will ask for the structure.


def _of_extxyz(path: Path, passed: Callable[[int], bool]) -> Iterator[_Record]:
    with _snapshot(path) as file:
        for frame in frames(file, passed):
            yield frame.problem or partial(_of_text, frame.text)


def _of_text(text: bytes) -> ase.Atoms:
    return _restored(from_text(text))


def _of_trajectory(path: Path, passed: Callable[[int], bool]) -> Iterator[_Record]:
    with path.open("rb") as file:
        reader, is_whole = whole_items(path, file, path.stat().st_size)
        for place in range(0 if reader is None else len(reader)):
            yield partial(_of_item, reader, place)
        if not is_whole:
            yield "the file is cut off or damaged behind what could be read"


def _of_item(reader: Any, place: int) -> ase.Atoms:
    return _restored(reader[place])


def _of_database(path: Path, passed: Callable[[int], bool], query: str = "") -> Iterator[_Record]:
    database = ase.db.connect(path, type="db", use_lock_file=False)
    ids = row_ids(path, query)
    for start in range(0, len(ids), _ROWS_AT_ONCE):
        some = ids[start : start + _ROWS_AT_ONCE]
        rows = cache(partial(_rows, database, query, some))  # only if one of them is asked for
        for row in some:
            yield partial(_of_row, rows, database, row)


def row_ids(path: Path, query: str = "") -> list[int]:
    """Return the ids of the rows of an ``ase.db`` that a query selects, in their order.

    The rows need not be such as can be read.

    Parameters
    ----------
    path
        The database.
    query
        As ``ase.db`` has it; by default all rows.
    """
    database = ase.db.connect(path, type="db", use_lock_file=False)
    keys, comparisons = parse_selection(query)
    with database.managed_connection() as connection:  # it learns the version of the file
        sql, values = database.create_select_statement(keys, comparisons, what="systems.id")
        found = connection.execute(f"{sql} ORDER BY systems.id", values)
        return [row for (row,) in found]


def _rows(database: Any, query: str, ids: Sequence[int]) -> dict[int, AtomsRow]:
    """Return rows at once, or as many as come before one that cannot be read."""
    rows: dict[int, AtomsRow] = {}
    chosen = [word.strip() for word in query.split(",") if query]
    try:
        for row in database.select([*chosen, ("id", ">=", ids[0]), ("id", "<=", ids[-1])]):
            rows[row.id] = row
    except Exception:  # each of the others is asked for by itself
        return rows
    return rows


def _of_row(rows: Callable[[], dict[int, AtomsRow]], database: Any, number: int) -> ase.Atoms:
    return _of_whole_row(rows().get(number) or database.get(id=number))


def _of_json(path: Path, passed: Callable[[int], bool], query: str = "") -> Iterator[_Record]:
    with io.TextIOWrapper(_snapshot(path)) as file:  # one text, of which all rows are in memory
        for row in ase.db.connect(file, type="json", use_lock_file=False).select(query):
            yield partial(_of_whole_row, row)


def _of_whole_row(row: AtomsRow) -> ase.Atoms:
    atoms: ase.Atoms = row.toatoms(add_additional_information=True)
    data = dict(atoms.info.pop("data", {}))
    text = data.pop(KEY, None)
    if data:
        atoms.info["data"] = data
    if text is not None:
        restore(atoms, text)
    return atoms


def _restored(atoms: ase.Atoms) -> ase.Atoms:
    restore(atoms)
    return atoms


_READERS: dict[str, Callable[[Path, Callable[[int], bool]], Iterator[_Record]]] = {
    "extxyz": _of_extxyz,
    "traj": _of_trajectory,
    "db": _of_database,
    "json": _of_json,
}
_QUERIED: dict[str, Callable[..., Iterator[_Record]]] = {"db": _of_database, "json": _of_json}


# -------------------------------------------------------------------- as large as it was


def _snapshot(path: Path) -> BinaryIO:
    """Open a file as it is now, whatever is added to it, and unpack it if it is compressed."""
    raw = io.BufferedReader(_Snapshot(path), 2**20)
    unpack = COMPRESSED.get(path.suffix)
    return raw if unpack is None else unpack(raw)  # type: ignore[return-value]


class _Snapshot(io.FileIO):
    """The bytes that a file has when it is opened."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "rb")
        self._left = path.stat().st_size

    def readinto(self, buffer: Any) -> int:
        """Read no further than the size that it had."""
        got = super().readinto(memoryview(buffer)[: self._left]) or 0
        self._left -= got
        return got
