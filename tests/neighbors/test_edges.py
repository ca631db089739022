"""The edge fields of a batch: made when they are read, and never out of date."""

import pytest
import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.neighbors import NeighborList
from tests.neighbors.structures import anywhere, argon, distances, system

LISTS = pytest.mark.parametrize(
    "make", [NeighborList, lambda *a, **o: anywhere(NeighborList(*a, **o))]
)
FIELDS = ("edge_index", "unit_shifts", "shifts")


@LISTS
def test_fields(make):
    batch = argon(2)
    pairs = make(5.0, True, 0.5).update(batch)
    assert all(batch.deferred(key) for key in FIELDS)
    assert batch.num_edges_list == pairs.num_pairs.tolist()
    edges, units, shifts = (batch[key] for key in FIELDS)
    assert edges.dtype == units.dtype == torch.int64 and shifts.dtype == torch.float64
    assert edges.shape == (batch.num_edges, 2) and units.shape == (batch.num_edges, 3)
    vectors = batch["positions"][edges[:, 1]] - batch["positions"][edges[:, 0]] + shifts
    torch.testing.assert_close(vectors.norm(dim=1), torch.from_numpy(distances(batch, pairs)))
    assert vectors.norm(dim=1).max() <= 5.5


@LISTS
def test_shifts_follow_the_cell_without_a_rebuild(make):
    batch = argon(2)
    neighbors = make(5.0, skin=0.5)
    neighbors.update(batch)
    edges = batch["edge_index"]
    for factor in (1.001, 1.0):
        old = batch["shifts"]
        batch["cell"] = batch["cell"] * factor
        batch["positions"] = batch["positions"] * factor
        neighbors.update(batch)
        assert batch["edge_index"] is edges
        torch.testing.assert_close(batch["shifts"], old * factor)
    batch["cell"].mul_(1.002)
    batch["positions"].mul_(1.002)
    neighbors.update(batch)
    torch.testing.assert_close(batch["shifts"], old * 1.002)
    assert neighbors.rebuilds.tolist() == [1, 1]
    shifts = batch["shifts"]
    neighbors.update(batch)
    assert batch["shifts"] is shifts


@LISTS
def test_fields_are_replaced_by_a_rebuild(make):
    batch = argon(2)
    neighbors = make(5.0, skin=0.5)
    neighbors.update(batch)
    batch.add_key("bond_order", torch.ones(batch.num_edges), "edge")
    number = batch.num_edges
    batch["positions"] = batch["positions"] * 0.8
    batch["cell"] = batch["cell"] * 0.8
    neighbors.update(batch)
    assert "bond_order" not in batch
    assert batch.num_edges > number and len(batch["edge_index"]) == batch.num_edges


@LISTS
def test_fields_that_were_taken_away_come_back(make):
    batch = argon(2)
    neighbors = make(5.0, skin=0.5)
    pairs = neighbors.update(batch)
    batch.set_edges({}, [0, 0])
    assert neighbors.update(batch) is pairs
    assert len(batch["edge_index"]) == batch.num_edges == pairs.num_pairs.sum()
    batch.neighbors = None
    assert neighbors.update(batch) is batch.neighbors is pairs


@LISTS
def test_a_batch_that_grows(make):
    batch = argon(2)
    neighbors = make(5.0, skin=0.5)
    neighbors.update(batch)
    batch.append(argon(1, seed=4))
    pairs = neighbors.update(batch)
    assert len(pairs.num_pairs) == 3 and (pairs.num_pairs > 0).all()
    batch.append(Batch.from_data_list([system([0, 0, 0])]))
    neighbors.update(batch)
    assert batch.num_edges_list[:3] == pairs.num_pairs[:3].tolist()


@LISTS
def test_a_copy_of_a_batch(make):
    batch = argon(2)
    neighbors = make(5.0, skin=0.5)
    neighbors.update(batch)
    copy = batch.clone()
    del batch
    assert len(copy["edge_index"]) == copy.num_edges > 0
    neighbors.update(copy)
    assert len(copy["shifts"]) == copy.num_edges
