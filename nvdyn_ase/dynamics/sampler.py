"""Which systems are moved next: as many as fit, the largest first."""

import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.dynamics.sampler_input import Dataset, Stream, source_of
from nvdyn_ase.dynamics.size_bins import SizeBins, Waiting

#: Of a stream, no system is read before one so many places ahead of it has been delivered.
LOOK_AHEAD = 256
_NO_LIMIT = sys.maxsize


@dataclass(frozen=True)
class Rejected:
    """A system of the input that is not delivered.

    Parameters
    ----------
    index
        Position in the input.
    reason
        Why, and what to do about it.
    data
        The system, if it could be read.
    error
        What reading it raised; None for a system that is too large.
    """

    index: int
    reason: str
    data: AtomicData | None = None
    error: Exception | None = None


class SizeAwareSampler:
    """Delivers the systems of an input, each once, so that a batch is as full as it may be.

    The largest system that fits comes first: systems are in bins of their number of atoms, and in a
    bin they are in the order of the input. What is delivered depends on nothing but the input, the
    budgets and what is asked for. The field ``system_id`` of each is its position in the input;
    the dict of a dataset's item is ``host["metadata"]``.

    A system larger than a whole budget, or one that cannot be read, does not end a run: it is
    passed over, and :meth:`take_rejected` hands it out with the reason.

    Parameters
    ----------
    dataset
        A dataset: an object with ``__len__``, ``__getitem__(i) -> (AtomicData, dict)``
        and ``get_metadata(i) -> (atoms, edges)``. Metadata are read at once, a system when it is
        delivered. Or a list or tuple of ``AtomicData``. Or a stream, which is any other iterable of
        ``AtomicData``, or of pairs as above; it is read as far ahead as ``LOOK_AHEAD`` systems or,
        with ``max_atoms``, as one batch has atoms, and so none is overtaken by more than that.
    max_atoms, max_edges, max_batch_size
        What a batch may hold at most; None for any number. They may be changed at any time. A
        stream needs one of them before :meth:`build_initial_batch`.
    bin_width
        Numbers of atoms that count as one size.
    shuffle
        In each bin, take systems in random order, drawn with ``numpy.random``; not of a stream.
    max_gpu_memory_fraction
        How much of a GPU's memory an engine may fill that finds budgets which are None by itself.
        Nothing is measured here.

    Raises
    ------
    TypeError
        ``dataset`` is none of these.
    ValueError
        A limit below 1, a fraction outside of (0, 1], or a stream to be shuffled.
    """

    def __init__(
        self,
        dataset: Any,
        max_atoms: int | None = None,
        max_edges: int | None = None,
        max_batch_size: int | None = None,
        bin_width: int = 1,
        shuffle: bool = False,
        max_gpu_memory_fraction: float = 0.8,
    ) -> None:
        limits = {"max_atoms": max_atoms, "max_edges": max_edges, "max_batch_size": max_batch_size}
        for name, limit in {**limits, "bin_width": bin_width}.items():
            if limit is not None and limit < 1:
                raise ValueError(f"{name} must be at least 1, not {limit}")
        if not 0.0 < max_gpu_memory_fraction <= 1.0:
            raise ValueError(
                f"max_gpu_memory_fraction must be above 0 and at most 1, "
                f"not {max_gpu_memory_fraction}"
            )
        self.dataset = dataset
        self.max_atoms, self.max_edges, self.max_batch_size = max_atoms, max_edges, max_batch_size
        self.bin_width = bin_width
        self.shuffle = shuffle
        self.max_gpu_memory_fraction = max_gpu_memory_fraction
        self._bins = SizeBins(bin_width)
        self._rejected: list[tuple[Waiting, str, Exception | None]] = []
        self._screened: tuple[int | None, int | None] = (None, None)
        self._smallest: Waiting | None = None
        self._unread = 0
        self._part, self._parts = 0, 1
        self._left_out = set[int]()
        self._source = source_of(dataset)
        self._stream = self._source if isinstance(self._source, Stream) else None
        if isinstance(self._source, Dataset):
            self._read_sizes(self._source)
        elif shuffle:
            raise ValueError("a stream is never held whole and cannot be shuffled; give a dataset")

    def __repr__(self) -> str:
        """Say what of, and in which budgets."""
        of = "a stream" if self._stream is not None else f"{len(self)} systems"
        return (
            f"SizeAwareSampler({of}, max_atoms={self.max_atoms}, max_edges={self.max_edges}, "
            f"max_batch_size={self.max_batch_size})"
        )

    def share(self, part: int, parts: int) -> None:
        """Leave to other ranks what is theirs: keep every system whose turn is this part's.

        Parameters
        ----------
        part, parts
            Which part this is, from 0, and of how many. The system at position i of the input is
            of part i modulo ``parts``.
        """
        self._part, self._parts = part, parts
        self._drop_others()

    def leave_out(self, indices: Iterable[int]) -> None:
        """Never deliver these systems: a run before has finished them.

        ::

            sampler.leave_out(sink.system_ids())

        Parameters
        ----------
        indices
            Their positions in the input; those of systems that are not there are passed over.
        """
        self._left_out |= set(indices)
        self._drop_others()

    def _drop_others(self) -> None:
        self._bins.take_all(lambda one: not self._is_own(one.index))
        self._rejected = [own for own in self._rejected if self._is_own(own[0].index)]

    def _is_own(self, index: int) -> bool:
        return index % self._parts == self._part and index not in self._left_out

    # ---------------------------------------------------------------- what is left

    def __len__(self) -> int:
        """Return the number of systems that remain; TypeError for a stream."""
        self._need_known_length()
        return len(self._bins)

    def __iter__(self) -> Iterator[int]:
        """Iterate over the positions in the input of those that remain; TypeError for a stream."""
        self._need_known_length()
        return iter(sorted(one.index for one in self._bins))

    def __bool__(self) -> bool:
        """Always true: an ``if`` asks whether there is a sampler; see :attr:`exhausted`."""
        return True

    @property
    def exhausted(self) -> bool:
        """Whether nothing remains; of a stream, something is read to find out."""
        self._look()
        return not len(self._bins)

    def take_rejected(self) -> Iterator[Rejected]:
        """Hand out, once, what was passed over so far: too large, or not to be read."""
        while self._rejected:
            one, reason, error = self._rejected.pop(0)
            data = None if error is not None else self._source.read(one)
            data = data if isinstance(data, AtomicData) else None
            yield Rejected(one.index, reason, data, error)

    # ---------------------------------------------------------------- delivering

    def build_initial_batch(self) -> Batch:
        """Return the first batch, or another full one of what remains.

        Raises
        ------
        RuntimeError
            There is nothing that fits and can be read. The smallest system is named.
        ValueError
            A stream, and no budget; systems that cannot share a batch.
        """
        budgets = self.max_atoms, self.max_edges, self.max_batch_size
        if self._stream is not None and budgets == (None, None, None):
            raise ValueError(
                "a batch from a stream needs an end: give max_atoms, max_edges or max_batch_size"
            )
        atoms, edges, systems = (_NO_LIMIT if limit is None else limit for limit in budgets)
        chosen: list[AtomicData] = []
        while len(chosen) < systems and (found := self._next(atoms, edges)) is not None:
            one, data = found
            atoms, edges = atoms - one.atoms, edges - one.edges
            chosen.append(data)
        if not chosen:
            raise RuntimeError(self._why_nothing())
        return Batch.from_data_list(chosen)

    def request_replacement(
        self, num_atoms: int | None, num_edges: int | None
    ) -> AtomicData | None:
        """Return the largest remaining system that fits, or None if there is none.

        Parameters
        ----------
        num_atoms, num_edges
            The room that is free; None for any.
        """
        room = (_NO_LIMIT if number is None else number for number in (num_atoms, num_edges))
        found = self._next(*room)
        return None if found is None else found[1]

    def _next(self, atoms: int, edges: int) -> tuple[Waiting, AtomicData] | None:
        """Take the next system that fits and can be read."""
        while True:
            self._look()
            one = self._bins.take(atoms, edges)
            if one is None:
                return None
            data = self._source.read(one)
            if isinstance(data, AtomicData):
                return one, data
            self._reject_unread(one.index, data)

    # ---------------------------------------------------------------- looking ahead

    def _look(self) -> None:
        """Pass over what no batch can hold, and read ahead."""
        limits = self.max_atoms, self.max_edges
        if limits != self._screened:
            for one in self._bins.take_all(lambda one: not self._can_fit(one)):
                self._reject_large(one)
            self._screened = limits
        if self._stream is not None:
            self._read_ahead(self._stream)

    def _read_sizes(self, dataset: Dataset) -> None:
        order = np.arange(dataset.length)
        for index in (np.random.permutation(order) if self.shuffle else order).tolist():
            size = dataset.size(index)
            if isinstance(size, Exception):
                self._reject_unread(index, size)
            else:
                self._bins.add(size)

    def _read_ahead(self, stream: Stream) -> None:
        if stream.ended:
            return
        waiting = list(self._bins)
        atoms = sum(one.atoms for one in waiting)
        first = min((one.index for one in waiting), default=None)
        while not stream.ended:
            is_far = first is not None and stream.count - first >= LOOK_AHEAD
            if is_far or (self.max_atoms is not None and atoms >= self.max_atoms):
                return
            one = stream.next()
            if not self._is_own(stream.count - 1):
                continue
            if isinstance(one, Exception):
                self._reject_unread(stream.count - 1, one)
            elif one is not None and not self._can_fit(one):
                self._reject_large(one)
            elif one is not None:
                self._bins.add(one)
                atoms += one.atoms
                first = one.index if first is None else first

    def _can_fit(self, one: Waiting) -> bool:
        limits = self.max_atoms, self.max_edges
        return one.fits(*(_NO_LIMIT if limit is None else limit for limit in limits))

    # ---------------------------------------------------------------- what is passed over

    def _reject_large(self, one: Waiting) -> None:
        reason = (
            f"it has {one.atoms} atoms and {one.edges} edges, and a batch takes {self._budget()}; "
            "allow more, or leave it out"
        )
        self._rejected.append((one, reason, None))
        if self._smallest is None or one.size < self._smallest.size:
            self._smallest = replace(one, data=None)

    def _reject_unread(self, index: int, error: Exception) -> None:
        reason = f"it could not be read: {type(error).__name__}: {error}"
        self._rejected.append((Waiting(index, 0, 0), reason, error))
        self._unread += 1

    def _budget(self) -> str:
        limits = {"max_atoms": self.max_atoms, "max_edges": self.max_edges}
        return ", ".join(f"{name}={limit}" for name, limit in limits.items() if limit is not None)

    def _why_nothing(self) -> str:
        what = "no system is left that fits and can be read"
        if self._smallest is not None:
            atoms, edges = self._smallest.size
            what += (
                f"; the smallest that does not fit is system {self._smallest.index}, with {atoms} "
                f"atoms and {edges} edges, and a batch takes {self._budget()}"
            )
        return what + (f"; {self._unread} could not be read" if self._unread else "")

    def _need_known_length(self) -> None:
        if self._stream is not None:
            raise TypeError(
                "how much of a stream remains is not known; ask whether it is exhausted"
            )
