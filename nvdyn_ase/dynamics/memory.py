"""How many atoms a GPU has memory for, from what one forward pass took."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch


class MemoryMeter:
    """Measures what forward passes take of a GPU's memory; on the CPU it measures nothing.

    Attributes
    ----------
    bytes_per_atom
        The most that a forward pass has taken for each atom; None before the first.
    """

    def __init__(self) -> None:
        self.bytes_per_atom: float | None = None

    @contextmanager
    def watching(self, device: torch.device, atoms: int) -> Iterator[None]:
        """Measure what is done meanwhile, for so many atoms; nothing waits for the device."""
        if device.type != "cuda" or not atoms:
            yield
            return
        before = _allocated(device)
        _forget_peak(device)
        yield
        taken = (_peak(device) - before) / atoms
        self.bytes_per_atom = max(taken, self.bytes_per_atom or 0.0)

    def atoms_that_fit(self, device: torch.device, fraction: float) -> int | None:
        """Return for how many atoms there is room in this part of the memory; None if unknown.

        Parameters
        ----------
        device
            The GPU.
        fraction
            Of its whole memory.
        """
        if not self.bytes_per_atom:
            return None
        return max(int(fraction * _total(device) / self.bytes_per_atom), 1)


# Where there is no GPU, tests put others in the place of these.
_allocated: Callable[[torch.device], int] = torch.cuda.memory_allocated
_peak: Callable[[torch.device], int] = torch.cuda.max_memory_allocated
_forget_peak: Callable[[torch.device], None] = torch.cuda.reset_peak_memory_stats


def _total(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).total_memory)
