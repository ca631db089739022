import errno
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import nvdyn_ase.replacing
from nvdyn_ase.data import Batch, Level
from nvdyn_ase.dynamics.checkpoint import CheckpointError, read_checkpoint, write_checkpoint
from tests.data.strategies import DTYPES, any_bits, batch_of, same_bits, systems

FACTS = {"step": 12, "seed": 2**80, "name": "Å", "nan": [None, True, 1e-300], "deep": {"a": {}}}


def assert_same_fields(a, b):
    assert a.num_nodes_list == b.num_nodes_list
    assert a.num_edges_list == b.num_edges_list
    assert sorted(a.keys()) == sorted(b.keys())
    assert a.defaults == b.defaults
    for key, tensor in a:
        assert a.level(key) is b.level(key), key
        assert same_bits(tensor, b[key]), key


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("checkpoints")


@given(systems(min_size=1), st.booleans())
def test_what_is_written_is_read_bit_for_bit(folder, data, empty):
    batch = Batch.from_data_list(data)
    batches = {"systems": batch, "none": batch.index_select([])} if empty else {"systems": batch}
    write_checkpoint(folder / "a", batches, FACTS)
    found, facts = read_checkpoint(folder / "a")
    assert facts == FACTS
    assert list(found) == list(batches)
    for name, whole in batches.items():
        assert_same_fields(found[name], whole)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_ragged_blocks_of_any_type(tmp_path, dtype):
    batch = batch_of(2, 0, 3)
    batch.add_key("hessian", any_bits((36 + 81,), dtype, 1), level="block", default=0)
    write_checkpoint(tmp_path / "a", {"state": batch}, {})
    found = read_checkpoint(tmp_path / "a")[0]["state"]
    assert found.level("hessian") is Level.BLOCK
    assert_same_fields(found, batch)


def test_pairs_that_nobody_has_read_are_left_behind(tmp_path):
    def never():
        raise AssertionError

    batch = batch_of(2, 3)
    batch.set_edges({"edge_index": never}, [1, 2])
    write_checkpoint(tmp_path / "a", {"a": batch}, {})
    assert "edge_index" not in read_checkpoint(tmp_path / "a")[0]["a"]
    assert batch.num_edges_list == [1, 2]


def test_the_file_may_be_of_any_name_and_behind_a_link(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "far" / "real")
    write_checkpoint(tmp_path / "link", {}, {"a": 1})
    assert (tmp_path / "link").is_symlink()
    assert read_checkpoint(tmp_path / "far" / "real") == ({}, {"a": 1})
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["far", "link", "real"]


# -------------------------------------------------------------------- damaged and foreign files


@pytest.fixture(scope="module")
def whole(folder):
    write_checkpoint(folder / "whole", {"a": batch_of(2, 3, edges=2)}, FACTS)
    return (folder / "whole").read_bytes()


@given(st.data())
@settings(max_examples=60)
def test_a_cut_file_is_refused(folder, whole, data):
    (folder / "cut").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    with pytest.raises(CheckpointError, match="delete it"):
        read_checkpoint(folder / "cut")


@given(st.data())
@settings(max_examples=100)
def test_wrong_bytes_are_refused_or_change_nothing(folder, whole, data):
    place = data.draw(st.integers(0, len(whole) - 1))
    other = bytearray(whole)
    other[place] ^= data.draw(st.integers(1, 255))
    (folder / "wrong").write_bytes(other)
    try:
        found, facts = read_checkpoint(folder / "wrong")
    except CheckpointError:
        return
    # Such bytes as times and attributes of parts say nothing.
    assert facts == FACTS
    assert_same_fields(found["a"], batch_of(2, 3, edges=2))


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("code from the file was run",))


def archive(**parts):
    file = io.BytesIO()
    np.savez(file, **parts)
    return file.getvalue()


def header(**changes):
    text = json.dumps({"format": "nvdyn_ase checkpoint 1", "batches": {}, "facts": {}} | changes)
    return np.frombuffer(text.encode(), np.uint8)


def field(**changes):
    own = {"part": "p", "level": "node", "dtype": "float64", "shape": [1]} | changes
    return {"a": {"num_nodes": [1], "num_edges": [0], "fields": {"x": own}, "defaults": {}}}


ONE = np.zeros(8, np.uint8)
FOREIGN = {
    "nothing": b"",
    "text": b"step 1\n",
    "pickle": pickle.dumps(Bomb()),
    "an array of objects": archive(header=np.array([Bomb()])),
    "another archive": archive(positions=np.zeros(3)),
    "another version": archive(header=header(format="nvdyn_ase checkpoint 99")),
    "a missing part": archive(header=header(batches=field())),
    "a wrong size": archive(header=header(batches=field(shape=[2])), p=ONE),
    "a wrong type": archive(header=header(batches=field(dtype="load")), p=ONE),
    "a wrong level": archive(header=header(batches=field(level="atom")), p=ONE),
    "an object as a part": archive(header=header(batches=field()), p=np.array([Bomb()])),
    "facts of another kind": archive(header=header(facts=3)),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_foreign_files_are_refused_and_nothing_in_them_is_run(tmp_path, kind):
    (tmp_path / "a").write_bytes(FOREIGN[kind])
    with pytest.raises(CheckpointError, match="start afresh"):
        read_checkpoint(tmp_path / "a")


def test_a_file_that_torch_saved_is_refused(tmp_path):
    torch.save({"a": Bomb()}, tmp_path / "a")
    assert zipfile.is_zipfile(tmp_path / "a")
    with pytest.raises(CheckpointError):
        read_checkpoint(tmp_path / "a")


def test_a_missing_file_and_a_folder(tmp_path):
    for name in ("none", "."):
        with pytest.raises(CheckpointError, match="start"):
            read_checkpoint(tmp_path / name)


# -------------------------------------------------------------------- writing goes wrong


class FullDisk(io.BytesIO):
    """Takes so many bytes and no more."""

    room = 0

    def write(self, data):
        if self.tell() + len(data) > self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(data)

    def fileno(self):
        raise OSError


@pytest.mark.parametrize("room", [0, 10, 300, 1000])
def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch, room):
    path = tmp_path / "a"
    write_checkpoint(path, {}, {"step": 1})

    def opened(self, mode="r"):
        self.touch()
        disk = FullDisk()
        disk.room = room
        return disk

    with monkeypatch.context() as patch:
        patch.setattr(nvdyn_ase.replacing.Path, "open", opened)
        with pytest.raises(OSError, match="No space"):
            write_checkpoint(path, {"a": batch_of(2, 3)}, {"step": 2})
    assert read_checkpoint(path) == ({}, {"step": 1})
    assert [file.name for file in tmp_path.iterdir()] == ["a"]


def test_a_fact_that_json_does_not_hold(tmp_path):
    with pytest.raises(TypeError, match="ndarray"):
        write_checkpoint(tmp_path / "a", {}, {"array": np.zeros(3)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_to_a_gpu_and_back(tmp_path):
    batch = batch_of(2, 3, edges=2)
    write_checkpoint(tmp_path / "a", {"a": batch.cuda()}, {})
    found = read_checkpoint(tmp_path / "a", device="cuda")[0]["a"]
    assert found.device.type == "cuda"
    assert_same_fields(found.cpu(), batch)
