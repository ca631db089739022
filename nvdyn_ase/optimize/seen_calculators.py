"""Noticing that the user changed calculators: gave others, or other parameters, or reset them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import ase
from ase.calculators.calculator import equal

from nvdyn_ase.atoms.asking import is_plain
from nvdyn_ase.atoms.proxy import CalculatorProxy, unwrapped


class SeenCalculators:
    """The calculators of some Atoms, and their ``parameters``, as they were when last looked at.

    Parameters
    ----------
    atoms
        The user's objects.
    """

    def __init__(self, atoms: Sequence[ase.Atoms]) -> None:
        self._atoms = atoms
        self._look()
        self.note_results()

    def _look(self) -> None:
        self._calculators = [unwrapped(atoms.calc) for atoms in self._atoms]
        own = {id(calculator): calculator for calculator in self._calculators}
        self._parameters = {key: _parameters(calculator) for key, calculator in own.items()}

    def note_results(self) -> None:
        """Note who has results: whoever has none later was reset by the user."""
        self._have = [_have_results(atoms.calc) for atoms in self._atoms]

    def have_changed(self, failed: Callable[[int], bool]) -> bool:
        """Say whether one is another object, says something else of itself, or was reset.

        Parameters
        ----------
        failed
            Says of a row whether its calculator failed, which leaves no results either.
        """
        calculators, parameters = self._calculators, self._parameters
        self._look()
        reset = [
            row
            for row, atoms in enumerate(self._atoms)
            if any(
                had and not has
                for had, has in zip(self._have[row], _have_results(atoms.calc), strict=True)
            )
            and not failed(row)
        ]
        for row in reset:
            if issubclass(type(self._atoms[row].calc), CalculatorProxy):
                self._atoms[row].calc.reset_results()  # it was reset behind the proxy
        if reset:
            self.note_results()
        return (
            bool(reset)
            or any(
                now is not then for now, then in zip(self._calculators, calculators, strict=True)
            )
            or any(not _same(parameters[key], own) for key, own in self._parameters.items())
        )

    def still_answer(self) -> bool:
        """Say whether each would answer for its Atoms with what it has, as ASE's do."""
        return all(
            is_plain(atoms.calc)
            and {"energy", "forces"} <= atoms.calc.results.keys()
            and not atoms.calc.check_state(atoms)
            for atoms in self._atoms
        )


def _have_results(calculator: Any) -> tuple[bool, bool]:
    """Say whether a calculator has results, and the one behind it, if it is a proxy."""
    inner = unwrapped(calculator)
    return bool(getattr(calculator, "results", None)), bool(getattr(inner, "results", None))


def _parameters(calculator: Any) -> dict[str, Any]:
    parameters = getattr(calculator, "parameters", None)
    return dict(parameters) if isinstance(parameters, Mapping) else {}


def _same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return before.keys() == now.keys() and all(
        before[key] is now[key] or equal(before[key], now[key]) for key in now
    )
