"""Inputs of a sampler, and where their systems went."""

import torch

from nvdyn_ase.data import AtomicData
from nvdyn_ase.dynamics import HostMemory
from tests.wells import atoms_at

#: User fields of every system: name, level, and what the system of a number has.
FIELDS = {
    "weight": ("system", lambda i, n: torch.tensor([[i / 7]], dtype=torch.float32)),
    "serial": ("system", lambda i, n: torch.tensor([i], dtype=torch.int32)),
    "is_odd": ("system", lambda i, n: torch.tensor([[bool(i % 2)]])),
    "label": ("node", lambda i, n: torch.arange(n, dtype=torch.uint8) + i),
    "pull": ("node", lambda i, n: torch.full((n, 2, 2), i / 3, dtype=torch.float64)),
    "wide": ("node", lambda i, n: torch.full((n,), i, dtype=torch.int16)),
}
ADD = {"node": "add_node_property", "system": "add_system_property"}


def user_fields(data, number):
    """Give a system fields of its own, which follow from its number."""
    for key, (level, make) in FIELDS.items():
        getattr(data, ADD[level])(key, make(number, data.num_nodes))
    return data


def inputs(distances, sizes=None) -> list[AtomicData]:
    """Return systems in wells, at these distances, with fields of their own."""
    sizes = [2 + i % 3 for i in range(len(distances))] if sizes is None else sizes
    pairs = enumerate(zip(distances, sizes, strict=True))
    return [user_fields(atoms_at(d, n, seed=i), i) for i, (d, n) in pairs]


def identities(batch):
    """Return the system_id of each system."""
    return [] if batch is None else batch["system_id"].view(-1).tolist()


def check_user_fields(batch):
    """Check that every system has the fields it came with."""
    for row, number in enumerate(identities(batch)):
        own = batch[[row]]
        for key, (level, make) in FIELDS.items():
            expected = make(number, own.num_nodes)
            assert batch.level(key) == level
            assert own[key].dtype is expected.dtype, key
            assert torch.equal(own[key], expected), (number, key)


def by_identity(batch):
    """Return each system of a batch as a batch, by system_id."""
    return {number: batch[[row]] for row, number in enumerate(identities(batch))}


class Moody(HostMemory):
    """A sink whose writes of these numbers fail."""

    def __init__(self, capacity, failing=()):
        super().__init__(capacity)
        self.failing, self.writes = set(failing), 0

    def write(self, batch, mask=None):
        self.writes += 1
        if self.writes - 1 in self.failing:
            raise OSError("the disk is on fire")
        super().write(batch, mask)
