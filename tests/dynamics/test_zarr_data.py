"""A store on disk outlives writes that fail and processes that die."""

import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import ZarrData
from tests.data.strategies import assert_same_data, own_fields, same_bits, system, systems
from tests.wells import wells

zarr = pytest.importorskip("zarr")
from zarr.storage import MemoryStore  # noqa: E402


class Failing(MemoryStore):
    """A store in which there is room for so many more files."""

    room = 10**9

    async def set(self, key, value, byte_range=None):
        self._take()
        await super().set(key, value, byte_range)

    async def set_if_not_exists(self, key, value):
        self._take()
        await super().set_if_not_exists(key, value)

    def _take(self):
        if self.room <= 0:
            raise OSError(28, "No space left on device")
        self.room -= 1


def same(a, b):
    return a.keys() == b.keys() and all(same_bits(tensor, b[key]) for key, tensor in a)


@given(own=own_fields(), room=st.integers(0, 60), more=st.booleans())
@settings(max_examples=15)
def test_a_write_that_fails_leaves_what_was_there_and_can_be_repeated(own, room, more):
    first = Batch.from_data_list([system(1, 3, 2), system(2, 2, 1)])
    second = Batch.from_data_list([system(3, 4, 3)])
    for field in own if more else ():
        shape = (second.num_rows(field.level), *field.shape)
        second.add_key(field.name, torch.ones(shape, dtype=field.dtype), field.level, default=1)
    store = Failing()
    sink = ZarrData(store, config={"chunk_bytes": 64})
    sink.write(first)
    before = sink.read()
    store.room = room
    try:
        sink.write(second)
        failed = False
    except OSError:
        failed = True
    store.room = 10**9
    if failed:
        for found in (sink.read(), ZarrData(store).read()):
            assert same(found, before)
        sink.write(first)  # something else, over what the failure left
        assert same(sink.read()[[0, 1]], before)
        sink.write(second)
    expected = [*first.to_data_list(), *(first.to_data_list() if failed else ())]
    whole = Batch.from_data_list([*expected, *second.to_data_list()])
    for found in (sink.read(), ZarrData(store).read()):
        for one, other in zip(found.to_data_list(), whole.to_data_list(), strict=True):
            other.constraints, other.host = (), {}
            assert_same_data(one, other)


@given(data=systems(), seed=st.integers(0, 9))
@settings(max_examples=8)
def test_a_store_that_is_opened_again_goes_on(data, seed):
    store = MemoryStore()
    batch = Batch.from_data_list(data)
    for count in range(1, 4):
        sink = ZarrData(store)
        sink.write(batch)
        assert len(sink) == len(ZarrData(store)) == count * len(batch)
    whole = Batch.from_data_list(data * 3)
    assert same(ZarrData(store).read(), whole)


@pytest.mark.parametrize("chunk_bytes", [1, 100, 10**6])
def test_any_size_of_chunks_and_no_compression(tmp_path, chunk_bytes):
    config = {"chunk_bytes": chunk_bytes, "compressors": None}
    sink = ZarrData(tmp_path / "a.zarr", config=config)
    batch = wells(1.0, 2.0, 3.0)
    batch["positions"][1] = -0.0
    for _ in range(3):
        sink.write(batch)
    found = ZarrData(str(tmp_path / "a.zarr")).read()
    assert same_bits(found["positions"], batch["positions"].repeat(3, 1))


def test_zeros_of_both_signs_and_numbers_that_are_none(tmp_path):
    batch = wells(1.0, 2.0)
    batch["energy"] = torch.tensor([[-0.0], [-0.0]]).double()
    batch["fmax"] = torch.tensor([[float("inf")], [float("nan")]]).double()
    ZarrData(tmp_path / "a").write(batch)
    found = ZarrData(tmp_path / "a").read()
    for key in ("energy", "fmax"):
        assert same_bits(found[key], batch[key])


def test_others_can_read_it(tmp_path):
    sink = ZarrData(tmp_path / "a.zarr")
    batch = wells(1.0, 2.0)
    batch["a/b.c"] = torch.ones(2)
    batch["zarr.json"] = torch.zeros(2)
    for _ in range(2):
        sink.write(batch)
    group = zarr.open_group(tmp_path / "a.zarr", mode="r")
    rows = group.attrs["nvdyn_ase"]["rows"]
    assert (rows["system"], rows["node"], rows["edge"]) == (4, 10, 0)
    expected = batch["positions"].repeat(2, 1).numpy()
    np.testing.assert_array_equal(group["fields/positions"][: rows["node"]], expected)
    ends = [0, 2, 5, 7, 10]
    np.testing.assert_array_equal(group["ptr/node"][: rows["system"] + 1], ends)
    assert sink.read()["a/b.c"].tolist() == [1.0] * 4


def test_types_that_differ_are_refused():
    sink = ZarrData(MemoryStore())
    sink.write(wells(1.0))
    with pytest.raises(ValueError, match=r"float32 here and torch\.float64 there"):
        sink.write(wells(1.0).to(dtype=torch.float32))
    assert len(sink.read()) == 1


def test_a_store_of_something_else(tmp_path):
    zarr.create_array(tmp_path / "other.zarr" / "x", shape=(1,), dtype=int)
    zarr.open_group(tmp_path / "other.zarr", mode="a")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "letter.txt").write_text("")
    (tmp_path / "file").write_text("")
    for name in ("other.zarr", "home", "file"):
        with pytest.raises(ValueError, match="something else"):
            ZarrData(tmp_path / name)
    later = ZarrData(tmp_path / "later")
    later._root.update_attributes({"nvdyn_ase": {"version": 99}})
    with pytest.raises(ValueError, match="format 99"):
        ZarrData(tmp_path / "later")


def test_arguments():
    store = MemoryStore()
    sink = ZarrData(store, 7, {"chunk_bytes": 100})
    assert (sink.store, sink.capacity, sink.config) == (store, 7, {"chunk_bytes": 100})
    assert "0 of 7 systems" in repr(sink) and "\n" not in repr(sink)
    assert ZarrData(MemoryStore()).capacity == 1_000_000
    with pytest.raises(ValueError, match="shards"):
        ZarrData(store, config={"shards": 3})


def test_without_zarr_it_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zarr", None)
    with pytest.raises(ImportError, match=r"nvdyn_ase\[zarr\]"):
        ZarrData("nowhere")


WRITER = """
import sys, torch
from nvdyn_ase.dynamics import ZarrData
from tests.wells import wells
sink = ZarrData(sys.argv[1], config={"chunk_bytes": 500})
for number in range(len(sink), 10**6):
    batch = wells(1.0)
    batch["system_id"] = torch.tensor([[number]])
    sink.write(batch)
    print(number, flush=True)
"""


@pytest.mark.slow
def test_a_process_that_is_killed_loses_nothing_that_it_has_written(tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(5):
        command = [sys.executable, "-c", WRITER, str(tmp_path / "a.zarr")]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        last = process.stdout.readline()
        time.sleep(rng.uniform(0.0, 1.0))
        process.kill()
        last = ([last, *process.stdout.read().splitlines()])[-1]
        found = ZarrData(tmp_path / "a.zarr").read()
        assert len(found) in (int(last) + 1, int(last) + 2)
        assert found["system_id"].view(-1).tolist() == list(range(len(found)))
        expected = wells(1.0)["positions"].repeat(len(found), 1)
        assert torch.equal(found["positions"], expected)
