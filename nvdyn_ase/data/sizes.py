"""How many atoms and pairs each system of a batch has, and where they begin."""

from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nvdyn_ase.data.blocks import Blocks
from nvdyn_ase.data.fields import Level
from nvdyn_ase.data.joining import block_entries, boundaries

# Half steps of engines read these.
_LOOKED_UP = (
    *("num_nodes", "num_nodes_list", "host_ptr"),
    *("ptr", "ptr3", "num_nodes_per_graph", "batch"),
)


class Sizes:
    """Sizes and pointers of systems laid end to end, known on the host.

    None of them waits for the device. Those of atoms stay as they are for the life of a batch.

    Parameters
    ----------
    num_nodes, num_edges
        Atoms and pairs of each system, (B,).
    device
        Where the pointers are wanted.
    """

    def __init__(
        self, num_nodes: np.ndarray, num_edges: np.ndarray, device: torch.device | str
    ) -> None:
        self._nodes, self._edges = num_nodes, num_edges
        self.device = torch.device(device)
        if self.device.type == "cuda" and self.device.index is None:  # as its tensors name it
            self.device = torch.device("cuda", torch.cuda.current_device())

    def num_rows(self, level: Level) -> int:
        """Return the number of rows of a field at a level."""
        if level is Level.NODE:
            return self.num_nodes
        if level is Level.BLOCK:
            return int(self.host_block_ptr[-1])
        return len(self._nodes) if level is Level.SYSTEM else self.num_edges

    @property
    def num_graphs(self) -> int:
        """Number of systems, B."""
        return len(self._nodes)

    batch_size = num_graphs

    def __len__(self) -> int:
        """Return the number of systems."""
        return len(self._nodes)

    @cached_property
    def num_nodes(self) -> int:
        """Number of atoms, V."""
        return int(self._nodes.sum())

    @cached_property
    def num_nodes_list(self) -> list[int]:
        """Atoms of each system."""
        return self._nodes.tolist()

    @cached_property
    def max_num_nodes(self) -> int:
        """Atoms of the largest system; 0 for an empty batch."""
        return int(self._nodes.max(initial=0))

    @property
    def num_edges(self) -> int:
        """Number of pairs, E."""
        return int(self._edges.sum())

    @property
    def num_edges_list(self) -> list[int]:
        """Pairs of each system."""
        return self._edges.tolist()

    @cached_property
    def host_ptr(self) -> np.ndarray:
        """First atom of each system and the end, (B + 1,), on the host."""
        return boundaries(self._nodes)

    @property
    def host_edge_ptr(self) -> np.ndarray:
        """First pair of each system and the end, (B + 1,), on the host."""
        return boundaries(self._edges)

    @cached_property
    def host_block_ptr(self) -> np.ndarray:
        """First entry of each system's matrix and the end, (B + 1,), on the host."""
        return boundaries(block_entries(self._nodes))

    @cached_property
    def blocks(self) -> Blocks:
        """The systems in groups of one size, to work on fields of matrices."""
        return Blocks(self.num_nodes_list)

    @cached_property
    def ptr(self) -> Int[Tensor, " B1"]:
        """First atom of each system and the end, (B + 1,), on the device."""
        return self._on_device(self.host_ptr.copy())

    @cached_property
    def ptr3(self) -> Int[Tensor, " B1"]:
        """As ``ptr``, counted in components of a (V, 3) field."""
        return self._on_device(3 * self.host_ptr)

    @property
    def edge_ptr(self) -> Int[Tensor, " B1"]:
        """First pair of each system and the end, (B + 1,), on the device."""
        return self._on_device(self.host_edge_ptr)

    @cached_property
    def num_nodes_per_graph(self) -> Int[Tensor, " B"]:
        """Atoms of each system, on the device."""
        return self._on_device(self._nodes.copy())

    @property
    def num_edges_per_graph(self) -> Int[Tensor, " B"]:
        """Pairs of each system, on the device."""
        return self._on_device(self._edges.copy())

    @cached_property
    def batch(self) -> Int[Tensor, " V"]:
        """System of each atom, (V,), on the device."""
        return self._on_device(np.repeat(np.arange(len(self._nodes)), self._nodes))

    def look_up(self) -> None:
        """Have at hand what is found on the host when it is first asked for."""
        for name in _LOOKED_UP:
            getattr(self, name)

    def _on_device(self, array: np.ndarray) -> Tensor:
        """Send an array that nobody else holds."""
        tensor = torch.from_numpy(array)
        if self.device.type == "cuda":  # a copy from other memory would wait
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)
