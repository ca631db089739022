"""The worker's side of the benchmark: one engine, in its own interpreter, told what to do.

Orders come as lines of JSON on standard input, answers leave as lines of JSON on standard output.
Whatever an engine itself prints goes to standard error.
"""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from argon_structures import Systems


class Engine(Protocol):
    """What a worker file defines for its engine.

    Attributes
    ----------
    version
        Version of the package.
    shifted
        Whether its Lennard-Jones energy is zero at the cutoff.
    """

    version: str
    shifted: bool

    def place(self, systems: Systems) -> str:
        """Make these the systems to move, with current forces; say what was chosen for them."""

    def run(self, steps: int) -> None:
        """Do so many steps of velocity Verlet, going on from where the systems are."""

    def state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return positions, velocities, both (systems, atoms, 3), and potential energies."""

    def restart(self) -> None:
        """Get ready to relax the systems that were placed, from where they were placed."""

    def relax(self, fmax: float) -> "Relaxed":
        """Relax them."""


class Relaxed(dict[str, Any]):
    """How a relaxation went.

    Parameters
    ----------
    computed
        Forward passes times systems in them, divided by the number of systems.
    needed
        Mean over systems of the evaluations until the system was done; None if not told.
    converged
        Systems that reached the force asked for.
    """

    def __init__(self, computed: float, needed: float | None, converged: int) -> None:
        super().__init__(computed=computed, needed=needed, converged=converged)


class Stopwatch:
    """Adds up the CPU time spent in functions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.calls = 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return a function that does the same and has its time counted."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            start = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.seconds += time.process_time() - start
                self.calls += 1

        return timed


def fastest(candidates: dict[str, Callable[[], Any]], repeats: int = 5) -> str:
    """Return the name of the candidate that takes least CPU time; those that raise are left out."""
    seconds = {}
    for name, call in candidates.items():
        try:
            call()
            times = []
            for _ in range(repeats):
                start = time.process_time()
                call()
                times.append(time.process_time() - start)
        except Exception as error:
            print(f"{name}: {error}", file=sys.stderr)
            continue
        seconds[name] = min(times)
    if not seconds:
        raise RuntimeError(f"none of {', '.join(candidates)} works here")
    return min(seconds, key=lambda name: seconds[name])


def serve(make: Callable[[], Engine]) -> None:
    """Answer orders until told to stop, or until the driver is gone.

    Parameters
    ----------
    make
        Imports the engine's package and returns the engine; if it raises, the engine counts as not
        installed.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(message: dict[str, Any]) -> None:
        answers.write(json.dumps(message) + "\n")
        answers.flush()

    try:
        engine = make()
    except Exception as error:
        answer({"error": f"{type(error).__name__}: {error}"})
        return
    answer({"version": engine.version, "shifted": engine.shifted})
    for line in sys.stdin:
        order = json.loads(line)
        todo = order.pop("do")
        if todo == "stop":
            return
        try:
            answer(ORDERS[todo](engine, **order))
        except Exception as error:
            traceback.print_exc()
            answer({"error": f"{type(error).__name__}: {error}"})


def _place(engine: Engine, positions: list, velocities: list, edge: float) -> dict[str, Any]:
    systems = Systems(np.array(positions), np.array(velocities), edge)
    return {"note": engine.place(systems)}


def _run(engine: Engine, steps: int) -> dict[str, Any]:
    before = _counters(engine)
    times = _timed(lambda: engine.run(steps))
    parts = {name: value - before[name] for name, value in _counters(engine).items()}
    rebuilds = parts.pop("rebuilds", None)
    return {"cpu": times["cpu"], "wall": times["wall"], "parts": parts, "rebuilds": rebuilds}


def _counters(engine: Engine) -> dict[str, float]:
    """Return seconds in each part so far, and rebuilds, of an engine that tells them."""
    watches: dict[str, Stopwatch] = getattr(engine, "watches", {})
    counters = {name: watch.seconds for name, watch in watches.items()}
    return counters | ({"rebuilds": engine.rebuilds()} if hasattr(engine, "rebuilds") else {})


def _state(engine: Engine) -> dict[str, Any]:
    positions, velocities, energy = engine.state()
    return {
        "positions": positions.tolist(),
        "velocities": velocities.tolist(),
        "energy": energy.tolist(),
    }


def _relax(engine: Engine, fmax: float) -> dict[str, Any]:
    engine.restart()
    times = _timed(lambda: engine.relax(fmax))
    return {"cpu": times["cpu"], "wall": times["wall"], **times["result"]}


def _timed(call: Callable[[], Any]) -> dict[str, Any]:
    wall, cpu = time.perf_counter(), time.process_time()
    result = call()
    cpu = time.process_time() - cpu
    return {"cpu": cpu, "wall": time.perf_counter() - wall, "result": result}


ORDERS = {"place": _place, "run": _run, "state": _state, "relax": _relax}
