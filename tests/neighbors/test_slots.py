"""Slots hold the same pairs as the flat list, and grow instead of dropping any."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import Batch
from nvdyn_ase.neighbors import NeighborList
from tests.neighbors.structures import argon, batches, jostle, rows_of, rows_of_ase, system


def rows_in_slots(batch, pairs):
    """Return i, j and S of all pairs, read as a compiled loop reads them."""
    rows = []
    for b in range(len(batch)):
        base = batch.host_ptr[b]
        for a in range(base, batch.host_ptr[b + 1]):
            assert pairs.slot[b] <= pairs.start[a] <= pairs.stop[a] <= pairs.slot[b + 1]
            for p in range(pairs.start[a], pairs.stop[a]):
                shift = pairs.images[pairs.image_start[b] + pairs.image[p]]
                rows.append([a, base + pairs.neighbor[p], *shift])
    return np.array(rows, np.int64).reshape(-1, 5)


def check(batch, pairs):
    """Check the slots against the flat list, and what is promised of the arrays."""
    np.testing.assert_array_equal(rows_in_slots(batch, pairs), rows_of(pairs))
    assert pairs.start.dtype == pairs.stop.dtype == pairs.image_start.dtype == np.int64
    assert pairs.neighbor.dtype == pairs.image.dtype == np.int32
    assert pairs.images.dtype == np.int64 and pairs.images.shape[1] == 3
    for b in range(len(batch)):
        used = pairs.images[pairs.image_start[b] :][: pairs.num_images[b]]
        assert len(np.unique(used, axis=0)) == len(used)
        assert not pairs.images[pairs.image_start[b] + len(used) : pairs.image_slot[b + 1]].any()
    assert pairs.num_pairs.tolist() == batch.num_edges_list


@settings(max_examples=25, deadline=None)
@given(batches(), st.floats(1.0, 5.0), st.booleans())
def test_slots_and_flat_list(batch, cutoff, half):
    check(batch, NeighborList(cutoff, half, 0.2).update(batch))


def test_a_slot_grows():
    """A gas that condenses, beside a crystal that stays."""
    rng = np.random.default_rng(0)
    gas = rng.uniform(0, 60, (40, 3))
    crystal = argon(1)[0]
    batch = Batch.from_data_list([crystal, system(gas), system(gas, np.diag([99.0, 99, 99]), True)])
    neighbors = NeighborList(5.0, skin=0.4)
    pairs = neighbors.update(batch)
    arrays, numbers = pairs.neighbor, [pairs.num_pairs]
    for scale in (0.5, 0.3, 0.2, 0.15, 0.5, 1.0):
        positions = batch["positions"].clone()
        positions[32:72] = positions[72:] = torch.from_numpy(gas * scale)
        batch["positions"] = positions
        assert neighbors.update(batch) is pairs
        check(batch, pairs)
        np.testing.assert_array_equal(rows_of(pairs), rows_of_ase(batch, 5.4, False))
        numbers.append(pairs.num_pairs)
    assert pairs.neighbor is not arrays and max(n[1] for n in numbers) > 5 * numbers[0][1]
    assert numbers[-1].tolist() == numbers[0].tolist()
    assert neighbors.rebuilds.tolist() == [1, 7, 7]


def test_a_rebuild_leaves_the_other_slots_alone():
    batch = argon(3)
    neighbors = NeighborList(5.0, skin=0.4)
    pairs = neighbors.update(batch)
    arrays = pairs.neighbor, pairs.image, pairs.images
    before = [array.copy() for array in (pairs.start, pairs.stop, *arrays)]
    jostle(batch, 0.3, atoms=slice(32, 64))
    neighbors.update(batch)
    after = pairs.neighbor, pairs.image, pairs.images
    assert all(old is new for old, new in zip(arrays, after, strict=True))
    lo, hi = pairs.slot[1], pairs.slot[2]
    for old, new in zip(before[2:4], arrays[:2], strict=True):
        np.testing.assert_array_equal(old[:lo], new[:lo])
        np.testing.assert_array_equal(old[hi:], new[hi:])
    check(batch, pairs)


def test_a_selection_has_slots_of_its_own():
    batch = argon(4)
    neighbors = NeighborList(5.0, skin=0.4)
    whole = neighbors.update(batch)
    before = rows_in_slots(batch, whole)
    neighbors.select(np.array([3, 1]))
    part = batch.index_select([3, 1])
    pairs = neighbors.update(part)
    assert pairs is not whole
    jostle(part, 1.0)
    neighbors.update(part)
    check(part, pairs)
    np.testing.assert_array_equal(rows_in_slots(batch, whole), before)
