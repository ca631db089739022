"""Buffers: what fits is copied bit for bit, what does not is never lost, and the capacity holds."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import Batch, Level
from tests.data.strategies import any_bits, assert_same_batch, system, systems


def with_matrices(batch, seed):
    """Give a batch a field of the ragged-block level."""
    entries = batch.num_rows(Level.BLOCK)
    batch.add_key("hessian", any_bits((entries,), torch.float64, seed), "block")
    return batch


@settings(max_examples=30)
@given(systems(1, 5), st.lists(st.booleans(), min_size=5, max_size=5), st.data())
def test_systems_that_fit_are_copied_in_order_and_the_others_stay(data, masked, draw):
    source = with_matrices(Batch.from_data_list(data), 7)
    before = source.clone()
    room = [draw.draw(st.integers(0, n)) for n in (len(data), source.num_nodes, source.num_edges)]
    buffer = Batch.empty(*room, template=source)
    mask = torch.tensor(masked[: len(data)])
    copied = buffer.put(source, mask)
    expected, left = [], np.array(room)
    for row in np.flatnonzero(mask.numpy()):
        need = np.array([1, source.num_nodes_list[row], source.num_edges_list[row]])
        if (need <= left).all():
            left, expected = left - need, [*expected, int(row)]
    assert copied.tolist() == [row in expected for row in range(len(data))]
    assert_same_batch(buffer, source.index_select(expected))
    assert_same_batch(source, before)
    assert tuple(buffer.room) == tuple(left) and buffer.system_capacity == room[0]
    others = [row for row in range(len(data)) if row not in expected]
    for trimmed in (source.trim(copied), source.trim(), buffer.trim()):
        if others:
            assert_same_batch(trimmed, source.index_select(others))
        else:
            assert trimmed is None
    source.defrag()
    assert_same_batch(source, before.index_select(others))
    buffer.zero()
    assert len(buffer) == 0 and buffer.room == tuple(room)
    assert set(buffer.keys()) == set(before.keys())


@settings(max_examples=30)
@given(systems(2, 5), st.integers(1, 3))
def test_what_was_put_in_turns_comes_out_whole(data, capacity):
    source = Batch.from_data_list(data)
    buffer = Batch.empty(capacity, source.num_nodes, source.num_edges, template=data[0])
    rest, taken = source, []
    while rest is not None:
        buffer.put(rest)
        taken.append(buffer.clone())
        rest = rest.trim()
        buffer.zero()
    assert [len(part) for part in taken[:-1]] == [capacity] * (len(taken) - 1)
    whole, *others = taken
    whole.append(*others)
    assert_same_batch(whole, source)


def test_those_that_are_not_kept_make_room():
    source = Batch.from_data_list([system(seed) for seed in range(3)])
    buffer = Batch.empty(2, 100, 100, template=source)
    buffer.put(source, torch.tensor([True, True, False]))
    written = torch.zeros(3, dtype=torch.bool)
    copied = buffer.put(source, dest_mask=torch.tensor([False, True]), copied_mask=written)
    assert copied is written and copied.tolist() == [True, False, False]
    assert_same_batch(buffer, source.index_select([1, 0]))


def test_a_field_is_filled_with_its_default_or_named():
    plain, rich = system(0), system(1)
    rich.add_node_property("label", torch.arange(3), default=-1)
    buffer = Batch.empty(5, 100, 100, template=rich)
    buffer.put(Batch.from_data_list([rich]))
    buffer.put(Batch.from_data_list([plain]))
    assert buffer["label"].tolist() == [0, 1, 2, -1, -1, -1]
    strict = system(2)
    strict.add_node_property("mark", torch.arange(3))
    with pytest.raises(ValueError, match="mark"):
        buffer.put(Batch.from_data_list([strict]))
    assert len(buffer) == 2


def test_a_type_is_never_changed():
    source = Batch.from_data_list([system(0)])
    buffer = Batch.empty(2, 100, 100, template=source.to(dtype=torch.float32))
    with pytest.raises(ValueError, match=r"positions.*float64"):
        buffer.put(source)
    assert len(buffer) == 0


def test_a_copy_of_a_buffer_is_a_buffer_and_another_batch_takes_nothing():
    source = Batch.from_data_list([system(0), system(1)])
    for buffer in (Batch.empty_like(source), Batch.empty_like(source).clone()):
        assert buffer.system_capacity == 2
        assert buffer.put(source).all()
        assert not buffer.put(source).any()
    assert not source.put(source.clone()).any() and len(source) == 2
    with pytest.raises(ValueError, match="capacity of -1"):
        Batch.empty(2, -1, 0, source)
    with pytest.raises(ValueError, match="2 systems"):
        buffer.put(source, torch.ones(3, dtype=torch.bool))
    with pytest.raises(ValueError, match="nothing was put"):
        Batch.from_data_list([system(0)]).trim()
