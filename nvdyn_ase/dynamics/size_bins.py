"""Systems that wait for their turn, by size."""

import sys
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from nvdyn_ase.data import AtomicData


@dataclass(frozen=True, slots=True)
class Waiting:
    """A system that waits.

    Parameters
    ----------
    index
        Position in the input.
    atoms, edges
        Its size.
    data
        The system, where it had to be read to know its size.
    """

    index: int
    atoms: int
    edges: int
    data: AtomicData | None = None

    @property
    def size(self) -> tuple[int, int]:
        """Atoms and edges."""
        return self.atoms, self.edges

    def fits(self, atoms: int, edges: int) -> bool:
        """Say whether there is room for it."""
        return self.atoms <= atoms and self.edges <= edges


class SizeBins:
    """Waiting systems in bins of their number of atoms; in a bin, in the order they came.

    Parameters
    ----------
    width
        Systems are in one bin if their atoms, divided by this and rounded down, are the same.
    """

    def __init__(self, width: int) -> None:
        self.width = width
        self._keys: list[int] = []
        self._bins: dict[int, _Bin] = {}

    def __len__(self) -> int:
        """Return the number of systems."""
        return sum(len(one.waiting) for one in self._bins.values())

    def __iter__(self) -> Iterator[Waiting]:
        """Iterate over the systems, bin by bin."""
        return iter([one for key in self._keys for one in self._bins[key].waiting])

    def add(self, one: Waiting) -> None:
        """Put a system behind the others of its bin."""
        key = one.atoms // self.width
        if key not in self._bins:
            insort(self._keys, key)
            self._bins[key] = _Bin()
        self._bins[key].add(one)

    def take(self, atoms: int, edges: int) -> Waiting | None:
        """Take the first system that fits out of the bin of the largest; None if none does."""
        for key in reversed(self._keys[: bisect_right(self._keys, atoms // self.width)]):
            found = self._bins[key].take(atoms, edges)
            if found is not None:
                self._drop_if_empty(key)
                return found
        return None

    def take_all(self, chosen: Callable[[Waiting], bool]) -> list[Waiting]:
        """Take every chosen system out, in the order of the input."""
        taken = []
        for key in list(self._keys):
            taken += self._bins[key].take_all(chosen)
            self._drop_if_empty(key)
        return sorted(taken, key=lambda one: one.index)

    def _drop_if_empty(self, key: int) -> None:
        if not self._bins[key].waiting:
            del self._bins[key]
            self._keys.remove(key)


class _Bin:
    """Systems of about one size, and what at least each of them needs."""

    def __init__(self) -> None:
        self.waiting: deque[Waiting] = deque()
        self._atoms = self._edges = sys.maxsize

    def add(self, one: Waiting) -> None:
        self._atoms, self._edges = min(self._atoms, one.atoms), min(self._edges, one.edges)
        self.waiting.append(one)

    def take(self, atoms: int, edges: int) -> Waiting | None:
        if atoms < self._atoms or edges < self._edges:
            return None  # without looking at each of them
        for place, one in enumerate(self.waiting):
            if one.fits(atoms, edges):
                del self.waiting[place]
                return one
        self._atoms = min((one.atoms for one in self.waiting), default=sys.maxsize)
        self._edges = min((one.edges for one in self.waiting), default=sys.maxsize)
        return None

    def take_all(self, chosen: Callable[[Waiting], bool]) -> list[Waiting]:
        taken = [one for one in self.waiting if chosen(one)]
        self.waiting = deque(one for one in self.waiting if not chosen(one))
        return taken
