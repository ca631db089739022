"""What stages and a stream of systems cost: CPU time of nvdyn_ase on solid argon, one thread.

Relaxation by FIRE to a largest force, and molecular dynamics of so many steps, are timed alone, and
then as the stages of one fused run: one forward pass a step for systems in either. Then one system
is relaxed in the company of seven that are done, and by itself. Then the same
systems are relaxed from a stream, in batches that are refilled, and the evaluations that were
computed are compared with those that were needed. See README.md in this folder.
"""

import argparse
import statistics
import sys
import time

import torch
from argon_structures import CUTOFF, EPSILON, MASS, SIGMA, TIME_STEP, argon
from ase import Atoms

from nvdyn_ase.atoms import batch_from_atoms, from_atoms
from nvdyn_ase.dynamics import FIRE, BaseDynamics, ConvergenceHook, Langevin, SizeAwareSampler
from nvdyn_ase.models import LennardJones

# What a step may cost: of a fused run, as a multiple of the mean of its stages alone; with those
# that are done in the batch, as a multiple of one without them.
LIMIT = 1.3


class Counting(LennardJones):
    """Counts the systems that it evaluates."""

    evaluated = 0

    def forward(self, batch):
        """Evaluate a batch; see ``LennardJones``."""
        self.evaluated += len(batch)
        return super().forward(batch)


MODEL = Counting(sigma=SIGMA, epsilon=EPSILON, rc=CUTOFF)


def main() -> int:
    """Run what the command line asks for; return 0 if no run costs more than it may."""
    torch.set_num_threads(1)
    options = parse()
    everyone = structures(options)
    print(f"{options.systems} x 32 argon, FIRE to {options.fmax} eV/Å, {options.steps} MD steps")
    print(f"{'':12}{'CPU s':>10}{'steps':>8}{'ms/step':>10}{'us per system and step':>26}")
    engines = {"FIRE": relaxation, "Langevin": heating, "FIRE + MD": fused}
    for make in engines.values():
        timed(make(options), everyone)  # whatever is compiled is compiled now
    rounds = [
        {name: timed(make(options), everyone) for name, make in engines.items()}
        for _ in range(options.repeats)
    ]
    for name in engines:
        seconds = statistics.median(each[name][0] for each in rounds)
        _, steps, moves = rounds[0][name]
        per_step, per_move = 1e3 * seconds / steps, 1e6 * seconds / moves
        print(f"{name:12}{seconds:10.3f}{steps:8d}{per_step:10.3f}{per_move:26.2f}")
    ratio = statistics.median(per_step_ratio(each) for each in rounds)
    limit = options.limit
    print(f"a fused step costs {ratio:.2f} times the mean of a step of either (at most {limit:g})")
    company = in_company(options)
    print(f"with 7 of 8 done a step costs {company:.2f} times one of the last by itself", end=" ")
    print(f"(at most {limit:g})")
    stream(options, everyone)
    return 0 if max(ratio, company) <= limit else 1


def parse() -> argparse.Namespace:
    """Return the command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--systems", type=int, default=256, help="boxes of 32 atoms (default 256)")
    add("--batch", type=int, default=32, help="systems in a batch of the stream (default 32)")
    add("--steps", type=int, default=100, help="steps of MD (default 100)")
    add("--fmax", type=float, default=0.01, help="where FIRE stops, eV/Å (default 0.01)")
    add("--rattle", type=float, default=0.15, help="of positions, Å; 0.3 to 1.7 times it")
    add("--repeats", type=int, default=5, help="rounds in which each is timed (default 5)")
    add("--limit", type=float, default=LIMIT, help="a step costs at most so many (%(default)s)")
    return parser.parse_args()


def structures(options: argparse.Namespace) -> list[Atoms]:
    """Return boxes that are rattled more or less, so that they are done sooner or later."""
    made = []
    for row in range(options.systems):
        rattle = options.rattle * (0.3 + 1.4 * (7919 * row % 97) / 97)
        made.append(argon_at(rattle, seed=row))
    return made


def argon_at(rattle: float, seed: int) -> Atoms:
    """Return a box whose atoms are displaced by so much, Å; by nothing, it is at its minimum."""
    systems = argon(1, 32, 40.0, rattle, seed=seed)
    cell = [systems.edge] * 3
    atoms = Atoms("Ar32", positions=systems.positions[0], cell=cell, pbc=True)
    atoms.set_masses([MASS] * 32)
    atoms.set_velocities(systems.velocities[0])
    return atoms


def relaxation(options: argparse.Namespace) -> BaseDynamics:
    """Return the engine that relaxes."""
    return FIRE(MODEL, convergence_hook=ConvergenceHook.from_fmax(options.fmax))


def heating(options: argparse.Namespace) -> BaseDynamics:
    """Return the engine that does molecular dynamics."""
    return Langevin(MODEL, TIME_STEP, 40.0, 0.02, seed=3, n_steps=options.steps)


def fused(options: argparse.Namespace) -> BaseDynamics:
    """Return both, one after the other."""
    return relaxation(options) + heating(options)


def timed(engine: BaseDynamics, everyone: list[Atoms]) -> tuple[float, int, int]:
    """Return CPU seconds of a run, its steps, and the steps of all systems together."""
    batch = batch_from_atoms(everyone)
    start = time.process_time()
    engine.run(batch)
    return time.process_time() - start, engine.step_count, int(batch["steps"].sum())


def per_step_ratio(times: dict[str, tuple[float, int, int]]) -> float:
    """Return the cost of a fused step over the mean of the two alone."""
    relax, heat, both = (seconds / steps for seconds, steps, _ in times.values())
    return both / (0.5 * (relax + heat))


def in_company(options: argparse.Namespace) -> float:
    """Return the cost of a step of one system when seven others are done, over that by itself.

    The seven are at their minimum from the start. The last is relaxed to 1e-9 eV/Å in at most ten
    times ``--steps`` steps, as many in both runs.
    """
    done = argon_at(0.0, seed=0)
    last = argon_at(options.rattle, seed=1)
    ratios = []
    for _ in range(options.repeats + 1):
        alone, among = (timed_last(options, [done] * count + [last]) for count in (0, 7))
        ratios.append(among / alone)
    return statistics.median(ratios[1:])  # in the first round memory is new


def timed_last(options: argparse.Namespace, everyone: list[Atoms]) -> float:
    """Return CPU seconds of a run in which only the last system has anything to do."""
    engine = FIRE(MODEL, convergence_hook=ConvergenceHook.from_fmax(1e-9))
    batch = batch_from_atoms([atoms.copy() for atoms in everyone])
    start = time.process_time()
    engine.run(batch, 10 * options.steps)
    return time.process_time() - start


def stream(options: argparse.Namespace, everyone: list[Atoms]) -> None:
    """Relax the systems as they come from a stream, and print what was computed and needed."""
    engine = relaxation(options)
    engine.sampler = SizeAwareSampler(map(from_atoms, everyone), max_batch_size=options.batch)
    MODEL.evaluated = 0
    start = time.process_time()
    engine.run()
    seconds = time.process_time() - start
    needed = int(engine.sinks[0].read()["evaluations"].sum())
    print(f"from a stream, {options.batch} at a time: {1e3 * seconds / options.systems:.2f} CPU ms")
    print(f"  per system; {MODEL.evaluated} evaluations of systems computed, {needed} needed")


if __name__ == "__main__":
    sys.exit(main())
