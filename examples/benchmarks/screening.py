"""Many small structures through the command line: what they cost, and how much memory.

    python examples/benchmarks/screening.py
    python examples/benchmarks/screening.py --counts 500 1000 --sample 20

Writes small alloys, slabs and molecules to an extended xyz file, relaxes them with EMT by
``nvdyn-ase relax`` into an ``ase.db``, in a process of its own for each count, and prints for each
the largest memory of the process, the time for one structure, and how much of it is not the model
or the neighbour list: reading, converting, the engine, writing. A sample is also relaxed with ASE's
FIRE, one after the other. Times are of the processor, all threads together, after a first small run
that compiles; so a machine that others use too tells nearly the same.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import ase.io
import numpy as np
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from ase.optimize import FIRE

METALS = ("Al", "Ni", "Cu", "Pd", "Ag", "Pt", "Au")
FMAX, STEPS = 0.05, 200


def main() -> int:
    """Measure each count, and print a table."""
    options = read_options()
    if options.worker:
        print(json.dumps(relax_file(*options.worker)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        found = [measure(count, Path(folder)) for count in options.counts]
        alone = relax_one_by_one(options.sample, options.seed)
    print(f"one by one with ASE   {alone * 1e3:8.2f} ms per structure ({options.sample} of them)\n")
    print(
        "structures   memory, MB   ms each   neighbours   model   the rest   ASE / here   wall, s"
    )
    for count, own in zip(options.counts, found, strict=True):
        each = {key: own[key] / count * 1e3 for key in ("total", "neighbors", "model")}
        rest = each["total"] - each["neighbors"] - each["model"]
        print(
            f"{count:10d} {own['memory']:12.0f} {each['total']:9.3f} {each['neighbors']:12.3f} "
            f"{each['model']:7.3f} {rest:10.3f} {alone * 1e3 / each['total']:12.1f} "
            f"{own['wall']:9.1f}"
        )
    return 0


def read_options() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--counts", type=int, nargs="+", default=[2000, 10000], help="structures (2000 10000)")
    add("--sample", type=int, default=50, help="structures that ASE relaxes too (default 50)")
    add("--seed", type=int, default=0, help="of the structures (default 0)")
    add("--worker", nargs=2, metavar=("INPUT", "OUTPUT"), help=argparse.SUPPRESS)
    return parser.parse_args()


def structure(index: int, seed: int) -> Atoms:
    """Return a small structure that EMT knows, not far from rest; the same for the same numbers."""
    rng = np.random.default_rng([seed, index])
    kind = index % 4
    if kind == 0:
        atoms = bulk(rng.choice(METALS), cubic=True)
        atoms.symbols[0] = rng.choice(METALS)
    elif kind == 1:
        atoms = bulk(rng.choice(METALS)) * (1, 2, 3)
    elif kind == 2:
        atoms = fcc111(rng.choice(METALS), (1, 2, 3), vacuum=6.0)
        add_adsorbate(atoms, rng.choice(list("HCNO")), 1.3, "fcc")
        atoms.set_constraint(FixAtoms(mask=atoms.get_tags() == 3))
    else:
        atoms = molecule(rng.choice(["CO", "H2O", "CH4", "NH3", "C2H6", "CH3OH"]))
    atoms.rattle(0.05, rng=rng)
    atoms.info["name"] = f"structure {index}"
    return atoms


def measure(count: int, folder: Path) -> dict[str, float]:
    """Relax so many structures in a process of its own; return its times, s, and memory, MB."""
    source = folder / f"{count}.extxyz"
    with source.open("w") as file:
        for index in range(count):
            ase.io.write(file, structure(index, 0), format="extxyz")
    words = [sys.executable, __file__, "--worker", str(source), str(folder / f"{count}.db")]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    said = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"the worker for {count} structures has failed")
    return json.loads(said) | {"memory": usage.ru_maxrss / 1e3}


def relax_file(source: str, output: str) -> dict[str, float]:
    """Relax a file by the command line; return how long it took, s, and parts of it."""
    from nvdyn_ase.cli import main as command
    from nvdyn_ase.models import emt
    from nvdyn_ase.neighbors import NeighborList
    from nvdyn_ase.workflows import relax

    list(relax([structure(index, 1) for index in range(8)], "emt", progress=False))
    spent = {"neighbors": 0.0, "model": 0.0}
    NeighborList.update = timed(NeighborList.update, spent, "neighbors")
    emt.EMT.forward = timed(emt.EMT.forward, spent, "model")
    line = ["relax", source, "-o", output, "--model", "emt", "--quiet"]
    begin, wall = time.process_time(), time.perf_counter()
    status = command([*line, "--fmax", str(FMAX), "--steps", str(STEPS)])
    if status not in (0, 1):
        raise SystemExit(status)
    return spent | {"total": time.process_time() - begin, "wall": time.perf_counter() - wall}


def timed(function, spent: dict[str, float], name: str):
    """Return a function that adds its time on the processor to what is spent."""

    def call(*arguments):
        begin = time.thread_time()
        try:
            return function(*arguments)
        finally:
            spent[name] += time.thread_time() - begin

    return call


def relax_one_by_one(count: int, seed: int) -> float:
    """Relax a sample with ASE alone; return the time for one of them, s."""
    structures = [structure(index, seed) for index in range(count)]
    begin = time.process_time()
    for atoms in structures:
        atoms.calc = EMT()
        with FIRE(atoms, logfile=None) as optimizer:
            optimizer.run(fmax=FMAX, steps=STEPS)
    return (time.process_time() - begin) / count


if __name__ == "__main__":
    sys.exit(main())
