"""Making one of several databases, row by row as they are."""

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import ase.db
from ase.db.sqlite import all_tables


def join_databases(
    path: Path,
    sources: Sequence[tuple[Path, Mapping[int, int]]],
    metadata: Mapping[str, Any],
) -> None:
    """Write a database of rows of others; it takes the place of a file when it is complete.

    Rows are copied by SQLite without being looked at: bit for bit, and some twenty times faster
    than structures are read and written.

    Parameters
    ----------
    path
        The new database; it may be one of the sources.
    sources
        Databases, and of each the ids that its rows have now and are to have.
    metadata
        Of the new database.

    Raises
    ------
    OSError, sqlite3.Error
        It cannot be written; the disk is full.
    """
    new = path.with_name(f"{path.name}.new")
    new.unlink(missing_ok=True)
    try:
        with ase.db.connect(new, type="db", use_lock_file=False) as database:
            database.metadata = dict(metadata)
        with closing(sqlite3.connect(new, isolation_level=None)) as connection:
            # Until it has its name nobody needs the file: if it is cut off it is begun again.
            connection.execute("PRAGMA journal_mode=OFF")
            connection.execute("PRAGMA synchronous=OFF")
            connection.execute("CREATE TEMP TABLE moves (old INTEGER PRIMARY KEY, new INTEGER)")
            for source, moves in sources:
                _copy(connection, source, moves)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.replace(path)
    finally:
        new.unlink(missing_ok=True)


def _copy(connection: sqlite3.Connection, source: Path, moves: Mapping[int, int]) -> None:
    connection.execute("ATTACH ? AS source", (str(source),))
    connection.execute("BEGIN")
    connection.execute("DELETE FROM moves")
    connection.executemany("INSERT INTO moves VALUES (?, ?)", moves.items())
    for table in all_tables:
        found = connection.execute(f"PRAGMA main.table_info({table})")
        columns = [name for _, name, *_ in found if name != "id"]
        new = ", ".join(["id", *columns])
        old = ", ".join(["moves.new", *(f"own.{name}" for name in columns)])
        connection.execute(
            f"INSERT INTO main.{table} ({new}) SELECT {old} FROM source.{table} own "
            "JOIN moves ON moves.old = own.id ORDER BY moves.new"
        )
    connection.execute("COMMIT")
    connection.execute("DETACH source")
