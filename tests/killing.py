"""Work in a process of its own, which may be killed at any moment."""

import fcntl
import io
import itertools
import os
import signal
import sqlite3
import sys
import threading
import traceback
from collections.abc import Callable
from typing import Any

import numpy as np

#: What of a connection, a file, an array or a module may change what is on the disk. What is
#: closed or committed does so too.
_CHANGES = {
    *("open", "unlink", "remove", "rename", "replace", "fsync", "truncate", "ftruncate", "lockf"),
    *("write", "pwrite", "writelines", "flush", "close", "tofile"),
    *("connect", "execute", "executemany", "commit", "rollback"),
}
_KINDS = (sqlite3.Connection, sqlite3.Cursor, io.IOBase, np.ndarray)
_MODULES = [sys.modules[name] for name in (os.name, "_io", "_sqlite3")] + [fcntl]


def killed_after(lines: int, work: Callable[..., Any], *arguments: Any) -> list[str]:
    """Have a child of this process work, and kill it.

    Parameters
    ----------
    lines
        It is killed as soon as it has said so many lines; never if negative.
    work
        Called with a function that says a line, and the arguments.

    Returns
    -------
    list of str
        What it said before it was gone, ``end`` at last if it was not killed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        os.close(reading)
        _work(writing, work, arguments)
    os.close(writing)
    said = []
    with os.fdopen(reading) as pipe:
        for line in pipe:
            said.append(line.strip())
            if len(said) == lines:
                os.kill(child, signal.SIGKILL)
                break
    os.waitpid(child, 0)
    return said


def _work(writing: int, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    try:
        with os.fdopen(writing, "w") as pipe:

            def say(line: Any) -> None:
                print(line, file=pipe, flush=True)

            try:
                work(say, *arguments)
                say("end")
            except BaseException:
                say(traceback.format_exc())
    finally:
        os._exit(0)  # nothing of the parent is to be cleaned up here


def killed_before(call: int, work: Callable[..., Any], *arguments: Any) -> int | None:
    """Have a child of this process work, and kill it before a call that changes the disk.

    Parameters
    ----------
    call
        Which one, from 1, counted over all threads. What writes an archive into a file that has no
        name yet counts as one.
    work
        Called with the arguments.

    Returns
    -------
    int or None
        How many there were, if it was not killed.
    """
    said = killed_after(-1, _counted, call, work, arguments)
    if said and said[-1] != "end":
        raise RuntimeError("\n".join(said))
    return int(said[0]) if said else None


def _counted(
    say: Callable[[Any], None], call: int, work: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    numbers = itertools.count(1)

    def look(frame: Any, event: str, function: Any) -> None:
        if event != "c_call" or function.__name__ not in _CHANGES:
            return
        of = getattr(function, "__self__", None)
        is_one = isinstance(of, _KINDS) or any(of is module for module in _MODULES)
        in_memory = isinstance(of, (io.StringIO, io.BytesIO))
        if not is_one or in_memory or frame.f_code.co_filename.endswith("zipfile.py"):
            return
        if next(numbers) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    threading.setprofile(look)
    sys.setprofile(look)
    work(*arguments)
    sys.setprofile(None)
    threading.setprofile(None)
    say(next(numbers) - 1)
