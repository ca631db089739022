"""Engines as the facades make them, for structures that come later."""

import warnings
from collections.abc import Callable
from typing import Any

import ase
import numpy as np

from nvdyn_ase.atoms.filters import why_not
from nvdyn_ase.calculators import CalculatorModel
from nvdyn_ase.dynamics import (
    BaseDynamics,
    BlowUpHook,
    ConvergenceCriterion,
    ConvergenceHook,
    DataSink,
    NaNDetectorHook,
    SnapshotHook,
)
from nvdyn_ase.md.md import MolecularDynamicsFacade
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineFacade
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.workflows.arguments import (
    check_options,
    check_temperatures,
    integrator_class,
    optimizer_class,
    positive,
)

#: Makes the engine of a workflow for a model.
MakeEngine = Callable[[BaseModelMixin], BaseDynamics]


def relaxation(
    optimizer: str | type[OptimizerFacade],
    fmax: float,
    cell_filter: Callable[[ase.Atoms], Any] | None,
    options: dict[str, Any],
) -> MakeEngine:
    """Return what makes an engine that relaxes; the arguments are those of ``workflows.relax``.

    Raises
    ------
    ValueError
        There is no such optimizer, or an argument is out of its range.
    """
    method, options = optimizer_class(optimizer), dict(options)
    check_options(method, options)
    limits = {"fmax": positive("fmax", fmax)}
    for name, default in method._further_limits.items():
        limits[name] = positive(name, options.pop(name, default))

    def make(model: BaseModelMixin) -> BaseDynamics:
        return stop_below(engine_of(method, model, options, cell_filter), **limits)

    return make


def motion(
    integrator: str | type[MolecularDynamicsFacade],
    options: dict[str, Any],
    snapshots: DataSink | None = None,
    interval: int = 1,
) -> MakeEngine:
    """Return what makes an engine for dynamics; see ``workflows.molecular_dynamics``.

    Raises
    ------
    ValueError
        There is no such integrator, or a temperature is below zero.
    """
    method = integrator_class(integrator)
    check_options(method, options)
    check_temperatures(options)

    def make(model: BaseModelMixin) -> BaseDynamics:
        engine = engine_of(method, model, options)
        engine.register_hook(BlowUpHook())  # ASE would go on; nobody looks at thousands
        if snapshots is not None:
            engine.register_hook(SnapshotHook(snapshots, interval))
        return engine

    return make


#: With a cheap model: to exchange structures costs about as much as a step.
_REFILL_FREQUENCY = 4


class Evaluation(BaseDynamics):
    """Moves nothing: a system is done when it has been evaluated."""

    __needs_keys__ = frozenset({"energy", "forces"})
    _mutable_fields = ()
    _writes_in_place = False


def evaluation(model: BaseModelMixin) -> BaseDynamics:
    """Return an engine that evaluates each system once."""
    always = ConvergenceCriterion(key="energy", threshold=0.0, custom_op=_everyone)
    hooks = [NaNDetectorHook()]
    return with_outputs(Evaluation(model, hooks, ConvergenceHook(always)))


def _everyone(energy: Any) -> Any:
    return energy.view(len(energy), -1)[:, 0] == energy.view(len(energy), -1)[:, 0]


def engine_of(
    method: type[EngineFacade],
    model: BaseModelMixin,
    options: dict[str, Any],
    cell_filter: Callable[[ase.Atoms], Any] | None = None,
) -> BaseDynamics:
    """Return the engine of a facade with these options; what it refuses is refused here.

    Parameters
    ----------
    method
        Class of ``nvdyn_ase.optimize`` or ``nvdyn_ase.md``.
    model
        What evaluates the systems.
    options
        Of the method; one value for all systems.
    cell_filter
        Puts a filter on an Atoms.
    """
    stand_in = _stand_in(model)
    item = stand_in
    if cell_filter is not None and model.model_card.supports_stress:  # others are told each
        item = cell_filter(stand_in)
    if why_not(item) is not None:
        item = stand_in
    with warnings.catch_warnings():
        if "fixcm" not in options:  # ASE warns of its own default, which nobody has asked for
            warnings.filterwarnings("ignore", ".*fixcm", FutureWarning)
        facade = method([item], model=model, logfile=None, **options)
    engine = facade._make_engine(model)
    for hook in facade._hooks:
        engine.register_hook(hook())
    return with_outputs(engine)


def _stand_in(model: BaseModelMixin) -> ase.Atoms:
    """Return an Atoms that every method and this model would take."""
    known = model.model_card.supported_elements
    number = 1 if known is None else min(known)
    atoms = ase.Atoms([number] * 2, [[0, 0, 0], [0, 0, 2.0]], cell=[10.0] * 3, pbc=True)
    atoms.set_momenta(np.array([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]]))
    return atoms


def with_outputs(engine: BaseDynamics) -> BaseDynamics:
    """Have the engine ask for what people expect among results: the stress, where it is free."""
    model = engine.model
    if model.model_card.supports_stress and not isinstance(model, CalculatorModel):
        engine.outputs = frozenset({"stress"})
    engine.refill_frequency = _REFILL_FREQUENCY if model.is_cheap else 1
    return engine


def stop_below(engine: BaseDynamics, **limits: float) -> BaseDynamics:
    """Have systems leave when fields are below limits, as ASE's optimizers do."""
    criteria = [
        ConvergenceCriterion(key=key, threshold=limit, strict=True) for key, limit in limits.items()
    ]
    engine.convergence_hook = ConvergenceHook(criteria)
    return engine
