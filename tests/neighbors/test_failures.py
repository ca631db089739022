"""What cannot have pairs has none and a reason, and nobody else notices."""

import math
import time

import numpy as np
import pytest
import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.neighbors import NeighborList
from nvdyn_ase.neighbors.standard import REASONS, SINGULAR, TOO_DENSE, TOO_FAR
from tests.neighbors.structures import anywhere, argon, rows_of, system

LISTS = pytest.mark.parametrize(
    "make",
    [
        NeighborList,
        lambda *a, **o: NeighborList(*a, backend="images", **o),
        lambda *a, **o: anywhere(NeighborList(*a, **o)),
    ],
    ids=["grid", "images", "device"],
)


def broken(batch, row, positions=None, cell=None):
    """Give one system other positions or another cell, however bad."""
    atoms = slice(batch.host_ptr[row], batch.host_ptr[row + 1])
    if positions is not None:
        tensor = batch["positions"].clone()
        tensor[atoms] = torch.as_tensor(positions, dtype=tensor.dtype)
        batch["positions"] = tensor
    if cell is not None:
        tensor = batch["cell"].clone()
        tensor[row] = torch.as_tensor(cell, dtype=tensor.dtype)
        batch["cell"] = tensor


def check(make, batch, row, reason, change, fast=5.0):
    """Break one system; it loses its pairs until it is whole again, and the others keep theirs."""
    neighbors = make(5.0, skin=0.5)
    whole = rows_of(neighbors.update(batch))
    assert neighbors.failures == {}
    fields = {key: batch[key] for key in ("positions", "cell")}
    change(batch)
    others = whole[whole[:, 0] // 32 != row]
    for again in range(2):
        start = time.perf_counter()
        pairs = neighbors.update(batch)
        assert time.perf_counter() - start < fast
        assert list(neighbors.failures) == [row] and reason in neighbors.failures[row]
        np.testing.assert_array_equal(rows_of(pairs), others)
        assert pairs.num_pairs[row] == 0 and (pairs.num_pairs > 0).sum() == len(batch) - 1
        assert batch.num_edges == len(others)
        if not again:
            edges = batch["edge_index"]
        assert batch["edge_index"] is edges  # what goes on failing changes nothing
    for key, tensor in fields.items():
        batch[key] = tensor
    pairs = neighbors.update(batch)
    assert neighbors.failures == {}
    np.testing.assert_array_equal(rows_of(pairs), whole)
    fresh = make(5.0, skin=0.5)
    change(batch)
    np.testing.assert_array_equal(rows_of(fresh.update(batch)), others)
    assert list(fresh.failures) == [row]


@LISTS
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_positions_that_are_not_finite(make, value):
    check(
        make, argon(3), 1, "not finite", lambda b: broken(b, 1, [[value, 0, 0]] + [[0, 0, 0]] * 31)
    )
    one = torch.zeros(32, 3)
    one[17, 2] = value
    check(make, argon(3), 2, "not finite", lambda b: broken(b, 2, one))


@LISTS
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_cell_that_is_not_finite(make, value):
    check(make, argon(3), 0, "not finite", lambda b: broken(b, 0, cell=[[value] * 3] * 3))


@LISTS
@pytest.mark.parametrize(
    "cell",
    [
        np.zeros((3, 3)),
        np.ones((3, 3)),
        [[1, 0, 0], [0, 1, 0], [1, 1, 0]],
    ],
)
def test_a_cell_without_a_volume(make, cell):
    check(make, argon(2), 1, REASONS[SINGULAR][:20], lambda b: broken(b, 1, cell=cell))


@LISTS
@pytest.mark.parametrize(
    "cell",
    [
        1e-300 * np.eye(3),
        1e-100 * np.eye(3),
        1e-9 * np.eye(3),
        1e-3 * np.eye(3),
        0.02 * np.eye(3),
        np.diag([1e-3, 10, 10]),
        [[1, 0, 0], [1, 1e-9, 0], [0, 0, 1]],
        [[10, 0, 0], [1e6, 1e-7, 0], [0, 1, 1]],
        [[10, 0, 0], [1e300, 1, 0], [0, 1, 1]],
        [[10, 0, 0], [9e8, 1, 0], [0, 1, 1]],
    ],
)
def test_a_cell_that_collapsed(make, cell):
    check(make, argon(2), 1, "", lambda b: broken(b, 1, cell=cell))


@LISTS
@pytest.mark.parametrize("size", [1e11, 1e50, 1e200, 1.7e308])
def test_atoms_that_flew_away(make, size):
    rng = np.random.default_rng(1)
    reason = REASONS[TOO_FAR][:20]
    check(make, argon(3), 1, reason, lambda b: broken(b, 1, size * rng.uniform(-1, 1, (32, 3))))


@LISTS
def test_atoms_far_outside_a_cell_but_not_too_far(make):
    batch = argon(2)
    neighbors = make(5.0)
    whole = neighbors.update(batch).num_pairs
    batch["positions"] = batch["positions"] + 9e6
    assert neighbors.update(batch).num_pairs.tolist() == whole.tolist()
    assert neighbors.failures == {}
    far = batch["positions"].clone()
    far[3] += 3e7  # three million cells from the others
    batch["positions"] = far
    neighbors.update(batch)
    assert list(neighbors.failures) == [0]


@LISTS
def test_many_atoms_in_one_place(make):
    close = system(np.full((12_000, 3), 3.3) + 1e-3 * np.random.default_rng(0).random((12_000, 3)))
    lone = system([[0, 0, 0], [0, 0, 1]])
    batch = Batch.from_data_list([lone, close, lone])
    neighbors = make(5.0)
    start = time.perf_counter()
    pairs = neighbors.update(batch)
    assert time.perf_counter() - start < 5
    assert pairs.num_pairs.tolist() == [2, 0, 2]
    assert neighbors.failures == {1: REASONS[TOO_DENSE]}


def test_an_explosion_is_no_slower_than_a_crystal():
    """Atoms that are scattered widely do not make bins so large that all others share one."""
    rng = np.random.default_rng(0)
    cluster = rng.uniform(0, 50, (4000, 3))
    cluster[:100] *= rng.uniform(1, 1e6, (100, 1))
    neighbors = NeighborList(5.0)
    batch = Batch.from_data_list([system(cluster)])
    neighbors.update(batch)
    start = time.perf_counter()
    batch["positions"] = batch["positions"] + 1e-6
    pairs = neighbors.update(batch)
    assert time.perf_counter() - start < 0.3
    assert neighbors.failures == {}
    wanted = NeighborList(5.0).update(Batch.from_data_list([system(cluster[100:])]))
    assert pairs.num_pairs[0] >= wanted.num_pairs[0] > 50_000


@pytest.mark.parametrize("cutoff", [0, -1.0, math.nan, math.inf])
def test_bad_cutoffs(cutoff):
    with pytest.raises(ValueError, match="cutoff must be a positive length"):
        NeighborList(cutoff)


@pytest.mark.parametrize("skin", [-0.1, math.nan, math.inf])
def test_bad_skins(skin):
    with pytest.raises(ValueError, match="skin must be a length"):
        NeighborList(5.0, skin=skin)


def test_unknown_backends():
    with pytest.raises(ValueError, match="must be one of auto, grid"):
        NeighborList(5.0, backend="fast")


def test_missing_backends(monkeypatch):
    monkeypatch.setattr("nvdyn_ase.neighbors.search.find_spec", lambda name: None)
    for name in ("nvalchemi", "vesin"):
        with pytest.raises(ImportError, match="pip install"):
            NeighborList(5.0, backend=name)


def test_repr():
    assert repr(NeighborList(5.0, True, 0.5)) == (
        "NeighborList(cutoff=5.0, half_list=True, skin=0.5, backend='auto')"
    )
    pairs = NeighborList(5.0).update(argon(2))
    assert repr(pairs).startswith(f"Pairs({pairs.num_pairs.sum()} pairs, full, 2 systems")
