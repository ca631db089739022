"""Solid argon in nvdyn_ase, torch-sim, nvalchemi-toolkit and ASE: CPU time per step, one thread.

Each engine runs in its own interpreter and does the same work: Lennard-Jones with a cutoff of 2.5
sigma in double precision, velocity Verlet at constant energy with a step of 5 fs, and FIRE. They
take turns, a block of steps each, so that a machine that slows down slows all of them. Engines that
are not there are named and left out. See README.md in this folder.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

import numpy as np
from argon_structures import ENERGY_AT_CUTOFF, Systems, argon, cells_along, potential_energy
from argon_tables import Rounds, nve_table, relaxation_table
from worker_process import NotInstalledError, Worker, WorkerError

OURS = "nvdyn_ase"

Section = Callable[[dict[str, Worker], argparse.Namespace], bool]
EngineOf = tuple[str, str | None, str, tuple[str, ...]]

# After CHECK_STEPS from the same start engines differ by no more than the last digits, grown by
# the chaos of the motion.
CHECK_STEPS = 50
POSITION_TOLERANCE = 1e-7
ENERGY_TOLERANCE = 1e-7


def main() -> int:
    """Run what the command line asks for; return 0 if all engines agree."""
    options = parse()
    sys.stdout.reconfigure(line_buffering=True)
    sections: list[Section] = [partial(compare_nve, size) for size in options.sizes]
    sections += [compare_fire] if options.relax else []
    there, agree = engines(options), True
    for number, section in enumerate(sections):
        with ExitStack() as stack:
            workers = start(there, stack, announce=number == 0)
            if OURS not in workers:
                return 2
            there = [engine for engine in there if engine[0] in workers]
            print(f"\n{load()}")
            agree = section(workers, options) and agree
    return 0 if agree else 1


def load() -> str:
    """Say how busy the machine is, where it tells."""
    average = f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"
    return f"{os.cpu_count()} cores ({platform.machine()}), load {average}"


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--torchsim", metavar="PYTHON", help="interpreter that has torch-sim (Python >= 3.12)")
    add("--nvalchemi", metavar="PYTHON", help="interpreter that has nvalchemi-toolkit")
    add("--ase", action="store_true", help="also ASE, one structure after the other (slow)")
    sizes = ["64x32", "256x32", "1x4000"]
    add("--sizes", nargs="*", type=size, default=list(map(size, sizes)), metavar="SYSTEMSxATOMS")
    add("--steps", type=int, default=200, help="steps in a block (default 200)")
    add("--ase-steps", type=int, default=20, help="steps in a block of ASE (default 20)")
    add("--repeats", type=int, default=5, help="blocks of each engine (default 5)")
    add("--equilibrate", type=int, default=400, help="steps before it all starts (default 400)")
    add("--temperature", type=float, default=60.0, help="of the first velocities, K (default 60)")
    add("--rattle", type=float, default=0.1, help="of the first positions, Å (default 0.1)")
    add("--relax", type=int, default=64, metavar="N", help="systems for FIRE (default 64; 0: none)")
    add("--fmax", type=float, default=0.01, help="where FIRE stops, eV/Å (default 0.01)")
    return parser.parse_args()


def size(text: str) -> tuple[int, int]:
    """Read ``SYSTEMSxATOMS``."""
    try:
        count, num_atoms = map(int, text.split("x"))
        cells_along(num_atoms)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None
    return count, num_atoms


def engines(options: argparse.Namespace) -> list[EngineOf]:
    """Return label, interpreter, script and its arguments of each engine."""
    return [
        (OURS, sys.executable, "worker_ours.py", ()),
        ("torch-sim", options.torchsim, "worker_torchsim.py", ()),
        ("nvalchemi", options.nvalchemi, "worker_nvalchemi.py", ()),
        ("nvalchemi, skin", options.nvalchemi, "worker_nvalchemi.py", ("--skin", "1.0")),
        ("ASE", sys.executable if options.ase else None, "worker_ase.py", ()),
    ]


def start(there: list[EngineOf], stack: ExitStack, announce: bool) -> dict[str, Worker]:
    """Start a worker for each engine; each table has new ones, which none before has burdened."""
    workers = {}
    for label, interpreter, script, arguments in there:
        try:
            if interpreter is None:
                raise NotInstalledError("not asked for")
            worker = Worker(label, interpreter, script, arguments)
        except NotInstalledError as error:
            print(f"{label}: not installed ({error})")
            continue
        stack.callback(worker.stop)
        workers[label] = worker
        if announce:
            print(f"{label}: {worker.version}")
    return workers


def compare_nve(
    size: tuple[int, int], workers: dict[str, Worker], options: argparse.Namespace
) -> bool:
    """Time the engines in turn at one size, print the table, say whether they agree."""
    print(f"## NVE, {size[0]} x {size[1]} atoms")
    systems = equilibrated(workers[OURS], size, options)
    print(f"{systems.temperature:.0f} K, {options.repeats} blocks of {options.steps} steps in turn")
    notes = placed(workers, systems)
    agree = check(workers, systems)
    rounds = Rounds(workers)
    for _ in range(options.repeats):
        for label, worker in list(workers.items()):
            steps = options.ase_steps if label == "ASE" else options.steps
            attempt(workers, label, partial(time_steps, worker, rounds, steps))
    print(nve_table(rounds, OURS, notes))
    return agree


def time_steps(worker: Worker, rounds: Rounds, steps: int) -> None:
    """Let an engine do a block of steps, and note its times."""
    rounds.add(worker, worker.ask("run", steps=steps), steps)


def equilibrated(ours: Worker, size: tuple[int, int], options: argparse.Namespace) -> Systems:
    """Return systems that have forgotten the lattice, for all engines to start from."""
    systems = argon(*size, options.temperature, options.rattle, seed=0)
    place(ours, systems)
    ours.ask("run", steps=options.equilibrate)
    state = ours.ask("state")
    return Systems(np.array(state["positions"]), np.array(state["velocities"]), systems.edge)


def place(worker: Worker, systems: Systems) -> str:
    """Give an engine its systems; return what it has to say of its choices."""
    positions, velocities = systems.positions.tolist(), systems.velocities.tolist()
    return worker.ask("place", positions=positions, velocities=velocities, edge=systems.edge)[
        "note"
    ]


def placed(workers: dict[str, Worker], systems: Systems) -> dict[str, str]:
    """Give the systems to all engines, drop those that cannot take them; return their notes."""
    notes: dict[str, str] = {}
    for label, worker in list(workers.items()):
        attempt(workers, label, lambda w=worker: notes.update({w.label: place(w, systems)}))
    return notes


def attempt(workers: dict[str, Worker], label: str, call: Callable[[], object]) -> None:
    """Do something with a worker; if it fails, say so and leave it out from now on."""
    try:
        call()
    except WorkerError as error:
        if label == OURS:
            raise
        print(f"{label}: failed and left out ({error})")
        del workers[label]


def check(workers: dict[str, Worker], systems: Systems) -> bool:
    """Let every engine go a little way from the same start, and compare where they arrive."""
    print(
        f"after {CHECK_STEPS} steps, largest differences: energy from a plain sum over pairs (eV),"
    )
    print(f"  from {OURS} in positions (Å) and in total energy (eV)")
    arrivals: dict[str, Arrival] = {}
    for label, worker in list(workers.items()):
        attempt(workers, label, lambda w=worker: arrivals.update({w.label: arrive(w, systems)}))
    agree = True
    for label, there in arrivals.items():
        moved = np.abs(there.positions - arrivals[OURS].positions).max()
        drift = np.abs(there.total - arrivals[OURS].total).max()
        good = max(there.error, drift) < ENERGY_TOLERANCE and moved < POSITION_TOLERANCE
        agree = agree and bool(good)
        verdict = "agrees" if good else "DIFFERS"
        print(f"  {label:20} {there.error:8.1e} {moved:8.1e} {drift:8.1e}  {verdict}")
    print(f"  (agrees: below {ENERGY_TOLERANCE:g} eV and {POSITION_TOLERANCE:g} Å)")
    return agree


class Arrival(NamedTuple):
    """Where an engine is after the steps of the check.

    Attributes
    ----------
    positions
        Å.
    total
        Potential energy, shifted at the cutoff, and kinetic energy of each system.
    error
        Largest difference of the engine's potential energy from the sum over all pairs.
    """

    positions: np.ndarray
    total: np.ndarray
    error: float


def arrive(worker: Worker, systems: Systems) -> Arrival:
    """Take the steps of the check with one engine."""
    worker.ask("run", steps=CHECK_STEPS)
    state = worker.ask("state")
    positions, velocities = np.array(state["positions"]), np.array(state["velocities"])
    there = Systems(positions, velocities, systems.edge)
    plain, pairs = potential_energy(there)
    expected = plain - pairs * ENERGY_AT_CUTOFF
    energy = np.array(state["energy"])
    if not worker.shifted:
        energy = energy - pairs * ENERGY_AT_CUTOFF
    error = float(np.abs(energy - expected).max())
    return Arrival(positions, energy + there.kinetic_energy, error)


def compare_fire(workers: dict[str, Worker], options: argparse.Namespace) -> bool:
    """Relax the same systems with every engine in turn, print the table, say if all are relaxed."""
    print(f"## FIRE to {options.fmax} eV/Å, {options.relax} rattled cells of 32 atoms")
    placed(workers, argon(options.relax, 32, 0.0, options.rattle, seed=1))
    warm, rounds = Rounds(workers), Rounds(workers)
    for goes_to in [warm] + [rounds] * options.repeats:
        for label, worker in list(workers.items()):
            attempt(workers, label, partial(time_relaxation, worker, goes_to, options))
    print(relaxation_table(rounds, OURS))
    last = [rounds.answers[label][-1] for label in rounds.labels()]
    return all(answer["converged"] == options.relax for answer in last)


def time_relaxation(worker: Worker, rounds: Rounds, options: argparse.Namespace) -> None:
    """Let an engine relax its systems, and note its times."""
    rounds.add(worker, worker.ask("relax", fmax=options.fmax), options.relax)


if __name__ == "__main__":
    sys.exit(main())
