"""What becomes the limit of a screening on many ranks: a simulation with numbers measured here.

``python examples/benchmarks/many_ranks.py [RANKS] [STRUCTURES]`` measures on this machine what the
counter, a look through the input, a row of a part and a row of the gathered database take, and
simulates ranks that claim, read, move and write, event by event. docs/scaling.md has the tables.
"""

import heapq
import multiprocessing
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
from ase.build import bulk
from ase.calculators.emt import EMT
from torch.distributed import TCPStore

from nvdyn_ase import reading
from nvdyn_ase.files import DatabaseFile, ExtxyzFile, TrajectoryFile
from nvdyn_ase.ranks import Shares

CLIENTS, ADDS = 4, 3000
SAMPLE = 4000


class Costs(NamedTuple):
    """Times, s: of a claim (its way there and back; what it keeps the store), and per structure."""

    claim: float
    claim_at_store: float
    look: dict[str, float]
    write: float
    gather: float


def add_many(port: int, ready, results) -> None:
    store = TCPStore("127.0.0.1", port, is_master=False)
    ready.wait()
    start = time.perf_counter()
    for _ in range(ADDS):
        store.add("claimed", 64)
    results.put(time.perf_counter() - start)


def counter(clients: int) -> tuple[float, float]:
    """Return what an add takes for a client, and how long the store is busy with it, s."""
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    context = multiprocessing.get_context("spawn")
    ready, results = context.Barrier(clients), context.Queue()
    work = [
        context.Process(target=add_many, args=(store.port, ready, results)) for _ in range(clients)
    ]
    for one in work:
        one.start()
    taken = [results.get() for _ in work]
    return float(np.mean(taken)) / ADDS, max(taken) / (clients * ADDS)


def structures(count: int):
    rng = np.random.default_rng(0)
    for _ in range(count):
        atoms = bulk("Cu", cubic=True) * (1, 1, int(rng.integers(1, 6)))
        atoms.rattle(0.1, rng=rng)
        yield atoms


def measured() -> Costs:
    """Measure the costs, with structures of 12 atoms on average."""
    claim, _ = counter(1)
    _, busy = counter(CLIENTS)
    made = list(structures(SAMPLE))
    for atoms in made:
        atoms.calc = EMT()
        atoms.get_forces()
    marks = {"relax_outcome": "converged", "relax_steps": 30, "relax_fmax": 0.01}
    look = {}
    with tempfile.TemporaryDirectory() as folder:
        for kind in (ExtxyzFile, TrajectoryFile, DatabaseFile):
            file = kind(Path(folder) / f"in.{kind.form}")
            file.recover()
            start = time.process_time()
            for index, atoms in enumerate(made):
                file.add(atoms, {"input_index": index, **marks})
            write = (time.process_time() - start) / SAMPLE
            file.close()
            start = time.process_time()
            assert reading.count([str(file.path)]) == SAMPLE
            look[kind.form] = (time.process_time() - start) / SAMPLE
        whole = DatabaseFile(Path(folder) / "whole.db")
        whole.recover()
        part = DatabaseFile(Path(folder) / "in.db")
        part.recover()
        start = time.process_time()
        whole.take_over([part])
        gather = (time.process_time() - start) / SAMPLE
    return Costs(claim, busy, look, write, gather)


class Times(NamedTuple):
    """Parts of a run, s: until the first claim, until the last rank is done, the gathering.

    ``idle`` is the part of all ranks' time that they had nothing to move; ``waiting`` how long a
    claim waited for the store on average.
    """

    begin: float
    work: float
    gather: float
    idle: float
    waiting: float


def simulated(
    ranks: int, count: int, each: float, costs: Costs, form: str, rng: np.random.Generator
) -> Times:
    """Simulate a run in which structures take ``each`` seconds on average, some ten times more."""
    chunk = Shares.of(count, ranks).chunk
    look = costs.look[form]
    begin = count * look
    events = [(begin, rank) for rank in range(ranks)]
    heapq.heapify(events)
    free = begin  # when the store is
    claimed, waited, claims, moved, end = 0, 0.0, 0, 0.0, begin
    while claimed < count:
        now, rank = heapq.heappop(events)
        free = max(now, free) + costs.claim_at_store
        waited, claims = waited + free - costs.claim_at_store - now, claims + 1
        number = min(chunk, count - claimed)
        claimed += number
        # A rank looks through all that lies before its chunk, in a thread of its own.
        there = max(free + costs.claim, begin + claimed * look)
        work = each * float(rng.lognormal(-0.5, 1.0, number).sum())
        moved, end = moved + work, max(end, there + work)
        heapq.heappush(events, (there + work, rank))
    total = end - begin
    idle = 1.0 - moved / (ranks * total)
    return Times(begin, total, count * costs.gather, idle, waited / claims)


def main() -> None:
    ranks = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10_000_000
    costs = measured()
    print(f"claim             {costs.claim * 1e6:8.1f} us, {1 / costs.claim_at_store:.0f}/s in all")
    for form, look in costs.look.items():
        print(f"look through {form:6s}{look * 1e6:7.2f} us a structure")
    print(f"write a row       {costs.write * 1e6:8.1f} us, gather one {costs.gather * 1e6:.1f} us")
    print(f"\n{ranks} ranks, {count} structures")
    print("input   each, ms   begin, s   work, s   gather, s   idle   claim waits, us")
    for form in costs.look:
        for each in (1e-3, 20e-3, 1.0):
            rng = np.random.default_rng(0)
            found = simulated(ranks, count, each, costs, form, rng)
            print(
                f"{form:7s} {each * 1e3:7.0f} {found.begin:10.0f} {found.work:10.0f} "
                f"{found.gather:10.0f} {100 * found.idle:8.1f}% {found.waiting * 1e6:10.1f}"
            )


if __name__ == "__main__":
    main()
