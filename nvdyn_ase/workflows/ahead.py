"""Reading the next structures while others are being moved."""

import queue
import threading
from collections import deque
from collections.abc import Iterator
from typing import Generic, NamedTuple, TypeVar

Item = TypeVar("Item")


class ReadAhead(Generic[Item]):
    """Iterates over something that another thread reads, a bounded way ahead.

    An error in reading comes where the item would have come. Closing ends the thread when it has
    read the item in hand.

    Parameters
    ----------
    items
        What is read; nobody else may use it.
    depth
        So many items are read ahead at most.
    """

    def __init__(self, items: Iterator[Item], depth: int = 256) -> None:
        self._items = items
        # Several at a time: to hand something from thread to thread takes as long as to read it.
        self._at_once = max(depth // 8, 1)
        self._queue: queue.Queue[_Part[Item]] = queue.Queue(max(depth // self._at_once, 1))
        self._here: deque[Item] = deque()
        self._ended = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="nvdyn_ase reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        """Return itself."""
        return self

    def __next__(self) -> Item:
        """Return the next item, as soon as it is read."""
        while not self._here:
            if self._ended or self._closed.is_set():
                raise StopIteration
            part = self._queue.get()
            self._here.extend(part.items)
            self._ended = part.is_last
            if part.problem is not None:
                raise part.problem
        return self._here.popleft()

    def close(self) -> None:
        """Read no more."""
        self._closed.set()
        self._here.clear()
        while not self._queue.empty():  # let a reader that waits for room go on and find out
            self._queue.get_nowait()

    def _read(self) -> None:
        found: list[Item] = []
        try:
            for item in self._items:
                found.append(item)
                if len(found) >= self._at_once or self._queue.empty():
                    self._put(_Part(found))
                    found = []
                if self._closed.is_set():
                    return
            self._put(_Part(found))
            problem = None
        except BaseException as error:  # whatever it is, the reader must hear of it
            self._put(_Part(found))
            problem = error
        self._put(_Part([], True, problem))

    def _put(self, part: "_Part[Item]") -> None:
        while not self._closed.is_set():
            try:
                self._queue.put(part, timeout=0.1)
                return
            except queue.Full:
                continue


class _Part(NamedTuple, Generic[Item]):
    """What is handed over at once."""

    items: list[Item]
    is_last: bool = False
    problem: BaseException | None = None
