"""Asking an ASE calculator for several properties with a single calculation."""

from collections.abc import Iterable
from typing import Any

import ase
from ase.calculators.abc import GetPropertiesMixin
from ase.calculators.calculator import (
    BaseCalculator,
    Calculator,
    PropertyNotImplementedError,
)

from nvdyn_ase.atoms.snapshot import is_same

#: Methods by which an Atoms asks its calculator, by property.
METHODS = {
    "energy": "get_potential_energy",
    "free_energy": "get_potential_energy",
    "forces": "get_forces",
    "stress": "get_stress",
    "energies": "get_potential_energies",
    "stresses": "get_stresses",
    "dipole": "get_dipole_moment",
    "magmom": "get_magnetic_moment",
    "charges": "get_charges",
    "magmoms": "get_magnetic_moments",
}


def is_plain(calculator: Any) -> bool:
    """Say whether a calculator keeps its results where ASE's do, and answers from there.

    Such a calculator can be asked for several properties at once, and results can be put into it.
    """
    kind, own = type(calculator), getattr(calculator, "__dict__", {})
    if not issubclass(kind, BaseCalculator) or kind.__setattr__ is not object.__setattr__:
        return False
    if not isinstance(own.get("results"), dict) or "atoms" not in own:
        return False
    answers = kind.get_property is BaseCalculator.get_property and "get_property" not in own
    return answers and all(
        getattr(kind, method) is getattr(GetPropertiesMixin, method) and method not in own
        for method in METHODS.values()
    )


def implements(calculator: Any, name: str) -> bool:
    """Say whether a calculator claims to give a property."""
    listed = getattr(calculator, "implemented_properties", None)
    if not listed:
        return name != "free_energy" and hasattr(calculator, METHODS.get(name, f"get_{name}"))
    return name in listed


def ask(calculator: Any, atoms: ase.Atoms, names: Iterable[str]) -> dict[str, Any]:
    """Return what a calculator has for an Atoms, with these properties among it.

    A plain calculator that was asked about the same Atoms before does not calculate again, and
    otherwise does so once for all properties. Arrays are the calculator's own.

    Parameters
    ----------
    calculator
        An ASE calculator, or any object with ``get_potential_energy(atoms)`` and the like.
    atoms
        What it is asked about.
    names
        ASE's names of properties.

    Raises
    ------
    PropertyNotImplementedError
        It does not give one of them.
    """
    names = list(names)
    for name in names:
        if not implements(calculator, name):
            raise PropertyNotImplementedError(f"it does not give {name}")
    if is_plain(calculator):
        return _asked_at_once(calculator, atoms, names)
    results = {name: _asked_for(calculator, atoms, name) for name in names}
    known = getattr(calculator, "results", None)
    return {**known, **results} if isinstance(known, dict) else results


def _asked_at_once(calculator: Any, atoms: ase.Atoms, names: list[str]) -> dict[str, Any]:
    """Do what ``BaseCalculator.get_property`` does, for several properties."""
    changes = _changes(calculator, atoms)
    if changes:
        calculator.atoms = None
        calculator.results = {}
    missing = [name for name in names if name not in calculator.results]
    if missing:
        if calculator.use_cache:
            calculator.atoms = atoms.copy()
        calculator.calculate(atoms, missing, changes)
    for name in names:
        if name not in calculator.results:  # it takes one property at a time
            calculator.get_property(name, atoms)
    return dict(calculator.results)


def _changes(calculator: Any, atoms: ase.Atoms) -> list[str]:
    usual = type(calculator).check_state is Calculator.check_state
    if usual and "check_state" not in vars(calculator) and is_same(calculator.atoms, atoms):
        return []  # what ASE finds as well, and takes ten times as long for
    return calculator.check_state(atoms)


def _asked_for(calculator: Any, atoms: ase.Atoms, name: str) -> Any:
    """Ask as ``ase.Atoms`` does."""
    options = {"force_consistent": True} if name == "free_energy" else {}
    method = getattr(calculator, METHODS.get(name, f"get_{name}"), None)
    if method is not None:
        return method(atoms, **options)
    return calculator.get_property(name, atoms)
