"""Ctrl-C, which waits while something is done that must not be left half done."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Self


class HeldInterrupts:
    """Holds Ctrl-C back until the end of a ``with`` block, where it has its usual effect.

    Python tells the main thread alone of it; in another one this does nothing. Where the program
    has no handler that Python calls, as when it ignores the signal, nothing is changed. Blocks may
    be nested.
    """

    def __init__(self) -> None:
        self._usual: Any = None
        self._holding = True
        self._came: FrameType | None = None
        self._has_come = False

    def __enter__(self) -> Self:
        """Hold it back from now on."""
        if threading.current_thread() is threading.main_thread():
            usual = signal.getsignal(signal.SIGINT)
            if callable(usual):
                self._usual = usual
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *exception: object) -> None:
        """Give back the usual handler, and call it if Ctrl-C has come."""
        if self._usual is None:
            return
        usual, self._usual = self._usual, None
        signal.signal(signal.SIGINT, usual)
        if self._has_come:
            self._has_come = False
            usual(signal.SIGINT, self._came)

    @contextmanager
    def let_through(self) -> Iterator[None]:
        """Let it have its effect inside of a block of this one, once; later ones wait again."""
        try:
            self._holding = False
            if self._has_come:
                self._handle(signal.SIGINT, self._came)
            yield
        finally:
            self._holding = True

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._holding or self._usual is None:
            self._has_come, self._came = True, frame
            return
        self._holding, self._has_come = True, False
        self._usual(number, frame)
