"""How many atoms a GPU has memory for, from what one forward pass took."""

from collections.abc import Iterator
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
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        yield
        taken = (torch.cuda.max_memory_allocated(device) - before) / atoms
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
        whole = torch.cuda.get_device_properties(device).total_memory
        return max(int(fraction * whole / self.bytes_per_atom), 1)
