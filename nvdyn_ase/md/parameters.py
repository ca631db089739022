"""Parameters of thermostats as ASE has them, and as an engine takes them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from nvdyn_ase.dynamics import Schedule
from nvdyn_ase.dynamics.parameters import PerAtom, Places, parameter_rows
from nvdyn_ase.optimize.facade import EngineParameter, per_system

#: Arguments of ASE's constructors that for a list may be a sequence with one value per system.
_ONE_EACH = frozenset(
    {
        *("timestep", "temperature", "temperature_K", "friction", "andersen_prob"),
        *("taut", "taup", "pressure", "pressure_au", "compressibility", "compressibility_au"),
        *("tdamp", "pdamp", "ttime", "pfactor", "T_tau", "P_tau", "P_mass"),
    }
)


def check_lengths(given: Mapping[str, Any], count: int) -> None:
    """Raise ValueError where a sequence has not one value for each of so many systems."""
    for name in given.keys() & _ONE_EACH:
        value = given[name]
        sized = isinstance(value, (list, tuple)) or np.shape(value) != ()
        if sized and len(value) != count:
            raise ValueError(
                f"{name}: {len(value)} values for {count} systems; give one number or one each"
            )


class GivenParameter(EngineParameter):
    """An attribute that reads as it was given, for as long as the engine has nothing else.

    Parameters
    ----------
    name
        Of the engine's parameter.
    unit
        The attribute in the engine's unit, as ``kB`` for an attribute in eV where the engine takes
        K.
    """

    def __init__(self, name: str, unit: float = 1.0) -> None:
        super().__init__(name)
        self.unit = unit
        self._argument = "temperature_K" if name == "temperature" else name

    def for_engine(self, facade: Any) -> Any:
        """Return what was given as the engine takes it."""
        value = facade.__dict__[self.attribute]
        taken = as_engine_takes(self._argument, value, facade._single, self.unit)
        facade.__dict__[f"{self.attribute} in the engine"] = taken
        return taken

    def __get__(self, facade: Any, owner: type | None = None) -> Any:
        """Read it."""
        if facade is None or facade.engine is None:
            return super().__get__(facade, owner)
        taken = facade.__dict__[f"{self.attribute} in the engine"]
        if getattr(facade.engine, str(self.name)) is taken:
            return facade.__dict__[self.attribute]
        return self.unit * facade._read(self.name)

    def __set__(self, facade: Any, value: Any) -> None:
        """Write it."""
        facade.__dict__[self.attribute] = given(value)
        if facade.engine is not None:
            facade._write(self.name, self.for_engine(facade))


class AtomsField:
    """An attribute with a vector per atom: (n, 3), or for several Atoms one such array each.

    Parameters
    ----------
    name
        Of the field, in the engine's state or in its batch.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __set_name__(self, owner: type, attribute: str) -> None:
        """Remember the attribute's name."""
        self.attribute = attribute

    def __get__(self, facade: Any, owner: type | None = None) -> Any:
        """Read it."""
        if facade is None:
            return self
        if facade.engine is None:
            return _own(facade, self.attribute)
        state = facade._driver.state()
        batch = state if self.name in state else facade._driver.gather()
        array = batch[self.name].detach().cpu().numpy()
        parts = np.split(array.copy(), batch.host_ptr[1:-1])
        return parts[0] if facade._single else parts

    def __set__(self, facade: Any, value: Any) -> None:
        """Write it, which the engine does not look at."""
        facade.__dict__[self.attribute] = value


def _own(facade: Any, attribute: str) -> Any:
    try:
        return facade.__dict__[attribute]
    except KeyError:
        raise AttributeError(attribute) from None


def given(value: Any) -> Any:
    """Return a parameter as an array that can be calculated with, also one of arrays."""
    if isinstance(value, (list, tuple)) and any(np.ndim(item) for item in value):
        arrays = np.empty(len(value), object)
        arrays[:] = [np.asarray(item, float) for item in value]
        return arrays
    return per_system(value)


def first_number(value: Any) -> Any:
    """Return the number of the first system at the start, where ASE calculates with one."""
    if isinstance(value, Schedule):
        columns = {
            key: parameter_rows(
                key, np.ravel(own)[:1], Places(np.arange(1), 1), torch.device("cpu")
            )
            for key, own in value.columns.items()
        }
        return value(torch.zeros(1, 1, dtype=torch.float64), columns).item()
    return np.ravel(value)[0].item()


def as_engine_takes(name: str, value: Any, single: bool, unit: float) -> Any:
    """Return a number, an array with one per system, or ``PerAtom``.

    Parameters
    ----------
    name
        Of the parameter, for the error.
    value
        For one Atoms a number or an array (n, 1); for several a number, an array with one per
        system, or an array of arrays (n, 1), one per system.
    single
        It is for one Atoms.
    unit
        What it is divided by.

    Raises
    ------
    ValueError
        Another shape.
    """
    if np.ndim(value) == 0:
        return value / unit
    if not single and value.dtype != object:
        return value / unit
    arrays = [value] if single else value
    if any(np.ndim(array) != 2 or np.shape(array)[1] != 1 for array in arrays):
        raise ValueError(
            f"{name}: give one number per system or, for one per atom, arrays of shape (n, 1)"
        )
    return PerAtom(torch.from_numpy(np.concatenate([np.asarray(a, float) for a in arrays]) / unit))
