"""Rows of ASE's databases."""

import numbers
import os
import random
import sqlite3
from collections import Counter
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.data import atomic_masses
from ase.db.core import check, now, object_to_bytes
from ase.db.row import AtomsRow
from ase.db.sqlite import SQLite3Database, all_tables
from ase.io.jsonio import encode

from nvdyn_ase.files.extras import KEY, Extras, plain, restore, results_of

_RESULTS = {
    **dict.fromkeys(("energy", "free_energy", "magmom"), 0),
    **dict.fromkeys(("stress", "dipole", "magmoms", "charges"), 1),
    "forces": 2,
}
_COLUMNS = SQLite3Database.columnnames
_INSERT = f"INSERT INTO systems VALUES ({', '.join('?' * len(_COLUMNS))})"
# Of its own, so that no seed of the user's makes rows that are not unique; the system's random
# numbers, which uuid4 asks for, take as long as half of a row.
_random = random.Random()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_random.seed)


class Row(NamedTuple):
    """What ``ase.db`` has of a structure.

    Parameters
    ----------
    fields
        What ``AtomsRow`` takes: numbers, positions, constraints, results.
    pairs
        Its key-value pairs.
    data
        What is kept with it and cannot be searched for.
    """

    fields: dict[str, Any]
    pairs: dict[str, Any]
    data: dict[str, Any]


def as_row(atoms: ase.Atoms, marks: Mapping[str, Any]) -> Row:
    """Return what ``ase.db`` writes for a structure, with marks among its key-value pairs."""
    extras = Extras("db")
    info = dict(atoms.info)
    of_row = info.pop("key_value_pairs", {})
    if not isinstance(of_row, Mapping):
        info["key_value_pairs"], of_row = of_row, {}
    more = info.pop("data", {})
    if not isinstance(more, Mapping):
        info["data"], more = more, {}
    if "unique_id" in info:
        of_row = {**of_row, "input_unique_id": info.pop("unique_id")}
    pairs = {key: value for key, value in {**of_row, **marks}.items() if _is_pair(key, value)}
    refused = {key: value for key, value in {**of_row, **marks}.items() if key not in pairs}
    data = _plain_entries(extras.take_info({**more, **info}, refused, _is_entry))
    data |= _plain_entries(refused)
    fields = _fields(atoms, extras)
    if (rest := extras.text()) is not None:
        data[KEY] = rest
    return Row(fields, pairs, data)


def from_row(row: AtomsRow) -> tuple[ase.Atoms, dict[str, Any]]:
    """Return the structure of a row as it was, and the key-value pairs."""
    atoms = row.toatoms()
    data = dict(row.data)
    text = data.pop(KEY, None)
    atoms.info = data
    marks = dict(row.key_value_pairs)
    if text is not None:
        marks |= restore(atoms, text)
    return atoms, marks


def insert(connection: sqlite3.Connection, row: Row, place: int | None = None) -> int:
    """Write a row, and return its id.

    The file has then what ``ase.db`` would have written, which takes four times as long: it looks
    at each value several times, and makes an Atoms to know which forces count.

    Parameters
    ----------
    connection
        To a database in a transaction, which this does not end.
    row
        The row.
    place
        The id of a row whose place it takes; by default it is a new one.

    Raises
    ------
    sqlite3.Error
        The disk is full, or similar.
    """
    cursor = connection.cursor()
    if place is not None:
        for table in all_tables:
            cursor.execute(f"DELETE FROM {table} WHERE id = ?", (place,))
    cursor.execute(_INSERT, (place, *_values(row)))
    own = cursor.lastrowid
    assert own is not None
    count = Counter(row.fields["numbers"].tolist())
    texts = [(key, value, own) for key, value in row.pairs.items() if isinstance(value, str)]
    others = [(k, float(v), own) for k, v in row.pairs.items() if not isinstance(v, str)]
    for table, rows in (
        ("species", [(number, n, own) for number, n in count.items()]),
        ("text_key_values", texts),
        ("number_key_values", others),
    ):
        cursor.executemany(f"INSERT INTO {table} VALUES (?, ?, ?)", rows)
    cursor.executemany("INSERT INTO keys VALUES (?, ?)", [(key, own) for key in row.pairs])
    return own


def _values(row: Row) -> tuple[Any, ...]:
    """Return what the columns of a row hold, but for its id, in their order."""
    fields = row.fields
    get, numbers, masses = fields.get, fields["numbers"], fields.get("masses")
    charges, constraints = get("initial_charges"), get("constraints")
    stress, volume = get("stress"), abs(np.linalg.det(fields["cell"]))
    parameters = get("calculator_parameters")
    return (
        *(fields["unique_id"], fields["ctime"], now(), get("user")),
        *(_blob(numbers, "<i4"), _blob(fields["positions"]), _blob(fields["cell"])),
        int(fields["pbc"] @ (1, 2, 4)),
        *(_blob(get("initial_magmoms")), _blob(charges), _blob(masses)),
        *(_blob(get("tags"), "<i4"), _blob(get("momenta"))),
        encode(constraints) if constraints else None,
        *(get("calculator"), None if parameters is None else encode(parameters)),
        *(get("energy"), get("free_energy"), _blob(get("forces")), _blob(stress)),
        *(_blob(get("dipole")), _blob(get("magmoms")), get("magmom"), _blob(get("charges"))),
        *(encode(row.pairs), object_to_bytes(row.data), len(numbers)),
        *(_fmax(fields), None if stress is None else float((stress**2).max() ** 0.5)),
        float(volume) if volume else None,
        float((atomic_masses[numbers] if masses is None else masses).sum()),
        0.0 if charges is None else float(charges.sum()),
    )


def _blob(array: np.ndarray | None, kind: str = "<f8") -> bytes | None:
    return None if array is None else array.astype(kind).tobytes()


def _fmax(fields: Mapping[str, Any]) -> float | None:
    """Return the largest force on an atom that is not held, eV/Å."""
    forces = fields.get("forces")
    if forces is None:
        return None
    constraints = fields["constraints"]
    if any(own["name"] != "FixAtoms" for own in constraints):
        return float(AtomsRow(dict(fields)).fmax)
    if constraints:
        forces = forces.copy()
    for own in constraints:
        forces[own["kwargs"]["indices"]] = 0.0
    return float((forces**2).sum(1).max() ** 0.5)


def _fields(atoms: ase.Atoms, extras: Extras) -> dict[str, Any]:
    arrays = extras.take_arrays(atoms.arrays, _has_column)
    fields: dict[str, Any] = {
        name: np.ascontiguousarray(array, int if name in ("numbers", "tags") else float)
        for name, array in arrays.items()
    }
    extras.take_displacement(atoms)
    constraints = extras.take_constraints(atoms.constraints)
    unique = f"{_random.getrandbits(128):032x}"
    fields |= {"unique_id": unique, "ctime": now(), "user": os.getenv("USER")}
    fields |= {"cell": atoms.cell.array, "pbc": atoms.pbc}
    fields["constraints"] = [constraint.todict() for constraint in constraints]
    if atoms.calc is not None:
        fields |= _calculator(atoms.calc)
    results = extras.take_results(results_of(atoms), _has_result)
    return fields | {
        name: np.asarray(value, float) if _RESULTS[name] else float(value)
        for name, value in results.items()
    }


def _calculator(calc: Any) -> dict[str, Any]:
    """Return the name and the parameters of a calculator, if they can be written."""
    name = getattr(calc, "name", None) or type(calc).__name__
    if type(calc) is SinglePointCalculator and not calc.parameters:
        return {"calculator": name.lower(), "calculator_parameters": {}}
    try:
        parameters = calc.todict()
        encode(parameters)
    except Exception:  # a calculator may not tell its parameters; its results count
        parameters = {}
    return {"calculator": name.lower(), "calculator_parameters": parameters}


def _has_column(name: str, array: np.ndarray) -> bool:
    if name in ("positions", "numbers"):
        return True
    if name == "tags":  # they become int32
        return array.dtype.kind == "i" and bool((abs(array.astype(float)) < 2**31).all())
    of_atoms = {"masses": 1, "initial_charges": 1, "initial_magmoms": 1, "momenta": 2}
    return (
        of_atoms.get(name) == array.ndim and array.dtype.kind in "fi" and array.dtype.itemsize <= 8
    )


def _has_result(name: str, value: Any) -> bool:
    return name in _RESULTS and np.ndim(value) == _RESULTS[name]


def _is_pair(key: Any, value: Any) -> bool:
    if not isinstance(key, str) or key == "external_tables" or not _is_key(key):
        return False
    if isinstance(value, str):
        return _is_word(value)
    return type(value) in (int, float, bool) or isinstance(value, (numbers.Real, np.bool_))


@cache
def _is_key(key: str) -> bool:
    return _passes({key: 0})


def _is_word(value: str) -> bool:
    """Say whether a text is taken for one: ASE refuses texts that could be numbers."""
    # No number and no flag begins with any other letter.
    plain_word = value[:1].isalpha() and not value.lower().startswith(("n", "i", "t", "f"))
    return plain_word or _passes({"key": value})


def _passes(pairs: dict[str, Any]) -> bool:
    try:
        check(pairs)
    except ValueError:
        return False
    return True


def _is_entry(key: Any, value: Any) -> bool:
    if not isinstance(key, str) or key == KEY:
        return False
    try:
        plain(value, arrays=True)
    except TypeError:
        return False
    return True


def _plain_entries(info: Mapping[str, Any]) -> dict[str, Any]:
    return {key: plain(value, arrays=True) for key, value in info.items()}
