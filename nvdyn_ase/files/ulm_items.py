"""Where the items of a ulm file are, as ``.traj`` is one, also of one that is cut off or damaged.

A ulm file begins with a header: a magic text, a tag, a version, the number of items and the place
of a table of their places. An item is its arrays and then, at the place that the table says, the
length of a JSON text and the text, which says where the arrays are. The table moves to the end of
the file whenever it grows. A process that is killed leaves a consistent file, with something behind
the last item at most; a file that is cut may have lost its table, and then the texts are searched
for.
"""

import io
import json
import mmap
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

_MAGIC = b"- of Ulm"
_HEADER = 48
#: The table has room for 1, 42, 42², ... items.
_GROWTH = 42


class Items(NamedTuple):
    """The items of a ulm file.

    Parameters
    ----------
    offsets
        Places of the texts of those that are whole.
    is_whole
        Header and table say the same; otherwise the file is damaged.
    end
        Where the last of them ends.
    """

    offsets: list[int]
    is_whole: bool
    end: int


def find_items(file: BinaryIO, size: int) -> Items | None:
    """Return the whole items in the first so many bytes of a file; None if it is no ulm file."""
    file.seek(0)
    head = file.read(min(size, _HEADER))
    if not head or (len(head) < _HEADER and _MAGIC.startswith(head[:8])):
        return Items([], not head, 0)
    if not head.startswith(_MAGIC):
        return None
    if len(head) < _HEADER:
        return Items([], False, 0)
    listed = _listed(file, size, head)
    if listed is not None:
        ends = [_end_of_item(file, offset, size) for offset in listed[-1:]]
        if None not in ends:
            return Items(listed, True, max(_HEADER + 8, *(end or 0 for end in ends), 0))
    found = list(_searched(file, size))
    return Items([offset for offset, _ in found], False, found[-1][1] if found else 0)


def _listed(file: BinaryIO, size: int, head: bytes) -> list[int] | None:
    """Return what the table says, or None if it cannot be."""
    count, place = np.frombuffer(head[32:48], "<i8").tolist()
    if count < 0 or place < _HEADER or place + 8 * count > size:
        return None
    file.seek(place)
    offsets = np.frombuffer(file.read(8 * count), "<i8").tolist()
    if any(not _HEADER <= offset < size for offset in offsets):
        return None
    return offsets


def _end_of_item(file: BinaryIO, offset: int, size: int) -> int | None:
    """Return where an item ends, or None if there is none."""
    file.seek(offset)
    length = int(np.frombuffer(file.read(8).ljust(8, b"\0"), "<i8")[0])
    if not 2 <= length <= size - offset - 8:
        return None
    return offset + 8 + length if _is_text(file.read(length)) else None


def _is_text(text: bytes) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def _searched(file: BinaryIO, size: int) -> Iterator[tuple[int, int]]:
    """Search for items; return their places and ends."""
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as whole:
        free = _HEADER + 8
        for found in re.finditer(rb'\{[}"]', whole):
            offset = found.start() - 8
            if offset < free:
                continue
            length = int(np.frombuffer(whole[offset : offset + 8], "<i8")[0])
            end = offset + 8 + length
            if length >= 2 and end <= size and _is_text(whole[offset + 8 : end]):
                yield offset, end
                free = end


def write_table(path: Path, items: Items) -> None:
    """Make a damaged file one of the items that are whole."""
    with path.open("r+b") as file:
        file.truncate(items.end if items.offsets else 0)
        if items.offsets:
            file.seek(0, io.SEEK_END)
            file.write(b"#" * (-file.tell() % 8))
            place, table = file.tell(), _table(items.offsets)
            file.write(table)
            file.seek(32)
            file.write(_integers([len(items.offsets), place]))


def _table(offsets: list[int]) -> bytes:
    room = 1
    while room < len(offsets):
        room *= _GROWTH
    return _integers(offsets + [0] * (room - len(offsets)))


def _integers(values: list[int]) -> bytes:
    return np.array(values, "<i8").tobytes()


class Mended(io.RawIOBase):
    """A damaged file as it would be with a table of the items that are whole; nothing is written.

    Parameters
    ----------
    file
        The file, open.
    items
        What is whole in it.
    size
        So many bytes of it are looked at.
    """

    def __init__(self, file: BinaryIO, items: Items, size: int) -> None:
        self._file, self._size, self._place = file, size, 0
        file.seek(0)
        self._head = file.read(32) + _integers([len(items.offsets), size])
        self._table = _table(items.offsets)

    def readable(self) -> bool:
        """Say yes."""
        return True

    def seekable(self) -> bool:
        """Say yes."""
        return True

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place."""
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._place}.get(whence, self._total)
        self._place = base + offset
        return self._place

    @property
    def _total(self) -> int:
        return self._size + len(self._table)

    def read(self, size: int | None = -1) -> bytes:
        """Read from the head, the file and the table as if they were one."""
        if size is None or size < 0:
            size = max(self._total - self._place, 0)
        start, stop = self._place, self._place + size
        parts = [self._head[start:stop]]
        if stop > _HEADER and start < self._size:
            self._file.seek(max(start, _HEADER))
            parts.append(self._file.read(min(stop, self._size) - max(start, _HEADER)))
        parts.append(self._table[max(start - self._size, 0) : max(stop - self._size, 0)])
        found = b"".join(parts)
        self._place += len(found)
        return found

    def readinto(self, buffer: Any) -> int:
        """Read into a buffer."""
        found = self.read(len(buffer))
        buffer[: len(found)] = found
        return len(found)

    def close(self) -> None:
        """Close the file behind it too."""
        self._file.close()
        super().close()
