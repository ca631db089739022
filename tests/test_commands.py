"""Other commands than relax, failures of every kind in the output, and ``--dry-run``."""

import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace

import ase
import ase.io
import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.constraints import FixAtoms

from nvdyn_ase import commands
from nvdyn_ase.background_writer import BackgroundWriter
from nvdyn_ase.cli import main
from nvdyn_ase.md import Langevin
from nvdyn_ase.models import ModelCard
from nvdyn_ase.models.whole_model import WholeModel
from nvdyn_ase.planning import SAMPLE, plan
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.stream import in_order
from tests.systems import mixed
from tests.wells import Well


@pytest.fixture
def run(tmp_path, monkeypatch, capsys):
    """Return what runs a command in an empty folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def run(line):
        code = main(line.split())
        shown = capsys.readouterr()
        return code, shown.out, shown.err

    return run


def infos(name):
    return {int(atoms.info["input_index"]): atoms.info for atoms in ase.io.read(name, ":")}


def by_index(name):
    return {int(atoms.info["input_index"]): atoms for atoms in ase.io.read(name, ":")}


def pairs(*distances):
    return [ase.Atoms("Ar2", [[-d, 0, 0], [d, 0, 0]]) for d in distances]


# -------------------------------------------------------------------- md, evaluate


def test_dynamics_of_a_file_is_that_of_the_facade(run):
    structures = mixed(5)
    ase.io.write("in.traj", structures)
    line = "md in.traj -o {} --model emt --steps 8 --timestep 2 --temperature 300 --seed 5"
    code, out, err = run(line.format("a.traj"))
    assert (code, err) == (0, "")
    assert "steps done            5" in out
    assert "converged" not in out
    for name, more in (("b.traj", "--batch-size 2"), ("c.traj", "--seed 6")):
        assert run(f"{line.format(name)} {more}")[0] == 0
    first, again, other = (by_index(name) for name in ("a.traj", "b.traj", "c.traj"))
    for index in range(5):
        assert first[index].info["md_outcome"] == "budget"
        assert first[index].info["md_steps"] == 8
        np.testing.assert_array_equal(first[index].positions, again[index].positions)
        np.testing.assert_array_equal(first[index].get_momenta(), again[index].get_momenta())
        assert not np.array_equal(first[index].positions, other[index].positions)
    code, *_ = run("md a.traj -o d.traj --model emt --steps 3 --temperature 300 --seed 2 --ordered")
    assert code == 0
    starts = ase.io.read("a.traj", ":")
    with Langevin(
        *(starts, 1.0 * units.fs), temperature_K=300, friction=0.01 / units.fs, seed=2, model="emt"
    ) as facade:
        facade.run(3)
    for index, atoms in by_index("d.traj").items():  # those that move keep their velocities
        np.testing.assert_array_equal(atoms.positions, starts[index].positions)


@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_who_cannot_be_given_velocities_does_not_end_the_run(run, ending):
    structures = mixed(3)
    structures[1].set_constraint(FixAtoms([99]))
    ase.io.write("in.traj", structures)
    reasons = {}
    for command in ("md --steps 2 --temperature 300", "relax --steps 2"):
        name = f"{command[:2]}.{ending}"
        code, _, err = run(f"{command} in.traj -o {name} --model emt")
        assert code == 1, err
        found = infos(name)
        assert len(found) == 3
        method = command.split()[0]
        assert found[1][f"{method}_outcome"] == "rejected"
        reasons[method] = found[1][f"{method}_reason"]
    assert reasons["md"] == reasons["relax"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--integrator Langevinn", "VelocityVerlet"),
        ("--integrator Langevin", "temperature"),
        ("--integrator VelocityVerlet --option friction=0.1", "friction"),
        ("--steps -1", "steps"),
        ("--temperature -5", "temperature"),
        ("--temperature nan", "temperature"),
        ("--temperature -5 --integrator VelocityVerlet", "temperature"),
        ("--temperature 5 --option temperature_K=-5", "temperature"),
    ],
)
def test_bad_dynamics_is_refused_before_anything_is_written(run, words, said):
    ase.io.write("in.traj", bulk("Cu"))
    code, out, err = run(f"md in.traj -o out.db --model emt --steps 3 {words}")
    assert (code, out) == (2, "")
    assert said in err.splitlines()[-1]
    assert os.listdir() == ["in.traj"]


def test_nobody_is_warned_of_what_was_not_asked_for(run, recwarn):
    ase.io.write("in.traj", bulk("Cu") * 2)
    line = "md in.traj -o {}.db --model emt --steps 2 --temperature 300"
    assert run(line.format("a"))[0] == 0
    assert not [found for found in recwarn if "fixcm" in str(found.message)]
    with pytest.warns(FutureWarning, match="fixcm"):
        assert run(line.format("b") + " --option fixcm=True")[0] == 0
    with ase.db.connect("a.db") as one, ase.db.connect("b.db") as other:
        np.testing.assert_array_equal(one.get(1).positions, other.get(1).positions)


def test_structures_of_a_file_are_evaluated(run):
    structures = mixed(6)
    ase.io.write("in.extxyz", structures)
    code, *_ = run("evaluate in.extxyz -o out.db --model emt --batch-size 4")
    assert code == 0
    with ase.db.connect("out.db") as database:
        for row in database.select():
            assert (row.evaluate_outcome, row.evaluate_evaluations) == ("converged", 1)
            atoms = structures[row.input_index]
            np.testing.assert_allclose(row.positions, atoms.positions, atol=1e-8)
            assert row.energy is not None


# -------------------------------------------------------------------- in the order of the input


def test_nobody_waits_for_what_cannot_be_read():
    missing, taken = {0, 2, 3, 9}, []

    def one_after_another():
        for index in range(12):
            if index not in missing:
                taken.append(index)
                yield SimpleNamespace(index=index)

    for result in in_order(one_after_another(), missing):
        assert result.index == taken[-1]
    assert taken == [1, 4, 5, 6, 7, 8, 10, 11]


def test_who_waits_is_not_lost_when_something_stops_the_run():
    def stopped():
        yield SimpleNamespace(index=3)
        yield SimpleNamespace(index=1)
        raise KeyboardInterrupt

    found = in_order(stopped())
    assert [next(found).index, next(found).index] == [1, 3]
    with pytest.raises(KeyboardInterrupt):
        next(found)


@pytest.mark.parametrize("ending", ["extxyz", "db"])
def test_behind_a_record_that_cannot_be_read_structures_are_written_as_they_come(
    run, monkeypatch, ending
):
    ase.io.write("in.extxyz", pairs(*np.linspace(1.0, 2.0, 12)), columns=["symbols", "positions"])
    lines = Path("in.extxyz").read_text().splitlines(keepends=True)
    lines[2 * 4 + 2] = "Ar zero 0 0\n"
    Path("in.extxyz").write_text("".join(lines))
    seen = []

    class Watched(Well):
        def forward(self, batch):
            seen.append((min(batch["system_id"].view(-1).tolist()), len(written)))
            return super().forward(batch)

    written = []
    kept = BackgroundWriter.put

    def put(self, result):
        written.append(result.index)
        kept(self, result)

    monkeypatch.setattr(BackgroundWriter, "put", put)
    monkeypatch.setattr("nvdyn_ase.commands.as_model", lambda *a, **b: Watched())
    line = f"evaluate in.extxyz -o out.{ending} --model well --ordered --batch-size 1"
    assert run(line)[0] == 1
    assert written == [index for index in range(12) if index != 2]
    last, before = seen[-1]
    assert last == 11
    assert before >= 9  # all but those in the batch


# -------------------------------------------------------------------- failures are results


class Failing(Well):
    """Fails on systems in one way each, once they have come closer than their distance."""

    def __init__(self, ways, closer_than=0.9):
        super().__init__()
        self.ways, self.closer_than = ways, closer_than

    def forward(self, batch):
        close = {}
        for row, index in enumerate(batch["system_id"].view(-1).tolist()):
            first, last = batch.host_ptr[row : row + 2]
            if float(batch["positions"][first:last].abs().max()) < self.closer_than:
                close[self.ways.get(index)] = row
        if "raise" in close:
            raise RuntimeError("it went bang")
        if "memory" in close:
            raise MemoryError
        outputs = super().forward(batch)
        if "nan" in close:
            outputs["energy"][close["nan"]] = math.nan
        return outputs


FAILURES = {
    "nan": ("not_finite", "not finite"),
    "raise": ("error", "RuntimeError: it went bang"),
    "memory": ("error", "more memory than there is"),
}


@pytest.mark.parametrize("way", FAILURES)
@pytest.mark.parametrize("ending", ["extxyz", "traj"])
def test_who_fails_on_the_way_is_written_as_far_as_it_got(run, monkeypatch, way, ending):
    ase.io.write("in.traj", pairs(1.0, 1.1, 1.2))
    monkeypatch.setattr("nvdyn_ase.commands.as_model", lambda *a, **b: Failing({1: way}))
    code, out, _ = run(f"relax in.traj -o out.{ending} --model well --fmax 0.01")
    outcome, reason = FAILURES[way]
    assert code == 1
    assert "failed                1" in out
    assert f"1  {outcome}: " in out
    found = by_index(f"out.{ending}")
    assert found[1].info["relax_outcome"] == outcome
    assert reason in found[1].info["relax_reason"]
    assert found[1].info["relax_steps"] > 0
    assert found[1].calc is None
    far = np.abs(found[1].positions).max()
    assert 0.9 <= far < 1.1
    assert [found[index].info["relax_outcome"] for index in (0, 2)] == ["converged"] * 2


def test_who_flies_apart_is_written_where_it_last_was_well(run):
    structures = [bulk("Cu", cubic=True) for _ in range(3)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    structures[1].set_momenta(np.full((4, 3), [[200.0, 0, 0], [-200.0, 0, 0]] * 2))
    ase.io.write("in.traj", structures)
    line = "md in.traj -o out.traj --model emt --steps 10 --integrator VelocityVerlet"
    code, *_ = run(f"{line} --timestep 10 --temperature 100")
    assert code == 1
    found = by_index("out.traj")
    assert found[1].info["md_outcome"] == "exploded"
    assert "in one step" in found[1].info["md_reason"]
    np.testing.assert_array_equal(found[1].positions, structures[1].positions)
    assert [found[index].info["md_outcome"] for index in (0, 2)] == ["budget"] * 2


# -------------------------------------------------------------------- --dry-run


def test_a_dry_run_says_what_there_is_and_writes_nothing(run):
    structures = mixed(20)
    structures[3] = ase.Atoms("XeCu", [[0, 0, 0], [0, 0, 2.5]])
    structures[5].positions[0] = np.nan
    ase.io.write("in.extxyz", structures)
    with open("in.extxyz", "a") as file:
        file.write("2\n\nCu 0 0 0\nCu 0 zero 0\n")
    code, out, err = run("relax in.extxyz --model emt --dry-run --max-atoms 40")
    assert (code, err) == (1, "")
    lines = {line.split("   ")[0].strip(): line for line in out.splitlines()}
    assert lines["structures"].split()[1] == "20"
    total, low, high = (f(map(len, structures)) for f in (lambda sizes: sum(sizes), min, max))
    assert f"{total}   {low} to {high} in a structure" in lines["atoms"]
    assert lines["unreadable"].split()[1] == "1"
    assert "cannot read record 20 of in.extxyz" in out
    assert lines["cannot be used"].split()[-1] == "2"
    assert "1  have Xe" in out
    assert "not finite" in out
    assert "forward passes of 18 structures" in out
    assert "times as fast" in out
    assert "in forward passes, if each does 500 steps" in out
    assert os.listdir() == ["in.extxyz"]
    code, out, _ = run("evaluate in.extxyz@:3 --model emt --dry-run")
    assert code == 0
    assert "steps" not in out


@pytest.mark.parametrize("words", ["nothing.xyz", "in.traj --fmax 0", "in.traj --optimizer ADAM"])
def test_a_dry_run_refuses_what_a_run_would(run, words):
    ase.io.write("in.traj", bulk("Cu"))
    code, out, err = run(f"relax {words} --model emt --dry-run")
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("limit", [1, 10, 35, 1000])
def test_the_batches_of_a_plan_are_as_full_as_they_may_be(limit):
    sizes = [3, 4, 5, 30, 2, 2, 40, 1]
    structures = [ase.Atoms(f"Ar{n}", np.arange(3 * n).reshape(-1, 3) * 3.0) for n in sizes]
    model = Well()
    found = plan(enumerate(structures), model, Capacity("auto", model, limit))
    batches = []
    for size in sizes:
        if batches and sum(batches[-1]) + size <= limit:
            batches[-1].append(size)
        else:
            batches.append([size])
    assert found.batches == len(batches)
    assert found.fullest[1] == max(map(sum, batches))
    assert found.atoms == sum(sizes)
    assert found.usable == len(sizes)
    assert found.gain == found.alone / found.together > 0


def test_a_plan_times_a_sample_only():
    model = Well()
    structures = pairs(*np.linspace(1, 2, 300))
    found = plan(enumerate(structures), model, Capacity("auto", model))
    assert (found.structures, found.sampled) == (300, SAMPLE)


# -------------------------------------------------------------------- the model


def test_a_package_that_is_missing_is_one_line(run, monkeypatch):
    for module in ("mace", "mace.modules", "mace.modules.models"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(sys.modules, "nvdyn_ase.models.mace", raising=False)
    ase.io.write("in.traj", bulk("Cu"))
    code, out, err = run("relax in.traj -o out.xyz --model mace --model-option path=small.model")
    assert (code, out) == (2, "")
    assert err.endswith("pip install 'nvdyn_ase[mace]' brings it\n")
    assert err.count("\n") == 1


def test_a_model_that_cannot_be_moved_is_one_line(run, monkeypatch):
    class OnGpu(WholeModel):
        device = torch.device("cuda")
        model_card = ModelCard()

    monkeypatch.setattr(commands, "as_model", lambda name: OnGpu())
    ase.io.write("in.traj", bulk("Cu"))
    code, out, err = run("relax in.traj -o out.xyz --model fairchem --device cpu")
    assert (code, out) == (2, "")
    assert "--device cpu: the model inside OnGpu is on cuda, and stays there" in err
    assert err.count("\n") == 1
