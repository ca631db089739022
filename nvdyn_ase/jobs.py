"""The jobs of the command line: what is done to each structure, from the words of a command."""

import argparse
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.units import fs

import nvdyn_ase.filters
import nvdyn_ase.md
from nvdyn_ase.atoms import partition
from nvdyn_ase.dynamics import BaseDynamics
from nvdyn_ase.dynamics.fused import FusedStage
from nvdyn_ase.md.velocitydistribution import thermalize_momenta
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.stage_file import stages_of
from nvdyn_ase.workflows.arguments import (
    at_least,
    cell_filter_function,
    check_temperatures,
    integrator_class,
)
from nvdyn_ase.workflows.methods import (
    MakeEngine,
    evaluation,
    motion,
    relaxation,
    with_outputs,
)


class JobError(Exception):
    """Words that no job can be made of; it says on one line why."""


class Job(NamedTuple):
    """What is done to each structure.

    Parameters
    ----------
    method
        Its name, with which marks in the output begin.
    make
        Makes the engine.
    n_steps
        Of each structure; None for no limit.
    parameters
        What results depend on, for the output to tell.
    cell_filter
        Puts a filter on an Atoms; None for cells that stay.
    prepare
        Called with each position and Atoms before it is moved.
    seed
        Of random numbers, if there are any.
    needed
        The outcome of a structure that went well.
    most_steps
        Of each structure at most, in all stages together, where each stage has a limit of its own.
    """

    method: str
    make: MakeEngine
    n_steps: int | None
    parameters: Mapping[str, Any]
    cell_filter: Callable[[ase.Atoms], Any] | None = None
    prepare: Callable[[int, ase.Atoms], None] | None = None
    seed: int | None = None
    needed: str = "converged"
    most_steps: int | None = None

    def is_success(self, outcomes: Mapping[int, str]) -> bool:
        """Say whether all structures ended as they should, by the names of their outcomes.

        An outcome that is not known has no name: a file for each structure does not tell it again.
        """
        return set(outcomes.values()) <= {self.needed, ""}


def job_of(arguments: argparse.Namespace) -> Job:
    """Return the job that a command names.

    Raises
    ------
    JobError
        It cannot be done as asked for.
    """
    try:
        return _JOBS[arguments.job](arguments)
    except JobError:
        raise
    except (TypeError, ValueError) as error:
        raise JobError(one_line(error)) from error


def _relaxation(arguments: argparse.Namespace) -> Job:
    options = dict(arguments.option)
    cell_filter = _cell_filter(arguments.cell_filter, dict(arguments.filter_option))
    parameters = {
        "fmax": arguments.fmax,
        "steps": arguments.steps,
        "optimizer": arguments.optimizer,
        "options": options,
        "cell_filter": arguments.cell_filter,
        "filter_options": dict(arguments.filter_option),
    }
    return Job(
        method="relax",
        make=relaxation(arguments.optimizer, arguments.fmax, cell_filter, options),
        n_steps=at_least("steps", arguments.steps, 0),
        parameters=parameters,
        cell_filter=cell_filter,
    )


def _dynamics(arguments: argparse.Namespace) -> Job:
    method = integrator_class(arguments.integrator)
    check_temperatures({"temperature": arguments.temperature})
    options = {"timestep": arguments.timestep * fs}
    if _takes(method, "seed"):
        options["seed"] = arguments.seed
    if arguments.temperature is not None and _takes(method, "temperature_K"):
        options["temperature_K"] = arguments.temperature
    if method is nvdyn_ase.md.Langevin:
        options["friction"] = 0.01 / fs
    options |= dict(arguments.option)
    parameters = {
        "steps": arguments.steps,
        "integrator": arguments.integrator,
        "temperature": arguments.temperature,
        "options": options,
    }
    prepare = None
    if arguments.temperature is not None:
        prepare = partial(_set_moving, arguments.temperature, arguments.seed)
    return Job(
        method="md",
        make=motion(arguments.integrator, options),
        n_steps=at_least("steps", arguments.steps, 0),
        parameters=parameters,
        prepare=prepare,
        seed=arguments.seed,
        needed="budget",
    )


def _takes(method: type, name: str) -> bool:
    """Say whether a class has a parameter of this name, or one that it is derived from."""
    makers = [vars(kind)["__init__"] for kind in method.__mro__ if "__init__" in vars(kind)]
    makers.remove(object.__init__)
    return any(name in inspect.signature(make).parameters for make in makers)


def _evaluation(arguments: argparse.Namespace) -> Job:
    return Job(method="evaluate", make=evaluation, n_steps=None, parameters={})


def _stages(arguments: argparse.Namespace) -> Job:
    jobs: list[Job] = []
    for place, own in enumerate(stages_of(arguments.stages), 1):
        with _named(f"{arguments.stages}, stage {place} ({own.method})"):
            jobs.append(_JOBS[own.method](own))
    parameters = {
        str(place): {"method": own.method, "seed": own.seed, **own.parameters}
        for place, own in enumerate(jobs, 1)
    }
    return Job(
        method="run",
        make=partial(_fused, arguments.stages, jobs),
        n_steps=None,
        parameters={"stages": parameters},
        cell_filter=_one_filter(arguments.stages, jobs),
        prepare=next((own.prepare for own in jobs if own.method == "md"), None),
        needed=jobs[-1].needed,
        most_steps=sum(own.n_steps or 0 for own in jobs),
    )


def _fused(name: str, jobs: list[Job], model: BaseModelMixin) -> BaseDynamics:
    engines = []
    for place, own in enumerate(jobs, 1):
        with _named(f"{name}, stage {place} ({own.method})"):
            engines.append(own.make(model))
        engines[-1].n_steps = own.n_steps
    return with_outputs(FusedStage(list(enumerate(engines))))


@contextmanager
def _named(where: str) -> Iterator[None]:
    """Let what is wrong say where that is."""
    try:
        yield
    except (JobError, TypeError, ValueError) as error:
        raise JobError(f"{where}: {one_line(error)}") from error


def _one_filter(name: str, jobs: list[Job]) -> Any:
    """Return the cell filter of all relaxations: it is on a structure, whatever stage it is in."""
    told = [
        (place, own.parameters["cell_filter"], own.parameters["filter_options"], own.cell_filter)
        for place, own in enumerate(jobs, 1)
        if own.method == "relax"
    ]
    for place, *own, _ in told:
        if own != list(told[0][1:3]):
            raise JobError(
                f"{name}, stage {place} (relax): cell-filter and filter-option have to be those of "
                f"stage {told[0][0]}"
            )
    return told[0][-1] if told else None


_JOBS = {"relax": _relaxation, "md": _dynamics, "evaluate": _evaluation, "run": _stages}


def _set_moving(temperature: float, seed: int, index: int, atoms: ase.Atoms) -> None:
    """Give an Atoms that is at rest velocities of a temperature; the same in each run."""
    try:
        if not atoms.get_momenta().any():
            rng = np.random.default_rng((seed, index))
            thermalize_momenta(atoms, temperature_K=temperature, rng=rng)
    except Exception:
        if not partition([atoms])[1]:
            raise
        # Nobody will move it; whoever tries says why.


def _cell_filter(name: str | None, options: dict[str, Any]) -> Any:
    """Return what puts the filter of this name on an Atoms."""
    if not options:
        return cell_filter_function(name)
    if name not in nvdyn_ase.filters.__all__:
        raise JobError("--filter-option needs the name of a filter in --cell-filter")
    kind = partial(getattr(nvdyn_ase.filters, name), **options)
    try:
        kind(ase.Atoms("H", cell=[1.0, 1.0, 1.0], pbc=True))
    except (TypeError, ValueError) as error:
        raise JobError(f"{name}: {one_line(error)}") from error
    return kind


def one_line(error: BaseException) -> str:
    """Return what an error says, on one line; its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__
