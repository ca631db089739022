import os
import re
import signal
import subprocess
import sys

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.optimize import FIRE

from nvdyn_ase import __version__
from nvdyn_ase.cli import main
from tests.systems import mixed


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return what runs the command in an empty folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        code = main(line.split() if isinstance(line, str) else line)
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def write(name, structures):
    for index, atoms in enumerate(structures):
        atoms.info["label"] = f"it is number {index}"
        atoms.arrays["weight"] = np.arange(len(atoms)) * 0.5
    ase.io.write(name, structures)


def labels(structures):
    return [atoms.info["label"] for atoms in structures]


def in_order(name):
    """Return the structures of an output in the order of the input."""
    found = ase.io.read(name, ":")
    if name.endswith(".db"):
        with ase.db.connect(name) as database:
            order = [row.input_index for row in database.select()]
    else:
        order = [int(atoms.info["input_index"]) for atoms in found]
    assert sorted(order) == list(range(len(found)))
    return [found[order.index(index)] for index in range(len(found))]


def table(out):
    """Return the numbers of the summary by their names."""
    return {name: int(number) for name, number in re.findall(r"^ *([a-z ]+?) +(\d+)\b", out, re.M)}


# -------------------------------------------------------------------- from file to file


def test_a_file_comes_back_relaxed(run):
    structures = mixed(6)
    write("in.extxyz", structures)
    code, out, err = run("relax in.extxyz -o out.extxyz --model emt --fmax 0.03")
    assert (code, err) == (0, "")
    assert table(out)["structures"] == table(out)["converged"] == 6
    assert "written to out.extxyz" in out
    assert sorted(os.listdir()) == ["in.extxyz", "out.extxyz", "out.extxyz.provenance.json"]
    relaxed = in_order("out.extxyz")
    starts = ase.io.read("in.extxyz", ":")
    assert labels(relaxed) == labels(starts)
    for atoms, start in zip(relaxed, starts, strict=True):
        start.calc = EMT()
        optimizer = FIRE(start, logfile=None)
        optimizer.run(fmax=0.03, steps=500)
        assert atoms.info["relax_converged"]
        assert atoms.info["relax_outcome"] == "converged"
        assert atoms.info["relax_steps"] == optimizer.nsteps
        assert atoms.info["relax_evaluations"] == optimizer.nsteps + 1
        assert atoms.info["relax_fmax"] < 0.03
        assert "relax_reason" not in atoms.info
        np.testing.assert_array_equal(atoms.arrays["weight"], start.arrays["weight"])
        np.testing.assert_allclose(atoms.positions, start.positions, atol=1e-7)
        assert atoms.get_potential_energy() == pytest.approx(start.get_potential_energy())
        np.testing.assert_allclose(atoms.get_forces(), start.get_forces(), atol=1e-7)
        assert len(atoms.constraints) == len(start.constraints)


@pytest.mark.parametrize("ending", ["traj", "xyz", "extxyz.gz", "cif", "traj.gz", "xsf"])
def test_formats(run, ending):
    structures = [bulk("Cu", cubic=True) for _ in range(3)]
    for index, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=index)
    write("in.traj", structures)
    code, _, _ = run(f"relax in.traj -o out.{ending} --model emt --quiet")
    assert code == 0
    assert sorted(os.listdir()) == ["in.traj", f"out.{ending}", f"out.{ending}.provenance.json"]
    assert len(ase.io.read(f"out.{ending}", ":")) == 3
    if ending not in ("cif", "xsf"):
        relaxed = in_order(f"out.{ending}")
        assert labels(relaxed) == labels(structures)
        assert all(atoms.info["relax_converged"] for atoms in relaxed)


@pytest.mark.parametrize("ending", ["db", "json"])
def test_databases_can_be_asked(run, ending):
    structures = mixed(3)
    write("in.traj", structures)
    assert run(f"relax in.traj -o out.{ending} --model emt --steps 40")[0] in (0, 1)
    with ase.db.connect(f"out.{ending}") as database:
        rows = list(database.select(relax_outcome="converged"))
        assert len(list(database.select())) == 3
    assert rows
    for row in rows:
        assert row.relax_fmax < 0.05
        assert row.data["label"].startswith("it is number")
        assert row.energy == pytest.approx(row.toatoms().get_potential_energy())


def test_several_inputs_and_a_part_of_one(run):
    write("a.traj", mixed(4))
    write("b.xyz", mixed(2))
    assert run("relax a.traj@1:3 b.xyz -o out.traj --model emt")[0] == 0
    assert labels(in_order("out.traj")) == [f"it is number {index}" for index in (1, 2, 0, 1)]


def test_a_file_for_every_structure(run):
    write("in.traj", [bulk("Cu"), bulk("Au")])
    line = "relax in.traj -o out/POSCAR_{index} --output-format vasp --model emt"
    code, _, err = run(line)
    assert code == 2
    assert "no directory out" in err
    os.mkdir("out")
    assert run(line)[0] == 0
    assert sorted(os.listdir("out")) == ["POSCAR_0", "POSCAR_1", "POSCAR_all.provenance.json"]
    assert ase.io.read("out/POSCAR_1", format="vasp").symbols[0] == "Au"
    code, _, err = run(line)
    assert code == 2
    assert "exists" in err


def test_one_structure_in_a_format_for_one(run):
    write("in.traj", [bulk("Cu")])
    assert run("relax in.traj -o POSCAR --model emt")[0] == 0
    assert ase.io.read("POSCAR").symbols[0] == "Cu"


def test_models_and_their_options(run):
    atoms = bulk("Ar", cubic=True, a=5.2) * 2
    atoms.rattle(0.1, seed=1)
    ase.io.write("in.xyz", atoms)
    options = " ".join(
        f"--model-option {word}" for word in ("sigma=3.405", "epsilon=0.0103", "rc=8.5")
    )
    assert run(f"relax in.xyz -o out.xyz --model lj {options} --fmax 1e-3 --steps 300")[0] == 0
    assert ase.io.read("out.xyz").info["relax_fmax"] < 1e-3


def test_options_of_the_optimizer(run):
    write("in.traj", mixed(2))
    for name, options in (("a", ""), ("b", "--option maxstep=0.01 --option downhill_check=true")):
        run(f"relax in.traj -o {name}.traj --model emt --optimizer FIRE --steps 300 {options}")
    fast, slow = (ase.io.read(f"{name}.traj").info["relax_steps"] for name in "ab")
    assert fast < slow


def test_cells_can_be_relaxed_too(run):
    write("in.extxyz", [bulk("Cu", a=3.7), bulk("Ni", a=3.4)])
    line = "relax in.extxyz -o out.extxyz --model emt --fmax 0.001 --cell-filter FrechetCellFilter"
    assert run(line)[0] == 0
    volumes = [atoms.get_volume() for atoms in in_order("out.extxyz")]
    assert volumes == pytest.approx([11.57, 10.59], abs=0.1)
    line += " --filter-option scalar_pressure=0.1 --overwrite"
    assert run(line)[0] == 0
    assert [a.get_volume() for a in in_order("out.extxyz")] < volumes
    code, _, err = run("relax in.extxyz -o o.extxyz --model emt --filter-option scalar_pressure=1")
    assert code == 2
    assert "--cell-filter" in err


def test_batch_size_does_not_show_in_the_output(run):
    write("in.traj", mixed(5))
    for size in ("1", "3", "auto"):
        line = f"relax in.traj -o {size}.extxyz --model emt --steps 30 --batch-size {size}"
        assert run(f"{line} --ordered")[0] == 1
    with open("1.extxyz") as one, open("3.extxyz") as three, open("auto.extxyz") as auto:
        assert one.read() == three.read() == auto.read()


# -------------------------------------------------------------------- not everything goes well


def test_not_converged_is_one(run):
    write("in.traj", mixed(3))
    code, out, _ = run("relax in.traj -o out.traj --model emt --steps 2 --fmax 0.001")
    assert code == 1
    assert table(out)["not converged"] == 3
    last = ase.io.read("out.traj")
    assert last.info["relax_outcome"] == "budget"
    assert not last.info["relax_converged"]


@pytest.mark.parametrize("ending", ["extxyz", "traj", "db"])
def test_failed_structures_are_written_and_listed(run, ending):
    structures = mixed(5)
    structures[1] = ase.Atoms("XeCu", [[0, 0, 0], [0, 0, 2.5]])
    structures[3].positions[0] = np.nan
    write("in.traj", structures)
    code, out, _ = run(f"relax in.traj -o out.{ending} --model emt")
    assert code == 1
    assert table(out)["failed"] == 2
    assert "1  rejected: EMT does not know Xe" in out
    relaxed = in_order(f"out.{ending}")
    assert [str(a.symbols) for a in relaxed] == [str(a.symbols) for a in structures]
    np.testing.assert_array_equal(relaxed[1].positions, structures[1].positions)
    if ending != "db":
        outcomes = [atoms.info["relax_outcome"] for atoms in relaxed]
        assert outcomes == ["converged", "rejected", "converged", "rejected", "converged"]
        assert "Xe" in relaxed[1].info["relax_reason"]


def test_failures_beyond_some_are_counted(run):
    write("in.traj", [ase.Atoms("Xe") for _ in range(30)])
    code, out, _ = run("relax in.traj -o out.traj --model emt")
    assert code == 1
    assert out.count("does not know Xe") == 20
    assert "and 10 more" in out


BAD_USAGE = [
    ("relax none.xyz -o out.xyz --model emt", "none.xyz"),
    ("relax notes.txt -o out.xyz --model emt", "cannot read notes.txt"),
    (
        "relax broken.xyz -o out.xyz --model emt",
        "record 0 of broken.xyz: could not convert",
    ),
    ("relax empty.xyz -o out.xyz --model emt", "Empty file"),
    ("relax . -o out.xyz --model emt", "cannot read"),
    ("relax in.traj -o out.xyz --model emtt", "morse"),
    ("relax in.traj -o out.xyz --model lj --model-option sigma=-1", "sigma"),
    ("relax in.traj -o out.xyz --model lj --model-option rc=-3", "cutoff"),
    ("relax in.traj -o out.xyz --model lj --model-option cutof=3", "cutof"),
    ("relax in.traj -o out.xyz --model lj --model-option sigma", "key=value"),
    ("relax in.traj -o out.xyz --model emt --device nowhere", "nowhere"),
    ("relax in.traj -o out.xyz --model emt --device cuda:99", "cuda:99"),
    ("relax in.traj -o out.xyz --model emt --fmax 0", "fmax"),
    ("relax in.traj -o out.xyz --model emt --fmax small", "--fmax"),
    ("relax in.traj -o out.xyz --model emt --steps -1", "steps"),
    ("relax in.traj -o out.xyz --model emt --batch-size 0", "batch_size"),
    ("relax in.traj -o out.xyz --model emt --batch-size big", "--batch-size"),
    ("relax in.traj -o out.xyz --model emt --optimizer LBFGSS", "FIRE"),
    ("relax in.traj -o out.xyz --model emt --option maxsteps=0.1", "maxsteps"),
    ("relax in.traj -o there.xyz --model emt", "there.xyz exists"),
    ("relax in.traj -o no/out.xyz --model emt", "no directory no"),
    ("relax in.traj -o out.what --model emt", "what"),
    ("relax in.traj -o out.xyz --output-format what --model emt", "what"),
    ("relax in.traj -o POSCAR --model emt", "{index}"),
    ("relax in.traj --model emt", "--output"),
    ("relax in.traj -o out.xyz", "--model"),
    ("", "COMMAND"),
    ("relaxx", "relaxx"),
]


@pytest.mark.parametrize(("line", "words"), BAD_USAGE)
def test_bad_usage_is_two_and_one_clear_line(run, line, words):
    write("in.traj", [bulk("Cu"), bulk("Cu")])
    write("there.xyz", [bulk("Cu")])
    for name, text in (("notes.txt", "a shopping list\n"), ("empty.xyz", "")):
        with open(name, "w") as file:
            file.write(text)
    with open("broken.xyz", "w") as file:
        file.write("2\n\nCu 0 0 0\nCu 0 zero 0\n")
    before = sorted(os.listdir())
    code, out, err = run(line)
    assert code == 2
    assert out == ""
    assert words in err.splitlines()[-1]
    assert "Traceback" not in err
    assert ": error: " in err.splitlines()[-1]
    assert sorted(os.listdir()) == before


def test_output_is_replaced_if_asked_even_where_it_is_the_input(run):
    write("in.traj", mixed(3))
    assert run("relax in.traj -o in.traj --model emt --overwrite")[0] == 0
    relaxed = ase.io.read("in.traj", ":")
    assert len(relaxed) == 3
    assert all(atoms.info["relax_converged"] for atoms in relaxed)


@pytest.mark.parametrize("ending", ["extxyz", "traj", "db", "cif"])
def test_a_record_that_cannot_be_read_is_passed_over_and_counted(run, ending):
    write("in.extxyz", [bulk("Cu"), bulk("Au")])
    with open("in.extxyz", "a") as file:
        file.write("2\n\nCu 0 0 0\nCu 0 zero 0\n")
    ase.io.write("in.extxyz", bulk("Pt"), append=True)
    code, out, err = run(f"relax in.extxyz -o out.{ending} --model emt")
    assert (code, err) == (1, "")
    assert table(out)["structures"] == 4
    assert table(out)["failed"] == 1
    assert "2  unreadable: cannot read record 2 of in.extxyz: could not convert string" in out
    relaxed = ase.io.read(f"out.{ending}", ":")
    assert [atoms.symbols[0] for atoms in relaxed] == ["Cu", "Au", "Pt"]
    if ending in ("extxyz", "traj"):
        assert [atoms.info["input_index"] for atoms in relaxed] == [0, 1, 3]


def test_a_file_that_ends_in_the_middle_of_a_structure(run):
    write("whole.extxyz", [bulk("Cu") * 2, bulk("Au") * 2])
    with open("whole.extxyz") as whole, open("in.extxyz", "w") as cut:
        cut.write(whole.read()[:-100])
    code, out, _ = run("relax in.extxyz -o out.extxyz --model emt")
    assert code == 1
    assert "1  unreadable" in out
    assert len(ase.io.read("out.extxyz", ":")) == 1


def stop_reading(monkeypatch, count, why):
    """Let the input give so many structures, and then raise."""

    def structures(names, form, skip):
        yield from ((index, bulk("Cu")) for index in range(count) if index not in skip)
        raise why

    monkeypatch.setattr("nvdyn_ase.commands.structures", structures)


@pytest.mark.parametrize("ending", ["extxyz", "traj", "cif"])
def test_interrupt_keeps_what_is_done(run, monkeypatch, ending):
    write("in.traj", [bulk("Cu")])
    stop_reading(monkeypatch, 5, KeyboardInterrupt)
    code, out, err = run(f"relax in.traj -o out.{ending} --model emt --batch-size 2")
    assert (code, err) == (130, "")
    assert table(out)["converged"] == 4
    left = {"in.traj", f"out.{ending}.provenance.json", f"out.partial.{ending}"}
    assert set(os.listdir()) == left
    assert len(ase.io.read(f"out.partial.{ending}", ":")) == 4


@pytest.fixture
def ctrl_c():
    """Let Ctrl-C act as usual; where the suite runs in the background it may be ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_interrupt_waits_for_what_is_being_written(run, monkeypatch, ctrl_c):
    write("in.traj", [bulk("Cu") for _ in range(3)])
    original = ase.io.write

    def interrupted(*args, **options):
        os.kill(os.getpid(), signal.SIGINT)
        original(*args, **options)

    monkeypatch.setattr(ase.io, "write", interrupted)
    before = ctrl_c
    code, out, _ = run("relax in.traj -o out.extxyz --model emt --batch-size 1")
    assert code == 130
    assert "stopped: the first" in out
    assert ase.io.read("out.partial.extxyz", ":")[0].info["relax_converged"]
    assert signal.getsignal(signal.SIGINT) is before


def test_interrupt_before_anything_leaves_nothing(run, monkeypatch):
    write("in.traj", [bulk("Cu")])
    stop_reading(monkeypatch, 2, KeyboardInterrupt)
    code, out, _ = run("relax in.traj -o out.traj --model emt")
    assert code == 130
    assert "stopped before anything was written" in out
    assert os.listdir() == ["in.traj"]


def test_a_structure_that_cannot_be_written_says_so(run, monkeypatch):
    write("in.traj", [bulk("Cu"), bulk("Cu")])

    def full(*args, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(ase.io, "write", full)
    code, _, err = run("relax in.traj -o out.extxyz --model emt")
    assert code == 2
    assert "structure 0 to out.extxyz: no space left on device" in err
    assert os.listdir() == ["in.traj"]


# -------------------------------------------------------------------- what people see


def test_quiet_and_progress(run):
    write("in.traj", [bulk("Cu"), bulk("Cu")])
    line = "relax in.traj -o out.traj --overwrite --model emt "
    assert run(line + "--quiet") == (0, "", "")
    assert run(line)[2] == ""
    assert "2/2 " in run(line + "--progress")[2]
    assert run(line + "--progress --quiet")[2] == ""


def test_version_and_help(run):
    assert run("--version") == (0, f"nvdyn-ase {__version__}\n", "")
    assert "relax" in run("--help")[1]
    code, out, _ = run("relax --help")
    assert code == 0
    for word in ("--fmax", "JOB_converged", "exit status", "emt, eam", "--overwrite"):
        assert word in out


def test_as_a_program(tmp_path):
    write(tmp_path / "in.extxyz", mixed(3))
    line = [sys.executable, "-m", "nvdyn_ase", "relax", "in.extxyz", "-o", "out.extxyz"]
    done = subprocess.run(
        [*line, "--model", "emt"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "written to out.extxyz" in done.stdout
    assert len(ase.io.read(tmp_path / "out.extxyz", ":")) == 3
