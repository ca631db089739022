"""What a format has no place for, in one entry of ``info``, so that no file loses anything.

The formats of ASE hold some arrays, some results and some kinds of ``info`` and drop or refuse the
rest. That rest travels as JSON in ``info["nvdyn_ase"]``; other programs see a text there.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

import ase
import numpy as np
from ase.calculators.calculator import all_properties
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import dict2constraint
from ase.io.jsonio import encode, object_hook
from loguru import logger

#: The entry of ``info``, or of a row's data.
KEY = "nvdyn_ase"


class Extras:
    """Collects what does not fit into a format.

    Parameters
    ----------
    form
        Name of the format, for the log: what cannot be kept in any way is named there once.
    """

    def __init__(self, form: str) -> None:
        self._form = form
        self._kept: dict[str, Any] = {}

    def take_arrays(
        self, arrays: Mapping[str, np.ndarray], fits: Callable[[str, Any], bool]
    ) -> Any:
        """Return the arrays that fit, by name, and keep the others."""
        fitting = {name: array for name, array in arrays.items() if fits(name, array)}
        for name in arrays.keys() - fitting.keys():
            self._keep("arrays", name, arrays[name])
        return fitting

    def take_info(
        self, info: Mapping[Any, Any], marks: Mapping[str, Any], fits: Callable[[Any, Any], bool]
    ) -> Any:
        """Return the entries that fit; keep the others, and those in whose place marks will be."""
        fitting = {}
        for key, value in info.items():
            if key in marks:
                self._keep_entry("behind_marks", key, value)
            elif fits(key, value):
                fitting[key] = value
            else:
                self._keep_entry("info", key, value)
        return fitting

    def take_results(self, results: Mapping[str, Any], fits: Callable[[str, Any], bool]) -> Any:
        """Return the results that fit and keep the others."""
        fitting = {name: value for name, value in results.items() if fits(name, value)}
        for name in results.keys() - fitting.keys():
            self._keep("results", name, np.asarray(results[name]))
        return fitting

    def take_constraints(self, constraints: Iterable[Any], are_exact: bool = True) -> list[Any]:
        """Return the constraints that can be written; keep them too if the format changes them."""
        able = [own for own in constraints if _can_be_told(own, self._form)]
        if not are_exact and able:
            self._kept["constraints"] = [own.todict() for own in able]
        return able

    def take_displacement(self, atoms: ase.Atoms) -> None:
        """Keep the displacement of the cell, for which no format has a place."""
        displacement = atoms.get_celldisp()
        if displacement.any() or displacement.shape != (3, 1):
            self._kept["celldisp"] = displacement

    def _keep(self, what: str, name: str, array: np.ndarray) -> None:
        # Of other kinds of numbers, JSON does not give back what it was given.
        if array.dtype.kind in "biufcU" and array.dtype.char not in "gG":
            self._kept.setdefault(what, {})[name] = array
        else:
            _say_lost(self._form, f"the array {name!r} of type {array.dtype}")

    def _keep_entry(self, what: str, key: Any, value: Any) -> None:
        try:
            encode([key, value])
        except Exception as error:
            _say_lost(self._form, f"info[{key!r}] ({error})")
        else:
            self._kept.setdefault(what, []).append([key, value])

    def text(self) -> str | None:
        """Return everything that was kept, or None if there is nothing."""
        return encode(self._kept) if self._kept else None


def _can_be_told(constraint: Any, form: str) -> bool:
    """Say whether a constraint can be written down and made again."""
    name = type(constraint).__name__
    if name == "FixAtoms":
        return True
    try:
        dict2constraint(json.loads(encode(constraint.todict()), object_hook=object_hook))
    except Exception as error:
        _say_lost(form, f"the constraint {name} ({error})")
        return False
    return True


@cache
def _say_lost(form: str, what: str) -> None:
    logger.warning("{} cannot be kept in a {} file and is left out.", what, form)


def restore(atoms: ase.Atoms, text: str | None = None) -> dict[str, Any]:
    """Give a structure what was kept for it.

    Parameters
    ----------
    atoms
        The structure, as the format gives it.
    text
        What :meth:`Extras.text` returned; by default what is in ``info``, where it is taken out.

    Returns
    -------
    dict
        Marks that were in the place of entries of ``info``, which are there again.
    """
    text = atoms.info.pop(KEY, None) if text is None else text
    if text is None:
        return {}
    kept = json.loads(text, object_hook=object_hook)
    atoms.arrays.update(kept.get("arrays", {}))
    behind = dict(map(tuple, kept.get("behind_marks", [])))
    marks = {key: atoms.info[key] for key in behind if key in atoms.info}
    atoms.info |= dict(map(tuple, kept.get("info", []))) | behind
    if "celldisp" in kept:
        atoms.set_celldisp(kept["celldisp"])
    if "constraints" in kept:
        atoms.set_constraint([dict2constraint(own) for own in kept["constraints"]])
    if "results" in kept:
        before = {} if atoms.calc is None else atoms.calc.results
        atoms.calc = SinglePointCalculator(atoms, **before | kept["results"])
    return marks


def results_of(atoms: ase.Atoms) -> dict[str, Any]:
    """Return what the calculator of an Atoms has for it as it is now, without calculating."""
    calc = atoms.calc
    if calc is None:
        return {}
    results = getattr(calc, "results", None)
    if not isinstance(results, dict):
        found = {name: calc.get_property(name, atoms, False) for name in all_properties}
    elif isinstance(getattr(calc, "atoms", None), ase.Atoms) and not _are_alike(calc.atoms, atoms):
        found = {}
    else:
        found = results
    return {name: found[name] for name in all_properties if found.get(name) is not None}


def _are_alike(a: ase.Atoms, b: ase.Atoms) -> bool:
    """Say whether a calculator sees no difference."""
    if not ((a.cell.array == b.cell.array).all() and (a.pbc == b.pbc).all()):
        return False
    names = ("numbers", "positions", "initial_charges", "initial_magmoms")
    return all(_array_alike(a.arrays.get(name), b.arrays.get(name)) for name in names)


def _array_alike(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    if a is None and b is None:
        return True
    if a is None or b is None:
        return not any(array is not None and array.any() for array in (a, b))
    return a.shape == b.shape and bool((a == b).all())


def plain(value: Any, arrays: bool) -> Any:
    """Return a value in Python's own types, as JSON takes them.

    Parameters
    ----------
    value
        Numbers, texts and arrays, in lists and dicts of any depth.
    arrays
        Leave arrays of numbers as they are; without, they become lists.

    Raises
    ------
    TypeError
        There is something else in it.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("keys that are no texts")
        return {key: plain(item, arrays) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, arrays) for item in value]
    if isinstance(value, np.ndarray):
        if arrays and value.dtype.kind in "biufc" and value.dtype.char != "g":
            return value
        return plain(value.tolist(), arrays)
    raise TypeError(f"{type(value).__name__} is no number, text, array, list or dict")
