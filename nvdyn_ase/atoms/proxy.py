"""A calculator that several Atoms share, as each of them sees it."""

from collections.abc import Mapping, Sequence
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import (
    BaseCalculator,
    PropertyNotImplementedError,
    all_changes,
    all_properties,
    equal,
)

from nvdyn_ase.atoms.asking import ask, implements
from nvdyn_ase.atoms.snapshot import changes, snapshot

_OWN = ("_shared", "_parameters", "atoms", "results")


class CalculatorProxy(BaseCalculator):
    """Holds the results of one Atoms, and passes everything else on to a shared calculator.

    An ASE calculator remembers one geometry; behind proxies it can serve many Atoms without
    forgetting. For ``isinstance`` a proxy is what the shared calculator is. The results are no
    longer valid when the Atoms or the ``parameters`` of the shared calculator changed; then it is
    asked, and what it says is remembered.

    Parameters
    ----------
    calculator
        The shared calculator; another proxy stands for the one behind it.

    Attributes
    ----------
    atoms, results
        As of any ASE calculator: what the results belong to, and the results.
    """

    def __init__(self, calculator: Any) -> None:
        self._shared = unwrapped(calculator)
        self._parameters: Any = None
        self.reset_results()

    def hold(self, atoms: ase.Atoms, results: dict[str, Any]) -> None:
        """Take over results for an Atoms as it is now; the arrays are not copied."""
        self.atoms = snapshot(atoms)
        self.results = results
        self._parameters = _parameters_of(self._shared)

    def results_for(self, atoms: ase.Atoms, names: Sequence[str]) -> dict[str, Any]:
        """Return results with these properties among them, after one calculation at most."""
        if self.check_state(atoms) or not self.results.keys() >= set(names):
            self.calculate(atoms, names)
        return self.results

    def reset_results(self) -> None:
        """Forget the results, here only."""
        self.atoms = None
        self.results = {}

    # ---------------------------------------------------------------- as a calculator

    @property
    def implemented_properties(self) -> list[str]:  # type: ignore[misc, override]
        """What the shared calculator gives."""
        listed = getattr(self._shared, "implemented_properties", None)
        return listed or [name for name in all_properties if implements(self._shared, name)]

    @property
    def name(self) -> str:
        """Name of the shared calculator."""
        return getattr(self._shared, "name", None) or type(self._shared).__name__.lower()

    def todict(self, *args: Any, **options: Any) -> dict[str, Any]:
        """Return what the shared calculator says of itself."""
        todict = getattr(self._shared, "todict", None)
        return {} if todict is None else todict(*args, **options)

    def check_state(self, atoms: ase.Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the results were computed."""
        if self.atoms is None or not _same(self._parameters, _parameters_of(self._shared)):
            return list(all_changes)
        return changes(self.atoms, atoms, tol, getattr(self._shared, "ignored_changes", ()))

    def get_property(
        self, name: str, atoms: ase.Atoms | None = None, allow_calculation: bool = True
    ) -> Any:
        """Return a property, from the results if they are of this geometry."""
        if atoms is None:
            atoms = self.atoms
        if atoms is None or self.check_state(atoms) or name not in self.results:
            if name not in self.implemented_properties:
                raise PropertyNotImplementedError(f"{name} property not implemented")
            if not allow_calculation:
                return None
            self.calculate(atoms, [name])
        if name not in self.results:
            raise PropertyNotImplementedError(f"{name} not present in this calculation")
        return _copied(self.results[name])

    def calculate(
        self,
        atoms: ase.Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = (),
    ) -> None:
        """Ask the shared calculator, which knows itself what changed, and remember its results."""
        atoms = self.asked_for(atoms)
        results = ask(self._shared, atoms, properties)
        self.hold(atoms, {key: _copied(value) for key, value in results.items()})

    def asked_for(self, atoms: ase.Atoms | None) -> ase.Atoms:
        """Return the Atoms given, or the last one seen; ValueError if there was none."""
        atoms = self.atoms if atoms is None else atoms
        if atoms is None:
            raise ValueError("the calculator has not seen any Atoms yet; give it one")
        return atoms

    def reset(self) -> None:
        """Forget the results, here and in the shared calculator."""
        self.reset_results()
        reset = getattr(self._shared, "reset", None)
        if reset is not None:
            reset()

    # ---------------------------------------------------------------- as the shared calculator

    @property  # type: ignore[misc]
    def __class__(self) -> type:  # type: ignore[override]
        """What ``isinstance`` goes by."""
        return type(self.__dict__["_shared"])

    def __getattr__(self, key: str) -> Any:
        """Read an attribute of the shared calculator."""
        if key in _OWN or (key.startswith("__") and key.endswith("__")):
            raise AttributeError(key)
        return getattr(self._shared, key)

    def __setattr__(self, key: str, value: Any) -> None:
        """Set an attribute of the shared calculator; the results are the proxy's own."""
        if key in _OWN:
            self.__dict__[key] = value
        else:
            setattr(self._shared, key, value)

    def __delattr__(self, key: str) -> None:
        """Delete an attribute of the shared calculator."""
        delattr(self._shared, key)

    def __dir__(self) -> list[str]:
        """List what can be read."""
        return sorted({*object.__dir__(self), *dir(self._shared)})

    def __repr__(self) -> str:
        """Say what is shared."""
        return f"CalculatorProxy({self._shared!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle and copy as what it is, not as what ``isinstance`` says."""
        return _rebuilt, tuple(self.__dict__[key] for key in _OWN)


def unwrapped(calculator: Any) -> Any:
    """Return the calculator behind a proxy, and any other as it is."""
    while issubclass(type(calculator), CalculatorProxy):
        calculator = calculator._shared
    return calculator


def _rebuilt(shared: Any, parameters: Any, atoms: Any, results: Any) -> CalculatorProxy:
    proxy = CalculatorProxy(shared)
    proxy.__dict__.update(_parameters=parameters, atoms=atoms, results=results)
    return proxy


def _copied(value: Any) -> Any:
    return value.copy() if isinstance(value, np.ndarray) else value


def _parameters_of(calculator: Any) -> dict[str, Any] | None:
    parameters = getattr(calculator, "parameters", None)
    return dict(parameters) if isinstance(parameters, Mapping) else None


def _same(before: dict[str, Any] | None, now: dict[str, Any] | None) -> bool:
    if before is None or now is None:
        return before is now
    return before.keys() == now.keys() and all(
        before[key] is now[key] or equal(before[key], now[key]) for key in now
    )
