"""What the host learns from the device without waiting for it."""

from collections import deque

import numpy as np
import torch
from torch import Tensor


class Readback:
    """The latest known value of a tensor that changes on the device.

    On a GPU each value is copied to page-locked memory behind the work that makes it, and read when
    the copy has arrived: a little late, never blocking, except that the host may not run ahead of
    the device by more than ``depth`` values. On the CPU a value is known at once.

    Parameters
    ----------
    depth
        Values in flight before the host waits for the oldest.
    """

    def __init__(self, depth: int = 3) -> None:
        self.depth = depth
        self._flying: deque[tuple[torch.cuda.Event, Tensor]] = deque()

    @property
    def in_flight(self) -> int:
        """How many values have been sent after the one last returned."""
        return len(self._flying)

    @property
    def is_current(self) -> bool:
        """Whether the value last returned is the one last sent."""
        return not self._flying

    def exchange(self, tensor: Tensor) -> np.ndarray | None:
        """Send a value on its way and return the latest that has arrived, or None."""
        arrived = self.send(tensor)
        return arrived[-1] if arrived else None

    def send(self, tensor: Tensor) -> list[np.ndarray]:
        """Send a value on its way and return those that have arrived, the oldest first."""
        if tensor.device.type == "cpu":
            return [tensor.detach().numpy()]
        copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        copy.copy_(tensor, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._flying.append((event, copy))
        arrived = []
        while self._flying and (len(self._flying) > self.depth or self._flying[0][0].query()):
            arrived.append(self._land())
        return arrived

    def rest(self) -> list[np.ndarray]:
        """Wait for all that is in flight and return it, the oldest first."""
        return [self._land() for _ in range(len(self._flying))]

    def _land(self) -> np.ndarray:
        event, value = self._flying.popleft()
        event.synchronize()
        return value.numpy()

    def forget(self) -> None:
        """Drop what is in flight, because it speaks of a batch that is no more."""
        self._flying.clear()
