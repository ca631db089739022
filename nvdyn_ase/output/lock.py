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


class Lock:
    """What keeps other runs away from an output, and lets in the other processes of this one.

    Parameters
    ----------
    handle
        The open file that is locked; None where there is no lock.
    """

    def __init__(self, handle: int | None) -> None:
        self._handle = handle

    def share(self) -> str | None:
        """Let other processes of this run hold it too; return what they join it with.

        From then on it keeps other runs away until the last of them has ended.
        """
        if self._handle is None:
            return None
        signature = f"the ranks of {_whose()}"
        _sign(self._handle, signature)
        fcntl.lockf(self._handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return _signature(self._handle)

    def _release(self, path: Path) -> None:
        if self._handle is None:
            return
        try:
            fcntl.lockf(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink(missing_ok=True)  # while it is locked, so that it is no other run's
        except OSError:  # another rank has it still
            pass
        finally:
            os.close(self._handle)


@contextmanager
def locked(path: Path, output: Path) -> Iterator[Lock]:
    """Keep other runs away from an output while the block is run.

    The lock is the system's, on a file that says whose it is. It ends with this process, however
    that ends, while a child that was forked from it does not hold it; a file that ``kill -9`` has
    left behind locks nothing. Where the file cannot be made, or its file system knows no locks,
    there is none.

    Parameters
    ----------
    path
        The file to lock; it is deleted at the end, unless others hold it still.
    output
        What it is about.

    Raises
    ------
    OutputError
        Another process has it.
    """
    lock = Lock(_lock(path, output))
    try:
        yield lock
    finally:
        lock._release(path)


@contextmanager
def joined(path: Path, output: Path, signature: str | None) -> Iterator[None]:
    """Hold the lock of a run together with the process that has shared it.

    So it does not end with that process, and nobody goes on with what this one still writes.

    Parameters
    ----------
    path, output
        See :func:`locked`.
    signature
        What :meth:`Lock.share` has returned there.

    Raises
    ------
    OutputError
        Another run has the lock by now, as that process has died.
    """
    if signature is None:
        yield
        return
    lock = Lock(_join(path, output, signature))
    try:
        yield
    finally:
        lock._release(path)


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
            holder = _signature(handle)
            os.close(handle)
            raise _in_use(output, holder) from None
        except OSError:
            if not _signature(handle):  # or it is another run's, when the system has no lock left
                path.unlink(missing_ok=True)
            os.close(handle)
            return None
        if _is_still(path, handle):
            _sign(handle, _whose())
            return handle
        os.close(handle)  # its holder has deleted it in between
    return None


def _join(path: Path, output: Path, signature: str) -> int:
    """Return the open file, locked together with others, if it is still the run's."""
    try:
        handle = os.open(path, os.O_RDWR)
    except OSError:
        raise _in_use(output, "") from None
    try:
        fcntl.lockf(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        holder = _signature(handle)
        os.close(handle)
        raise _in_use(output, holder) from None
    holder = _signature(handle)
    if holder == signature and _is_still(path, handle):
        return handle
    os.close(handle)
    raise _in_use(output, holder)


def _in_use(output: Path, holder: str) -> OutputError:
    return OutputError(
        f"{output} is in use by {holder or 'another process'}; wait until that has ended"
    )


def _is_still(path: Path, handle: int) -> bool:
    """Say whether an open file is the one that has the name."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except OSError:
        return False


def _whose() -> str:
    return f"process {os.getpid()} on {socket.gethostname()}"


def _sign(handle: int, signature: str) -> None:
    """Write down who has the lock."""
    try:
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{signature}\n".encode(), 0)
    except OSError:  # the disk is full
        pass


def _signature(handle: int) -> str:
    """Return who has the lock, as it was written down."""
    return os.pread(handle, 1000, 0).decode(errors="replace").strip()
