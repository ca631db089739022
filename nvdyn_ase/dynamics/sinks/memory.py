"""Sinks in the memory of the host or of a GPU."""

import torch
from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.data import Batch, Level
from nvdyn_ase.dynamics.sinks.data_sink import DataSink, chosen_systems
from nvdyn_ase.dynamics.sinks.stored_fields import LEVELS, StoredField, rows_of, together


class _Memory(DataSink):
    """Keeps systems in the memory of a device."""

    def __init__(self, capacity: int, device: torch.device) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.capacity = capacity
        self._place = device
        self._parts: list[Batch] = []
        self._systems = 0
        self._fields: dict[str, StoredField] = {}
        self._rows = dict.fromkeys(LEVELS, 0)

    def __len__(self) -> int:
        """Return the number of systems held."""
        return self._systems

    def write(self, batch: Batch, mask: Bool[Tensor, " B"] | None = None) -> None:
        """Take a copy of the systems, or of the masked ones.

        Pairs that a neighbour list looks after are left out.

        Raises
        ------
        ValueError
            The mask does not have one entry per system, or fields do not go together with those of
            the systems that are here.
        RuntimeError
            They do not fit. In both cases nothing is taken.
        """
        part = chosen_systems(batch, mask)
        if not len(part):
            return
        self.check_room(part)
        fields = together(self._fields, self._rows, part)
        self._parts.append(part.to(self._place))
        self._fields = fields
        self._rows = {level: self._rows[level] + count for level, count in rows_of(part).items()}
        self._systems += len(part)

    def read(self) -> Batch:
        """Return a copy of everything; RuntimeError if there is nothing."""
        return self._whole().clone()

    def drain(self) -> Batch:
        """Return everything, and forget it; RuntimeError if there is nothing."""
        whole = self._whole()
        self.zero()
        return whole

    def _whole(self) -> Batch:
        if not self._parts:
            raise RuntimeError("the sink is empty")
        whole, *rest = self._parts
        if rest:
            whole.append(*rest)
            self._parts = [whole]
        return whole

    def zero(self) -> None:
        """Forget everything."""
        self._parts, self._systems, self._fields = [], 0, {}
        self._rows = dict.fromkeys(LEVELS, 0)


class HostMemory(_Memory):
    """Keeps systems in the memory of the host.

    Parameters
    ----------
    capacity
        How many systems it holds.
    """

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity, torch.device("cpu"))

    def __repr__(self) -> str:
        """Say how full it is."""
        return f"HostMemory({len(self)} of {self.capacity} systems)"


class GPUBuffer(_Memory):
    """Keeps systems on a GPU, up to a size in all, so that they need not leave it.

    Parameters
    ----------
    capacity
        How many systems it holds.
    max_atoms, max_edges
        How many atoms and pairs all of them together may have.
    device
        Where; ``"cpu"`` works too.

    Raises
    ------
    ValueError
        A limit that holds nothing.
    RuntimeError
        There is no such device.
    """

    def __init__(
        self, capacity: int, max_atoms: int, max_edges: int, device: torch.device | str = "cuda"
    ) -> None:
        if max_atoms < 1 or max_edges < 0:
            raise ValueError(
                f"max_atoms must be at least 1 and max_edges at least 0, not {max_atoms} and "
                f"{max_edges}"
            )
        self.max_atoms, self.max_edges = max_atoms, max_edges
        self.device = torch.device(device)
        if self.device.type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(
                f"device={str(device)!r}, and no CUDA device is available; give device='cpu', or "
                "use HostMemory"
            )
        super().__init__(capacity, self.device)

    def __repr__(self) -> str:
        """Say how full it is."""
        atoms, edges = self._rows[Level.NODE], self._rows[Level.EDGE]
        return (
            f"GPUBuffer({len(self)} of {self.capacity} systems, {atoms} of {self.max_atoms} atoms, "
            f"{edges} of {self.max_edges} edges, {self.device})"
        )

    @property
    def is_full(self) -> bool:
        """Whether no further system fits, which has an atom at least."""
        return super().is_full or self._rows[Level.NODE] >= self.max_atoms

    def check_room(self, part: Batch) -> None:
        """Raise RuntimeError if these systems, their atoms or their pairs do not fit."""
        super().check_room(part)
        for what, level, more, limit in (
            ("atoms", Level.NODE, part.num_nodes, self.max_atoms),
            ("edges", Level.EDGE, part.num_edges, self.max_edges),
        ):
            if self._rows[level] + more > limit:
                raise RuntimeError(
                    f"{len(part)} systems with {more} {what} do not fit: {self._rows[level]} of "
                    f"{limit} {what} are taken"
                )
