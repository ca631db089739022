"""Copies of systems and batches: what they share, and what they bring along."""

import copy
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings

from nvdyn_ase.data import AtomicData, Batch
from tests.data.strategies import (
    Own,
    assert_holds,
    assert_same_data,
    batch_of,
    same_bits,
    system,
    systems,
)

OWN = [
    Own("half", "node", torch.float16, (2,)),
    Own("phase", "system", torch.complex64, (3,)),
    Own("count", "node", torch.uint16, ()),
]

DEEP = {
    "deepcopy": copy.deepcopy,
    "pickle": lambda thing: pickle.loads(pickle.dumps(thing)),
    "clone": lambda thing: thing.clone(),
}


def tensors(thing):
    items = thing if isinstance(thing, Batch) else [(k, t) for k, _, t in thing.items()]
    return dict(items)


@given(systems())
@settings(max_examples=40, deadline=None)
def test_every_copy_is_the_same(data):
    batch = Batch.from_data_list(data)
    for name, deep in {**DEEP, "copy": copy.copy, "to": lambda thing: thing.to("cpu")}.items():
        assert_holds(deep(batch), data)
        for one in data:
            assert_same_data(deep(one), one)
            assert isinstance(deep(one), AtomicData), name


@pytest.mark.parametrize("deep", DEEP.values(), ids=DEEP)
@pytest.mark.parametrize(
    "make", [lambda: system(0, 3, 2, own=OWN), lambda: batch_of(2, 3, edges=2, own=OWN)]
)
def test_a_deep_copy_shares_nothing(deep, make):
    thing, untouched = make(), make()
    other = deep(thing)
    for tensor in tensors(other).values():
        tensor.zero_()
    host = other.host if isinstance(other, AtomicData) else other.host[0]
    host["name"] = "changed"
    for key, tensor in tensors(untouched).items():
        assert same_bits(tensors(thing)[key], tensor)
    assert thing.host == untouched.host


@pytest.mark.parametrize("make", [lambda: system(0, 3, own=OWN), lambda: batch_of(2, 3, own=OWN)])
def test_to_shares_what_need_not_change_and_converts_floats(make):
    thing = make()
    assert all(tensor is tensors(thing)[key] for key, tensor in tensors(thing.to("cpu")).items())
    single = thing.to(dtype=torch.float32)
    for key, tensor in tensors(thing).items():
        wanted = torch.float32 if tensor.is_floating_point() else tensor.dtype
        assert tensors(single)[key].dtype is wanted
    there = thing.to("meta", torch.float32)
    assert there.device == torch.device("meta")
    assert all(tensor.device == there.device for tensor in tensors(there).values())
    assert tensors(there)["positions"].dtype is torch.float32
    assert thing.device == torch.device("cpu")
    assert Batch.from_data_list([system()], device="meta").device == torch.device("meta")


def test_a_shallow_copy_has_fields_of_its_own():
    batch = batch_of(2, 3)
    other = copy.copy(batch)
    assert other["positions"] is batch["positions"]
    other["energy"] = torch.zeros(2)
    other.append(batch_of(1))
    del batch["velocities"]
    assert "energy" not in batch
    assert "velocities" in other
    assert len(batch) == 2
    one = system()
    twin = copy.copy(one)
    twin.energy = 1.0
    assert one.energy is None


def test_copies_leave_notes_of_engines_behind():
    batch = batch_of(2, 3)
    batch.neighbors, batch.evaluated = lambda: None, object()
    for other in (batch.clone(), batch[:], copy.deepcopy(batch), pickle.loads(pickle.dumps(batch))):
        assert other.neighbors is None
        assert other.evaluated is None
    batch.append(batch_of(1))
    assert batch.neighbors is batch.evaluated is None


def test_defaults_come_along():
    data = system(0, 2)
    data.add_node_property("mark", [1, 2], default=7)
    batch = Batch.from_data_list([data])
    copies = [batch.clone(), batch[:], batch.to("cpu"), copy.deepcopy(batch), copy.copy(batch)]
    copies += [Batch.from_data_list([deep(data)]) for deep in DEEP.values()]
    copies += [Batch.from_data_list(batch.to_data_list())]
    for other in copies:
        other.append(batch_of(1))
        assert other["mark"].tolist() == [1, 2, 7]
    assert batch.defaults == {"mark": 7}
    batch.defaults["mark"] = 8
    assert data._defaults == {"mark": 7}


def test_a_system_equals_itself_alone():
    one, other = system(1), system(1)
    assert one != other
    assert [other, one].index(one) == 1
    assert len({one, other, one}) == 2


def test_gradients_pass_through():
    batch = batch_of(2, 3)
    positions = batch["positions"].clone().requires_grad_()
    batch["positions"] = positions
    part = batch.clone()[[1, 0]]
    part.append(batch)
    Batch.from_data_list(part.to_data_list())["positions"].sum().backward()
    assert positions.grad.tolist() == np.full((5, 3), 2.0).tolist()


def test_page_locked_memory_or_a_plain_copy():
    batch = batch_of(2, 3)
    other = batch.pin_memory()
    assert_holds(other, batch.to_data_list())
    assert other["positions"].data_ptr() != batch["positions"].data_ptr()
    assert other["positions"].is_pinned() == torch.cuda.is_available()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_to_a_gpu_and_back():
    batch = batch_of(2, 0, 3, edges=2, own=OWN)
    data = batch.to_data_list()
    there = batch.pin_memory().cuda()
    assert there.device == there["positions"].device
    torch.cuda.set_sync_debug_mode("error")
    try:
        part = there[[2, 0]]
        part.append(there)
        sizes = part.ptr, part.edge_ptr, part.batch, part.num_nodes_per_graph
        assert all(tensor.device == part.device for tensor in sizes)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert_holds(part.cpu(), [data[2], data[0], *data])
