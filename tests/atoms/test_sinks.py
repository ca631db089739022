import sys

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import (
    DatabaseSink,
    ExtxyzSink,
    TrajectorySink,
    batch_from_atoms,
    batch_to_atoms,
)
from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.dynamics import DataSink, Outcome
from nvdyn_ase.files import DamagedFileError
from tests.atoms.constrained import mixed_up
from tests.atoms.structures import structures
from tests.files.written import assert_kept
from tests.systems import mixed, with_velocities

SINKS = {"traj": TrajectorySink, "extxyz": ExtxyzSink, "db": DatabaseSink}


@pytest.fixture(params=SINKS)
def kind(request):
    return request.param


@pytest.fixture
def sink(kind, tmp_path):
    with SINKS[kind](tmp_path / f"a.{kind}") as sink:
        yield sink


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sinks")


def computed(atoms_list, seed=0):
    """Return a batch with everything that an engine leaves in it."""
    batch = batch_from_atoms(atoms_list, indices=range(10, 10 + len(atoms_list)))
    rng, count = np.random.default_rng(seed), len(batch)
    batch["energy"] = torch.tensor(rng.normal(size=(count, 1)))
    batch["forces"] = torch.tensor(rng.normal(size=(batch.num_nodes, 3)))
    stress = rng.normal(size=(count, 3, 3))
    batch["stress"] = torch.tensor(stress + stress.swapaxes(1, 2))
    batch["fmax"] = torch.tensor(rng.random((count, 1)))
    for key in ("steps", "evaluations", "status"):
        batch[key] = torch.tensor(rng.integers(0, 9, (count, 1)))
    batch["outcome"] = torch.full((count, 1), int(Outcome.CONVERGED))
    return batch


def assert_same_systems(found, batch, decimals):
    for own, whole in zip(batch_to_atoms(found), batch_to_atoms(batch), strict=True):
        assert_kept(own, whole, decimals)
        assert own.info.keys() == whole.info.keys()
    for key in ("system_id", "steps", "evaluations", "status", "outcome", "fmax"):
        assert (key in found) == (key in batch)
        if key in batch:
            assert torch.equal(found[key], batch[key]), key
            assert found[key].dtype is batch[key].dtype


def test_what_is_written_is_read_in_order_and_kept(sink, kind):
    assert isinstance(sink, DataSink)
    batch = computed([with_velocities(a, 1) if len(a) > 1 else a for a in mixed(6)])
    sink.write(batch)
    sink.write(batch, torch.tensor([True, False, True, False, False, True]))
    assert len(sink) == 9
    expected = batch.clone()
    expected.append(batch[[0, 2, 5]])
    for _ in range(2):
        assert_same_systems(sink.read(), expected, kind == "extxyz")
    assert_same_systems(sink.drain(), expected, kind == "extxyz")
    assert len(sink) == 0
    sink.write(batch)
    assert_same_systems(sink.read(), batch, kind == "extxyz")


@given(st.lists(structures(), min_size=1, max_size=3), st.integers(0, 99))
@settings(max_examples=15)
def test_whatever_an_atoms_holds_comes_through(folder, several, seed):
    for atoms in several:
        for name in [n for n, a in atoms.arrays.items() if a.dtype.kind in "OSMg"]:
            del atoms.arrays[name]  # what JSON does not give back
        for name in [n for n, a in atoms.arrays.items() if a.dtype.char == "g"]:
            del atoms.arrays[name]
    batch = computed(several, seed)
    for kind, make in SINKS.items():
        sink = make(folder / f"any.{kind}")
        sink.zero()
        sink.write(batch)
        assert_same_systems(sink.read(), batch, kind == "extxyz")
        sink.close()


def test_constraints_come_through(tmp_path):
    whole = [mixed_up(seed) for seed in range(12)]
    batch = computed(whole)
    for kind, make in SINKS.items():
        with make(tmp_path / f"a.{kind}") as sink:
            sink.write(batch)
            found = batch_to_atoms(sink.read())
        for own, atoms in zip(found, whole, strict=True):
            names = [type(c).__name__ for c in atoms.constraints]
            assert [type(c).__name__ for c in own.constraints] == names


def test_a_sink_of_any_batch(sink):
    """One that never was Atoms, that has pairs, fields of its own and no results."""
    data = AtomicData(
        positions=torch.rand(2, 3), atomic_numbers=torch.tensor([1, 8]), edge_index=[[0, 1]]
    )
    data.add_node_property("weight", torch.tensor([1.0, 2.0]), default=0.0)
    data.add_system_property("gap", torch.tensor([0.5]))
    sink.write(Batch.from_data_list([data]))
    (atoms,) = batch_to_atoms(sink.read())
    assert atoms.arrays["weight"].tolist() == [1.0, 2.0]
    assert atoms.info["gap"] == 0.5
    assert atoms.calc is None
    assert sink.read()["system_id"].tolist() == [[0]]


def test_systems_of_which_only_some_have_a_result(sink):
    atoms = mixed(2)
    sink.write(computed(atoms[:1]))
    sink.write(batch_from_atoms(atoms[1:], indices=[3]))
    first, second = batch_to_atoms(sink.read())
    assert "stress" in first.calc.results or first.cell.rank != 3
    assert np.isnan(second.get_potential_energy())
    assert sink.read()["system_id"].tolist() == [[10], [3]]


def test_info_that_is_called_as_what_an_engine_keeps(sink):
    atoms = ase.Atoms("H", info={"steps": "many", "outcome": "fine", "fmax": [1.0]})
    batch = computed([atoms])
    sink.write(batch)
    found = sink.read()
    assert torch.equal(found["steps"], batch["steps"])
    info = batch_to_atoms(found)[0].info
    assert (info["steps"], info["outcome"]) == ("many", "fine")
    assert list(info["fmax"]) == [1.0]


def test_other_programs_read_them(tmp_path):
    batch = computed(mixed(3))
    for kind, make in SINKS.items():
        with make(tmp_path / f"a.{kind}") as sink:
            sink.write(batch)
        found = ase.io.read(tmp_path / f"a.{kind}", ":")
        energies = [atoms.get_potential_energy() for atoms in found]
        assert energies == batch["energy"].view(-1).tolist()
        assert all(type(atoms.calc) is SinglePointCalculator for atoms in found)
        if kind != "db":
            assert [atoms.info["system_id"] for atoms in found] == [10, 11, 12]
    assert ase.db.connect(tmp_path / "a.db").count(outcome=1, system_id=11) == 1


# -------------------------------------------------------------------- as any sink


def test_an_empty_sink_cannot_be_read(sink):
    for read in (sink.read, sink.drain):
        with pytest.raises(RuntimeError, match="empty"):
            read()
    sink.write(computed(mixed(2)), torch.tensor([False, False]))
    assert len(sink) == 0


def test_what_does_not_fit_is_not_taken(kind, tmp_path):
    sink = SINKS[kind](tmp_path / "a", capacity=2)
    assert not sink.is_full
    sink.write(computed(mixed(1)))
    with pytest.raises(RuntimeError, match="2 systems do not fit"):
        sink.write(computed(mixed(2)))
    assert len(sink) == len(sink.read()) == 1
    sink.write(computed(mixed(1)))
    assert sink.is_full
    assert "2 of 2 systems" in repr(sink)
    sink.close()


def test_without_a_capacity_there_is_no_end(sink):
    assert sink.capacity == sys.maxsize
    assert not sink.is_full
    assert "0 systems" in repr(sink)


@pytest.mark.parametrize("length", [1, 3])
def test_a_mask_of_the_wrong_length(sink, length):
    with pytest.raises(ValueError, match="mask"):
        sink.write(computed(mixed(2)), torch.ones(length, dtype=torch.bool))


def test_no_capacity_at_all(kind, tmp_path):
    with pytest.raises(ValueError, match="capacity"):
        SINKS[kind](tmp_path / "a", capacity=0)


def test_a_file_that_is_there_is_gone_on_with(kind, tmp_path):
    path = tmp_path / f"a.{kind}"
    batch = computed(mixed(4))
    with SINKS[kind](path) as sink:
        sink.write(batch[:3])
    if kind != "db":
        path.write_bytes(path.read_bytes()[:-5])
    with SINKS[kind](path) as sink:
        left = len(sink)
        assert left == (3 if kind == "db" else 2)
        sink.write(batch[left:])
        assert_same_systems(sink.read(), batch, kind == "extxyz")


def test_a_file_of_something_else_is_left_alone(kind, tmp_path):
    (tmp_path / "a").write_text("a shopping list\n")
    with pytest.raises(DamagedFileError):
        SINKS[kind](tmp_path / "a")
    assert (tmp_path / "a").read_text() == "a shopping list\n"


@pytest.mark.gpu
def test_from_a_gpu(sink, kind):
    batch = computed(mixed(3))
    sink.write(batch.cuda(), torch.tensor([True, False, True]).cuda())
    assert_same_systems(sink.read(), batch[[0, 2]], kind == "extxyz")
