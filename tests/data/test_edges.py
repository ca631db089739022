"""Pairs of atoms: their indices are right after everything that moves systems about."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import Batch, Level
from tests.data.strategies import assert_holds, batch_of, indices, same_bits, system


def ends(batch):
    """Return the positions of both atoms of every pair: they stay, where numbers change."""
    return batch["positions"][batch["edge_index"]]


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_pairs_point_at_the_same_atoms(draw):
    sizes = draw.draw(
        st.lists(st.tuples(st.integers(1, 4), st.integers(0, 5)), max_size=5, min_size=1)
    )
    data = [system(i, atoms, edges) for i, (atoms, edges) in enumerate(sizes)]
    local = [d.positions[d.edge_index] for d in data]
    batch = Batch.from_data_list(data)
    assert same_bits(ends(batch), torch.cat(local))
    index, rows = draw.draw(indices(len(data)))
    part = batch[index]
    assert same_bits(ends(part), torch.cat([local[0][:0], *(local[row] for row in rows)]))
    part.append(batch)
    assert same_bits(ends(part), torch.cat([*(local[row] for row in rows), *local]))
    assert part.num_edges_list == [sizes[row][1] for row in rows] + [edges for _, edges in sizes]
    within = part.batch[part["edge_index"]]
    assert torch.equal(within[:, 0], within[:, 1])
    owner = np.repeat(np.arange(len(part)), part.num_edges_list)
    assert within[:, 0].tolist() == owner.tolist()


def test_systems_without_a_field_for_pairs_have_none():
    with_pairs, without = batch_of(2, 3, edges=4), batch_of(4)
    for first, second in ((with_pairs, without), (without, with_pairs)):
        whole = first.clone()
        whole.append(second)
        assert whole.num_edges_list == first.num_edges_list + second.num_edges_list
        start = first.num_nodes if first is without else 0
        assert torch.equal(whole["edge_index"], with_pairs["edge_index"] + start)
        assert whole[[whole.num_edges_list.index(0)]]["edge_index"].shape == (0, 2)


def test_shifts_of_one_side_are_filled_and_pairs_are_not():
    bare, shifted = system(0, 2, 3), system(1, 2, 1)
    shifted.shifts = [[1.0, 2.0, 3.0]]
    batch = Batch.from_data_list([bare, shifted])
    assert batch["shifts"].tolist() == [[0, 0, 0]] * 3 + [[1, 2, 3]]
    batch = Batch.from_data_list([bare])
    del batch["edge_index"]
    with pytest.raises(ValueError, match="system 1 has no 'edge_index', and it has no default"):
        Batch.from_data_list([shifted]).append(batch)


# ---------------------------------------------------------------- other pairs


def test_set_edges_replaces_all_that_is_known_of_pairs():
    batch = batch_of(2, 3, edges=2)
    batch.add_key("w", torch.zeros(4), "edge", default=0)
    batch.set_edges({"edge_index": torch.tensor([[0, 1], [2, 3], [4, 2]])}, [1, 2])
    assert [key for key in ("edge_index", "unit_shifts", "w") if key in batch] == ["edge_index"]
    assert batch.num_edges_list == [1, 2]
    assert "w" not in batch.defaults
    batch.add_key("w", torch.ones(3), "edge")
    assert batch[1].edge_index.tolist() == [[0, 1], [2, 0]]
    batch.set_edges({}, [0, 0])
    assert batch.num_edges == 0
    assert not any(batch.level(key) is Level.EDGE for key, _ in batch)
    with pytest.raises(ValueError, match="1 numbers of pairs for 2 systems"):
        batch.set_edges({}, [1])
    with pytest.raises(ValueError, match="'shifts' is edge-level and needs 3 rows"):
        batch.set_edges({"shifts": torch.zeros(2, 3)}, [1, 2])


@pytest.mark.parametrize("per_system", [True, False])
def test_add_key_takes_other_pairs(per_system):
    batch = batch_of(2, 0, 3, edges=2)
    with pytest.raises(ValueError, match="there already"):
        batch.add_key("edge_index", torch.zeros(0, 2).long(), "edge")
    local = [
        torch.tensor([[0, 1]]),
        torch.zeros(0, 2).long(),
        torch.tensor([[0, 1], [2, 2], [1, 1]]),
    ]
    whole = torch.tensor([[0, 1], [2, 3], [4, 4], [3, 3]])
    batch.add_key("edge_index", local if per_system else whole, "edge", overwrite=True)
    assert batch.num_edges_list == [1, 0, 3]
    assert torch.equal(batch["edge_index"], whole)
    assert "unit_shifts" not in batch
    assert [d.edge_index.tolist() for d in batch.to_data_list()] == [t.tolist() for t in local]


@pytest.mark.parametrize(
    "pairs",
    [[[0, 2]], [[2, 2], [0, 0]], [[0, 5]], [[-1, 0]]],
    ids=["across", "order", "beyond", "below"],
)
def test_pairs_must_lie_within_systems(pairs):
    batch = batch_of(2, 3)
    with pytest.raises(ValueError, match="edge_index must hold pairs of atoms of the same system"):
        batch.add_key("edge_index", torch.tensor(pairs), "edge")
    assert "edge_index" not in batch
    assert batch.num_edges == 0


@pytest.mark.parametrize("shape", [(4,), (2, 4), (4, 2, 1)])
def test_pairs_are_rows_of_two(shape):
    with pytest.raises(ValueError, match=r"edge_index must be \(E, 2\), one row per pair, not"):
        batch_of(2, 3).add_key("edge_index", torch.zeros(shape, dtype=torch.int64), "edge")


def test_an_empty_batch_has_pairs_too():
    empty = batch_of(2)[[]]
    empty.add_key("edge_index", torch.zeros(0, 2).long(), "edge")
    assert empty["edge_index"].shape == (0, 2)
    assert empty.num_edges_list == []


def test_an_edge_field_has_a_row_per_pair():
    batch = batch_of(2, 3, edges=2)
    batch["edge_index"] = batch["edge_index"].flip(1)
    batch["shifts"] = torch.zeros(4, 3)
    with pytest.raises(ValueError, match="'edge_index' is edge-level and needs 4 rows"):
        batch["edge_index"] = torch.zeros(3, 2).long()
    with pytest.raises(ValueError, match="'shifts' is edge-level and needs 4 rows"):
        batch["shifts"] = torch.zeros(5, 3)
    with pytest.raises(ValueError, match="'edge_index' is edge-level and needs 0 rows"):
        batch_of(2)["edge_index"] = torch.zeros(1, 2).long()


def test_a_batch_of_pairs_without_edge_index_stays_aligned():
    batch = batch_of(2, 3, edges=2)
    batch.add_key("w", torch.arange(4), "edge")
    del batch["edge_index"]
    assert batch[[1]]["w"].tolist() == [2, 3]
    assert_holds(Batch.from_data_list(batch.to_data_list()), batch.to_data_list())


# ---------------------------------------------------------------- pairs that are deferred


@pytest.fixture
def lazy():
    """Return a batch with pairs that nobody has made, and how often they were."""
    batch = batch_of(2, 3)
    calls = []

    def pairs():
        calls.append("pairs")
        return torch.tensor([[0, 1], [2, 3]])

    def shifts():
        calls.append("shifts")
        return torch.zeros(2, 3)

    batch.set_edges({"edge_index": pairs, "shifts": shifts}, [1, 1])
    return batch, calls


def test_a_part_leaves_unread_pairs_behind(lazy):
    batch, calls = lazy
    assert batch.num_edges_list == [1, 1]
    for part in (batch[[1]], batch[:], batch[1], *batch.to_data_list()):
        assert part.num_edges == 0
        assert calls == []
    assert "edge_index" not in batch[[1]]
    assert batch["edge_index"].tolist() == [[0, 1], [2, 3]]
    assert batch[[1]]["edge_index"].tolist() == [[0, 1]]
    assert batch[1].edge_index.tolist() == [[0, 1]]
    assert calls == ["pairs", "shifts"]


def test_a_part_keeps_pairs_that_carry_a_field_of_the_users(lazy):
    batch, _ = lazy
    batch.add_key("w", torch.tensor([5, 6]), "edge")
    part = batch[[1]]
    assert part["w"].tolist() == [6]
    assert part["edge_index"].tolist() == [[0, 1]]


@pytest.mark.parametrize("copy", ["clone", "cpu", "to"])
def test_a_whole_copy_makes_unread_pairs(lazy, copy):
    batch, calls = lazy
    other = getattr(batch, copy)()
    assert other["edge_index"].tolist() == [[0, 1], [2, 3]]
    assert other.num_edges_list == [1, 1]
    assert calls == ["pairs", "shifts"]


def test_appending_makes_unread_pairs(lazy):
    batch, calls = lazy
    batch.append(batch)
    assert batch["edge_index"].tolist() == [[0, 1], [2, 3], [5, 6], [7, 8]]
    assert sorted(calls) == ["pairs", "shifts"]


def test_deferred_pairs_must_have_the_rows_they_promised():
    batch = batch_of(2, 3)
    batch.set_edges({"edge_index": lambda: torch.zeros(3, 2).long()}, [1, 1])
    for _ in range(2):
        with pytest.raises(ValueError, match="'edge_index' is edge-level and needs 2 rows"):
            batch["edge_index"]
