"""From ASE's own calculators to their batched equals; ase is not imported for that.

Each function returns None for a calculator that the batched model cannot stand for.
"""

from importlib import import_module
from typing import Any

from nvdyn_ase.models.base import BaseModelMixin
from nvdyn_ase.models.devices import are_together
from nvdyn_ase.models.lennard_jones import LennardJones
from nvdyn_ase.models.morse import Morse
from nvdyn_ase.models.registry import as_model, batched_equal
from nvdyn_ase.models.sums import SumModel


def lennard_jones(calculator: Any, **options: Any) -> BaseModelMixin | None:
    """Return the equal of an ``ase.calculators.lj.LennardJones``."""
    names = ("sigma", "epsilon", "rc", "ro", "smooth")
    return _with_parameters(LennardJones, calculator, names, options)


def morse(calculator: Any, **options: Any) -> BaseModelMixin | None:
    """Return the equal of an ``ase.calculators.morse.MorsePotential``."""
    names = ("epsilon", "rho0", "r0", "rcut1", "rcut2")
    return _with_parameters(Morse, calculator, names, options)


def emt(calculator: Any, **options: Any) -> BaseModelMixin:
    """Return the equal of an ``ase.calculators.emt.EMT``."""
    from nvdyn_ase.models.emt import EMT

    return EMT(asap_cutoff=bool(calculator.parameters["asap_cutoff"]), **options)


def eam(calculator: Any, **options: Any) -> BaseModelMixin | None:
    """Return the equal of an ``ase.calculators.eam.EAM`` whose functions are splines on grids."""
    from nvdyn_ase.models.eam import EAM
    from nvdyn_ase.models.eam_calculator import tables_of

    tables = tables_of(calculator)
    return None if tables is None else EAM(tables, **options)


def tersoff(calculator: Any, **options: Any) -> BaseModelMixin | None:
    """Return the equal of an ``ase.calculators.tersoff.Tersoff``."""
    from nvdyn_ase.models.tersoff import Tersoff

    try:
        Tersoff(calculator.parameters)
    except (AttributeError, TypeError, ValueError):
        return None  # what these parameters mean is for the calculator to say
    return Tersoff(calculator.parameters, **options)


def linear_combination(calculator: Any, **options: Any) -> BaseModelMixin | None:
    """Return the equal of a sum, average or mixture from ``ase.calculators.mixing``.

    Parts without weights are moved to the device of the others. None if there is a batched equal of
    none of its parts, or weights are on several devices.
    """
    parts = calculator.mixer.calcs
    equals = [batched_equal(part) for part in parts]
    if all(model is None for model in equals):
        return None
    models = [
        as_model(part) if model is None else model
        for part, model in zip(parts, equals, strict=True)
    ]
    if not are_together(models):
        return None
    return SumModel(models, calculator.mixer.weights, **options)


def behind_proxy(calculator: Any, **options: Any) -> BaseModelMixin:
    """Return the model of the calculator that a ``CalculatorProxy`` stands before."""
    unwrapped = import_module("nvdyn_ase.atoms.proxy").unwrapped
    return as_model(unwrapped(calculator), **options)


def inside(calculator: Any, **options: Any) -> BaseModelMixin:
    """Return the model in an ``NvdynCalculator``."""
    return as_model(calculator.model, **options)


def _with_parameters(
    model: type[LennardJones | Morse],
    calculator: Any,
    names: tuple[str, ...],
    options: dict[str, Any],
) -> BaseModelMixin | None:
    try:
        parameters = {name: calculator.parameters[name] for name in names}
        model(**parameters)
    except (KeyError, TypeError, ValueError):
        return None  # what these parameters mean is for the calculator to say
    return model(**parameters, **options)
