"""Sharing one input out: each rank claims the next positions when it has room for them."""

import base64
import zlib
from collections.abc import Callable, Collection, Container
from typing import NamedTuple

import numpy as np


class Shares(NamedTuple):
    """How much a rank claims at once, and holds, so that something is left for the others.

    Without bounds the first rank to start would put all of a small input into its batch.

    Parameters
    ----------
    chunk
        Positions that are claimed at once.
    ahead
        Structures that are read and wait.
    moving
        Structures in the batch at most.
    """

    chunk: int
    ahead: int
    moving: int

    @classmethod
    def of(cls, count: int, ranks: int) -> "Shares":
        """Return the shares of so many structures among so many ranks.

        A rank holds no more than half of its part: the other half goes to who is done first.
        """
        part = max(count // ranks, 1)
        chunk = min(1 << max((part // 32).bit_length() - 1, 0), 64)
        return cls(chunk, min(max(part // 16, 1), 256), max(part // 2, 1))


class Claims(Container[int]):
    """The positions of the input that are *not* for this rank, claimed as it comes to them.

    Asked for every position in its order, it takes chunks from a counter that all ranks have in
    common: a chunk is somebody's alone, and never behind where that rank has come to, as the
    counter only rises. So every position is somebody's, whoever is fast or slow.

    Parameters
    ----------
    claim
        Adds a number to the counter, and returns what it is then.
    chunk
        Positions that are claimed at once; the same in all ranks.
    taken
        Positions that cannot be claimed: they are done, or somebody goes on with them.
    own
        Those of them that this rank goes on with.
    """

    def __init__(
        self,
        claim: Callable[[int], int],
        chunk: int,
        taken: Container[int] = frozenset(),
        own: Container[int] = frozenset(),
    ) -> None:
        self._claim, self._chunk = claim, chunk
        self._taken, self._own = taken, own
        self._start = self._end = 0

    def __contains__(self, position: object) -> bool:
        """Say whether a position is none of this rank's; it claims on up to it first."""
        assert isinstance(position, int)
        while position >= self._end:
            self._end = self._claim(self._chunk)
            self._start = self._end - self._chunk
        if position in self._own:
            return False
        return position < self._start or position in self._taken


class Positions(Container[int]):
    """A set of positions that takes a bit for each, and can be sent.

    Parameters
    ----------
    positions
        What is in it.
    """

    def __init__(self, positions: Collection[int] = ()) -> None:
        self._flags = np.zeros(max(positions, default=-1) + 1, bool)
        self._flags[list(positions)] = True

    def __contains__(self, position: object) -> bool:
        """Say whether a position is in it."""
        assert isinstance(position, int)
        return position < len(self._flags) and bool(self._flags[position])

    def __len__(self) -> int:
        """Return how many there are."""
        return int(self._flags.sum())

    def packed(self) -> str:
        """Return it as a text."""
        return base64.b64encode(zlib.compress(np.packbits(self._flags).tobytes())).decode()

    @classmethod
    def unpacked(cls, packed: str | bytes) -> "Positions":
        """Return what :meth:`packed` was of."""
        found, raw = cls(), zlib.decompress(base64.b64decode(packed))
        found._flags = np.unpackbits(np.frombuffer(raw, np.uint8)).astype(bool)
        return found
