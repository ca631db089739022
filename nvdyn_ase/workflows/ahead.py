"""Reading the next structures while others are being moved."""

import queue
import threading
from collections.abc import Iterator
from typing import Generic, TypeVar

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
        self._queue: queue.Queue[tuple[bool, Item | BaseException | None]] = queue.Queue(depth)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._read, name="nvdyn_ase reader", daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[Item]:
        """Return itself."""
        return self

    def __next__(self) -> Item:
        """Return the next item, as soon as it is read."""
        if self._closed.is_set():
            raise StopIteration
        is_item, what = self._queue.get()
        if is_item:
            return what  # type: ignore[return-value]
        self._closed.set()
        if isinstance(what, BaseException):
            raise what
        raise StopIteration

    def close(self) -> None:
        """Read no more."""
        self._closed.set()
        while not self._queue.empty():  # let a reader that waits for room go on and find out
            self._queue.get_nowait()

    def _read(self) -> None:
        last: BaseException | None = None
        try:
            for item in self._items:
                self._put(True, item)
                if self._closed.is_set():
                    return
        except BaseException as error:  # whatever it is, the reader must hear of it
            last = error
        self._put(False, last)

    def _put(self, is_item: bool, what: Item | BaseException | None) -> None:
        while not self._closed.is_set():
            try:
                self._queue.put((is_item, what), timeout=0.1)
                return
            except queue.Full:
                continue
