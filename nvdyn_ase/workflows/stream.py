"""Moving a stream of structures: they come into the batch as others leave it."""

from collections import deque
from collections.abc import Container, Generator, Iterable, Iterator

from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.atoms import Result, write_back
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import BaseDynamics, DataSink
from nvdyn_ase.dynamics.lifecycle import only_run_of
from nvdyn_ase.dynamics.memory import MemoryMeter
from nvdyn_ase.dynamics.run import Run
from nvdyn_ase.dynamics.splitting import Splitting
from nvdyn_ase.progress import Bar
from nvdyn_ase.workflows.checkpoints import Checkpoints
from nvdyn_ase.workflows.supply import AtomsSupply, ids


class Results(DataSink):
    """Where systems go that an engine is done with: into their Atoms, and the results.

    Parameters
    ----------
    engine
        Who has moved them.
    supply
        Who has given them.
    """

    capacity = 2**62

    def __init__(self, engine: BaseDynamics, supply: AtomsSupply) -> None:
        self.engine, self.supply = engine, supply

    def __len__(self) -> int:
        """Return 0: results are taken away as they come."""
        return 0

    def write(self, batch: Batch, mask: Bool[Tensor, " B"] | None = None) -> None:
        """Bring the Atoms up to date, and note how they ended."""
        part = batch if mask is None else batch.index_select(mask)
        part = self._not_taken(part)
        if not len(part):
            return
        numbers, engine = ids(part), self.engine
        atoms = [self.supply.take(index) for index in numbers]
        for system in atoms:
            self.supply.disown(system)
        energies = engine.constraints(part).energy(part, part["energy"])
        momenta = "velocities" in engine._mutable_fields
        write_back(part, atoms, momenta=momenta, results=True)
        found = energies.detach().view(-1).cpu().numpy()
        self.supply.results.extend(Result.of_batch(part, atoms, numbers, found))

    def _not_taken(self, batch: Batch) -> Batch:
        """Return the systems that have not been here: an interrupt may come just behind that."""
        rows = [row for row, index in enumerate(ids(batch)) if index in self.supply.moving]
        return batch if len(rows) == len(batch) else batch.index_select(rows)

    def read(self) -> Batch:
        """There is nothing to read: Atoms have it."""
        raise RuntimeError("results are in the Atoms, not in a sink")

    def zero(self) -> None:
        """There is nothing to forget."""


def stream(
    engine: BaseDynamics,
    supply: AtomsSupply,
    n_steps: int | None,
    bar: Bar,
    checkpoints: Checkpoints | None = None,
    done: Container[int] = (),
) -> Generator[Result, None, None]:
    """Move what the supply gives; yield each structure when it is done.

    If it is closed early, the structures that are being moved are left at the last finished step.

    Parameters
    ----------
    engine
        Who moves them.
    supply
        Where they come from.
    n_steps
        Steps of each.
    bar
        Shows how far it is.
    checkpoints
        Where those that are being moved are saved, and taken up from.
    done
        Positions of those that need not be taken up.

    Raises
    ------
    RuntimeError
        The engine is in a run already.
    """
    with only_run_of(engine):
        yield from _streamed(engine, supply, n_steps, bar, checkpoints, done)


def _streamed(
    engine: BaseDynamics,
    supply: AtomsSupply,
    n_steps: int | None,
    bar: Bar,
    checkpoints: Checkpoints | None,
    done: Container[int],
) -> Generator[Result, None, None]:
    engine.sampler, engine.sinks = supply, [Results(engine, supply)]
    engine.splitting, engine.active_batch = Splitting(MemoryMeter()), None
    bar.watch(engine)
    try:
        saved = {} if checkpoints is None else checkpoints.read(done)
        if saved and len(saved["batch"]):
            engine.restore(supply.as_saved(saved["batch"]).to(engine.device), saved)
        first = engine.first_systems(None)
        yield from _taken(supply.results)
        if first is not None:
            with engine.entered_hooks():
                yield from _run(engine, supply, first, n_steps, checkpoints)
    except GeneratorExit:
        raise
    except BaseException:  # whatever has stopped it, who was done before is done
        yield from _taken(supply.results)
        raise
    yield from _taken(supply.results)
    if supply.problem is not None:
        raise supply.problem


def _run(
    engine: BaseDynamics,
    supply: AtomsSupply,
    first: Batch,
    n_steps: int | None,
    checkpoints: Checkpoints | None,
) -> Generator[Result, None, None]:
    run = Run(engine, first, n_steps)
    try:
        while not run.settle():
            yield from _taken(supply.results)
            if checkpoints is not None:
                checkpoints.save_if_due(engine, run.batch)
            run.advance()
            if engine.splitting.meter is not None:
                supply.capacity.adapt(engine.splitting.meter, run.batch.device)
    finally:
        batch, engine.active_batch = run.close(), None
        if len(batch):
            _leave(engine, supply, batch)
    if engine._sink_failure is not None:
        raise engine._sink_failure


def _leave(engine: BaseDynamics, supply: AtomsSupply, batch: Batch) -> None:
    """Leave structures where they are: somebody has stopped the run."""
    current = engine.is_current(batch)
    if engine._arriving is not None:  # those that came last have not been touched
        batch = batch.index_select(~engine._arriving.view(-1))
    batch = batch.index_select([row for row, k in enumerate(ids(batch)) if k in supply.moving])
    atoms = [supply.take(index) for index in ids(batch)]
    for system in atoms:
        if current:
            supply.disown(system)
    momenta = "velocities" in engine._mutable_fields
    write_back(batch, atoms, momenta=momenta, results=current)


def _taken(results: deque[Result]) -> Iterator[Result]:
    while results:
        yield results.popleft()


def in_order(
    results: Iterable[Result], missing: Container[int] = frozenset()
) -> Generator[Result, None, None]:
    """Yield results in the order of the input; those that come early wait.

    If something stops the results, those that wait are yielded before it is raised.

    Parameters
    ----------
    results
        As they are done.
    missing
        Positions that have no result and that nobody waits for. More may be added; a position must
        be there before a result from behind it comes.
    """
    waiting: dict[int, Result] = {}
    index = 0
    try:
        for result in results:
            waiting[result.index] = result
            while index in waiting or index in missing:
                if index in waiting:
                    yield waiting.pop(index)
                index += 1
    except GeneratorExit:
        raise
    except BaseException:  # whatever has stopped it, who was done before is done
        yield from _sorted(waiting)
        raise
    yield from _sorted(waiting)


def _sorted(waiting: dict[int, Result]) -> Iterator[Result]:
    for index in sorted(waiting):
        yield waiting.pop(index)
