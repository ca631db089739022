"""One run at a time for an output."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nvdyn_ase.output.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has none, and no lock
    fcntl = None  # type: ignore[assignment]


@contextmanager
def locked(path: Path, output: Path) -> Iterator[None]:
    """Keep other runs away from an output while the block is run.

    The lock is the system's, on a file that says whose it is. It ends with this process, however
    that ends, while a child that was forked from it does not hold it; a file that ``kill -9`` has
    left behind locks nothing. Where the file cannot be made, or its file system knows no locks,
    there is none.

    Parameters
    ----------
    path
        The file to lock; it is deleted at the end.
    output
        What it is about.

    Raises
    ------
    OutputError
        Another process has it.
    """
    handle = _lock(path, output)
    try:
        yield
    finally:
        if handle is not None:
            path.unlink(missing_ok=True)  # while it is locked, so that it is no other run's
            os.close(handle)


def _lock(path: Path, output: Path) -> int | None:
    """Return the open file if it is locked now, or None where that cannot be done."""
    while fcntl is not None:
        try:
            handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:  # in a directory that cannot be written; if that matters, it will be told
            return None
        try:
            # Not flock, which a forked child would go on to hold when this process is gone.
            fcntl.lockf(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            holder = os.read(handle, 1000).decode(errors="replace").strip()
            os.close(handle)
            raise OutputError(
                f"{output} is in use by {holder or 'another process'}; wait until it has ended"
            ) from None
        except OSError:
            os.close(handle)
            path.unlink(missing_ok=True)
            return None
        if _is_still(path, handle):
            _sign(handle)
            return handle
        os.close(handle)  # its holder has deleted it in between
    return None


def _is_still(path: Path, handle: int) -> bool:
    """Say whether an open file is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _sign(handle: int) -> None:
    """Write down who has the lock, which is for people only."""
    try:
        os.ftruncate(handle, 0)
        os.write(handle, f"process {os.getpid()} on {socket.gethostname()}\n".encode())
    except OSError:  # the disk is full
        pass
