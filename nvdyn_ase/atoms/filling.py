"""Leaving results in the calculator of an ``ase.Atoms``, as if it had computed them."""

from collections.abc import Sequence
from types import MethodType
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import Parameters, all_changes
from ase.calculators.singlepoint import SinglePointCalculator

from nvdyn_ase.atoms.asking import implements, is_plain
from nvdyn_ase.atoms.proxy import CalculatorProxy, unwrapped
from nvdyn_ase.atoms.snapshot import is_same, snapshot

# Properties that a calculator need not claim to give, to be given them.
_EXTRA = {"free_energy", "energies", "stresses", "dipole", "magmom", "charges", "magmoms"}


def leave_results(atoms: ase.Atoms, results: dict[str, Any], shared: bool) -> None:
    """Leave results for an Atoms as it is now in its calculator.

    A calculator that has these very results for this very geometry is left alone, with whatever
    else it found. An ASE calculator is filled in place; one that is shared, or that does not keep
    its results where ASE's do, or that does not give all of this, gets a :class:`CalculatorProxy`
    before it. Without a calculator that computes, the Atoms gets a ``SinglePointCalculator``.

    Parameters
    ----------
    atoms
        The user's object.
    results
        ASE's properties, by name, in arrays that nobody else holds.
    shared
        Whether other Atoms use the calculator too.
    """
    calculator = atoms.calc
    if calculator is None or isinstance(calculator, SinglePointCalculator):
        if calculator is None or not _has(calculator, atoms, results):
            atoms.calc = _stored(atoms, results)
    elif _is_proxy(calculator) and not shared:
        if not _has(calculator, atoms, results):
            calculator.hold(atoms, results)
    elif shared or not _takes(calculator, results):
        if shared or not _answers(calculator, atoms, results):
            atoms.calc = proxy = CalculatorProxy(calculator)
            proxy.hold(atoms, results)
    elif not _has(calculator, atoms, results):
        _fill(calculator, atoms, results)


#: From which others are made: the constructor takes four times as long as all the rest.
_WITHOUT_RESULTS = SinglePointCalculator(ase.Atoms())


def _stored(atoms: ase.Atoms, results: dict[str, Any]) -> SinglePointCalculator:
    """Return ``SinglePointCalculator(atoms, **results)``."""
    calculator = SinglePointCalculator.__new__(SinglePointCalculator)
    own = vars(calculator)
    own.update(vars(_WITHOUT_RESULTS))
    own |= {"atoms": snapshot(atoms), "results": results}
    own["parameters"] = Parameters(own["parameters"])
    for name, value in own.items():
        if isinstance(value, MethodType):
            own[name] = MethodType(value.__func__, calculator)
    return calculator


def _is_proxy(calculator: Any) -> bool:
    return unwrapped(calculator) is not calculator


def _takes(calculator: Any, results: dict[str, Any]) -> bool:
    """Say whether results can be put into a calculator."""
    return is_plain(calculator) and all(
        name in _EXTRA or implements(calculator, name) for name in results
    )


def _has(calculator: Any, atoms: ase.Atoms, results: dict[str, Any]) -> bool:
    """Say whether a calculator has this energy and forces already; it is given what it lacks."""
    own = calculator.results
    known = [name for name in ("energy", "forces") if name in own and name in results]
    if not known or not is_same(calculator.atoms, atoms):
        return False
    if not all(np.array_equal(own[name], results[name], equal_nan=True) for name in known):
        return False
    for name, value in results.items():
        own.setdefault(name, value)
    return True


def _answers(calculator: Any, atoms: ase.Atoms, results: dict[str, Any]) -> bool:
    """Say whether a calculator of another kind has computed this energy itself."""
    try:
        if calculator.calculation_required(atoms, ["energy", "forces"]):
            return False
        return calculator.get_potential_energy(atoms) == results.get("energy")
    except Exception:
        return False


def _fill(calculator: Any, atoms: ase.Atoms, results: dict[str, Any]) -> None:
    own = vars(calculator)
    if not isinstance(own.get("calculate"), Resumption):
        calculator.calculate = Resumption(calculator, calculator.atoms, own.get("calculate"))
    calculator.atoms = snapshot(atoms)
    calculator.results = {
        name: value for name, value in results.items() if implements(calculator, name)
    }


class Resumption:
    """Stands in for ``calculate`` of a calculator that was filled, until it is next called.

    Calculators look at what changed since the last geometry to know what to set up anew. Results
    that were put in say nothing of that: ``EMT`` that never calculated has no neighbour list, and
    fails if it is told that only positions changed. So the changes are counted from the geometry
    that the calculator itself has seen last.

    Parameters
    ----------
    calculator
        The calculator.
    seen
        Its ``atoms`` before it was filled; None if it has not calculated.
    replaced
        A ``calculate`` of its own that it had instead of that of its class, or None.
    """

    def __init__(self, calculator: Any, seen: ase.Atoms | None, replaced: Any) -> None:
        self.calculator, self.seen, self.replaced = calculator, seen, replaced

    def __call__(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
        **options: Any,
    ) -> Any:
        """Put the calculator back as it was, and calculate."""
        calculator = self.calculator
        changes = self._changes(calculator.atoms if atoms is None else atoms, system_changes)
        self.undo()
        calculator.results = {}
        try:
            return calculator.calculate(atoms, list(properties), changes, **options)
        except BaseException:
            calculator.atoms = None  # half a calculation is none to go on from
            raise

    def _changes(self, atoms: ase.Atoms | None, told: Sequence[str]) -> list[str]:
        if self.seen is None or atoms is None:
            return list(all_changes)
        calculator = self.calculator
        filled, calculator.atoms = calculator.atoms, self.seen
        try:
            found = calculator.check_state(atoms)
        finally:
            calculator.atoms = filled
        return [change for change in all_changes if change in found or change in told]

    def undo(self) -> None:
        """Give the calculator its own ``calculate`` back."""
        del self.calculator.calculate
        if self.replaced is not None:
            self.calculator.calculate = self.replaced
