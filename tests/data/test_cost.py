"""What a batch costs: operations per field, and none per system."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from nvdyn_ase.data import Batch
from tests.data.strategies import batch_of, system


class Operations(TorchDispatchMode):
    """Counts the operations that torch does."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def operations(function):
    """Return how many operations a call does, and what it returns."""
    with Operations() as operations:
        result = function()
    return operations.count, result


@pytest.mark.parametrize("count", [2, 40])
def test_operations_are_per_field_and_not_per_system(count):
    data = [system(i, 1 + i % 3, optional=("energy", "forces", "stress")) for i in range(count)]
    done, batch = operations(lambda: Batch.from_data_list(data))
    fields = len(batch.keys())
    assert done == fields
    batch.ptr, batch.batch  # noqa: B018
    for call in (batch.clone, lambda: batch.append(batch)):
        done, _ = operations(call)
        assert done == fields
    mask = torch.arange(2 * count) % 2 == 0
    for index in (slice(None, None, 2), list(range(count)), mask, mask.numpy()):
        done, part = operations(lambda index=index: batch[index])
        assert done <= fields + 5  # and the rows of each level, sent to the device
        assert len(part) == count


def test_reading_writing_and_sizes_are_free():
    batch = batch_of(2, 3, edges=2, optional=("energy", "forces"))
    energy = batch["energy"] + 1
    batch.ptr, batch.ptr3, batch.batch, batch.num_nodes_per_graph  # noqa: B018

    def look():
        batch["energy"] = energy
        batch.energies = energy
        batch.defer("fmax", lambda: energy)
        batch.ptr, batch.ptr3, batch.batch, batch.num_nodes_per_graph  # noqa: B018
        sizes = batch.num_nodes_list, batch.num_edges_list, batch.max_num_nodes
        return sizes, batch["forces"], batch.energy, "forces" in batch, repr(batch), batch.fmax

    done, _ = operations(look)
    assert done == 0
