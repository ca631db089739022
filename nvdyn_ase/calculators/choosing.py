"""The model for a list of Atoms: the one that is given, or what their calculators stand for."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import equal
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import LinearCombinationCalculator
from ase.calculators.morse import MorsePotential
from ase.calculators.singlepoint import SinglePointCalculator
from ase.filters import Filter
from loguru import logger

from nvdyn_ase.atoms.asking import implements
from nvdyn_ase.atoms.proxy import unwrapped
from nvdyn_ase.calculators.calculator_model import CalculatorModel
from nvdyn_ase.calculators.nvdyn_calculator import NvdynCalculator
from nvdyn_ase.data import StructureError
from nvdyn_ase.models.base import BaseModelMixin
from nvdyn_ase.models.mixing import element_name
from nvdyn_ase.models.registry import as_model, batched_equal, is_customised

# Classes of which two objects give the same numbers if their ``parameters`` are equal.
_PARAMETRIC = (EMT, LennardJones, MorsePotential)


class NoCalculatorError(StructureError, RuntimeError):
    """A structure has no calculator that computes, and no model was given.

    It is a ``RuntimeError`` because ASE raises one for an Atoms without a calculator.
    """


def model_for(systems: Sequence[ase.Atoms], model: Any = None) -> BaseModelMixin:
    """Return the model that is to move some structures.

    Parameters
    ----------
    systems
        The structures; the number of the place in the list is the ``system_id``.
    model
        What :func:`nvdyn_ase.models.as_model` takes, for all of them. By default it is taken from
        their calculators: if all share one, or have equal ones of ASE's, and a batched equal of it
        exists, that; otherwise they are called system by system, which is said in the log once.

    Raises
    ------
    NoCalculatorError
        A structure has no calculator, or one that only stores results.
    StructureError
        A structure has an element that the model does not know.
    """
    if model is not None:
        chosen = as_model(model)
    else:
        chosen = _from_calculators([_calculator(i, atoms) for i, atoms in enumerate(systems)])
    for error in unsupported(systems, chosen):
        raise error
    return chosen


def unsupported(
    systems: Sequence[ase.Atoms], model: BaseModelMixin, indices: Sequence[int] | None = None
) -> list[StructureError]:
    """Return an error for each structure that has an element which the model does not know.

    Who wants all structures or none raises the first; who can do without some leaves these out.

    Parameters
    ----------
    systems
        The structures.
    model
        What is to evaluate them.
    indices
        Their positions in the user's input, for the errors; 0, 1, 2, ... by default.
    """
    if not systems or model.model_card.supported_elements is None:
        return []
    present = np.unique(np.concatenate([atoms.numbers for atoms in systems]))
    unknown = np.array(model.elements_unknown(present.tolist()), int)
    if not len(unknown):
        return []
    errors = []
    positions = range(len(systems)) if indices is None else indices
    for index, atoms in zip(positions, systems, strict=True):
        found = unknown[np.isin(unknown, atoms.numbers)].tolist()
        if found:
            errors.append(StructureError(index, _problem(found, type(model).__name__)))
    return errors


def without_stress(
    items: Sequence[Any], model: BaseModelMixin | None, indices: Sequence[int] | None = None
) -> list[StructureError]:
    """Return an error for each filter of a cell that gets no stress.

    Parameters
    ----------
    items
        Atoms, and filters on them.
    model
        What is to evaluate them all; None if each has its own calculator.
    indices
        As for :func:`unsupported`.
    """
    errors = []
    positions = range(len(items)) if indices is None else indices
    for index, item in zip(positions, items, strict=True):
        if not isinstance(item, Filter) or type(item) is Filter:
            continue
        calculator = item.atoms.calc if model is None else model
        card = getattr(calculator, "model_card", None)
        if not (implements(calculator, "stress") if card is None else card.supports_stress):
            name = type(unwrapped(calculator)).__name__
            errors.append(StructureError(index, f"its cell is to move, and {name} has no stress"))
    return errors


def _problem(numbers: list[int], model: str) -> str:
    names = ", ".join(map(element_name, numbers))
    return (
        f"{model} does not know {names}; leave the structure out, or give a model= that knows "
        f"{'it' if len(numbers) == 1 else 'them'}"
    )


def _calculator(index: int, atoms: ase.Atoms) -> Any:
    calculator = atoms.calc
    if calculator is None:
        raise NoCalculatorError(
            index, "it has no calculator; give it one (atoms.calc = ...), or all a model="
        )
    if isinstance(calculator, SinglePointCalculator):
        raise NoCalculatorError(
            index,
            "its calculator only stores results, as those of structures read from a file do; give "
            "it one that computes (atoms.calc = ...), or all a model=",
        )
    return calculator


def _from_calculators(calculators: list[Any]) -> BaseModelMixin:
    inner = [unwrapped(calculator) for calculator in calculators]
    first = inner[0]
    if all(interchangeable(first, other) for other in inner):
        batched = batched_equal(first)
        if batched is not None:
            return batched
    if len(calculators) > 1:
        _say_once(", ".join(dict.fromkeys(type(calculator).__name__ for calculator in inner)))
    return CalculatorModel(calculators)


def interchangeable(a: Any, b: Any) -> bool:
    """Say whether two calculators give the same numbers for the same structure, for all we know.

    A calculator may hold anything, such as the weights of a network: of two objects it can be said
    for a few of ASE's classes, and if the models that they stand for say so.
    """
    if a is b:
        return True
    if type(a) is not type(b) or is_customised(a) or is_customised(b):
        return False
    if type(a) in _PARAMETRIC:
        return equal(dict(a.parameters), dict(b.parameters))
    if type(a) is NvdynCalculator:
        return a.model.gives_same_as(b.model)
    if isinstance(a, LinearCombinationCalculator) and type(a).__module__.startswith("ase."):
        parts = list(zip(a.mixer.calcs, b.mixer.calcs, strict=False))
        same_number = len(a.mixer.calcs) == len(b.mixer.calcs)
        same_weights = same_number and equal(a.mixer.weights, b.mixer.weights)
        return same_weights and all(interchangeable(one, other) for one, other in parts)
    one, other = batched_equal(a), batched_equal(b)
    return one is not None and other is not None and one.gives_same_as(other)


@cache
def _say_once(names: str) -> None:
    logger.info(
        "Structures are evaluated one by one, by their own calculators ({}). All at once is "
        "faster: give them all one calculator that has a batched equal, or a model=.",
        names,
    )
