import gzip
import os
import random

import ase.db
import ase.io
import numpy as np
import pytest

from nvdyn_ase.atoms import Result
from nvdyn_ase.background_writer import BackgroundWriter, WriteError
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.output import OutputError, result_file
from nvdyn_ase.provenance import provenance
from tests.files.written import assert_kept, contents, some
from tests.killing import killed_after

WHOLE = some(6)
#: Files that a run into them can be resumed.
GROWING = ["a.extxyz", "a.xyz", "a.traj", "a.db", "a.extxyz.gz", "a.traj.gz"]
HELD = ["a.cif", "a.json"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def result(index, outcome=Outcome.CONVERGED, reason=""):
    atoms = WHOLE[index % 6].copy()
    atoms.calc = WHOLE[index % 6].calc
    energy = atoms.get_potential_energy()
    converged = outcome is Outcome.CONVERGED
    return Result(atoms, index, converged, 3, 4, energy, 0.03, outcome, reason)


def opened(name, resume=False, told=None):
    output = result_file(name, resume=resume)
    output.open(at_least=2, provenance=told, resume=resume)
    return output


def run_of(**changes):
    if not os.path.exists("in.extxyz"):
        ase.io.write("in.extxyz", WHOLE)
    inputs = changes.pop("inputs", ["in.extxyz"])
    arguments = {"parameters": {"fmax": 0.05, "optimizer": "FIRE"}, "seed": 1, "number": 6}
    return provenance("relax", model=None, inputs=inputs, **arguments | changes)


def indices(name):
    found = ase.io.read(name, ":")
    if ".db" in name:
        return [row.input_index for row in ase.db.connect(name).select()]
    return [int(atoms.info["input_index"]) for atoms in found]


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db"])
def test_parts_of_which_nothing_says_what_they_are_of_are_not_taken_over(name):
    part = result_file(name).part(1)
    part.open()
    part.write(result(0))
    part.close(complete=True)
    output = result_file(name, resume=True)
    with pytest.raises(OutputError, match=r"gone or damaged|does not say"):
        output.open(provenance=run_of(), resume=True)
    assert part.existing()
    output = result_file(name, overwrite=True)
    output.open(provenance=run_of())
    assert output.done() == set()
    output.close(complete=False)


# -------------------------------------------------------------------- stopped and gone on with


@pytest.mark.parametrize("name", GROWING)
def test_out_of_order_stopped_and_resumed(name):
    output = opened(name)
    for index in (4, 0, 2):
        output.write(result(index))
    output.close(complete=False)
    assert "3 structures are in a.partial" in output.state()
    assert "first" not in output.state()
    assert not os.path.exists(name)
    output = opened(name, resume=True)
    assert output.done() == {0, 2, 4}
    assert output.outcomes() == dict.fromkeys((4, 0, 2), "converged")
    for index in (1, 5, 3):
        output.write(result(index))
    output.close(complete=True)
    assert output.state() == f"written to {name}"
    assert os.listdir() == [name]
    assert indices(name) == [4, 0, 2, 1, 5, 3]


@pytest.mark.parametrize("name", GROWING)
def test_a_failure_that_is_tried_again_is_replaced(name):
    output = opened(name)
    for index in range(4):
        output.write(result(index, Outcome.NAN if index == 1 else Outcome.CONVERGED, "why"))
    output.close(complete=False)
    output = opened(name, resume=True)
    assert output.outcomes()[1] == "not_finite"
    output.write(result(1))
    assert output.written == 4
    output.close(complete=True)
    assert indices(name) == [0, 1, 2, 3]
    if "db" in name:
        assert ase.db.connect(name).count(relax_outcome="converged") == 4
    else:
        assert all(a.info["relax_outcome"] == "converged" for a in ase.io.read(name, ":"))


@pytest.mark.parametrize("name", HELD)
def test_formats_written_in_one_go_cannot_be_resumed(name):
    output = opened(name)
    output.write(result(0))
    output.write(result(1))
    output.close(complete=False)
    partial = name.replace("a.", "a.partial.")
    assert len(ase.io.read(partial, ":")) == 2
    with pytest.raises(OutputError, match="cannot be resumed"):
        opened(name, resume=True)
    assert len(ase.io.read(partial, ":")) == 2


@pytest.mark.parametrize("name", GROWING + HELD)
def test_to_resume_what_has_not_begun_is_to_begin(name):
    output = opened(name, resume=True, told=run_of())
    assert output.done() == set()
    output.write(result(0))
    output.close(complete=True)
    assert len(ase.io.read(name, ":")) == 1


@pytest.mark.parametrize("name", GROWING)
def test_what_is_complete_is_not_resumed(name):
    output = opened(name)
    output.write(result(0))
    output.close(complete=True)
    with pytest.raises(OutputError, match="complete"):
        opened(name, resume=True)


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db"])
def test_a_file_of_something_else_is_not_resumed(name):
    partial = name.replace("a.", "a.partial.")
    ase.io.write(partial, WHOLE[:2])
    with pytest.raises(OutputError, match="input_index"):
        opened(name, resume=True)
    assert len(ase.io.read(partial, ":")) == 2


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db"])
def test_a_damaged_file_is_not_resumed(name):
    partial = name.replace("a.", "a.partial.")
    with open(partial, "w") as file:
        file.write("a shopping list\n" * 100)
    with pytest.raises(OutputError, match="cannot go on"):
        opened(name, resume=True)


def test_a_journal_of_an_older_database_does_not_spoil_a_new_one():
    for name in ("a.partial.db-journal", "a.db-journal", "a.partial.db"):
        with open(name, "wb") as file:
            file.write(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + b"\0" * 600)
    output = result_file("a.db", overwrite=True)
    output.open()
    output.write(result(0))
    output.close(complete=True)
    assert os.listdir() == ["a.db"]
    assert indices("a.db") == [0]


def test_compressed_files_are_whole_ones():
    output = opened("a.extxyz.gz")
    for index in range(3):
        output.write(result(index))
    assert os.listdir() == ["a.partial.extxyz"]
    output.close(complete=True)
    with gzip.open("a.extxyz.gz") as file:
        assert file.read().count(b"input_index") == 3


def test_files_for_each_structure_are_resumed_too():
    output = result_file("a_{index}.traj")
    output.open(at_least=2, provenance=run_of())
    for index in (0, 2):
        output.write(result(index))
    output.close(complete=False)
    with open("a_partial.traj", "w") as file:
        file.write("half of it")
    output = result_file("a_{index}.traj", resume=True)
    output.open(at_least=2, provenance=run_of(), resume=True)
    assert output.done() == {0, 2}
    output.write(result(1))
    output.close(complete=True)
    names = {"a_0.traj", "a_1.traj", "a_2.traj", "a_all.traj.provenance.json", "in.extxyz"}
    assert set(os.listdir()) == names
    with pytest.raises(OutputError, match="another run"):
        result_file("a_{index}.traj", resume=True).open(provenance=run_of(seed=2), resume=True)


# -------------------------------------------------------------------- what is written


@pytest.mark.parametrize("name", GROWING)
def test_everything_of_a_structure_is_written(name):
    output = opened(name)
    output.write(result(3))
    output.close(complete=True)
    if name.endswith("gz"):
        return
    kind = {"xyz": "extxyz"}.get(name.split(".")[-1], name.split(".")[-1])
    assert_kept(contents(kind, name)[3], WHOLE[3], decimals=kind == "extxyz")


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db"])
def test_marks_of_an_earlier_run_are_replaced(name):
    first = result(0, Outcome.ERROR, "the model is not well")
    first.atoms.info["relax_reason"] = "older still"
    output = opened(name)
    output.write(first)
    output.write(Result(first.atoms, 5, True, 1, 2, 0.0, np.nan, Outcome.CONVERGED))
    output.close(complete=True)
    if name == "a.db":
        second = ase.db.connect(name).get(input_index=5).key_value_pairs
    else:
        second = ase.io.read(name, 1).info
    assert second["relax_outcome"] == "converged"
    assert not {"relax_reason", "relax_fmax"} & second.keys()


def test_a_failure_has_no_results_and_says_why():
    output = opened("a.extxyz")
    output.write(result(0, Outcome.NAN, 'atoms "1" and 2\nare 0.1 Å apart'))
    output.close(complete=True)
    atoms = ase.io.read("a.extxyz")
    assert atoms.calc is None
    assert atoms.info["relax_outcome"] == "not_finite"
    assert atoms.info["relax_reason"] == 'atoms "1" and 2 are 0.1 Å apart'


# -------------------------------------------------------------------- where results come from


@pytest.mark.parametrize("name", ["a.extxyz", "a.db"])
def test_provenance_is_in_every_output_and_compared(name):
    output = opened(name, told=run_of())
    output.write(result(0))
    output.close(complete=False)
    with pytest.raises(OutputError, match=r"fmax was 0.05, and is 0.01"):
        opened(name, resume=True, told=run_of(parameters={"fmax": 0.01, "optimizer": "FIRE"}))
    output = opened(name, resume=True, told=run_of())
    assert output.done() == {0}
    output.close(complete=True)
    if name == "a.db":
        assert ase.db.connect(name).metadata["parameters"]["fmax"] == 0.05
    else:
        assert "a.extxyz.provenance.json" in os.listdir()


def test_without_its_sidecar_a_run_is_not_resumed():
    output = opened("a.extxyz", told=run_of())
    output.write(result(0))
    output.close(complete=False)
    os.unlink("a.extxyz.provenance.json")
    with pytest.raises(OutputError, match="gone or damaged"):
        opened("a.extxyz", resume=True, told=run_of())


def test_another_input_is_not_resumed():
    output = opened("a.db", told=run_of())
    output.write(result(0))
    output.close(complete=False)
    ase.io.write("in.extxyz", WHOLE[:5])
    with pytest.raises(OutputError, match=r"in.extxyz had \d+ bytes, and has"):
        opened("a.db", resume=True, told=run_of())


# -------------------------------------------------------------------- in another thread, killed


@pytest.mark.parametrize("name", GROWING)
def test_written_by_another_thread(name):
    output = opened(name, told=run_of())
    with BackgroundWriter(output, capacity=2, flush_items=2) as writer:
        for index in range(6):
            writer.put(result(index))
        writer.close(output.close, True)
    assert indices(name) == [0, 1, 2, 3, 4, 5]


def test_what_a_failing_database_lost_is_handed_back():
    output = opened("a.db")
    writer = BackgroundWriter(output, flush_items=2)
    for index in range(2):
        writer.put(result(index))
    writer.flush()

    def fill_up():
        connection = output._file._connected().connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")

    def put_all():
        for index in range(2, 100):
            writer.put(result(index))
            taken.append(index)
        writer.flush()  # the thread may not have come that far

    writer.call(fill_up)
    taken = [0, 1]
    with pytest.raises(WriteError, match="full"):
        put_all()
    with pytest.raises(WriteError, match="full"):
        writer.close(output.close, False)
    lost = [item.index for item in writer.unwritten()]
    safe = indices("a.partial.db")
    assert sorted(output.done()) == safe
    assert sorted({*safe, *lost}) == taken
    output = opened("a.db", resume=True)
    with BackgroundWriter(output) as again:
        for item in writer.unwritten():
            again.put(item)
        again.close(output.close, True)
    assert sorted(indices("a.db")) == taken


def write_the_rest(say, name, count, seed):
    output = opened(name, resume=True, told=run_of())
    left = [index for index in range(count) if index not in output.done()]
    random.Random(seed).shuffle(left)
    with BackgroundWriter(output, capacity=5, flush_items=5) as writer:
        for index in left:
            writer.put(result(index))
            say(index)
        writer.close(output.close, True)


@pytest.mark.parametrize("name", ["a.extxyz", "a.traj", "a.db"])
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_out_of_order_and_resumed_each_is_there_once(name, kills):
    run_of()
    rng, count = random.Random(kills), 80
    for seed in range(kills):
        killed_after(rng.randint(1, 1 + 150 // kills), write_the_rest, name, count, seed)
        if os.path.exists(name):
            break
    else:
        assert killed_after(-1, write_the_rest, name, count, kills)[-1] == "end"
    assert sorted(indices(name)) == list(range(count))
    assert not [path for path in os.listdir() if "partial" in path]
