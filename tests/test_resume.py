"""Commands that are killed at any moment and gone on with."""

import os
import random

import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import bulk

from nvdyn_ase.cli import main
from nvdyn_ase.dynamics.run import Run
from tests.killing import killed_after
from tests.systems import mixed

#: What is done to the structures of ``in.traj``, into ``out.db``.
JOBS = {
    "FIRE": "relax --steps 60",
    "LBFGS": "relax --steps 60 --optimizer LBFGS",
    "BFGS, cells": "relax --steps 40 --optimizer BFGS --cell-filter FrechetCellFilter",
    "Langevin": "md --steps 30 --timestep 2 --temperature 300 --seed 7",
    "NPT": "md --steps 20 --temperature 300 --integrator NPTBerendsen "
    "--option pressure_au=0.0 --option compressibility_au=0.01",
}
SMALL = "--model emt --batch-size 4 --checkpoint-every 3 --quiet"


@pytest.fixture(autouse=True, scope="module")
def _warm(tmp_path_factory):
    """Have here what every child would have to load and compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("warm"))
        ase.io.write("in.traj", periodic(2))
        for job in JOBS:
            assert main(line_of(job, f"{len(job)}.db").split()) in (0, 1)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def periodic(count):
    rng = np.random.default_rng(0)
    found = []
    for metal in ("Cu", "Au", "Ni", "Pt", "Al", "Pd") * (count // 6 + 1):
        found.append(bulk(metal) * (1, 1, int(rng.integers(1, 4))))
        found[-1].set_cell(found[-1].cell * rng.uniform(0.98, 1.03), scale_atoms=True)
        found[-1].rattle(0.05, rng=rng)
    return found[:count]


def line_of(job, name="out.db", more=""):
    command, rest = JOBS[job].split(" ", 1)
    return f"{command} in.traj -o {name} {rest} {SMALL} {more}"


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
            row.get("energy"),
        )
    return found


def left_over():
    return sorted(name for name in os.listdir() if "partial" in name or "checkpoint" in name)


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
