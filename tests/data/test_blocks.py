"""Fields of matrices: ragged, carried like any other field, and taken apart by size."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import batch_to_atoms
from nvdyn_ase.data import Batch, Blocks, Level
from nvdyn_ase.dynamics.frozen import ActiveMask
from tests.data.strategies import DTYPES, any_bits, batch_of, same_bits, system

F64 = torch.float64
few = settings(max_examples=60, deadline=None)
sizes = st.lists(st.integers(0, 4), min_size=1, max_size=7)


def state_of(sizes, dtype=F64):
    """Return a state with a field at every level that one has, and its matrices one by one."""
    counts = np.asarray(sizes)
    field = any_bits(((9 * counts**2).sum(),), dtype, len(sizes))
    batch = Batch({}, sizes).like(
        node={"v": any_bits((counts.sum(), 3), F64, 1)},
        system={"dt": any_bits((len(sizes), 1), F64, 2)},
        block={"hessian": field},
    )
    pieces = field.split((9 * counts**2).tolist())
    return batch, [piece.view(3 * n, 3 * n) for piece, n in zip(pieces, sizes, strict=True)]


def assert_holds(batch, matrices):
    expected = [matrix.reshape(-1) for matrix in matrices]
    assert batch.level("hessian") is Level.BLOCK
    assert same_bits(batch["hessian"], torch.cat([*expected, batch["hessian"][:0]]))
    assert batch.num_nodes_list == [len(matrix) // 3 for matrix in matrices]


@given(sizes, st.sampled_from(DTYPES), st.data())
@few
def test_it_is_carried_like_any_other_field(sizes, dtype, draw):
    batch, matrices = state_of(sizes, dtype)
    assert_holds(batch, matrices)
    for other in (
        *(copy.copy(batch), copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))),
        *(batch.clone(), batch.to("cpu"), batch[:], batch.pin_memory()),
    ):
        assert_holds(other, matrices)
    chosen = draw.draw(st.lists(st.integers(0, len(sizes) - 1), max_size=5))
    part = batch[chosen]
    assert_holds(part, [matrices[row] for row in chosen])
    part.append(batch)
    assert_holds(part, [*(matrices[row] for row in chosen), *matrices])
    assert_holds(batch[[]], [])


def test_a_system_by_itself_keeps_it():
    batch, matrices = state_of([2, 1, 2])
    full = batch_of(2, 1, 2)
    full.add_key("hessian", batch["hessian"], "block")
    assert same_bits(full[1].hessian, matrices[1].reshape(-1))
    again = Batch.from_data_list(full.to_data_list())
    assert_holds(again, matrices)
    assert all("hessian" not in atoms.info for atoms in batch_to_atoms(full))


def test_it_has_a_row_per_pair_of_coordinates():
    batch = batch_of(2, 1)
    with pytest.raises(ValueError, match="'hessian' is block-level and needs 45 rows"):
        batch.add_key("hessian", torch.zeros(3), "block")
    with pytest.raises(ValueError, match="one row per entry of a matrix"):
        batch.add_key("hessian", [torch.zeros(36), torch.zeros(3)], "block")
    batch.add_key("hessian", [torch.zeros(36), torch.ones(9)], "block")
    assert batch["hessian"].sum() == 9
    batch["hessian"] = torch.ones(45)
    with pytest.raises(ValueError, match="needs 45 rows"):
        batch["hessian"] = torch.ones(46)


def test_who_does_not_bring_it_gets_the_default_or_cannot_join():
    batch = batch_of(1)
    batch.add_key("hessian", torch.ones(9), "block", default=7.0)
    batch.append_data([system(1, 2)])
    assert batch["hessian"].tolist() == [1.0] * 9 + [7.0] * 36
    batch = batch_of(1)
    batch.add_key("hessian", torch.ones(9), "block")
    with pytest.raises(ValueError, match="system 1 has no 'hessian'"):
        batch.append_data([system(1, 2)])


@given(sizes, st.data())
@few
def test_a_mask_merges_it(sizes, draw):
    moves = draw.draw(st.lists(st.booleans(), min_size=len(sizes), max_size=len(sizes)))
    batch, old = state_of(sizes)
    new = torch.arange(len(batch["hessian"]), dtype=F64)
    active = ActiveMask(torch.tensor(moves).view(-1, 1), batch)
    merged = active.merge(batch, "hessian", new, batch["hessian"])
    pieces = new.split([len(matrix) ** 2 for matrix in old])
    expected = [
        piece if moved else matrix.reshape(-1)
        for piece, matrix, moved in zip(pieces, old, moves, strict=True)
    ]
    assert same_bits(merged, torch.cat(expected))


# ---------------------------------------------------------------- by size


@given(sizes)
@few
def test_groups_are_taken_apart_and_put_together(sizes):
    batch, matrices = state_of(sizes)
    blocks = batch.blocks
    parts = {
        "hessian": (blocks.matrices(batch["hessian"]), blocks.joined_matrices),
        "v": (blocks.vectors(batch["v"]), blocks.joined_vectors),
        "dt": (blocks.systems(batch["dt"]), blocks.joined_systems),
    }
    for key, (groups, joined) in parts.items():
        assert len(groups) == len(blocks) == len(set(sizes))
        assert same_bits(joined(groups), batch[key])
        assert same_bits(joined([group.clone() for group in groups]), batch[key])
    rows = batch["v"].split(sizes)
    for group, d in enumerate(blocks.sizes):
        members = [row for row, size in enumerate(sizes) if 3 * size == d]
        assert same_bits(
            parts["hessian"][0][group], torch.stack([matrices[row] for row in members])
        )
        assert same_bits(
            parts["v"][0][group], torch.stack([rows[row].reshape(-1) for row in members])
        )
        assert same_bits(parts["dt"][0][group], batch["dt"][members])


def test_systems_side_by_side_are_not_copied():
    for sizes in ([2, 2, 2], [1, 1, 3, 3, 3, 2]):
        batch, _ = state_of(sizes)
        start = batch["hessian"].data_ptr()
        for group in batch.blocks.matrices(batch["hessian"]):
            assert group.data_ptr() == start
            start += 8 * group.numel()
    joined = Blocks([2, 2]).joined_matrices([batch["hessian"][:72].view(2, 6, 6)])
    assert joined.data_ptr() == batch["hessian"].data_ptr()


def test_nobody_at_all():
    blocks = Blocks([])
    for parts, joined in (
        (blocks.matrices(torch.zeros(0)), blocks.joined_matrices),
        (blocks.vectors(torch.zeros(0, 3)), blocks.joined_vectors),
        (blocks.systems(torch.zeros(0, 1)), blocks.joined_systems),
    ):
        assert len(parts) == 1
        assert joined(parts).numel() == 0


def test_a_repr_counts():
    assert repr(Blocks([2, 1, 2])) == "Blocks(2 of 6, 1 of 3 coordinates)"
