"""Total charge and spin multiplicity of a system, which ``info`` of an ``ase.Atoms`` holds."""

import math
from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np

from nvdyn_ase.data import FIELDS

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


def same_electrons(one: Mapping[Any, Any], other: Mapping[Any, Any]) -> bool:
    """Say whether two ``info`` have the same fields; one that is left out is like no other value.

    What it means is for the model to say, and need not be the default of the field.
    """
    return electrons(one) == electrons(other)  # of arrays of one number


def changed_electrons(
    fields: Mapping[str, np.ndarray], info: Mapping[str, Any], from_atoms: bool
) -> dict[str, Any]:
    """Return the entries of ``info`` that fields have changed since.

    Parameters
    ----------
    fields
        Of one system.
    info
        What it has now.
    from_atoms
        The system came from an Atoms: a default that was filled in for others is no entry.
    """
    said, changed = electrons(info), {}
    for field, key in ELECTRONS.items():
        if field not in fields:
            continue
        value = fields[field].item()
        filled = from_atoms and field not in said and value == FIELDS[field].default
        if not filled and (field not in said or said[field].item() != value):
            changed[key] = value
    return changed


def _is_number(value: Any) -> bool:
    is_real = isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_)
    return is_real and not isinstance(value, np.complexfloating) and math.isfinite(value)
