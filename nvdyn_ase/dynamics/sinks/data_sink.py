"""What all sinks have in common."""

from abc import ABC, abstractmethod

from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.data import Batch


class DataSink(ABC):
    """Takes systems, up to a capacity, and gives them back in the order they came.

    Attributes
    ----------
    capacity
        How many systems it holds.
    """

    capacity: int

    @abstractmethod
    def write(self, batch: Batch, mask: Bool[Tensor, " B"] | None = None) -> None:
        """Take the systems of a batch, or the masked ones.

        Raises
        ------
        ValueError
            The mask does not have one entry per system.
        RuntimeError
            They do not fit; nothing is taken.
        """

    @abstractmethod
    def read(self) -> Batch:
        """Return everything, and keep it; RuntimeError if there is nothing."""

    @abstractmethod
    def zero(self) -> None:
        """Forget everything."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of systems held."""

    def system_ids(self) -> set[int]:
        """Return the ``system_id`` of everything; empty if there is nothing."""
        return set(self.read()["system_id"].view(-1).tolist()) if len(self) else set()

    def drain(self) -> Batch:
        """Return everything, and forget it; RuntimeError if there is nothing."""
        batch = self.read()
        self.zero()
        return batch

    def check_room(self, part: Batch) -> None:
        """Raise RuntimeError if these systems do not fit; a sink asks before it takes any."""
        if len(self) + len(part) > self.capacity:
            raise RuntimeError(
                f"{len(part)} systems do not fit: {len(self)} of {self.capacity} places are taken"
            )

    def fits(self, batch: Batch, first: int = 0) -> int:
        """Return for how many systems of a batch there is room, from that one on."""
        return max(min(self.capacity - len(self), len(batch) - first), 0)

    @property
    def is_full(self) -> bool:
        """Whether no further system fits."""
        return len(self) >= self.capacity


def chosen_systems(batch: Batch, mask: Bool[Tensor, " B"] | None) -> Batch:
    """Return a copy of the systems of a batch, or of the masked ones, where they are.

    Pairs that a neighbour list looks after are left out, as it can find them again; pairs that
    came with the systems are kept. A mask on a device is waited for.

    Raises
    ------
    ValueError
        The mask does not have one entry per system.
    """
    if mask is not None and mask.shape != (len(batch),):
        raise ValueError(f"mask of shape {tuple(mask.shape)} for {len(batch)} systems")
    part = batch.index_select(slice(None) if mask is None else mask)
    if batch.neighbors is not None:
        part.set_edges({}, [0] * len(part))
    return part
