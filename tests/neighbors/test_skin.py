"""Pairs are used again exactly as long as none can be missing, system by system."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import Batch
from nvdyn_ase.neighbors import NeighborList
from tests.neighbors.structures import anywhere, argon, batches, jostle, rows_of, system


def there(*arguments, **options):
    """Make a list that treats the CPU as another device."""
    return anywhere(NeighborList(*arguments, **options))


LISTS = pytest.mark.parametrize("make", [NeighborList, there])


def in_reach(batch, cutoff, half=False):
    """Return all pairs within the cutoff, found anew."""
    return {tuple(row) for row in rows_of(NeighborList(cutoff, half).update(batch)).tolist()}


def pairs_in(pairs):
    """Return the pairs of a list."""
    return {tuple(row) for row in rows_of(pairs).tolist()}


def moved(batch, rng, step, strain, rows=None):
    """Move the atoms and deform the cells of some systems, by about so much."""
    rows = range(len(batch)) if rows is None else rows
    positions, cell = batch["positions"].clone(), batch["cell"].clone()
    for b in rows:
        deform = torch.eye(3) + torch.from_numpy(rng.uniform(-strain, strain, (3, 3)))
        atoms = slice(batch.host_ptr[b], batch.host_ptr[b + 1])
        cell[b] = cell[b] @ deform
        positions[atoms] = positions[atoms] @ deform
        positions[atoms] += torch.from_numpy(rng.uniform(-step, step, positions[atoms].shape))
    batch["positions"], batch["cell"] = positions, cell


@LISTS
@settings(max_examples=30, deadline=None)
@given(batch=batches(), seed=st.integers(0, 2**32 - 1), half=st.booleans())
def test_no_pair_is_ever_missing(make, batch, seed, half):
    rng = np.random.default_rng(seed)
    cutoff, skin = rng.uniform(1.5, 5), rng.uniform(0.1, 1.5)
    neighbors = make(cutoff, half, skin)
    for _ in range(6):
        pairs = neighbors.update(batch)
        assert in_reach(batch, cutoff, half) <= pairs_in(pairs)
        rows = rows_of(pairs)
        np.testing.assert_array_equal(rows, rows[np.lexsort(rows.T[::-1])])
        moved(batch, rng, 0.15 * skin, rng.choice([0, 0.003, 0.03]))
    assert neighbors.rebuilds.min() >= 1


@LISTS
def test_nothing_moved_nothing_changes(make):
    batch = argon(3)
    neighbors = make(5.0, skin=1.0)
    pairs = neighbors.update(batch)
    flat, edges = pairs.flat(), batch["edge_index"]
    batch["positions"] = batch["positions"] + 0.2
    assert neighbors.update(batch) is pairs is batch.neighbors
    assert pairs.flat() is flat and batch["edge_index"] is edges
    assert neighbors.rebuilds.tolist() == [1, 1, 1]


@LISTS
def test_only_what_left_the_skin_is_rebuilt(make):
    batch = argon(4)
    neighbors = make(5.0, skin=1.0)
    pairs = neighbors.update(batch)
    before = rows_of(pairs)
    positions = batch["positions"].clone()
    positions[40] += torch.tensor([0.51, 0, 0])  # system 1
    positions[70] += torch.tensor([0.49, 0, 0])  # system 2 is at the edge
    batch["positions"] = positions
    pairs = neighbors.update(batch)
    assert neighbors.rebuilds.tolist() == [1, 2, 1, 1]
    assert in_reach(batch, 5.0) <= pairs_in(pairs)
    after = rows_of(pairs)
    for b in (0, 2, 3):
        mine, theirs = before[before[:, 0] // 32 == b], after[after[:, 0] // 32 == b]
        np.testing.assert_array_equal(mine, theirs)


@LISTS
def test_cells_are_followed(make):
    """A system that is deformed is rebuilt when its strain, not its atoms, asks for it."""
    far = system(np.arange(8)[:, None] * [3.0, 0, 0] + [500.0, 0, 0], np.diag([24.0, 9, 9]), True)
    batch = Batch.from_data_list([far, far])
    neighbors = make(4.0, skin=0.5)
    neighbors.update(batch)
    for factor, count in ((1.1, [1, 1]), (1.1 * 1.02, [1, 2])):
        cell, positions = batch["cell"].clone(), batch["positions"].clone()
        cell[1], positions[8:] = far.cell[0] * factor, far.positions * factor
        if count == [1, 1]:  # 2 % of a reach of 4.5 Å is within the skin
            cell[1], positions[8:] = far.cell[0] * 1.02, far.positions * 1.02
        batch["cell"], batch["positions"] = cell, positions
        neighbors.update(batch)
        assert neighbors.rebuilds.tolist() == count


@LISTS
def test_the_box_of_a_molecule_does_not_matter(make):
    batch = Batch.from_data_list([system([[0, 0, 0], [0, 0, 1]], np.eye(3))])
    neighbors = make(3.0, skin=0.5)
    neighbors.update(batch)
    for cell in (5 * torch.eye(3), torch.zeros(3, 3), torch.ones(3, 3)):
        batch["cell"] = cell.double()[None]
        neighbors.update(batch)
    assert neighbors.rebuilds.tolist() == [1]


@LISTS
def test_changed_boundary_conditions(make):
    batch = argon(2)
    neighbors = make(5.0, skin=1.0)
    neighbors.update(batch)
    pbc = batch["pbc"].clone()
    pbc[1, 2] = False
    batch["pbc"] = pbc
    pairs = neighbors.update(batch)
    assert neighbors.rebuilds.tolist() == [1, 2]
    assert pairs_in(pairs) == in_reach(batch, 6.0)


@LISTS
def test_changes_in_place_are_seen(make):
    batch = argon(2)
    neighbors = make(5.0, skin=0.5)
    neighbors.update(batch)
    batch["positions"][5] += 1.0
    batch["cell"][1] *= 1.3
    pairs = neighbors.update(batch)
    assert neighbors.rebuilds.tolist() == [2, 2]
    assert in_reach(batch, 5.0) <= pairs_in(pairs)


@LISTS
def test_without_a_skin(make):
    batch = argon(2)
    neighbors = make(5.0)
    pairs = neighbors.update(batch)
    batch["positions"] = batch["positions"].clone()
    assert neighbors.update(batch) is pairs and neighbors.rebuilds.tolist() == [1, 1]
    positions = batch["positions"].clone()
    positions[40, 0] = np.nextafter(positions[40, 0].item(), 100.0)
    batch["positions"] = positions
    assert pairs_in(neighbors.update(batch)) == in_reach(batch, 5.0)
    assert neighbors.rebuilds.tolist() == [1, 2]


@LISTS
def test_another_batch(make):
    """Batches that take turns, of the same sizes or of others, do not disturb each other."""
    first, second, other = argon(3), argon(3, seed=1), argon(2, seed=2)
    neighbors = make(5.0, skin=0.7)
    kept = neighbors.update(first)
    before = rows_of(kept)
    for batch in (second, other, second, first):
        pairs = neighbors.update(batch)
        assert batch.neighbors is pairs
        assert in_reach(batch, 5.0) <= pairs_in(pairs)
        np.testing.assert_array_equal(rows_of(kept), before)
    np.testing.assert_array_equal(second["edge_index"], rows_of(second.neighbors)[:, :2])


@LISTS
def test_systems_that_stay_are_not_rebuilt(make):
    batch = argon(5)
    neighbors = make(5.0, True, 1.2)
    neighbors.update(batch)
    wanted = rows_of(batch.neighbors)
    for kept in (np.array([4, 0, 3]), np.array([True, False, True]), np.array([1])):
        rows = np.flatnonzero(kept) if kept.dtype == bool else kept
        neighbors.select(kept)
        batch = batch.index_select(rows)
        batch["positions"] = batch["positions"] + 0.1
        pairs = neighbors.update(batch)
        parts = [wanted[wanted[:, 0] // 32 == row] - [32 * row, 32 * row, 0, 0, 0] for row in rows]
        parts = [part + np.array([32 * k, 32 * k, 0, 0, 0]) for k, part in enumerate(parts)]
        wanted = np.concatenate(parts)
        np.testing.assert_array_equal(rows_of(pairs), wanted)
        assert (neighbors.rebuilds == 1).all() and len(neighbors.rebuilds) == len(rows)
        assert batch.num_edges == len(wanted)
    positions = batch["positions"].clone()
    positions[3] += 1.0
    batch["positions"] = positions
    assert in_reach(batch, 5.0, True) <= pairs_in(neighbors.update(batch))
    assert neighbors.rebuilds.tolist() == [2]
    neighbors.select(np.array([], np.int64))
    assert rows_of(neighbors.update(batch.index_select([]))).shape == (0, 5)


def test_a_selection_for_another_batch_is_not_used():
    neighbors = NeighborList(5.0, skin=0.8)
    neighbors.select(np.array([0]))
    batch = argon(4)
    neighbors.update(batch)
    neighbors.select(np.array([0, 1]))
    pairs = neighbors.update(batch)
    assert pairs_in(pairs) == in_reach(batch, 5.8)
    assert len(pairs.num_pairs) == 4


@LISTS
def test_the_reference_goes_through_a_checkpoint(make):
    batch = argon(3)
    neighbors = make(5.0, skin=1.0)
    assert neighbors.reference is None
    neighbors.update(batch)
    step = torch.tensor([0.15, 0, 0])
    batch["positions"] = batch["positions"] + 2 * step
    neighbors.update(batch)
    restarted = make(5.0, skin=1.0)
    restarted.reference = neighbors.reference
    again = batch.clone()
    np.testing.assert_array_equal(rows_of(restarted.update(again)), rows_of(batch.neighbors))
    for _ in range(2):
        batch["positions"] = again["positions"] = batch["positions"] + step
        neighbors.update(batch)
        restarted.update(again)
        np.testing.assert_array_equal(restarted.rebuilds, neighbors.rebuilds)
        np.testing.assert_array_equal(rows_of(again.neighbors), rows_of(batch.neighbors))
    assert neighbors.rebuilds.tolist() == [2, 2, 2]


@LISTS
def test_an_interrupted_rebuild_is_made_up_for(make, monkeypatch):
    batch = argon(2)
    neighbors = make(5.0, skin=0.5)
    neighbors.update(batch)
    before, edges = batch["positions"], batch["edge_index"]
    jostle(batch, 1.0)

    def interrupt(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(neighbors._list.reference, "take", interrupt)
        with pytest.raises(KeyboardInterrupt):
            neighbors.update(batch)
    batch["positions"] = before
    assert pairs_in(neighbors.update(batch)) == in_reach(batch, 5.5)
    assert batch["edge_index"] is not edges
    torch.testing.assert_close(batch["edge_index"], edges)


@LISTS
def test_tensors_of_any_layout(make):
    batch = argon(2)
    wanted = rows_of(NeighborList(5.0).update(batch))
    batch["positions"] = batch["positions"].T.contiguous().T
    batch["cell"] = batch["cell"].transpose(1, 2)
    batch["pbc"] = torch.tensor([[True]]).expand(2, 3)
    np.testing.assert_array_equal(rows_of(make(5.0).update(batch)), wanted)
