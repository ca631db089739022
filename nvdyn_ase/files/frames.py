"""The frames of an xyz file, one after another, whatever is between them."""

import re
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import BinaryIO, NamedTuple

_COUNT = re.compile(rb"\s*\d{1,12}\s*$")
#: Frames of more atoms are looked at line by line: a number that is none of atoms must not have the
#: whole file in memory.
_ATOMS_AT_ONCE = 10_000


class Frame(NamedTuple):
    """One frame, or something in the place of one.

    Parameters
    ----------
    start, end
        Its first byte, and the first one behind it.
    text
        All of it: the number of atoms, the comment, the atoms. Empty if there is a problem.
    problem
        Why it is not a whole frame; empty if it is.
    is_cut
        The file ends inside of it.
    """

    start: int
    end: int
    text: bytes
    problem: str
    is_cut: bool = False


def _nobody(number: int) -> bool:
    return False


def frames(file: BinaryIO, unwanted: Callable[[int], bool] = _nobody) -> Iterator[Frame]:
    """Iterate over the frames of a file from where it stands.

    A frame that has fewer or more lines than it says, or anything else that is not a frame, is one
    record with a problem; the next one begins at the next line that says a number of atoms. Where
    another frame follows at once, the lines of one are only counted. One frame at a time is in
    memory.

    Parameters
    ----------
    file
        Opened to read bytes.
    unwanted
        Says of which frames, counted from 0, nobody will look at the text. It is asked once for
        each, in their order.
    """
    lines = _Lines(file)
    number = 0
    while line := lines.ahead(0):
        if not line.strip():
            lines.take()
            continue
        if not _is_count(line):
            yield _rubbish(lines)
        else:
            plain = lines.passed(int(line), unwanted(number))
            yield plain or _frame(lines, int(line))
        number += 1


def _is_count(line: bytes) -> bool:
    return _COUNT.match(line) is not None


def _frame(lines: "_Lines", count: int) -> Frame:
    start = lines.position
    taken = [lines.take(), lines.take()]
    atoms: list[bytes] = []
    while len(atoms) < count and lines.ahead(0) and not _is_count(lines.ahead(0)):
        atoms.append(lines.take())
    if len(atoms) < count and not lines.ahead(0):
        problem = "the file ends in the middle of it"
        return Frame(start, lines.position, b"", problem, is_cut=True)
    if len(atoms) < count:
        problem = f"it should have {count} atoms and has {len(atoms)}"
        return Frame(start, lines.position, b"", problem)
    while lines.ahead(0).lstrip().startswith(b"VEC"):
        atoms.append(lines.take())
    surplus = 0
    while atoms and _is_another_atom(lines.ahead(0), atoms[-1]):
        lines.take()
        surplus += 1
    if surplus:
        problem = f"it should have {count} atoms and has {count + surplus}"
        return Frame(start, lines.position, b"", problem)
    whole = b"".join(taken + atoms)
    if not whole.endswith(b"\n") and _is_shorter(whole.splitlines()[2:]):
        problem = "the file ends in the middle of its last line"
        return Frame(start, lines.position, b"", problem, is_cut=True)
    return Frame(start, lines.position, whole, "")


def _is_another_atom(line: bytes, last: bytes) -> bool:
    columns = len(line.split())
    return columns >= 4 and columns == len(last.split())


def _is_shorter(atoms: list[bytes]) -> bool:
    """Say whether the last line of a file without an end of line has lost something."""
    if not atoms:
        return True
    last, others = atoms[-1], atoms[:-1]
    columns = len(others[0].split()) if others else 4
    return len(last.split()) < columns or any(len(last) < len(line) for line in others)


def _rubbish(lines: "_Lines") -> Frame:
    """Pass over everything up to the next frame."""
    start, first = lines.position, lines.take()
    while lines.ahead(0) and not _begins_a_frame(lines):
        lines.take()
    begun = first[:40].decode("ascii", "replace").strip()
    problem = f"a number of atoms should be there, and not {begun!r}"
    # A loss of power may leave zeros where the last frame would be.
    is_cut = not first.strip(b"\0") and not lines.ahead(0)
    return Frame(start, lines.position, b"", problem, is_cut)


def _begins_a_frame(lines: "_Lines") -> bool:
    if not _is_count(lines.ahead(0)):
        return False
    atom = lines.ahead(2)
    return int(lines.ahead(0)) == 0 or not atom or len(atom.split()) >= 4


class _Lines:
    """The lines of a file, with a look at those to come."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._ahead: deque[bytes] = deque()
        self.position = file.tell()

    def ahead(self, count: int) -> bytes:
        """Return the next line but so many, empty at the end."""
        while len(self._ahead) <= count:
            self._ahead.append(self._file.readline())
        return self._ahead[count]

    def take(self) -> bytes:
        """Return the next line and go on to the one after it."""
        line = self._ahead.popleft() if self._ahead else self._file.readline()
        self.position += len(line)
        return line

    def passed(self, count: int, is_unwanted: bool) -> Frame | None:
        """Go behind a frame without a look at each of its lines, and return it.

        If another does not follow at once, or it is large, stay and return None. An unwanted one
        has no text.
        """
        if count > _ATOMS_AT_ONCE:
            return None
        start = self.position
        taken = list(self._ahead)
        taken += islice(self._file, max(count + 3 - len(taken), 0))
        self._ahead = deque(taken)
        inside = taken[2 : count + 2]
        if len(taken) < count + 3 or any(map(bytes.isdigit, map(bytes.strip, inside))):
            return None
        if not _is_count(taken[count + 2]):
            return None
        self._ahead = deque(taken[count + 2 :])
        whole = b"".join(taken[: count + 2])
        self.position += len(whole)
        return Frame(start, self.position, b"" if is_unwanted else whole, "")
