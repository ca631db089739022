"""Total charge and spin multiplicity of a system, which ``info`` of an ``ase.Atoms`` holds."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nvdyn_ase.data import FIELDS
from nvdyn_ase.data.electrons import ELECTRONS, electrons


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
