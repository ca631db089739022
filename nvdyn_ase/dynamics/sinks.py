"""Where batches are written to."""

from abc import ABC, abstractmethod

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.together import put_together


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

    def drain(self) -> Batch:
        """Return everything, and forget it; RuntimeError if there is nothing."""
        batch = self.read()
        self.zero()
        return batch

    @property
    def is_full(self) -> bool:
        """Whether no further system fits."""
        return len(self) >= self.capacity


class HostMemory(DataSink):
    """Keeps systems in the memory of the host.

    Parameters
    ----------
    capacity
        How many systems it holds.
    """

    def __init__(self, capacity: int) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self._parts: list[Batch] = []

    def __repr__(self) -> str:
        """Say how full it is."""
        return f"HostMemory({len(self)} of {self.capacity} systems)"

    def __len__(self) -> int:
        """Return the number of systems held."""
        return sum(len(part) for part in self._parts)

    def write(self, batch: Batch, mask: Bool[Tensor, " B"] | None = None) -> None:
        """Take a copy of the systems, or of the masked ones.

        Pairs of atoms are left out if a neighbour list keeps them; those of the user's own stay.
        """
        if mask is None:
            mask = torch.ones(len(batch), dtype=torch.bool)
        if mask.shape != (len(batch),):
            raise ValueError(f"mask of shape {tuple(mask.shape)} for {len(batch)} systems")
        part = batch.index_select(mask)
        if len(self) + len(part) > self.capacity:
            raise RuntimeError(
                f"{len(part)} systems do not fit: {len(self)} of {self.capacity} places are taken"
            )
        if batch.neighbors is not None:
            part.set_edges({}, [0] * len(part))
        if len(part):
            self._parts.append(part.cpu())

    def read(self) -> Batch:
        """Return everything, and keep it; RuntimeError if there is nothing.

        A field that only some systems have is NaN for the others or, where there is no NaN, zero,
        unless it declares a default.
        """
        if not self._parts:
            raise RuntimeError("the sink is empty")
        whole = put_together(self._parts, np.arange(len(self)))
        self._parts = [whole]
        return whole

    def zero(self) -> None:
        """Forget everything."""
        self._parts = []
