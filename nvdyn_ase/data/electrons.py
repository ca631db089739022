"""What an ``info`` says of the total charge and spin multiplicity of its system."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from nvdyn_ase.data.fields import FIELDS

#: Key of ``host`` under which a system that was made of an Atoms has its ``info``.
INFO = "info"

#: Fields, and the entries of ``info`` that models of molecules take them from: AIMNet2, ORB,
#: fairchem's and MACE's, which do not look at initial charges and magnetic moments.
ELECTRONS = {"total_charge": "charge", "spin_multiplicity": "spin"}


def electrons(info: Mapping[Any, Any]) -> dict[str, np.ndarray]:
    """Return the fields that an ``info`` has.

    An entry is one if it is a finite number, and a multiplicity if it is a whole one; what is
    anything else under these names stays in ``info`` alone.
    """
    found = {}
    for field, key in ELECTRONS.items():
        value: Any = info.get(key)
        whole = FIELDS[field].dtype is not None
        if _is_number(value) and not (whole and value != int(value)):
            found[field] = np.array([int(value) if whole else float(value)])
    return found


def leaves_out(host: Mapping[str, Any], field: str) -> bool:
    """Say whether a system was made of an Atoms that does not say what this field is.

    Among others that do, its row of the field is filled with the default.

    Parameters
    ----------
    host
        Of the system.
    field
        ``"total_charge"`` or ``"spin_multiplicity"``.
    """
    return INFO in host and field not in electrons(host[INFO])


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_)
    return is_real and not isinstance(value, np.complexfloating) and math.isfinite(value)
