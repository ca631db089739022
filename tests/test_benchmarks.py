import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from shutil import which

import numpy as np
import pytest
from ase import Atoms
from ase.calculators.lj import LennardJones

FOLDER = Path(__file__).parents[1] / "examples" / "benchmarks"


def run(*arguments, script="argon.py"):
    command = [sys.executable, FOLDER / script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


SMALL = {
    "--sizes": "2x32",
    "--steps": "3",
    "--repeats": "2",
    "--equilibrate": "5",
    "--relax": "2",
    "--fmax": "0.1",
}


def test_the_benchmark_runs_on_this_engine_alone_and_names_what_is_missing():
    small = [word for option in SMALL.items() for word in option]
    done = run(*small, "--torchsim", "/no/such/python", "--nvalchemi", which("false"))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    missing = [line for line in lines if "not installed" in line]
    assert [line.split(":")[0] for line in missing] == [
        "torch-sim",
        "nvalchemi",
        "nvalchemi, skin",
        "ASE",
    ]
    assert "No such file" in missing[0]
    assert "ended with status 1" in missing[1]
    assert any(line.startswith("  nvdyn_ase") and line.endswith("agrees") for line in lines)
    parts = next(line for line in lines if line.startswith("nvdyn_ase, CPU ms/step"))
    assert all(part in parts for part in ("neighbours", "model", "engine"))
    fire = [line.split() for line in lines if line.startswith("nvdyn_ase ")][-1]
    assert fire[-1] == "2"


def test_the_benchmark_of_stages_and_streams_counts_what_it_computes():
    small = ["--systems", "5", "--batch", "2", "--steps", "3", "--fmax", "0.2", "--repeats", "1"]
    small += ["--limit", "1e9"]  # nothing is said of time
    command = [sys.executable, FOLDER / "fused.py", *small]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    names = [line.split("  ")[0] for line in done.stdout.splitlines()]
    assert [name for name in ("FIRE", "Langevin", "FIRE + MD") if name in names] == names[2:5]
    assert float(re.search(r"7 of 8 done a step costs ([\d.]+) times", done.stdout)[1]) > 0
    counts = re.search(r"(\d+) evaluations of .* computed, (\d+) needed", done.stdout)
    computed, needed = counts.groups()
    assert computed == needed


def test_a_size_that_does_not_exist_is_refused():
    done = run("--sizes", "2x33")
    assert done.returncode == 2
    assert "33 atoms" in done.stderr


def test_the_sum_over_pairs_is_that_of_ase(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    import argon_structures as argon

    systems = argon.argon(2, 32, 60.0, 0.1, seed=3)
    energy, pairs = argon.potential_energy(systems)
    for row, positions in enumerate(systems.positions):
        atoms = Atoms("Ar32", positions=positions, cell=[systems.edge] * 3, pbc=True)
        atoms.calc = LennardJones(sigma=argon.SIGMA, epsilon=argon.EPSILON, rc=argon.CUTOFF)
        expected = atoms.get_potential_energy() + pairs[row] * argon.ENERGY_AT_CUTOFF
        np.testing.assert_allclose(energy[row], expected, rtol=0, atol=1e-12)


def test_the_screening_runs_and_tells_time_and_memory():
    done = run("--counts", "12", "--sample", "2", script="screening.py")
    assert done.returncode == 0, done.stderr
    count, memory, each, neighbors, model, rest, ratio, _ = map(
        float, done.stdout.splitlines()[-1].split()
    )
    assert count == 12
    assert memory > 100
    assert each > neighbors + model > 0
    assert abs(each - neighbors - model - rest) < 0.01
    assert ratio > 0


@pytest.mark.slow
def test_the_replicas_of_a_slow_stage_run_over_ranks():
    done = run("--systems", "6", "--seconds", "0.01", "--repeats", "1", script="replicas.py")
    assert done.returncode in (0, 1), done.stderr  # nothing is said of time
    names = [line.split(":")[0] for line in done.stdout.splitlines()]
    assert names[:2] == ["1 x the slow stage", "3 x the slow stage"]


def test_ranks_that_nothing_holds_up_share_the_time_and_a_slow_input_is_the_limit():
    spec = importlib.util.spec_from_file_location("many_ranks", FOLDER / "many_ranks.py")
    many = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(many)
    rng = np.random.default_rng(0)
    free = many.Costs(0.0, 0.0, {"db": 0.0, "extxyz": 1e-3}, 0.0, 0.0)
    found = many.simulated(20, 40_000, 0.1, free, "db", rng)
    assert 0.95 < found.work / (40_000 * 0.1 / 20) < 1.1
    held_up = many.simulated(1000, 40_000, 0.001, free, "extxyz", rng)
    assert 40.0 <= held_up.work < 45.0
    assert held_up.idle > 0.9


def test_the_benchmark_of_elements_compares_with_ase():
    pytest.importorskip("chgnet")
    done = run("--crystals", "2", script="elements.py")
    assert done.returncode == 0, done.stderr
    ours, theirs = (
        next(line for line in done.stdout.splitlines() if line.startswith(name)).split()[-2:]
        for name in ("nvdyn_ase", "ASE")
    )
    assert ours == theirs
    assert ours[1] == "2"
    assert float(re.search(r"volumes differ by ([\d.]+) %", done.stdout)[1]) < 0.1
