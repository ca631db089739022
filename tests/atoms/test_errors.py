"""What cannot be used is told apart, and named."""

import pickle

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.constraints import FixAtoms, Hookean

from nvdyn_ase.atoms import batch_from_atoms, from_atoms, partition, validate
from nvdyn_ase.data import StructureError


def spoiled(**changes) -> ase.Atoms:
    atoms = bulk("Cu", cubic=True)
    for key, value in changes.items():
        setattr(atoms, key, value)
    return atoms


def with_array(name, array) -> ase.Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.arrays[name] = np.asarray(array)
    return atoms


def with_list(name, values) -> ase.Atoms:
    atoms = bulk("Cu", cubic=True)
    atoms.arrays[name] = values
    return atoms


NAN = np.array([[0.0, 0, 0], [np.nan, 0, 0], [1, 1, 1], [2, 2, 2]])
FLAT = [[3.0, 0, 0], [0, 3, 0], [3, 3, 0]]

BAD = {
    "empty": (ase.Atoms(), "no atoms"),
    "nan": (with_array("positions", NAN), "position of atom 1 is not finite"),
    "infinite": (with_array("positions", np.where(np.isnan(NAN), np.inf, NAN)), "not finite"),
    "cell": (spoiled(cell=np.full((3, 3), np.nan)), "cell is not finite"),
    "singular": (spoiled(cell=FLAT), "singular along its periodic directions"),
    "no cell": (spoiled(cell=np.zeros((3, 3))), "singular along its periodic directions"),
    "element": (with_array("numbers", [29, 29, 29, 130]), "between 0 and 118"),
    "negative": (with_array("numbers", [29, 29, 29, -1]), "between 0 and 118"),
    "constraint": (spoiled(constraints=FixAtoms([9])), "atom 9, but there are 4 atoms"),
    "array": (with_array("mine", [1, 2, 3]), r"'mine' is no array or has shape \(3,\)"),
    "number": (with_array("mine", 1.0), "'mine' is no array"),
    "list": (with_list("mine", [1, 2, 3, 4]), "'mine' is no array"),
    "text": ("Cu", "an ase.Atoms is needed, not str"),
    "nothing": (None, "an ase.Atoms is needed, not NoneType"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_structure_is_named(name):
    bad, words = BAD[name]
    good = bulk("Au", cubic=True)
    with pytest.raises(StructureError, match=f"^structure 1: .*{words}"):
        batch_from_atoms([good, bad, good])
    with pytest.raises(StructureError, match=f"^structure 17: .*{words}"):
        batch_from_atoms([good, bad, good], indices=[4, 17, 5])
    with pytest.raises(StructureError, match=words) as found:
        from_atoms(bad, index=3)
    assert found.value.index == 3
    assert validate(bad, 3).problem == found.value.problem
    with pytest.raises(StructureError) as found:
        from_atoms(bad)
    assert not str(found.value).startswith("structure")


def test_partition_tells_all_bad_ones():
    structures = [bulk("Au"), *(bad for bad, _ in BAD.values()), bulk("Cu")]
    rows, errors = partition(structures)
    assert rows == [0, len(structures) - 1]
    assert [error.index for error in errors] == list(range(1, len(structures) - 1))
    rows, errors = partition(structures, indices=range(100, 100 + len(structures)))
    assert errors[0].index == 101
    assert partition([]) == ([], [])


def test_what_is_unusual_but_right_passes():
    held = bulk("Cu", cubic=True)
    held.set_constraint([FixAtoms([0]), Hookean(0, 1, k=1.0, rt=2.0)])
    ghost = ase.Atoms("X2", positions=np.eye(3)[:2])
    slab = ase.Atoms("Cu", cell=[3, 3, 0], pbc=[True, True, False])
    parallel = ase.Atoms("Cu", cell=FLAT, pbc=[True, True, False])
    left = ase.Atoms("Cu", cell=[[0, 3, 0], [3, 0, 0], [0, 0, 3]], pbc=True)
    far = ase.Atoms("Cu", positions=[[1e9, 0, 0]])
    structures = [held, ghost, slab, parallel, left, far]
    assert partition(structures) == (list(range(6)), [])
    assert len(batch_from_atoms(structures)) == 6
    assert all(validate(atoms) is None for atoms in structures)


def test_lists_that_cannot_be():
    with pytest.raises(ValueError, match="empty"):
        batch_from_atoms([])
    with pytest.raises(ValueError, match="2 indices for 1 structures"):
        batch_from_atoms([bulk("Cu")], indices=[1, 2])


@pytest.mark.parametrize("index", [None, 3])
def test_pickling_an_error(index):
    error = StructureError(index, "it is too small; make it larger")
    twin = pickle.loads(pickle.dumps(error))
    assert type(twin) is StructureError
    assert (twin.index, twin.problem, str(twin)) == (error.index, error.problem, str(error))
