"""Noticing that the user gave Atoms other calculators, or their calculators other parameters."""

from collections.abc import Mapping, Sequence
from typing import Any

import ase
from ase.calculators.calculator import equal

from nvdyn_ase.atoms.proxy import unwrapped


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

    def _look(self) -> None:
        self._calculators = [unwrapped(atoms.calc) for atoms in self._atoms]
        own = {id(calculator): calculator for calculator in self._calculators}
        self._parameters = {key: _parameters(calculator) for key, calculator in own.items()}

    def have_changed(self) -> bool:
        """Say whether one is another object, or says something else of itself, than last time."""
        calculators, parameters = self._calculators, self._parameters
        self._look()
        return any(
            now is not before for now, before in zip(self._calculators, calculators, strict=True)
        ) or any(not _same(parameters[key], own) for key, own in self._parameters.items())


def _parameters(calculator: Any) -> dict[str, Any]:
    parameters = getattr(calculator, "parameters", None)
    return dict(parameters) if isinstance(parameters, Mapping) else {}


def _same(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return before.keys() == now.keys() and all(
        before[key] is now[key] or equal(before[key], now[key]) for key in now
    )
