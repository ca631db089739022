"""Commands that are killed at any moment and gone on with."""

import errno
import json
import os
import random
import re
import resource
import signal
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import bulk

from nvdyn_ase.cli import main
from nvdyn_ase.dynamics.run import Run
from nvdyn_ase.workflows.checkpoints import Checkpoints
from tests.killing import killed_after
from tests.systems import mixed
from tests.wells import Well

#: What is done to the structures of ``in.traj``, into ``out.db``.
JOBS = {
    "FIRE": "relax in.traj --steps 60",
    "LBFGS": "relax in.traj --steps 60 --optimizer LBFGS",
    "BFGS, cells": "relax in.traj --steps 40 --optimizer BFGS --cell-filter FrechetCellFilter",
    "Langevin": "md in.traj --steps 30 --timestep 2 --temperature 300 --seed 7",
    "NPT": "md in.traj --steps 20 --temperature 300 --integrator NPTBerendsen "
    "--option pressure_au=0.0 --option compressibility_au=0.01",
    "stages": "run stages.toml in.traj",
}
STAGES = """
[[stage]]
method = "relax"
fmax = 0.3

[[stage]]
method = "md"
steps = 10
temperature = 600
timestep = 2

[[stage]]
method = "relax"
optimizer = "LBFGS"
steps = 20
"""
SMALL = "--model emt --batch-size 4 --checkpoint-every 3 --quiet"


@pytest.fixture(autouse=True, scope="module")
def _warm(tmp_path_factory):
    """Have here what every child would have to load and compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("warm"))
        ase.io.write("in.traj", periodic(2))
        Path("stages.toml").write_text(STAGES)
        for job in JOBS:
            assert main(line_of(job, f"{len(job)}.db").split()) in (0, 1)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stages.toml").write_text(STAGES)


def periodic(count):
    rng = np.random.default_rng(0)
    found = []
    for metal in ("Cu", "Au", "Ni", "Pt", "Al", "Pd") * (count // 6 + 1):
        found.append(bulk(metal) * (1, 1, int(rng.integers(1, 4))))
        found[-1].set_cell(found[-1].cell * rng.uniform(0.98, 1.03), scale_atoms=True)
        found[-1].rattle(0.05, rng=rng)
    return found[:count]


def line_of(job, name="out.db", more=""):
    return f"{JOBS[job]} -o {name} {SMALL} {more}"


def work(say, line):
    """Run a command, and say so after each step."""
    advance = Run.advance

    def saying(self):
        advance(self)
        say("step")

    Run.advance = saying
    say(f"exit status {main(line.split())}")


def ends(name):
    """Return how every structure in a file ended, bit for bit, by its index."""
    found = {}
    for row in ase.db.connect(name).select():
        assert row.input_index not in found
        atoms = row.toatoms()
        found[row.input_index] = (
            *(atoms.positions.tobytes(), atoms.cell.tobytes(), atoms.get_momenta().tobytes()),
            *(row.get(key) for key in ("relax_steps", "relax_evaluations", "relax_outcome")),
            *(row.get(key) for key in ("md_steps", "md_evaluations", "md_outcome")),
            *(row.get(key) for key in ("run_evaluations", "run_outcome")),
            *(row.get(f"run_steps_{stage}") for stage in (1, 2, 3)),
            row.get("energy"),
        )
    return found


def left_over():
    """Return what a run has left; a lock file that nobody has locked is nothing."""
    found = sorted(name for name in os.listdir() if not name.endswith(".lock"))
    return [name for name in found if "partial" in name or "checkpoint" in name]


# -------------------------------------------------------------------- kill -9


def finished(line):
    """Run a command to its end, in a process of its own; return how many steps it did."""
    *said, status, end = killed_after(-1, work, line)
    assert (status in ("exit status 0", "exit status 1"), end) == (True, "end"), said
    return len(said)


def killed(line, steps):
    """Run a command, and kill it after so many steps; return whether it had not ended before."""
    said = killed_after(steps, work, line)
    assert "exit status 2" not in said
    return said == ["step"] * steps


@pytest.mark.parametrize("job", JOBS)
def test_killed_again_and_again_it_ends_as_undisturbed(job):
    count = 7
    ase.io.write("in.traj", periodic(count) if job in ("BFGS, cells", "NPT") else mixed(count))
    steps = finished(line_of(job, "whole.db"))
    expected = ends("whole.db")
    assert set(expected) == set(range(count))
    rng = random.Random(job)
    assert killed(line_of(job), rng.randint(4, steps // 2))
    assert "out.db.checkpoint.npz" in left_over()
    for _ in range(2):
        killed(line_of(job, more="--resume"), rng.randint(1, steps // 4))
    assert finished(line_of(job, more="--resume")) < steps
    assert ends("out.db") == expected
    assert left_over() == []


def dies_beside_the_checkpoint(say, line, behind):
    """Run a command, and die when the first checkpoint is written, before or behind that."""
    save = Checkpoints.save

    def dying(self, engine, batch):
        if behind:
            save(self, engine, batch)
        else:
            self.before()  # results are safe, and no checkpoint tells of it
        os.kill(os.getpid(), signal.SIGKILL)

    Checkpoints.save = dying
    say(main(line.split()))


@pytest.mark.parametrize("behind", [False, True])
def test_death_on_either_side_of_a_checkpoint(behind):
    ase.io.write("in.traj", mixed(7))
    finished(line_of("FIRE", "whole.db", "--checkpoint-every 20"))
    line = line_of("FIRE", more="--checkpoint-every 20")
    assert killed_after(-1, dies_beside_the_checkpoint, line, behind) == []
    assert ("out.db.checkpoint.npz" in left_over()) is behind
    with ase.db.connect("out.partial.db") as database:
        assert 0 < database.count() < 7
    finished(line + " --resume")
    assert ends("out.db") == ends("whole.db")


def dies_before_the_end(say, line):
    """Run a command, and die when the file has just got its name."""
    Checkpoints.remove = lambda self: os.kill(os.getpid(), signal.SIGKILL)
    say(main(line.split()))


def test_death_when_all_is_done(capsys):
    ase.io.write("in.traj", mixed(4))
    line = line_of("FIRE")
    killed(line, 8)
    assert killed_after(-1, dies_before_the_end, line + " --resume") == []
    assert left_over() == ["out.db.checkpoint.npz"]
    before = ends("out.db")
    assert main((line + " --resume").split()) == 0
    assert "complete" in capsys.readouterr().out
    assert left_over() == []
    assert ends("out.db") == before


@pytest.mark.parametrize("name", ["out.db", "out.extxyz", "out.traj"])
@pytest.mark.parametrize("wrong", ["nothing", "steps", "record"])
def test_a_complete_output_says_again_what_the_run_has_said(name, wrong, capsys):
    ase.io.write("in.extxyz", mixed(3))
    if wrong == "record":
        with open("in.extxyz", "a") as file:
            file.write("2\n\nCu 0 0 0\nCu 0 zero 0\n")
    steps = 1 if wrong == "steps" else 200
    line = f"relax in.extxyz -o {name} --model emt --steps {steps} --quiet"
    assert main(line.split()) == (0 if wrong == "nothing" else 1)
    before = contents()
    assert main(f"{line} --resume".split()) == (0 if wrong == "nothing" else 1)
    assert capsys.readouterr().out == f"{name} is complete: there is nothing to resume\n"
    assert contents() == before


@pytest.mark.parametrize("name", ["out.db", "out.extxyz", "out.traj", "out.extxyz.gz", "out.cif"])
def test_a_complete_output_of_another_run_is_not_taken_for_this_one(name, capsys):
    ase.io.write("in.traj", periodic(2))
    ase.io.write("other.traj", periodic(1))
    line = "relax {} -o " + name + " --model emt --fmax {} --quiet --resume"
    assert main(line.format("in.traj", 0.5).split()) == 0
    assert f"{name} is of another run" in refused(line.format("in.traj", 0.001), capsys)
    assert "fmax was 0.5, and is 0.001" in refused(line.format("in.traj", 0.001), capsys)
    assert "the input was in.traj" in refused(line.format("other.traj", 0.5), capsys)
    other = line.format("in.traj", 0.5).replace("emt", "lj")
    assert "name was 'emt', and is 'lj'" in refused(other, capsys)
    other = f"md in.traj -o {name} --model emt --steps 1 --temperature 9 --resume"
    assert "method was 'relax', and is 'md'" in refused(other, capsys)
    assert main(line.format("in.traj", 0.5).split()) in (0, 1)
    if "db" not in name:
        os.remove(f"{name}.provenance.json")
        assert "start afresh with --overwrite" in refused(line.format("in.traj", 0.5), capsys)


@pytest.mark.parametrize(("name", "steps"), [("out.db", 30), ("out.extxyz", 0)])
def test_a_run_that_was_to_replace_an_output_is_gone_on_with(name, steps, capsys):
    ase.io.write("in.traj", mixed(7))
    old = line_of("FIRE", name, "--fmax 0.5 --steps 1")
    assert main(old.split()) == 1
    line = line_of("FIRE", name)
    if steps:
        assert killed(f"{line} --overwrite", steps)
        assert 0 < len(outcomes(name.replace(".", ".partial."))) < 7
    else:
        assert killed_after(-1, interrupted, f"{line} --overwrite") == ["130", "end"]
    assert "fmax was 0.05, and is 0.5" in refused(f"{old} --resume", capsys)
    assert main(f"{line} --resume".split()) in (0, 1)
    assert main(line_of("FIRE", f"whole.{name}").split()) in (0, 1)
    assert outcomes(name) == outcomes(f"whole.{name}")
    assert left_over() == []


def interrupted(say, line):
    """Run a command, and press Ctrl-C before it has moved anything."""

    def advance(self):
        raise KeyboardInterrupt

    Run.advance = advance
    say(main(line.split()))


# -------------------------------------------------------------------- what is not gone on with


def contents():
    there = [path for path in Path().iterdir() if path.suffix != ".lock"]
    return {path.name: path.read_bytes() for path in there}


def refused(line, capsys):
    """Run a command that is refused; return what it says."""
    before = contents()
    capsys.readouterr()
    assert main(line.split()) == 2
    shown = capsys.readouterr()
    assert shown.out == ""
    assert contents() == before
    (said,) = shown.err.splitlines()
    return said


@pytest.mark.parametrize("name", ["out.db", "out.extxyz"])
def test_another_run_is_not_gone_on_with(name, capsys):
    ase.io.write("in.traj", mixed(4))
    killed(line_of("FIRE", name), 12)
    resume = line_of("FIRE", name, "--resume")
    assert "fmax was 0.05, and is 0.01" in refused(f"{resume} --fmax 0.01", capsys)
    assert "optimizer was 'FIRE'" in refused(line_of("LBFGS", name, "--resume"), capsys)
    with open("in.traj", "ab") as file:
        file.write(b"more")
    assert "in.traj had" in refused(resume, capsys)
    assert "exists already" in refused(line_of("FIRE", name), capsys)
    ase.io.write("in.traj", mixed(4))
    finished(resume)


def test_a_damaged_checkpoint_is_named_and_can_be_left_out(capsys):
    ase.io.write("in.traj", mixed(5))
    finished(line_of("FIRE", "whole.db"))
    killed(line_of("FIRE"), 14)
    with open("out.db.checkpoint.npz", "r+b") as file:
        file.seek(300)
        file.write(b"spoiled")
    capsys.readouterr()
    assert main(line_of("FIRE", more="--resume").split()) == 2
    said = capsys.readouterr().err
    assert "out.db.checkpoint.npz is not a checkpoint, or not a whole one" in said
    assert "delete it" in said
    os.remove("out.db.checkpoint.npz")
    finished(line_of("FIRE", more="--resume"))
    assert ends("out.db") == ends("whole.db")


# -------------------------------------------------------------------- a file for each structure

EACH = "out_{index}.traj"


def each():
    """Return what there is in the files for each structure."""
    return {name: data for name, data in contents().items() if name.startswith("out_")}


def test_files_of_an_earlier_run_do_not_count_as_done():
    ase.io.write("in.traj", mixed(7))
    assert main(line_of("FIRE", EACH).split()) == 0
    expected = each()
    assert main(line_of("FIRE", EACH, "--overwrite --fmax 0.5 --steps 1").split()) == 1
    old = each()
    assert old.keys() == expected.keys()
    assert killed(line_of("FIRE", EACH, "--overwrite"), 30)
    assert 0 < sum(name in expected for name in each()) < 7
    finished(line_of("FIRE", EACH, "--resume"))
    assert each() == expected
    assert not set(old.values()) & set(expected.values())


def test_files_of_an_earlier_run_do_not_stay():
    ase.io.write("in.traj", mixed(5))
    assert main(line_of("FIRE", EACH).split()) == 0
    for other in ("out_more.traj", "out_partial_2.traj"):
        Path(other).touch()
    ase.io.write("in.traj", mixed(2))
    assert main(line_of("FIRE", EACH, "--overwrite").split()) == 0
    own = {"out_0.traj", "out_1.traj", "out_all.traj.provenance.json"}
    assert each().keys() == own | {"out_more.traj", "out_partial_2.traj"}


def test_files_that_are_read_are_not_removed(capsys):
    for index in range(2):
        ase.io.write(f"out_{index}.traj", mixed(2)[index])
    line = f"relax out_0.traj {os.getcwd()}/out_1.traj@: -o {EACH} --model emt --overwrite"
    assert "out_0.traj is read" in refused(line, capsys)
    assert "out_1.traj is read" in refused(line.replace("out_0.traj ", ""), capsys)


# -------------------------------------------------------------------- two at a time


def runs_beside(say, line, others):
    """Run a command, and others in processes of their own when it has moved something."""
    advance, steps = Run.advance, [0]

    def looking(self):
        advance(self)
        steps[0] += 1
        if steps[0] == 12:
            before = contents()
            for other in others:
                say(killed_after(-1, says_its_status, other))
            say(contents() == before)

    Run.advance = looking
    say(main(line.split()))


def says_its_status(say, line):
    say(main(line.split()))


@pytest.mark.parametrize("name", ["out.db", "out.extxyz", "{index}.traj"])
def test_a_run_has_its_output_alone(name, capfd):
    ase.io.write("in.traj", mixed(7))
    line = line_of("FIRE", name)
    others = [f"{line} {more}" for more in ("--resume", "--overwrite", "--resume --retry-failed")]
    capfd.readouterr()
    *refusals, untouched, status, _ = killed_after(-1, runs_beside, line, others)
    assert (refusals, untouched, status) == ([str(["2", "end"])] * 3, "True", "0")
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 3
    assert all(re.search(rf"{re.escape(name)} is in use by process \d+ on", own) for own in said)
    assert [name for name in os.listdir() if name.endswith(".lock")] == []


def test_a_file_system_without_locks_is_written_all_the_same(monkeypatch):
    def unable(handle, how):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("nvdyn_ase.output.lock.fcntl.lockf", unable)
    ase.io.write("in.traj", wells(2))
    assert main(["relax", "in.traj", "-o", "out.db", "--model", "harmonic", "--quiet"]) == 0
    assert sorted(os.listdir()) == ["in.traj", "out.db", "stages.toml"]


@pytest.mark.parametrize("ending", ["db", "extxyz", "traj"])
def test_what_was_half_written_goes(ending):
    ase.io.write("in.traj", wells(2))
    name = f"out[1].{ending}"  # which is no pattern
    own = [f"{name}.{which}.npz.new" for which in ("checkpoint", "rank3.checkpoint")]
    own += [f"out[1].partial.{which}{ending}.new" for which in ("", "rank2.")]
    own.append(f"{name}.provenance.json.new")
    of_others = [f"{name}.new", f"out.{ending}.checkpoint.npz.new", "out1.db.checkpoint.npz.new"]
    for path in own + of_others:
        Path(path).touch()
    command = ["relax", "in.traj", "-o", name, "--model", "harmonic", "--quiet", "--resume"]
    assert main(command) == 0
    left = sorted(path for path in os.listdir() if path.endswith(".new"))
    assert left == sorted(of_others)


# -------------------------------------------------------------------- failures tried again


def use(monkeypatch, model):
    monkeypatch.setattr("nvdyn_ase.commands.as_model", lambda name, **options: model)


def wells(count):
    return [ase.Atoms("Ar2", [[-1.0 - i, 0, 0], [1.0 + i, 0, 0]]) for i in range(count)]


@pytest.mark.parametrize("name", ["out.db", "out.extxyz", "out.traj", "out.extxyz.gz"])
def test_failures_are_tried_again_with_another_optimizer(name, capsys, monkeypatch):
    ase.io.write("in.traj", wells(6))
    use(monkeypatch, Well(fail=[1, 4]))
    assert main(f"relax in.traj -o {name} --model well".split()) == 1
    assert "failed                2" in capsys.readouterr().out
    line = f"relax in.traj -o {name} --model well --resume --retry-failed --optimizer LBFGS"
    well = Well(fail=[4])
    use(monkeypatch, well)
    assert main(line.split()) == 1
    out = capsys.readouterr().out
    assert "done before             4" in out
    assert "structures              2" in out
    assert "4  error: the well is dry" in out
    use(monkeypatch, Well())
    assert main(line.split()) == 0
    assert sorted(outcomes(name).items()) == [(index, "converged") for index in range(6)]
    if name == "out.db":
        told = ase.db.connect(name).metadata
    else:
        with open(f"{name}.provenance.json") as file:
            told = json.load(file)
    assert told["parameters"]["optimizer"] == "FIRE"
    assert [own["parameters"]["optimizer"] for own in told["retried_with"]] == ["LBFGS"]
    assert left_over() == []


def outcomes(name):
    if name.endswith(".db"):
        with ase.db.connect(name) as database:
            return {row.input_index: row.relax_outcome for row in database.select()}
    infos = [atoms.info for atoms in ase.io.read(name, ":")]
    found = {int(info["input_index"]): info["relax_outcome"] for info in infos}
    assert len(found) == len(infos)
    return found


def test_a_run_that_was_stopped_is_taken_up_with_another_optimizer_too(monkeypatch):
    ase.io.write("in.traj", wells(6))
    use(monkeypatch, Well(fail=[1]))
    line = "relax in.traj -o out.db --model well --batch-size 3 --checkpoint-every 2 --quiet"
    assert killed(line, 20)
    assert "out.db.checkpoint.npz" in left_over()
    use(monkeypatch, Well())
    assert main(f"{line} --resume --retry-failed --optimizer LBFGS".split()) == 0
    assert outcomes("out.db") == dict.fromkeys(range(6), "converged")
    assert left_over() == []


def test_another_input_or_model_is_not_taken_up_to_try_again(monkeypatch, capsys):
    ase.io.write("in.traj", wells(3))
    use(monkeypatch, Well(fail=[1]))
    assert main(["relax", "in.traj", "-o", "out.db", "--model", "well"]) == 1
    line = "relax in.traj -o out.db --resume --retry-failed --model"
    assert main(f"{line} gully".split()) == 2
    assert "name was 'well', and is 'gully'" in capsys.readouterr().err
    ase.io.write("in.traj", wells(4))
    assert main(f"{line} well".split()) == 2
    assert "in.traj had" in capsys.readouterr().err
    assert outcomes("out.partial.db")[1] == "error"


def test_what_cannot_be_tried_again_says_so(capsys):
    ase.io.write("in.traj", mixed(2))
    line = "relax in.traj --model emt --steps 1 --quiet"
    assert "needs --resume" in refused(f"{line} -o out.db --retry-failed", capsys)
    main(f"{line} -o out.cif".split())
    again = "--resume --retry-failed"
    assert "written in one go" in refused(f"{line} -o out.cif {again}", capsys)
    main(f"{line} -o {{index}}.xyz".split())
    assert "file for each structure" in refused(f"{line} -o {{index}}.xyz {again}", capsys)


# -------------------------------------------------------------------- a full disk, a growing file


def on_a_small_disk(say, line, size):
    """Run a command where no file may be larger than this."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    say(main(line.split()))


@pytest.mark.parametrize(("name", "size"), [("out.db", 90_000), ("out.extxyz", 9000)])
def test_a_full_disk_ends_the_run_and_loses_nothing(name, size, capfd):
    ase.io.write("in.traj", wells(40))
    line = f"relax in.traj -o {name} --model harmonic --batch-size 8 --checkpoint-every 60"
    assert killed_after(-1, on_a_small_disk, line, size) == ["2", "end"]
    shown = capfd.readouterr()
    assert "cannot write structure" in shown.err or "cannot write out" in shown.err
    assert "Traceback" not in shown.err
    partial = name.replace("out.", "out.partial.")
    assert os.path.exists(partial) and not os.path.exists(name)
    before = outcomes(partial)
    assert 0 < len(before) < 40
    capfd.readouterr()
    assert main(f"{line} --resume".split()) == 0
    assert f"done before      {len(before):8d}" in capfd.readouterr().out
    assert outcomes(name) == dict.fromkeys(range(40), "converged")


def test_a_file_that_grows_is_read_as_it_was_and_not_gone_on_with(monkeypatch, capsys):
    ase.io.write("in.extxyz", wells(5))

    class Growing(Well):
        def forward(self, batch):
            if not self.forwards:
                ase.io.write("in.extxyz", wells(2), append=True)
            return super().forward(batch)

    use(monkeypatch, Growing())
    assert main(["relax", "in.extxyz", "-o", "out.db", "--model", "well", "--batch-size", "2"]) == 0
    assert sorted(outcomes("out.db")) == list(range(5))
    line = "relax in.extxyz -o out.db --model well --resume --retry-failed"
    assert main(line.split()) == 2
    assert "in.extxyz had" in capsys.readouterr().err


# -------------------------------------------------------------------- all of it


@pytest.mark.slow
def test_five_hundred_structures_killed_twenty_times():
    structures = [atoms for seed in range(50) for atoms in mixed(10, seed)]
    ase.io.write("in.traj", structures)
    line = (
        "relax in.traj -o {} --steps 100 --model emt --batch-size 64 --checkpoint-every 5 --quiet"
    )
    steps = finished(line.format("whole.db"))
    rng, resume = random.Random(5), ""
    for _ in range(20):
        assert killed(line.format("out.db") + resume, rng.randint(5, 5 + steps // 25))
        resume = " --resume"
    finished(line.format("out.db") + resume)
    found, expected = ends("out.db"), ends("whole.db")
    assert set(found) == set(range(500))
    assert found == expected
