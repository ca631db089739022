"""Files of structures for the tests, and what it means that nothing in them is lost."""

import re
from pathlib import Path

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.jsonio import encode

from nvdyn_ase.files import INDEX, DatabaseFile, ExtxyzFile, TrajectoryFile
from tests.systems import mixed

KINDS = {"extxyz": ExtxyzFile, "traj": TrajectoryFile, "db": DatabaseFile}
#: Those that are written byte after byte.
STREAMS = ["extxyz", "traj"]


def marks(index, outcome="converged"):
    return {INDEX: index, "relax_outcome": outcome, "relax_steps": 3, "relax_fmax": 0.25}


def computed(atoms, seed=0):
    """Give a structure results."""
    rng = np.random.default_rng(seed)
    results = {"energy": rng.normal(), "forces": rng.normal(size=(len(atoms), 3))}
    if atoms.cell.rank == 3:
        results["stress"] = rng.normal(size=6)
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms


def some(count):
    """Return structures with results, info and an array of their own."""
    structures = mixed(count)
    for index, atoms in enumerate(structures):
        computed(atoms, index)
        atoms.info["label"] = f"it is number {index}"
        atoms.arrays["weight"] = np.arange(len(atoms)) * 0.5
    return structures


def write(kind, path, structures, first=0):
    file = KINDS[kind](path)
    file.recover()
    for index, atoms in enumerate(structures, first):
        file.add(atoms, marks(index))
    file.close()
    return Path(path)


def contents(kind, path):
    """Return what a file holds, by index."""
    file = KINDS[kind](path)
    indices = [own[INDEX] for own in file.recover()]
    found = [atoms for atoms, _ in file.read()]
    file.close()
    assert len(indices) == len(set(indices)) == len(found)
    return dict(zip(indices, found, strict=True))


def assert_kept(found: ase.Atoms, whole: ase.Atoms, decimals: bool) -> None:
    """Check that a structure is what was written; up to eight decimals, or to the last bit."""
    exact = {"atol": 0.0, "rtol": 0.0, "equal_nan": True}
    columns = {"atol": 5.1e-9, "rtol": 1e-15, "equal_nan": True} if decimals else exact
    assert found.arrays.keys() == whole.arrays.keys()
    for name, array in whole.arrays.items():
        assert found.arrays[name].shape == array.shape, name
        if array.dtype.kind in "US":
            assert (found.arrays[name] == array).all()
        else:
            np.testing.assert_allclose(found.arrays[name], array, **columns, err_msg=name)
    np.testing.assert_array_equal(found.cell.array, whole.cell.array)
    np.testing.assert_array_equal(found.pbc, whole.pbc)
    np.testing.assert_array_equal(found.get_celldisp(), whole.get_celldisp())
    results = {} if found.calc is None else found.calc.results
    expected = {} if whole.calc is None else whole.calc.results
    assert results.keys() == expected.keys()
    for name, value in expected.items():
        tolerance = columns if np.ndim(value) > 1 else exact
        np.testing.assert_allclose(results[name], value, **tolerance, err_msg=name)
    told = [[rounded(encode(c.todict())) for c in a.constraints] for a in (found, whole)]
    assert told[0] == told[1]


def rounded(text: str) -> str:
    """Round the numbers in a text: ASE normalises directions anew, to one ulp."""
    return re.sub(r"-?\d+\.\d+(e-?\d+)?", lambda number: f"{float(number[0]):.14g}", text)
