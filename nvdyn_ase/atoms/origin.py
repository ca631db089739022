"""What an ``ase.Atoms`` holds beyond the declared fields, and the names of its arrays as fields."""

import re
from typing import Any, NamedTuple

import numpy as np

from nvdyn_ase.atoms.results import PROPERTIES
from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.data.fields import ALIASES, FIELDS

#: ASE's arrays that are declared fields, the names of those, and the kinds of numbers they hold.
DECLARED_ARRAYS = {
    "positions": ("positions", "fiu"),
    "numbers": ("atomic_numbers", "iu"),
    "masses": ("atomic_masses", "fiu"),
    "momenta": ("velocities", "fiu"),
    "tags": ("tags", "iu"),
    "initial_charges": ("initial_charges", "fiu"),
}

ORIGIN = "atoms"
"""Key of ``host`` under which the :class:`Origin` of an Atoms travels."""

# Names that a batch or a system has for itself: an array of that name is prefixed.
_RESERVED = {
    *FIELDS,
    *ALIASES,
    *(kind.field for kind in PROPERTIES.values()),
    *dir(Batch),
    *dir(AtomicData),
    *AtomicData.model_fields,
    *("constraints", "host", "device", "neighbors", "evaluated", "defaults"),
}
_PREFIX = "array_"
_SUFFIXES = {"f": "", "i": "_int", "u": "_int", "b": "_bool", "c": "_complex"}
_SUFFIXED = re.compile(r"(_|_int|_bool|_complex|_\d+(x\d+)*)$")

# Bytes of the widest numbers of each kind that a tensor holds exactly.
_WIDEST = {"f": 8, "i": 8, "u": 4, "b": 1, "c": 16}


class Origin(NamedTuple):
    """What it takes to give an ``ase.Atoms`` back as it was.

    Parameters
    ----------
    arrays
        Names of its arrays, in order.
    fields
        Of each array that is a field, the name of the field and the type of the array.
    host_arrays
        Copies of the arrays that no tensor can hold: texts, objects.
    momenta
        A copy of the momenta: velocities alone give them back to one ulp only.
    celldisp
        Displacement of the cell, or None if it is zero.
    constraints
        ASE's constraint objects, unless they ride in ``constraints`` of the system themselves.
    """

    arrays: tuple[str, ...]
    fields: dict[str, tuple[str, np.dtype[Any]]]
    host_arrays: dict[str, np.ndarray]
    momenta: np.ndarray | None
    celldisp: np.ndarray | None
    constraints: tuple[Any, ...]


def fits_tensor(array: np.ndarray) -> bool:
    """Say whether a tensor can hold an array exactly: true for numbers of the usual widths."""
    return array.dtype.itemsize <= _WIDEST.get(array.dtype.kind, 0)


def declared_name(name: str, array: np.ndarray) -> str | None:
    """Return the declared field that holds an array of an ``ase.Atoms``, or None."""
    field, kinds = DECLARED_ARRAYS.get(name, ("", ""))
    fits = array.dtype.kind in kinds and fits_tensor(array)
    return field if fits and array.shape[1:] == FIELDS[field].shape else None


def field_key(name: str, row_shape: tuple[int, ...] = (), dtype: Any = float) -> str:
    """Return the name of the node field that holds an array of an ``ase.Atoms``.

    An array of one real number per atom keeps its name. Others say the kind of number and the shape
    of a row, ``marked_bool``, ``initial_magmoms_3``, ``bonds_int_2x2``, so that structures whose
    arrays differ in these can share a batch. A name that is taken already is prefixed with
    ``array_``. No two arrays get the same key.

    Parameters
    ----------
    name
        Name of the array.
    row_shape
        Its shape without the first axis.
    dtype
        Its type. Integers are int64 and complex numbers complex128 in the batch.
    """
    if name in _RESERVED or name.startswith(_PREFIX):
        name = _PREFIX + name
    if _SUFFIXED.search(name):
        name += "_"
    shape = "_" + "x".join(map(str, row_shape)) if row_shape else ""
    return name + _SUFFIXES[np.dtype(dtype).kind] + shape
