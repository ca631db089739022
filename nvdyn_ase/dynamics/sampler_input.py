"""What a sampler is given: a dataset, a list or a stream of systems."""

from collections.abc import Iterable
from typing import Any

import torch

from nvdyn_ase.data import AtomicData
from nvdyn_ase.dynamics.size_bins import Waiting

#: A stream ends where so many records in a row cannot be read: it may never give anything else.
ERRORS_IN_A_ROW = 1000


class Dataset:
    """An object with a length, metadata and items.

    Parameters
    ----------
    items
        The object.
    """

    def __init__(self, items: Any) -> None:
        self.items, self.length = items, len(items)

    def size(self, index: int) -> Waiting | Exception:
        """Return the size of an item, or what asking for it raised."""
        try:
            atoms, edges = self.items.get_metadata(index)
            return Waiting(index, int(atoms), int(edges))
        except Exception as error:
            return error

    def read(self, one: Waiting) -> AtomicData | Exception:
        """Return an item as it is delivered, or what reading it raised."""
        try:
            data = _delivered(self.items[one.index], one.index)
        except Exception as error:
            return error
        if data.num_nodes != one.atoms:
            says = f"get_metadata says {one.atoms} atoms, and the system has {data.num_nodes}"
            return ValueError(says)
        return data


class Listed(Dataset):
    """Systems that are all there."""

    def size(self, index: int) -> Waiting:
        """Return the size of a system."""
        return Waiting(index, self.items[index].num_nodes, self.items[index].num_edges)


class Stream:
    """Systems that come one after the other.

    Parameters
    ----------
    items
        An iterable, asked for one at a time.

    Attributes
    ----------
    count
        How many have been asked for.
    ended
        Whether there are no more.
    """

    def __init__(self, items: Iterable[Any]) -> None:
        self._iterator = iter(items)
        self.count = self._errors = 0
        self.ended = False

    def next(self) -> Waiting | Exception | None:
        """Return the next, what reading it raised, or None if there is no next."""
        try:
            item = next(self._iterator)
        except StopIteration:
            self.ended = True
            return None
        except Exception as error:
            return self._failed(error)
        try:
            data = _delivered(item, self.count)
        except Exception as error:
            return self._failed(error)
        self._errors = 0
        self.count += 1
        return Waiting(self.count - 1, data.num_nodes, data.num_edges, data)

    def _failed(self, error: Exception) -> Exception:
        self.count += 1
        self._errors += 1
        if self._errors < ERRORS_IN_A_ROW:
            return error
        self.ended = True
        return RuntimeError(
            f"{error}; so {self._errors} records in a row could not be read, and what comes "
            "after them is not asked for"
        )

    def read(self, one: Waiting) -> AtomicData:
        """Return a system as it is delivered."""
        assert one.data is not None
        return one.data


def source_of(dataset: Any) -> Dataset | Stream:
    """Return what an object is, or raise TypeError if it is none of these."""
    kind = type(dataset)
    if isinstance(dataset, (list, tuple)):
        for row, item in enumerate(dataset):
            if not isinstance(item, AtomicData):
                raise TypeError(f"system {row} is {type(item).__name__}, not AtomicData")
        return Listed(dataset)
    needed = ("__len__", "__getitem__", "get_metadata")
    missing = [name for name in needed if not hasattr(dataset, name)]
    if not missing:
        return Dataset(dataset)
    if not hasattr(kind, "__iter__") or not {"__getitem__", "get_metadata"} <= set(missing):
        raise TypeError(
            f"{kind.__name__} is no dataset: it has no {', '.join(missing)}; and it is neither a "
            "list nor a stream of AtomicData"
        )
    return Stream(dataset)


def _delivered(item: Any, index: int) -> AtomicData:
    """Return a system of the input, with its position and metadata, and leave the input alone."""
    data, metadata = item if isinstance(item, tuple) else (item, {})
    if not isinstance(data, AtomicData):
        raise TypeError(f"system {index} is {type(data).__name__}, not AtomicData")
    data = data.to()
    data.system_id = torch.tensor([[index]], device=data.device)
    if metadata:
        data.host = {**data.host, "metadata": dict(metadata)}
    return data
