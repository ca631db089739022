"""The arguments of workflows, looked at when they are called and not when the first batch is."""

import math
import operator
from collections.abc import Callable, Iterable
from typing import Any

import ase

import nvdyn_ase.filters
import nvdyn_ase.md
import nvdyn_ase.optimize
from nvdyn_ase.md.md import MolecularDynamicsFacade
from nvdyn_ase.optimize.facade import EngineFacade
from nvdyn_ase.optimize.optimize import OptimizerFacade

#: Options of a facade that name files or belong to the workflow itself.
_NOT_FOR_STREAMS = ("restart", "trajectory", "append_trajectory", "logfile", "engine")


def check_stream(name: str, structures: Any) -> None:
    """Raise TypeError for a single Atoms and for a file name."""
    if isinstance(structures, ase.Atoms):
        raise TypeError(
            f"{name} takes an iterable of Atoms; for a single one, {name}([atoms], ...)"
        )
    if isinstance(structures, (str, bytes)) or not isinstance(structures, Iterable):
        raise TypeError(
            f"{name} takes an iterable of Atoms, not {structures!r}; files are read with "
            "ase.io.iread(name)"
        )


def optimizer_class(optimizer: Any) -> type[OptimizerFacade]:
    """Return a class of ``nvdyn_ase.optimize`` that takes lists, by its name or itself."""
    return _class(optimizer, OptimizerFacade, nvdyn_ase.optimize, "optimizer")


def integrator_class(integrator: Any) -> type[MolecularDynamicsFacade]:
    """Return a class of ``nvdyn_ase.md`` that takes lists, by its name or itself."""
    return _class(integrator, MolecularDynamicsFacade, nvdyn_ase.md, "integrator")


def _class(asked: Any, base: type, module: Any, what: str) -> Any:
    if isinstance(asked, type) and issubclass(asked, base):
        return asked
    found = {name: getattr(module, name) for name in module.__all__}
    known = {
        name: item
        for name, item in found.items()
        if isinstance(item, type) and issubclass(item, base) and item is not base
    }
    if isinstance(asked, str) and asked in known:
        return known[asked]
    raise ValueError(
        f"there is no {what} {asked!r} for many structures; there are {', '.join(known)}"
    )


def cell_filter_function(cell_filter: Any) -> Callable[[ase.Atoms], Any] | None:
    """Return what puts a filter on an Atoms, from a name or itself; ValueError for other names."""
    if not isinstance(cell_filter, str):
        return cell_filter
    known = [name for name in nvdyn_ase.filters.__all__ if name != "Filter"]
    if cell_filter in known:
        return getattr(nvdyn_ase.filters, cell_filter)
    raise ValueError(f"there is no cell filter {cell_filter!r}; there are {', '.join(known)}")


def check_options(method: type[EngineFacade], options: dict[str, Any]) -> None:
    """Raise ValueError for options that a stream of structures has no use for."""
    unfit = [name for name in _NOT_FOR_STREAMS if name in options]
    if unfit:
        module = "optimize" if issubclass(method, OptimizerFacade) else "md"
        raise ValueError(
            f"{unfit[0]}= is not for streams of structures; give a list to "
            f"nvdyn_ase.{module}.{method.__name__}"
        )


def positive(name: str, value: Any) -> float:
    """Return a positive number, or raise ValueError."""
    if not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise ValueError(f"{name} must be a positive number, not {value!r}")
    return float(value)


def check_temperatures(options: dict[str, Any]) -> None:
    """Raise ValueError for a temperature below zero or not finite, which no structure survives."""
    for name in ("temperature_K", "temperature"):
        value = options.get(name)
        if isinstance(value, (int, float)) and not 0 <= value < math.inf:
            raise ValueError(f"{name} must be a number, 0 or more, not {value!r}")


def at_least(name: str, value: Any, least: int) -> int:
    """Return a whole number, or raise ValueError if it is less than that."""
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}")
    return number
