"""Many structures through a method: a stream in, results out as they are done, or in order."""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Any

import ase

from nvdyn_ase.atoms import Result, unwrapped
from nvdyn_ase.calculators import model_for
from nvdyn_ase.calculators.choosing import interchangeable
from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics import BaseDynamics, DataSink, Outcome, SnapshotHook
from nvdyn_ase.md.md import MolecularDynamicsFacade
from nvdyn_ase.models import BaseModelMixin, LennardJones, as_model
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.progress import Bar, Summary
from nvdyn_ase.workflows.arguments import (
    at_least,
    cell_filter_function,
    check_options,
    check_stream,
    integrator_class,
    optimizer_class,
    positive,
)
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.methods import engine_of, evaluation, stop_below
from nvdyn_ase.workflows.stream import in_order, stream
from nvdyn_ase.workflows.supply import AtomsSupply, Numbered, failure

__all__ = ["Result", "Summary", "evaluate", "molecular_dynamics", "relax", "run"]

MakeEngine = Callable[[BaseModelMixin], BaseDynamics]


def relax(
    structures: Iterable[ase.Atoms],
    model: Any = None,
    *,
    optimizer: str | type[OptimizerFacade] = "FIRE",
    fmax: float = 0.05,
    steps: int = 500,
    cell_filter: str | Callable[[ase.Atoms], Any] | None = None,
    batch_size: int | str = "auto",
    max_atoms: int | None = None,
    ordered: bool = False,
    progress: bool | str = True,
    **optimizer_options: Any,
) -> Generator[Result, None, None]:
    """Relax many structures, and give each back with how it ended.

    A structure that is done leaves the batch, and the next of the stream takes its place. The
    structures are moved in place; each ends as it would have alone. Afterwards ``atoms.calc`` has
    the results for the final positions. A structure that cannot be used, or on which the model
    fails, comes back with the reason, and the others do not notice::

        for result in relax(ase.io.iread("many.extxyz"), EMT()):
            print(result.index, result.energy, result.converged, result.reason)

    Parameters
    ----------
    structures
        A list, a generator, an open file: any iterable of Atoms. It is read as there is room, and
        no more than a batch of it is held, so it may be endless. It must not give the same
        object twice. If reading it raises, what came before is relaxed first.
    model
        A batched model, an ASE calculator or a name as ``"emt"``, for all; by default each
        structure's own calculator. See :func:`nvdyn_ase.models.as_model`.
    optimizer
        Name of a class in ``nvdyn_ase.optimize``, or the class.
    fmax
        A structure is done when its largest force is below this, eV/Å.
    steps
        At most so many for each structure.
    cell_filter
        Relax the cells too: the name of a class in ``nvdyn_ase.filters``, as
        ``"FrechetCellFilter"``, the class, or a function that puts a filter on an Atoms, as
        ``functools.partial(FrechetCellFilter, scalar_pressure=0.01)``.
    batch_size
        Structures in a batch. With ``"auto"``, as many as make up 16384 atoms on the CPU, 65536 on
        a GPU, and 512 where a calculator has no batched equal and is called structure by structure.
        What comes back does not depend on it.
    max_atoms
        Atoms in a batch, instead.
    ordered
        Give the structures back in the order of the input; those that are done before the ones
        ahead of them are held. By default they come as they are done, with their ``index``.
    progress
        Show a bar on stderr: True, if a person can see it (a terminal or a notebook); ``"always"``;
        or False.
    optimizer_options
        For the optimizer, as ``maxstep=0.1``; one value for all structures.

    Returns
    -------
    Generator of Result
        One per structure. If it is closed early or interrupted, the structures of the batch in hand
        are at the last finished step, and those after it have not been touched.

    Raises
    ------
    TypeError
        ``structures`` is a single Atoms or a file name; an option that the optimizer does not have.
    ValueError
        An argument out of its range; an optimizer or filter that does not exist; a filter, and a
        model that gives no stress. All at the call.
    """
    check_stream("relax", structures)
    method = optimizer_class(optimizer)
    check_options(method, optimizer_options)
    n_steps, puts_filter = at_least("steps", steps, 0), cell_filter_function(cell_filter)
    limits = {"fmax": positive("fmax", fmax)}
    for name, default in method._further_limits.items():
        limits[name] = positive(name, optimizer_options.pop(name, default))

    def make(of: BaseModelMixin) -> BaseDynamics:
        engine = engine_of(method, of, optimizer_options, puts_filter)
        return stop_below(engine, **limits)

    return _flow(
        *(structures, model, make, n_steps),
        cell_filter=puts_filter,
        batch_size=batch_size,
        max_atoms=max_atoms,
        ordered=ordered,
        progress=progress,
    )


def molecular_dynamics(
    structures: Iterable[ase.Atoms],
    model: Any = None,
    *,
    integrator: str | type[MolecularDynamicsFacade] = "Langevin",
    steps: int,
    snapshots: DataSink | None = None,
    interval: int = 1,
    batch_size: int | str = "auto",
    max_atoms: int | None = None,
    ordered: bool = False,
    progress: bool | str = True,
    **integrator_options: Any,
) -> Generator[Result, None, None]:
    """Let many structures move, each for so many steps, and give each back as it is then.

    As :func:`relax`, with an integrator for the optimizer::

        for result in molecular_dynamics(
            structures, "emt", steps=1000, timestep=2 * fs, temperature_K=300, friction=0.01 / fs
        ):
            print(result.index, result.atoms.get_temperature())

    Parameters
    ----------
    structures, model, batch_size, max_atoms, ordered, progress
        As in :func:`relax`. Structures begin with the momenta that they bring.
    integrator
        Name of a class in ``nvdyn_ase.md``, or the class.
    steps
        Of each structure.
    snapshots
        Where frames of all structures go, with the structure's position in the input as
        ``system_id``.
    interval
        Steps from frame to frame.
    integrator_options
        For the integrator, as ``timestep`` and ``temperature_K``; one value for all structures.

    Returns
    -------
    Generator of Result
        One per structure, with ``Outcome.BUDGET`` when its steps are done.

    Raises
    ------
    TypeError, ValueError
        As in :func:`relax`.
    """
    check_stream("molecular_dynamics", structures)
    method = integrator_class(integrator)
    check_options(method, integrator_options)
    n_steps, every = at_least("steps", steps, 0), at_least("interval", interval, 1)

    def make(of: BaseModelMixin) -> BaseDynamics:
        engine = engine_of(method, of, integrator_options)
        if snapshots is not None:
            engine.register_hook(SnapshotHook(snapshots, every))
        return engine

    return _flow(
        *(structures, model, make, n_steps),
        batch_size=batch_size,
        max_atoms=max_atoms,
        ordered=ordered,
        progress=progress,
    )


def evaluate(
    structures: Iterable[ase.Atoms],
    model: Any = None,
    *,
    batch_size: int | str = "auto",
    max_atoms: int | None = None,
    ordered: bool = False,
    progress: bool | str = True,
) -> Generator[Result, None, None]:
    """Compute energy, forces and, where the model has it, stress of many structures.

    As :func:`relax`, without moving anything: afterwards ``atoms.calc`` has the results.

    Parameters
    ----------
    structures, model, batch_size, max_atoms, ordered, progress
        As in :func:`relax`.

    Returns
    -------
    Generator of Result
        One per structure, with ``Outcome.CONVERGED`` when it has been evaluated.

    Raises
    ------
    TypeError, ValueError
        As in :func:`relax`.
    """
    check_stream("evaluate", structures)
    return _flow(
        *(structures, model, evaluation, None),
        batch_size=batch_size,
        max_atoms=max_atoms,
        ordered=ordered,
        progress=progress,
    )


def run(
    workflow: BaseDynamics,
    structures: Iterable[ase.Atoms],
    *,
    steps: int | None = None,
    cell_filter: str | Callable[[ase.Atoms], Any] | None = None,
    batch_size: int | str = "auto",
    max_atoms: int | None = None,
    ordered: bool = False,
    progress: bool | str = True,
) -> Generator[Result, None, None]:
    """Move many structures with an engine, or with several one after the other.

    As :func:`relax`, with an engine of one's own::

        model = as_model("emt")
        anneal = FIRE(model, convergence_hook={"criteria": {"key": "fmax", "threshold": 0.05}})
        anneal += Langevin(model, dt=2 * fs, temperature=600, friction=0.01 / fs, n_steps=500)
        for result in run(anneal, structures):
            print(result.index, result.stage_steps, result.energy)

    Parameters
    ----------
    workflow
        The engine; its sampler and sinks are replaced.
    steps
        At most so many for each structure, in all stages together; by default those of the engine.
    structures, cell_filter, batch_size, max_atoms, ordered, progress
        As in :func:`relax`.

    Returns
    -------
    Generator of Result
        One per structure.

    Raises
    ------
    TypeError
        ``workflow`` is no engine.
    ValueError
        Nothing would end the run.
    """
    check_stream("run", structures)
    if not isinstance(workflow, BaseDynamics):
        raise TypeError(f"run takes an engine of nvdyn_ase.dynamics, not {type(workflow).__name__}")
    limit = workflow.n_steps if steps is None else at_least("steps", steps, 0)
    if not workflow._ends(limit):
        raise ValueError("nothing ends this run: give steps=, or the engine a convergence_hook")
    return _flow(
        *(structures, workflow.model, lambda model: workflow, limit),
        cell_filter=cell_filter_function(cell_filter),
        batch_size=batch_size,
        max_atoms=max_atoms,
        ordered=ordered,
        progress=progress,
    )


# -------------------------------------------------------------------- what they have in common


def _flow(
    structures: Iterable[ase.Atoms],
    model: Any,
    make: MakeEngine,
    n_steps: int | None,
    *,
    cell_filter: Callable[[ase.Atoms], Any] | None = None,
    batch_size: int | str,
    max_atoms: int | None,
    ordered: bool,
    progress: bool | str,
) -> Generator[Result, None, None]:
    """Check what can be checked now, and return the stream of results."""
    bar = Bar(structures, progress)
    given = None if model is None else as_model(model)
    capacity = Capacity(batch_size, given, max_atoms)
    numbered = enumerate(structures)
    if given is None:
        make(LennardJones())  # what it refuses, it refuses now
        results = _with_own_calculators(numbered, make, n_steps, capacity, cell_filter, bar)
    else:
        if cell_filter is not None and not given.model_card.supports_stress:
            raise ValueError(f"{type(given).__name__} gives no stress, which cell_filter= needs")
        engine = make(given)
        supply = AtomsSupply(numbered, given, capacity, cell_filter)
        results = stream(engine, supply, n_steps, bar)
    return _shown(in_order(results) if ordered else results, bar)


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
