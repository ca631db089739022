"""Writing in a thread of its own, so that a step never waits for a disk."""

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, Self, TypeVar

Item = TypeVar("Item")
_Taken = TypeVar("_Taken", contravariant=True)


class Target(Protocol[_Taken]):
    """What a :class:`BackgroundWriter` writes to, as a ``ResultFile`` is one."""

    def write(self, item: _Taken, /) -> None:
        """Take an item."""

    def flush(self) -> None:
        """Have everything that was taken where it cannot be lost."""


class WriteError(RuntimeError):
    """Something could not be written; ``__cause__`` says what happened."""


class BackgroundWriter(Generic[Item]):
    """Hands items to a target in another thread, in their order.

    An item is unwritten until the target was flushed behind it. When the target raises, nothing
    more is given to it: the next :meth:`put`, :meth:`flush` or :meth:`close` raises, and
    :meth:`unwritten` returns every item that was taken and is not safe, in its order. Some of these
    may have reached the target all the same, so that it must not mind getting them twice.

    All calls of the target, also those by :meth:`call`, are made by the one thread: what belongs to
    a thread, as a connection of SQLite, may be opened by the first of them. Ctrl-C is an exception
    in the thread of the user alone, and leaves the writer as it is. As a context manager it is
    closed at the end.

    Parameters
    ----------
    target
        Where to write: anything with ``write`` and ``flush``.
    capacity
        So many items may wait; then :meth:`put` waits for room, which holds the memory down.
    flush_items, flush_seconds
        The target is flushed after so many items, and when so long has passed since the oldest that
        is not safe was written, s.

    Attributes
    ----------
    target, capacity, flush_items, flush_seconds
        As given.
    """

    def __init__(
        self,
        target: Target[Item],
        capacity: int = 1000,
        flush_items: int = 1000,
        flush_seconds: float = 5.0,
    ) -> None:
        for name, value in (("capacity", capacity), ("flush_items", flush_items)):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.target, self.capacity = target, capacity
        self.flush_items, self.flush_seconds = flush_items, flush_seconds
        self._queue: deque[Item | _Call] = deque()
        self._unsafe: deque[Item] = deque()  # written, and not flushed
        self._oldest = 0.0
        self._error: BaseException | None = None
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="nvdyn_ase writer", daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        """Say where to, and how much waits."""
        return f"BackgroundWriter({self.target!r}, {len(self._queue)} of {self.capacity} waiting)"

    def __enter__(self) -> Self:
        """Return itself; :meth:`close` follows."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        """Close; an error of the target does not hide one that is on its way."""
        try:
            self.close()
        except WriteError:
            if kind is None:
                raise

    # ---------------------------------------------------------------- for the user's thread

    def put(self, item: Item) -> None:
        """Take an item, as soon as there is room.

        Raises
        ------
        WriteError
            The target has failed: the item is not taken.
        RuntimeError
            The writer is closed.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._error or len(self._queue) < self.capacity)
            self._check()
            self._queue.append(item)
            self._changed.notify_all()

    def flush(self) -> None:
        """Wait until everything that was taken is safe.

        Raises
        ------
        WriteError
            The target has failed.
        """
        self.call(self._flush_target)

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Have the writing thread call a function behind what was taken; return what it returns.

        Raises
        ------
        WriteError
            The target has failed before, or the function has.
        """
        call = _Call(function, arguments)
        with self._changed:
            self._check()
            self._queue.append(call)
            self._changed.notify_all()
            self._changed.wait_for(lambda: call.done or self._error)
            if not call.done:
                self._check()
        return call.result

    def close(self, function: Callable[..., Any] | None = None, *arguments: Any) -> None:
        """Wait until everything is safe, and end the thread; a second time it does nothing.

        Parameters
        ----------
        function, arguments
            Called by the writing thread at the very end, also when the target has failed: what
            closes it.

        Raises
        ------
        WriteError
            The target has failed.
        """
        with self._changed:
            if not self._closing:
                self._last = _Call(function, arguments)
                self._closing = True
                self._changed.notify_all()
        self._thread.join()
        if self._error is not None:
            raise WriteError(self._words(self._error)) from self._error

    def unwritten(self) -> list[Item]:
        """Return what was taken and is not safe, in its order."""
        with self._changed:
            waiting = [item for item in self._queue if not isinstance(item, _Call)]
            return [*self._unsafe, *waiting]

    @property
    def failed(self) -> bool:
        """Whether the target has failed."""
        return self._error is not None

    def _check(self) -> None:
        if self._error is not None:
            raise WriteError(self._words(self._error)) from self._error
        if self._closing:
            raise RuntimeError("the writer is closed")

    def _words(self, error: BaseException) -> str:
        return f"{str(error) or type(error).__name__}; {len(self.unwritten())} are not written"

    # ---------------------------------------------------------------- for the writing thread

    def _work(self) -> None:
        try:
            while self._next():
                pass
            self._flush_target()
        except BaseException as error:  # whatever it is, the user's thread must hear of it
            self._fail(error)
        finally:
            self._end()

    def _next(self) -> bool:
        """Do what is next; return False when there is nothing any more."""
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closing, self._patience())
            if not self._queue and self._closing:
                return False
            item = self._queue[0] if self._queue else None
        if isinstance(item, _Call):
            item.make()
            with self._changed:
                self._queue.popleft()
                self._changed.notify_all()
        elif item is not None:
            self._write(item)
        if self._is_due():
            self._flush_target()
        return True

    def _write(self, item: Item) -> None:
        self.target.write(item)
        with self._changed:
            if not self._unsafe:
                self._oldest = time.monotonic()
            self._unsafe.append(self._queue.popleft())  # type: ignore[arg-type]
            self._changed.notify_all()

    def _patience(self) -> float | None:
        """Return how long to wait for items before what was written has to be flushed, s."""
        if not self._unsafe:
            return None
        return max(self._oldest + self.flush_seconds - time.monotonic(), 0.0)

    def _is_due(self) -> bool:
        return bool(self._unsafe) and (
            len(self._unsafe) >= self.flush_items
            or time.monotonic() >= self._oldest + self.flush_seconds
        )

    def _flush_target(self) -> None:
        self.target.flush()
        with self._changed:
            self._unsafe.clear()

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()

    def _end(self) -> None:
        """Wait to be closed, and make the last call."""
        with self._changed:
            self._changed.wait_for(lambda: self._closing)
        try:
            self._last.make()
        except BaseException as error:
            if self._error is None:
                self._fail(error)


class _Call:
    """Something that the writing thread is to do."""

    def __init__(self, function: Callable[..., Any] | None, arguments: tuple[Any, ...]) -> None:
        self._function, self._arguments = function, arguments
        self.done = False
        self.result: Any = None

    def make(self) -> None:
        """Do it."""
        if self._function is not None:
            self.result = self._function(*self._arguments)
        self.done = True
