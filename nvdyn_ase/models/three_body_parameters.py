"""Parameters of triples of elements, from files in the format of LAMMPS or from a dict."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

from nvdyn_ase.models.potential_files import FilePath, Words, lines_of, without_comments

Triple = tuple[int, int, int]
Given = FilePath | Mapping[tuple[str, str, str], Any]


class ThreeBodyTable(NamedTuple):
    """A row of parameters for each triple of K elements.

    Parameters
    ----------
    elements
        Atomic numbers, sorted.
    rows
        (K, K, K, N), by the element of the atom in the middle and those of its two neighbours.
    """

    elements: tuple[int, ...]
    rows: np.ndarray


def three_body_table(given: Given, names: Sequence[str], format: str) -> ThreeBodyTable:
    """Return the parameters of every triple of the elements that are named.

    Parameters
    ----------
    given
        A file, with three elements and numbers for each triple, or a dict by triples of symbols,
        with sequences of numbers or objects with attributes.
    names
        Of the parameters, in the order of the file.
    format
        What a file should be, for messages.

    Raises
    ------
    PotentialFileError
        The file is something else; a ``ValueError``.
    ValueError
        No triples, an unknown element, the wrong number of parameters or one that is not finite, or
        a triple of the elements that is not there.
    """
    rows = _from_dict(given, names) if isinstance(given, Mapping) else _read(given, names, format)
    if not rows:
        raise ValueError(f"there are no parameters; {format} has some for each triple of elements")
    elements = tuple(sorted({element for triple in rows for element in triple}))
    table = np.empty((len(elements),) * 3 + (len(names),))
    for index in np.ndindex(*table.shape[:3]):
        triple = tuple(elements[k] for k in index)
        if triple not in rows:
            missing = "-".join(chemical_symbols[number] for number in triple)
            raise ValueError(f"there are no parameters for {missing}")
        table[index] = rows[triple]
    return ThreeBodyTable(elements, table)


def require(
    table: ThreeBodyTable, names: Sequence[str], positive: Iterable[str], places: np.ndarray
) -> None:
    """Raise ValueError if a parameter is not positive.

    Parameters
    ----------
    table, names
        All parameters.
    positive
        Names of those that must be.
    places
        (K, K, K) bool, the triples of which they must be.
    """
    for name in positive:
        wrong = np.argwhere(~(table.rows[..., list(names).index(name)] > 0) & places)
        if len(wrong):
            triple = "-".join(chemical_symbols[table.elements[k]] for k in wrong[0])
            raise ValueError(f"{name} of {triple} must be positive")


def of_pairs(count: int) -> np.ndarray:
    """Say which triples of K elements have the parameters of pairs, (K, K, K): i, j, j."""
    return np.broadcast_to(np.eye(count, dtype=bool), (count,) * 3)


def _read(path: FilePath, names: Sequence[str], format: str) -> dict[Triple, np.ndarray]:
    words = Words(path, without_comments(lines_of(path, format)), format)
    rows: dict[Triple, np.ndarray] = {}
    while len(words):
        i, j, k = (words.element(f"the {place} element") for place in ("first", "second", "third"))
        rows[i, j, k] = words.numbers(f"the {len(names)} numbers {' '.join(names)}", len(names))
    return rows


def _from_dict(
    given: Mapping[tuple[str, str, str], Any], names: Sequence[str]
) -> dict[Triple, np.ndarray]:
    rows: dict[Triple, np.ndarray] = {}
    for key, values in given.items():
        unknown = [symbol for symbol in key if symbol not in atomic_numbers or symbol == "X"]
        if len(key) != 3 or unknown:
            raise ValueError(f"{key!r} is not a triple of elements")
        numbers = _numbers(values, names)
        if len(numbers) != len(names) or not np.isfinite(numbers).all():
            raise ValueError(f"{key!r} should have {len(names)} finite numbers: {', '.join(names)}")
        i, j, k = (atomic_numbers[symbol] for symbol in key)
        rows[i, j, k] = numbers
    return rows


def _numbers(values: Any, names: Sequence[str]) -> np.ndarray:
    """Return the numbers in a sequence or among attributes."""
    if not isinstance(values, Sequence):
        values = [getattr(values, name) for name in names]
    return np.array([float(value) for value in values])
