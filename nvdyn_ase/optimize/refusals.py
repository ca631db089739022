"""Arguments that cannot be meant, refused in the words of the caller."""

import difflib
import inspect
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from nvdyn_ase.dynamics import Schedule

_NOT_NEGATIVE = ("temperature_K", "friction", "maxstep", "taut", "tdamp", "taup", "pdamp")
_NUMBERS = ("timestep", "dt", *_NOT_NEGATIVE)


def refuse_impossible(options: Mapping[str, Any], several: bool) -> None:
    """Raise ValueError for NaN, and for negative numbers that make no sense.

    Parameters
    ----------
    options
        Arguments by name.
    several
        They are for a list, so that the error names the system.
    """
    for name in _NUMBERS:
        value = options.get(name)
        if value is None or isinstance(value, Schedule):
            continue
        each = list(value) if isinstance(value, (list, tuple)) or np.ndim(value) else [value]
        for index, own in enumerate(each):
            if isinstance(own, Schedule):
                continue
            numbers = np.asarray(own, float)
            where = f" of system {index}" if several and len(each) > 1 else ""
            if np.isnan(numbers).any():
                raise ValueError(f"{name}{where} is not a number (nan)")
            if name in _NOT_NEGATIVE and (numbers < 0).any():
                raise ValueError(f"{name}{where} is {numbers.min()}; it cannot be negative")


def unknown_argument(error: TypeError, kind: type, options: Mapping[str, Any]) -> TypeError | None:
    """Return an error that names the class the user called; None if this was another error.

    Parameters
    ----------
    error
        What a constructor of ASE's raised.
    kind
        The class.
    options
        What was given by name.
    """
    found = re.search(r"unexpected keyword argument '(\w+)'", str(error))
    if found is None or found[1] not in options:
        return None
    close = difflib.get_close_matches(found[1], inspect.signature(kind).parameters, 1)
    meant = f"; did you mean {close[0]!r}?" if close else ""
    return TypeError(f"{kind.__name__} has no argument {found[1]!r}{meant}")
