"""Many structures through a method: a stream in, results out as they are done, or in order."""

from collections.abc import Callable, Generator, Iterable
from typing import Any

import ase

from nvdyn_ase.atoms import Result
from nvdyn_ase.dynamics import BaseDynamics, DataSink
from nvdyn_ase.md.md import MolecularDynamicsFacade
from nvdyn_ase.models import as_model
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.progress import Bar, Summary
from nvdyn_ase.workflows.arguments import at_least, cell_filter_function, check_stream
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.flow import flow
from nvdyn_ase.workflows.methods import MakeEngine, evaluation, motion, relaxation
from nvdyn_ase.workflows.stream import in_order

__all__ = ["Result", "Summary", "evaluate", "molecular_dynamics", "relax", "run"]


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
        Structures in a batch. With ``"auto"``, as many as make up 16384 atoms on the CPU, 512 where
        a calculator has no batched equal and is called structure by structure and, on a GPU, as
        many as its memory holds, which the first forward pass tells. If memory ends all the same,
        forward passes are done in parts. What comes back does not depend on it.
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
    n_steps, puts_filter = at_least("steps", steps, 0), cell_filter_function(cell_filter)
    make = relaxation(optimizer, fmax, puts_filter, optimizer_options)
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
    n_steps, every = at_least("steps", steps, 0), at_least("interval", interval, 1)
    make = motion(integrator, integrator_options, snapshots, every)
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
        The engine; its sampler and sinks are replaced. It is in one run at a time.
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
    RuntimeError
        The engine is in a run that has neither ended nor been closed; with the first structure.
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
    given = None if model is None else as_model(model)
    results = flow(
        *(enumerate(structures), given, make, n_steps),
        cell_filter=cell_filter,
        capacity=Capacity(batch_size, given, max_atoms),
        bar=Bar(structures, progress),
    )
    return in_order(results) if ordered else results
