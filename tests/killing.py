"""Work in a process of its own, which may be killed at any moment."""

import os
import signal
import traceback
from collections.abc import Callable
from typing import Any


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
