"""What is written to a sink is read back, every bit of it, once and in order."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import FIRE, GPUBuffer, HostMemory, SnapshotHook, ZarrData
from nvdyn_ase.models import LennardJones
from tests.data.strategies import assert_holds, assert_same_data, batch_of, system, systems
from tests.systems import ARGON, argon
from tests.wells import wells


def zarr_data(capacity):
    storage = pytest.importorskip("zarr.storage")
    return ZarrData(storage.MemoryStore(), capacity)


SINKS = {
    "host": HostMemory,
    "gpu": lambda capacity: GPUBuffer(capacity, 10_000, 10_000, device="cpu"),
    "zarr": zarr_data,
}
sinks = pytest.mark.parametrize("make", SINKS.values(), ids=SINKS)


def bare(data):
    """Return systems without what is no tensor."""
    copies = [one.clone() for one in data]
    for copy in copies:
        copy.constraints, copy.host = (), {}
    return copies


@sinks
@settings(max_examples=20)
@given(data=systems(max_size=6), seed=st.data())
def test_every_field_comes_back_bit_for_bit(make, data, seed):
    batch, sink, expected = Batch.from_data_list(data), make(100), []
    for _ in range(seed.draw(st.integers(1, 3))):
        mask = seed.draw(
            st.none() | st.lists(st.booleans(), min_size=len(data), max_size=len(data))
        )
        sink.write(batch, None if mask is None else torch.tensor(mask))
        kept = mask or [True] * len(data)
        expected += [one for one, keep in zip(data, kept, strict=True) if keep]
        assert len(sink) == len(expected)
    if not expected:
        with pytest.raises(RuntimeError, match="empty"):
            sink.read()
        return
    strip = bare if isinstance(sink, ZarrData) else list
    for read in (sink.read, sink.read, sink.drain):
        # Edge fields are those of any system, as in a batch.
        whole = Batch.from_data_list(strip(expected))
        found = read()
        for one, other in zip(found.to_data_list(), whole.to_data_list(), strict=True):
            assert_same_data(one, other)
    assert len(sink) == 0


@sinks
def test_what_is_written_is_read_in_order_and_kept(make):
    sink, batch = make(5), wells(1.0, 2.0, 3.0)
    sink.write(batch)
    sink.write(batch, torch.tensor([True, False, True]))
    assert len(sink) == 5
    assert sink.is_full
    expected = torch.cat([batch["positions"], batch[[0, 2]]["positions"]])
    for _ in range(2):
        assert torch.equal(sink.read()["positions"], expected)
    assert torch.equal(sink.drain()["positions"], expected)
    assert len(sink) == 0 and not sink.is_full


@sinks
def test_the_ids_of_what_is_held(make):
    sink, batch = make(5), wells(1.0, 2.0, 3.0)
    assert sink.system_ids() == set()
    batch["system_id"] = torch.tensor([7, 2, 9])
    sink.write(batch, torch.tensor([True, False, True]))
    assert sink.system_ids() == {7, 9}
    sink.zero()
    assert sink.system_ids() == set()


@sinks
def test_copies_are_kept_and_given(make):
    sink, batch = make(5), wells(1.0)
    before = batch["positions"].clone()
    sink.write(batch)
    batch["positions"].zero_()
    sink.read()["positions"].zero_()
    assert torch.equal(sink.read()["positions"], before)


@sinks
def test_an_empty_sink_cannot_be_read(make):
    sink = make(1)
    sink.write(wells(1.0), torch.tensor([False]))
    for read in (sink.read, sink.drain):
        with pytest.raises(RuntimeError, match="empty"):
            read()


@sinks
def test_what_does_not_fit_is_not_taken(make):
    sink = make(2)
    sink.write(wells(1.0))
    with pytest.raises(RuntimeError, match="2 systems do not fit"):
        sink.write(wells(1.0, 2.0))
    assert len(sink) == len(sink.read()) == 1
    sink.write(wells(1.0, 2.0), torch.tensor([False, True]))
    assert sink.is_full


@sinks
@pytest.mark.parametrize("length", [1, 3])
def test_a_mask_of_the_wrong_length(make, length):
    with pytest.raises(ValueError, match="mask"):
        make(5).write(wells(1.0, 2.0), torch.ones(length, dtype=torch.bool))


@sinks
def test_zero_and_capacity(make):
    sink = make(2)
    sink.write(wells(1.0))
    sink.zero()
    assert len(sink) == 0
    assert "0 of 2 systems" in repr(sink)
    other = wells(1.0)
    other["charge"] = torch.ones(1)
    sink.write(other)
    assert sink.read()["charge"].tolist() == [1.0]
    with pytest.raises(ValueError, match="capacity"):
        make(0)


@sinks
def test_fields_that_some_lack_are_filled_or_refused_before_anything_is_taken(make):
    sink, first = make(9), wells(1.0, 2.0)
    first.add_key("mark", torch.arange(first.num_nodes, dtype=torch.int16), default=-1)
    sink.write(first)
    sink.write(wells(3.0))
    later = wells(4.0)
    later.add_key("weight", torch.tensor([0.5]), "system", default=float("inf"))
    later["forces"] = torch.ones(2, 3).double()
    sink.write(later)
    read = sink.read()
    assert read["mark"].tolist() == [*range(5), -1, -1, -1, -1]
    assert read["mark"].dtype is torch.int16
    assert read["weight"].tolist() == [float("inf")] * 3 + [0.5]
    assert not read["forces"][:-2].any() and read["forces"][-2:].all()
    for key in ("new", "mark", "weight"):  # no default, another shape, another level
        wrong = wells(5.0)
        wrong.add_key(key, torch.ones(2, 2, dtype=torch.int16), "node")
        with pytest.raises(ValueError, match=key):
            sink.write(wrong)
    needed = wells(1.0)
    del needed["atomic_masses"]
    with pytest.raises(ValueError, match="atomic_masses"):
        sink.write(needed)
    assert len(sink) == len(sink.read()) == 4
    assert_holds(sink.drain(), read.to_data_list())


@sinks
def test_pairs_of_your_own_are_kept_and_those_of_an_engine_are_not(make):
    own = batch_of(3, 4, edges=2)
    sink = make(9)
    sink.write(own)
    sink.write(own)
    assert sink.read().num_edges_list == [2] * 4
    expected = torch.cat([own["edge_index"], own["edge_index"] + own.num_nodes])
    assert torch.equal(sink.read()["edge_index"], expected)

    class Reads(LennardJones):
        def forward(self, batch):
            batch["edge_index"]
            return super().forward(batch)

    sink = make(9)
    batch = batch_from_atoms([argon(0), argon(1)])
    FIRE(Reads(**ARGON), hooks=[SnapshotHook(sink)]).run(batch, n_steps=2)
    assert batch.num_edges and sink.read().num_edges == 0


@sinks
def test_status_of_either_shape(make):
    sink = make(9)
    for shape in ((2,), (2, 1)):
        batch = wells(1.0, 2.0)
        batch["status"] = torch.tensor([1, 2]).view(shape)
        sink.write(batch)
    assert sink.read()["status"].tolist() == [1, 2, 1, 2]


# -------------------------------------------------------------------- a buffer of limited size


@given(
    sizes=st.lists(st.integers(0, 6), min_size=1, max_size=8),
    limits=st.tuples(st.integers(1, 6), st.integers(1, 20), st.integers(0, 12)),
)
@settings(max_examples=20)
def test_a_buffer_is_never_over_any_limit(sizes, limits):
    buffer = GPUBuffer(*limits, device="cpu")
    held = []
    for number, size in enumerate(sizes):
        one = system(number, size, edges=2)
        after = [*held, one]
        totals = len(after), sum(d.num_nodes for d in after), sum(d.num_edges for d in after)
        if all(total <= limit for total, limit in zip(totals, limits, strict=True)):
            buffer.write(Batch.from_data_list([one]))
            held = after
        else:
            with pytest.raises(RuntimeError, match="do not fit"):
                buffer.write(Batch.from_data_list([one]))
        atoms = sum(d.num_nodes for d in held)
        assert buffer.is_full == (len(held) == limits[0] or atoms == limits[1])
    if held:
        assert_holds(buffer.drain(), held)


def test_arguments_of_a_buffer():
    buffer = GPUBuffer(3, 5, 7, device="cpu")
    assert (buffer.capacity, buffer.max_atoms, buffer.max_edges) == (3, 5, 7)
    assert repr(buffer) == "GPUBuffer(0 of 3 systems, 0 of 5 atoms, 0 of 7 edges, cpu)"
    with pytest.raises(ValueError, match="max_atoms"):
        GPUBuffer(1, 0, 0, device="cpu")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="HostMemory"):
            GPUBuffer(1, 1, 1)
