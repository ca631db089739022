"""Who is asked about a system, where several may share a calculator."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import ase

from nvdyn_ase.atoms.asking import ask, is_plain
from nvdyn_ase.atoms.proxy import CalculatorProxy, unwrapped


class Callers:
    """The calculators of systems: the user's own, or a proxy where one would forget.

    Parameters
    ----------
    calculators
        One calculator for all systems; or one each, in a sequence or a mapping, whose position or
        key is the ``system_id``.
    """

    def __init__(self, calculators: Any) -> None:
        self.shared = None
        self._own: dict[int, Any] = {}
        if isinstance(calculators, Mapping):
            self._own = _unforgetful(calculators.items())
        elif isinstance(calculators, Sequence):
            self._own = _unforgetful(enumerate(calculators))
        else:
            self.shared = unwrapped(calculators)

    def of(self, system_id: int) -> Any:
        """Return whom to ask about a system; ValueError if there is nobody."""
        if self.shared is not None:
            return CalculatorProxy(self.shared)
        if system_id not in self._own:
            raise ValueError(
                f"system {system_id} has no calculator; there are {len(self._own)}, and the "
                "system_id says which is whose"
            )
        return self._own[system_id]

    def all(self) -> list[Any]:
        """Return every calculator."""
        return [self.shared] if self.shared is not None else list(self._own.values())


def _unforgetful(pairs: Iterable[tuple[int, Any]]) -> dict[int, Any]:
    """Put a proxy before each calculator that serves several systems or keeps no results."""
    calculators = dict(pairs)
    users = Counter(id(unwrapped(calculator)) for calculator in calculators.values())
    seen = Counter(id(calculator) for calculator in calculators.values())
    return {
        key: calculator
        if seen[id(calculator)] == 1 and _keeps(calculator, users)
        else CalculatorProxy(calculator)
        for key, calculator in calculators.items()
    }


def _keeps(calculator: Any, users: Counter[int]) -> bool:
    if unwrapped(calculator) is not calculator:
        return True
    return users[id(calculator)] == 1 and is_plain(calculator)


def answers(caller: Any, atoms: ase.Atoms, names: Sequence[str]) -> dict[str, Any]:
    """Return the results of a calculator or proxy for an Atoms; see ``ask``."""
    if unwrapped(caller) is not caller:
        return caller.results_for(atoms, names)
    return ask(caller, atoms, names)


def forget(caller: Any) -> None:
    """Make a calculator that failed start afresh.

    It has noted the Atoms that it failed on, and would otherwise take the next one with the same
    elements for a small step from there.
    """
    if unwrapped(caller) is not caller:
        caller.reset_results()
    inner = unwrapped(caller)
    if is_plain(inner):
        with suppress(AttributeError):
            inner.atoms, inner.results = None, {}
