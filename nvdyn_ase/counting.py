"""About how many structures there are in files, for those who wait for them."""

import re
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from ase.io import ulm
from ase.io.formats import filetype

from nvdyn_ase.input_identity import path_of
from nvdyn_ase.reading import COMPRESSED, query_of, row_ids, selection

#: Of a text, so many blocks of so many bytes are looked at, evenly spaced.
_BLOCKS, _BYTES = 64, 65536
_COUNT = re.compile(rb"^[ \t]*\d{1,12}[ \t\r]*$", re.MULTILINE)


def estimate(names: Sequence[str], form: str | None = None) -> int | None:
    """Return about how many records there are in files; None if that takes reading them.

    Databases, also what a query selects, and trajectories know it. Of an extended xyz file, the
    lines with a number of atoms are counted: all up to 4 MB, of larger ones those in blocks spread
    over the file.

    Parameters
    ----------
    names
        The files, or parts of them, as :func:`nvdyn_ase.reading.structures` takes them.
    form
        ASE's name of the format; what the name or the content says by default.
    """
    try:
        found = [_records(name, form) for name in names]
    except Exception:  # whoever reads the files says what is wrong with them
        return None
    known = [number for number in found if number is not None]
    return sum(known) if len(known) == len(found) else None


def _records(name: str, form: str | None) -> int | None:
    path = path_of(name)
    index = selection(name, path)
    form = form or filetype(str(path))
    if index is None and form == "db":
        return len(row_ids(path, query_of(name)))
    count = _COUNTS.get(form)
    if count is None or index is None or path.suffix in COMPRESSED:
        return None
    return len(range(count(path))[index])


def _of_text(path: Path) -> int:
    size = path.stat().st_size
    with path.open("rb") as file:
        if size <= _BLOCKS * _BYTES:
            return len(_COUNT.findall(file.read(size)))
        found = 0
        for block in range(_BLOCKS):
            file.seek(block * (size - _BYTES) // (_BLOCKS - 1))
            whole_lines = file.read(_BYTES).partition(b"\n")[2]
            found += len(_COUNT.findall(whole_lines))
    return max(round(found * size / (_BLOCKS * _BYTES)), 1)


def _of_trajectory(path: Path) -> int:
    with ulm.open(path) as reader:
        return len(reader)


def _of_database(path: Path) -> int:
    with closing(sqlite3.connect(path)) as connection:
        (number,) = connection.execute("SELECT COUNT(*) FROM systems").fetchone()
    return int(number)


_COUNTS = {"extxyz": _of_text, "traj": _of_trajectory, "db": _of_database}
