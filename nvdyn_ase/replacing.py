"""Files that are either the old one or the new one, whatever stops the writing."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO


@contextmanager
def replacing(path: str | Path, durable: bool = True) -> Iterator[BinaryIO]:
    """Write a file that takes the place of another once it is complete.

    It is written beside it, as ``NAME.new``. If the block raises, that is removed and the file that
    was there stays; if the process or the machine dies, the file is the old one or the new one,
    never a part of one. A link keeps pointing where it does.

    Parameters
    ----------
    path
        What the file is called in the end.
    durable
        Wait until it is on the disk, so that it survives a loss of power. Without, it survives the
        death of the process only, and takes no time.

    Returns
    -------
    context manager of BinaryIO
        Gives the open file.

    Raises
    ------
    OSError
        It cannot be written; the disk is full.
    """
    target = Path(path).resolve()
    new = target.with_name(f"{target.name}.new")
    try:
        with new.open("wb") as file:
            yield file
            file.flush()
            if durable:
                os.fsync(file.fileno())
        new.replace(target)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    if durable:
        sync_directory(target.parent)


def remove_half_written(directory: Path, names: str) -> None:
    """Delete what processes that died were writing, by a pattern of what it was to be called.

    It is for whoever knows that nobody is writing any of it now.

    Parameters
    ----------
    directory
        Where the files are.
    names
        A pattern of :mod:`glob` for the names that they would have got.
    """
    for path in directory.glob(f"{names}.new"):
        path.unlink(missing_ok=True)


def sync_directory(path: str | Path) -> None:
    """Have the names in a directory on the disk, where the system can be told to."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # Windows does not open directories
        return
    try:
        os.fsync(handle)
    except OSError:  # nor do some network file systems sync them
        pass
    finally:
        os.close(handle)
