"""Which fields the systems in a sink have, and whether others can join them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch

from nvdyn_ase.data import FIELDS, Batch, Level
from nvdyn_ase.data.fields import Fill


class StoredField(NamedTuple):
    """What is known of a field.

    Parameters
    ----------
    level
        What a row belongs to.
    dtype, shape
        Of a row.
    default
        What fills the rows of systems that do not bring it; None: it must be brought.
    """

    level: Level
    dtype: torch.dtype
    shape: tuple[int, ...]
    default: Fill | None


LEVELS = (Level.SYSTEM, Level.NODE, Level.EDGE, Level.BLOCK)


def rows_of(batch: Batch) -> dict[Level, int]:
    """Return the number of rows of a batch at each level."""
    return {level: batch.num_rows(level) for level in LEVELS}


def fields_of(batch: Batch) -> dict[str, StoredField]:
    """Return the fields of a batch."""
    found = {}
    for key, tensor in batch:
        default = FIELDS[key].default if key in FIELDS else batch.defaults.get(key)
        shape = tuple(tensor.shape[1:])
        found[key] = StoredField(batch.level(key), tensor.dtype, shape, default)
    return found


def together(
    stored: Mapping[str, StoredField],
    rows: Mapping[Level, int],
    part: Batch,
    mixing_floats: bool = True,
) -> dict[str, StoredField]:
    """Return the fields that stored systems have together with those of a part.

    Parameters
    ----------
    stored, rows
        Fields, and rows at each level, of what is stored.
    part
        What is to join it.
    mixing_floats
        Whether a field may be of one floating type here and of another there.

    Raises
    ------
    ValueError
        A field is missing on one side and has no default, or differs in level, shape or type; the
        message names it.
    """
    new, more = fields_of(part), rows_of(part)
    whole = {**new, **stored}
    for key, field in whole.items():
        if key not in new and field.default is None and more[field.level]:
            raise ValueError(f"these systems have no {key!r}, which the others have; {_ADVICE}")
        if key not in stored and field.default is None and rows[field.level]:
            raise ValueError(f"{key!r} is new with these systems, and has no default; {_ADVICE}")
        if key in new and key in stored:
            _check_alike(key, field, new[key], mixing_floats)
            if field.default is None:
                whole[key] = field._replace(default=new[key].default)
    return whole


_ADVICE = "add it to every system, or give it a default when you add it"


def _check_alike(key: str, one: StoredField, other: StoredField, mixing_floats: bool) -> None:
    if one.level is not other.level:
        raise ValueError(f"{key!r} is {other.level}-level here and {one.level}-level there")
    is_row_of_status = key == "status" and {one.shape, other.shape} == {(), (1,)}
    if one.shape != other.shape and not is_row_of_status:
        raise ValueError(f"rows of {key!r} are {other.shape} here and {one.shape} there")
    are_floats = one.dtype.is_floating_point and other.dtype.is_floating_point
    if one.dtype is not other.dtype and not (mixing_floats and are_floats):
        raise ValueError(f"{key!r} is {other.dtype} here and {one.dtype} there; convert it")
