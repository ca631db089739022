"""Pairs are exactly those of ASE, whatever finds them, on whatever device."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import Batch
from nvdyn_ase.neighbors import DevicePairs, NeighborList, Pairs
from tests.neighbors.structures import (
    anywhere,
    argon,
    batches,
    distances,
    random_system,
    rows_of,
    rows_of_ase,
    system,
)

BACKENDS = [
    "grid",
    "vesin",
    "images",
    pytest.param(
        "nvalchemi",
        marks=pytest.mark.skipif(find_spec("nvalchemiops") is None, reason="not installed"),
    ),
]
FCC = 1.8 * (np.ones((3, 3)) - np.eye(3))
SKEWED = [[3.0, 0, 0], [9.0, 3.0, 0], [-7.0, 5.5, 3.0]]
HARD = {
    "one atom, cutoff many times the cell": system([0.3, 0.2, 0.1], 0.7 * np.eye(3), True),
    "primitive cell": system([0, 0, 0], FCC, True),
    "left-handed": system([[0, 0, 0], [1.1, 0.9, 0.7]], FCC[::-1] + 0.1 * np.eye(3), True),
    "very skewed": system([[0, 0, 0], [1.2, 0.9, 0.7]], SKEWED, True),
    "far outside": system([[900.3, -70.2, 0], [-5000.1, 33.3, 7.7]], 4 * np.eye(3), True),
    "slab without third vector": system(
        [[0, 0, 0], [1, 1, 2.2], [1, 0, 8]], [[3, 0, 0], [1, 3, 0], [0, 0, 0]], [1, 1, 0]
    ),
    "slab along x": system(
        [[0, 0, 0], [1, 1, 2.2], [40, 0, 8]], [[9, 1, 0], [1, 3, 0], [0, 1, 3]], [0, 1, 1]
    ),
    "wire without other vectors": system(
        [[0, 0, 0], [1, 1, 2.2]], [[0, 0, 0], [0, 0, 0], [1, 1, 2]], [0, 0, 1]
    ),
    "parallel vectors where it is not periodic": system(
        [[0, 0, 0], [1, 1, 2.2]], [[3, 0, 0], [1, 1, 0], [2, 2, 0]], [1, 0, 0]
    ),
    "molecule in a box": system([[0, 0, 0], [0, 0, 1.1], [4, 4, 4]], 3 * np.eye(3)),
    "molecule without one": system([[0, 0, 0], [0, 0, 1.1], [7, 7, 7]]),
    "single atom": system([1, 2, 3]),
    "pairs along a line of 30 bins": system(np.arange(60)[:, None] * [2.2, 0, 0]),
}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("backend", BACKENDS)
def test_hard_cases(backend, half):
    batch = Batch.from_data_list(list(HARD.values()))
    wanted = rows_of_ase(batch, 4.321, half)
    pairs = NeighborList(4.321, half, backend=backend).update(batch)
    assert isinstance(pairs, Pairs)
    np.testing.assert_array_equal(rows_of(pairs), wanted)
    there = anywhere(NeighborList(4.321, half, backend=backend)).update(batch)
    assert isinstance(there, DevicePairs)
    np.testing.assert_array_equal(rows_of(there), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", HARD)
def test_hard_case_alone(name, backend):
    batch = Batch.from_data_list([HARD[name]])
    pairs = NeighborList(3.77, backend=backend).update(batch)
    np.testing.assert_array_equal(rows_of(pairs), rows_of_ase(batch, 3.77, False))


@settings(max_examples=60, deadline=None)
@given(batches(), st.floats(1.0, 7.0), st.floats(0.0, 1.0), st.booleans())
def test_any_batch(batch, cutoff, skin, half):
    pairs = NeighborList(cutoff, half, skin).update(batch)
    np.testing.assert_array_equal(rows_of(pairs), rows_of_ase(batch, cutoff + skin, half))


@pytest.mark.parametrize("backend", BACKENDS[1:])
@settings(max_examples=25, deadline=None)
@given(batch=batches(), cutoff=st.floats(1.0, 6.0), half=st.booleans())
def test_backends_agree(backend, batch, cutoff, half):
    wanted = rows_of(NeighborList(cutoff, half, backend="grid").update(batch))
    pairs = NeighborList(cutoff, half, backend=backend).update(batch)
    np.testing.assert_array_equal(rows_of(pairs), wanted)
    there = anywhere(NeighborList(cutoff, half, backend=backend)).update(batch)
    np.testing.assert_array_equal(rows_of(there), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_many_bins(backend):
    batch = argon(2, repeat=3)
    pairs = NeighborList(4.9, backend=backend).update(batch)
    np.testing.assert_array_equal(rows_of(pairs), rows_of_ase(batch, 4.9, False))


@pytest.mark.parametrize("backend", BACKENDS)
def test_ties_are_decided_alike(backend):
    """In a perfect lattice with a shell at the cutoff, rounding must not depend on the search."""
    crystal = [system(np.full((1, 3), x), 1.1 * np.eye(3), True) for x in (0.0, 0.37, 1e4)]
    crystal.append(system(0.1 * np.arange(12)[:, None] * [1, 0, 0]))
    batch = Batch.from_data_list(crystal)
    for cutoff in (1.1, 2.2, 3.3, 0.3, 0.7):
        wanted = rows_of(NeighborList(cutoff, backend="grid").update(batch))
        for neighbors in (NeighborList(cutoff, backend=backend), anywhere(NeighborList(cutoff))):
            np.testing.assert_array_equal(rows_of(neighbors.update(batch)), wanted)


def test_the_order_is_that_of_the_pairs_alone():
    """A system has its pairs in the same order in any batch, at any place."""
    rng = np.random.default_rng(5)
    systems = [random_system(rng, n, (True, True, n % 2 == 0), 2.0) for n in range(1, 7)]
    whole = NeighborList(4.0).update(Batch.from_data_list(systems))
    flat, ptr = whole.flat(), np.cumsum([0, *(s.num_nodes for s in systems)])
    for b, data in enumerate(systems):
        alone = rows_of(NeighborList(4.0).update(Batch.from_data_list([data])))
        rows = rows_of(whole)[flat.edge_ptr[b] : flat.edge_ptr[b + 1]]
        rows[:, :2] -= ptr[b]
        np.testing.assert_array_equal(rows, alone)


@pytest.mark.parametrize("make", [NeighborList, lambda *a: anywhere(NeighborList(*a))])
def test_flat_pairs_fit_together(make):
    batch = argon(3)
    pairs = make(6.0, True, 0.4).update(batch)
    flat = pairs.flat()
    assert pairs.flat() is flat
    assert len(flat.i) == pairs.num_pairs.sum() == batch.num_edges
    np.testing.assert_array_equal(np.diff(flat.edge_ptr), pairs.num_pairs)
    assert all(
        tensor.dtype == torch.int64 and tensor.is_contiguous() for tensor in vars(flat).values()
    )
    np.testing.assert_array_equal(np.diff(flat.ptr), np.bincount(flat.i, minlength=96))
    np.testing.assert_array_equal(flat.system, flat.i // 32)
    turned = flat.j[flat.transpose]
    np.testing.assert_array_equal(turned, np.sort(flat.j))
    np.testing.assert_array_equal(np.diff(flat.transpose_ptr), np.bincount(flat.j, minlength=96))
    for atom in (0, 40, 95):
        edges = flat.transpose[flat.transpose_ptr[atom] : flat.transpose_ptr[atom + 1]]
        assert (flat.j[edges] == atom).all() and (edges.diff() > 0).all()
    assert distances(batch, pairs).max() <= 6.4


@pytest.mark.parametrize("make", [NeighborList, lambda *a: anywhere(NeighborList(*a))])
def test_nothing_to_find(make):
    batch = Batch.from_data_list([system([0, 0, 0]), system([[0, 0, 0], [0, 0, 9]])])
    pairs = make(2.0).update(batch)
    assert rows_of(pairs).shape == (0, 5)
    assert batch["edge_index"].shape == (0, 2)
    assert batch["shifts"].shape == batch["unit_shifts"].shape == (0, 3)
    empty = batch.index_select([])
    pairs = make(2.0).update(empty)
    assert rows_of(pairs).shape == (0, 5) and len(pairs.num_pairs) == 0
    assert empty.neighbors is pairs and empty["edge_index"].shape == (0, 2)


def test_single_precision_positions():
    batch = argon(2).to(dtype=torch.float32)
    pairs = NeighborList(5.0).update(batch)
    wanted = NeighborList(5.0).update(batch.to(dtype=torch.float64))
    np.testing.assert_array_equal(rows_of(pairs), rows_of(wanted))
    assert batch["shifts"].dtype == torch.float32


def test_positions_that_carry_gradients():
    batch = argon(1)
    batch["positions"] = batch["positions"].requires_grad_()
    batch["cell"] = batch["cell"].requires_grad_()
    NeighborList(5.0, skin=0.5).update(batch)
    batch["shifts"].sum().backward()
    assert batch["cell"].grad is not None
