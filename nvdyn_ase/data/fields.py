"""The field table: every declared field of a system, its level, shape, type, unit and default.

Levels are declared here and never guessed from a shape: a batch of three one-atom systems has as
many systems as atoms and must still know which is which.
"""

from enum import StrEnum
from typing import NamedTuple

import torch

Fill = float | int | bool


class Level(StrEnum):
    """What one row of a field belongs to.

    At ``BLOCK`` level it is a pair of coordinates: a system with n atoms has the (3n)² entries of a
    matrix, row after row, as the Hessians of an optimizer are kept.
    """

    NODE = "node"
    EDGE = "edge"
    SYSTEM = "system"
    BLOCK = "block"


class Field(NamedTuple):
    """Declaration of one field.

    Parameters
    ----------
    name
        The key in a batch.
    level
        What a row belongs to: an atom, a pair of atoms, a system, or a pair of coordinates.
    shape
        Shape of one row; a (V, 3) field has shape (3,).
    dtype
        The type values are stored in, or None for the floating type of the positions.
    unit
        Unit in ASE's system, as text.
    default
        Value that fills rows which do not bring the field; None if there is no sensible one.
    """

    name: str
    level: Level
    shape: tuple[int, ...]
    dtype: torch.dtype | None
    unit: str
    default: Fill | None


def _table(*fields: Field) -> dict[str, Field]:
    return {field.name: field for field in fields}


_VECTOR, _MATRIX = (3,), (3, 3)

FIELDS = _table(
    Field("positions", Level.NODE, _VECTOR, None, "Å", None),
    Field("velocities", Level.NODE, _VECTOR, None, "Å/(Å sqrt(amu/eV))", 0.0),
    Field("forces", Level.NODE, _VECTOR, None, "eV/Å", 0.0),
    Field("atomic_numbers", Level.NODE, (), torch.int64, "1", None),
    Field("atomic_masses", Level.NODE, (), None, "amu", None),
    Field("atomic_energies", Level.NODE, (), None, "eV", 0.0),
    Field("atomic_stresses", Level.NODE, _MATRIX, None, "eV/Å³", 0.0),
    Field("fixed", Level.NODE, (), torch.bool, "1", False),
    Field("tags", Level.NODE, (), torch.int64, "1", 0),
    Field("hidden", Level.NODE, (), torch.bool, "1", False),
    Field("initial_charges", Level.NODE, (), None, "e", 0.0),
    Field("total_charge", Level.SYSTEM, (1,), None, "e", 0.0),
    Field("spin_multiplicity", Level.SYSTEM, (1,), torch.int64, "1", 1),
    Field("cell", Level.SYSTEM, _MATRIX, None, "Å", 0.0),
    Field("pbc", Level.SYSTEM, _VECTOR, torch.bool, "1", False),
    Field("orig_cell", Level.SYSTEM, _MATRIX, None, "Å", 0.0),
    Field("cell_filter", Level.SYSTEM, (1,), torch.int64, "1", 0),
    Field("cell_mask", Level.SYSTEM, _MATRIX, None, "1", 1.0),
    Field("cell_factor", Level.SYSTEM, (1,), None, "1", 1.0),
    Field("hydrostatic_strain", Level.SYSTEM, (1,), torch.bool, "1", False),
    Field("constant_volume", Level.SYSTEM, (1,), torch.bool, "1", False),
    Field("scalar_pressure", Level.SYSTEM, (1,), None, "eV/Å³", 0.0),
    Field("cell_lost", Level.SYSTEM, (1,), torch.bool, "1", False),
    Field("strain", Level.SYSTEM, (6,), None, "1", 0.0),
    Field("energy", Level.SYSTEM, (1,), None, "eV", 0.0),
    Field("free_energy", Level.SYSTEM, (1,), None, "eV", 0.0),
    Field("stress", Level.SYSTEM, _MATRIX, None, "eV/Å³", 0.0),
    Field("fmax", Level.SYSTEM, (1,), None, "eV/Å", float("inf")),
    Field("status", Level.SYSTEM, (1,), torch.int64, "1", 0),
    Field("system_id", Level.SYSTEM, (1,), torch.int64, "1", None),
    Field("steps", Level.SYSTEM, (1,), torch.int64, "1", 0),
    Field("evaluations", Level.SYSTEM, (1,), torch.int64, "1", 0),
    Field("outcome", Level.SYSTEM, (1,), torch.int64, "1", 0),
    Field("blow_up", Level.SYSTEM, (3,), None, "code; value and limit, K, Å or eV", 0.0),
    Field("edge_index", Level.EDGE, (2,), torch.int64, "1", None),
    Field("unit_shifts", Level.EDGE, _VECTOR, torch.int64, "cell vectors", 0),
    Field("shifts", Level.EDGE, _VECTOR, None, "Å", 0.0),
)

ALIASES = {"energies": "energy", "stresses": "stress"}


def canonical(key: str) -> str:
    """Return the declared name behind an alias (``energies`` is ``energy``)."""
    return ALIASES.get(key, key)
