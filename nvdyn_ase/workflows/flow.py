"""A stream of structures, a model, an engine: what every workflow is made of."""

from collections.abc import Callable, Container, Generator, Iterator
from typing import Any

import ase

from nvdyn_ase.atoms import Result, unwrapped
from nvdyn_ase.calculators import model_for
from nvdyn_ase.calculators.choosing import interchangeable
from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.models import BaseModelMixin, LennardJones
from nvdyn_ase.progress import Bar
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.checkpoints import Checkpoints
from nvdyn_ase.workflows.methods import MakeEngine
from nvdyn_ase.workflows.readings import Readings
from nvdyn_ase.workflows.stream import stream
from nvdyn_ase.workflows.supply import AtomsSupply, Numbered, failure


def flow(
    numbered: Iterator[Numbered],
    model: BaseModelMixin | None,
    make: MakeEngine,
    n_steps: int | None,
    *,
    cell_filter: Callable[[ase.Atoms], Any] | None = None,
    capacity: Capacity,
    bar: Bar,
    checkpoints: Checkpoints | None = None,
    done: Container[int] = frozenset(),
    readings: Readings | None = None,
) -> Generator[Result, None, None]:
    """Return the results of structures that an engine moves, as they are done.

    Parameters
    ----------
    numbered
        Structures with their positions in the input.
    model
        For all; None if each has its own calculator.
    make
        Makes the engine for a model; what it refuses is refused at the call.
    n_steps
        Steps of each structure; None for no limit.
    cell_filter
        Puts a filter on an Atoms; None for cells that stay.
    capacity
        How much a batch holds.
    bar
        Shows how far it is.
    checkpoints
        Where those that are being moved are saved, and taken up from.
    done
        Positions of structures that are not in the stream because they are done.
    readings
        What is known already of structures that come, if there is a model for all.

    Raises
    ------
    ValueError
        A filter, and a model that gives no stress.
    """
    if model is None:
        make(LennardJones())  # what it refuses, it refuses now
        results = _with_own_calculators(numbered, make, n_steps, capacity, cell_filter, bar)
    else:
        if cell_filter is not None and not model.model_card.supports_stress:
            raise ValueError(f"{type(model).__name__} gives no stress, which cell_filter= needs")
        engine = make(model)
        supply = AtomsSupply(numbered, model, capacity, cell_filter, readings=readings)
        results = stream(engine, supply, n_steps, bar, checkpoints, done)
    return _shown(results, bar)


def _shown(results: Generator[Result, None, None], bar: Bar) -> Generator[Result, None, None]:
    with bar:
        try:
            for result in results:
                bar.count(result)
                yield result
        finally:
            results.close()


def _with_own_calculators(
    numbered: Iterator[Numbered],
    make: MakeEngine,
    n_steps: int | None,
    capacity: Capacity,
    cell_filter: Callable[[ase.Atoms], Any] | None,
    bar: Bar,
) -> Generator[Result, None, None]:
    """Move structures that bring their calculators: batch by batch, those together that can be."""
    whole = AtomsSupply(numbered, LennardJones(), capacity)
    while batch := _cut(whole, capacity):
        for group in _groups(batch):
            model, usable = None, group
            while model is None and usable:
                model, usable, failed = _model_of(usable)
                yield from failed
            if model is not None:
                supply = AtomsSupply(iter(usable), model, capacity, cell_filter, True)
                yield from stream(make(model), supply, n_steps, bar)
    if whole.problem is not None:
        raise whole.problem


def _model_of(
    group: list[Numbered],
) -> tuple[BaseModelMixin | None, list[Numbered], list[Result]]:
    """Return the model of structures, those that can have one, and results of the others."""
    atoms = group[0][1]
    if not isinstance(atoms, ase.Atoms):
        why = f"{type(atoms).__name__} is not an ase.Atoms"
    elif atoms.calc is None:
        why = "it has no calculator; give it one, or all a model="
    else:
        try:
            return model_for([item for _, item in group], None), group, []
        except StructureError as error:
            row = error.index or 0
            index, atoms = group[row]
            rest = group[:row] + group[row + 1 :]
            return None, rest, [failure(atoms, index, Outcome.REJECTED, error.problem)]
    return None, [], [failure(item, k, Outcome.REJECTED, why) for k, item in group]


def _cut(whole: AtomsSupply, capacity: Capacity) -> list[Numbered]:
    """Return the next structures that fill a batch."""
    taken: list[Numbered] = []
    filled = 0
    while filled < capacity.limit and not whole.exhausted:
        assert whole._next is not None
        taken.append(whole._next)
        filled += capacity.share(whole._next[1])
        whole._next = None
    return taken


def _groups(batch: list[Numbered]) -> list[list[Numbered]]:
    """Put together what one model can do, so that nobody's company decides which it is."""
    groups: list[list[Numbered]] = []
    for index, atoms in batch:
        for group in groups:
            if _go_together(group[0][1], atoms):
                group.append((index, atoms))
                break
        else:
            groups.append([(index, atoms)])
    return groups


def _go_together(one: Any, other: Any) -> bool:
    if not (isinstance(one, ase.Atoms) and isinstance(other, ase.Atoms)):
        return False
    if one.calc is None or other.calc is None:
        return one.calc is other.calc
    return interchangeable(unwrapped(one.calc), unwrapped(other.calc))
