"""What the user did to the Atoms is taken up."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, MirrorForce
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import batch_from_atoms, batch_to_atoms, read_back, write_back
from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics.evaluated import Evaluated
from tests.atoms.structures import assert_same, structures


def made():
    systems = [bulk("Cu", cubic=True), molecule("CO"), bulk("Au", cubic=True)]
    return systems, batch_from_atoms(systems, copy_constraints=False)


@given(st.lists(structures(), min_size=1, max_size=3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_nothing_is_read_back_from_what_was_written(systems, copies):
    for dtype in (torch.float64, torch.float32):
        batch = batch_from_atoms(systems, dtype=dtype, copy_constraints=copies)
        tensors = dict(batch)
        assert len(read_back(systems, batch, copy_constraints=copies)) == 0
        batch["velocities"] = batch["velocities"] * 1.1
        batch["positions"] = tensors["positions"] = batch["positions"] + 0.1
        write_back(batch, systems, momenta=True, results=False)
        tensors["velocities"] = batch["velocities"]
        assert len(read_back(systems, batch, copy_constraints=copies)) == 0
        assert all(batch[key] is tensor for key, tensor in tensors.items())


def atom_with(**arrays):
    """Return one atom in a wire, held twice, with arrays of one number or row."""
    atoms = ase.Atoms("Be", cell=[[0.0] * 3, [0, 4, 0], [0, 0, 5]], pbc=[False, False, True])
    atoms.arrays |= {name: np.array([value]) for name, value in arrays.items()}
    atoms.set_constraint([FixAtoms([0]), FixAtoms([0])])
    return atoms


@given(
    st.lists(structures(), min_size=1, max_size=3),
    # Copied with atoms repeated, which ASE's constraints on distances do not survive.
    st.lists(structures(constraints=False), min_size=3, max_size=3),
    st.booleans(),
)
@example(
    [atom_with(a=0.0, a_3=[0j, 1j, 1j]), atom_with(), atom_with(a_=np.float32(1.0))],
    [atom_with(a=-0.0, a_3=[-0j, 1j, 1j]), atom_with(a=-0.0, a_=np.pi), atom_with()],
    False,
)
@settings(max_examples=40, deadline=None)
def test_whatever_changed_is_in_the_batch(systems, others, copies):
    batch = batch_from_atoms(systems, copy_constraints=copies)
    untouched = systems[-1].copy()
    untouched.info = systems[-1].info
    for atoms, other in zip(systems[:-1], others, strict=False):
        other = other[[i % len(other) for i in range(len(atoms))]]
        atoms.arrays = other.arrays
        atoms.info = other.info
        atoms.set_cell(other.cell)
        atoms.set_pbc(other.pbc)
        atoms.set_celldisp(other.get_celldisp())
        atoms.set_constraint(FixAtoms([0]))
    changes = read_back(systems, batch, copy_constraints=copies)
    assert list(changes) == list(range(len(systems) - 1))
    assert len(read_back(systems, batch, copy_constraints=copies)) == 0
    for atoms, found in zip(systems, batch_to_atoms(batch), strict=True):
        assert_same(atoms, found)
    assert_same(untouched, batch_to_atoms(batch)[-1])


@pytest.mark.parametrize("others", [0, 1])
@pytest.mark.parametrize(
    ("before", "now"),
    [
        (np.float32(1.0), 1e-3),
        (np.float16(1.0), np.float32(1e-3)),
        (1.0, np.float32(1e-3)),
        (np.complex64(1.0), 1e-3 + 1j),
        (np.int8(1), 2**40),
        (0.0, -0.0),
        (-0.0, 0.0),
        (0j, complex(-0.0, 0.0)),
        (np.nan, -np.nan),
    ],
)
def test_an_array_may_change_its_type_or_the_sign_of_zero(before, now, others):
    systems = [atom_with(a=before) for _ in range(1 + others)]
    batch = batch_from_atoms(systems)
    systems[0].positions += 1.0
    systems[0].arrays["a"] = np.array([now])
    assert list(read_back(systems, batch)) == [0]
    for atoms, found in zip(systems, batch_to_atoms(batch), strict=True):
        assert_same(atoms, found)


CHANGES = {
    "positions": (lambda a: a.rattle(0.1, seed=0), {"positions"}),
    "one position": (lambda a: a.positions.__setitem__((1, 2), 7.0), {"positions"}),
    "cell": (lambda a: a.set_cell(a.cell * 1.1), {"cell"}),
    "pbc": (lambda a: a.set_pbc([True, False, True]), {"pbc"}),
    "numbers": (lambda a: a.set_atomic_numbers([47] * 4), {"atomic_numbers", "atomic_masses"}),
    "momenta": (lambda a: a.set_momenta(np.ones((4, 3))), {"velocities"}),
    "masses": (lambda a: a.set_masses([2.0] * 4), {"atomic_masses"}),
    "charges": (lambda a: a.set_initial_charges([1.0] * 4), {"initial_charges"}),
    "magmoms": (lambda a: a.set_initial_magnetic_moments([1.0] * 4), {"initial_magmoms"}),
    "spins": (lambda a: a.set_initial_magnetic_moments(np.ones((4, 3))), {"initial_magmoms_3"}),
    "held": (lambda a: a.set_constraint(FixAtoms([1])), {"fixed"}),
    "hosted": (lambda a: a.set_constraint(FixCartesian([1])), set()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_each_change_touches_its_own_fields(name):
    systems, batch = made()
    before = {key: (tensor, tensor.clone()) for key, tensor in batch}
    evaluated = batch.evaluated = Evaluated.now(batch, None, ())
    change, fields = CHANGES[name]
    change(systems[2])
    changes = read_back(systems, batch)
    assert list(changes) == changes.rows == [2]
    assert changes.constraints == (name in ("held", "hosted"))
    assert {key for key, t in batch if key not in before or t is not before[key][0]} == fields
    assert all((old == kept).all() for old, kept in before.values())
    geometry = {"positions", "cell", "pbc", "atomic_numbers"}
    assert evaluated.holds(batch, None) == (not fields & geometry)
    for atoms, found in zip(systems, batch_to_atoms(batch), strict=True):
        assert_same(atoms, found)


def test_changes_that_are_undone():
    systems, batch = made()
    for name in CHANGES.keys() - {"spins"}:
        CHANGES[name][0](systems[2])
    read_back(systems, batch)
    systems[2].set_constraint()
    for name in ("initial_charges", "initial_magmoms", "momenta", "masses"):
        del systems[2].arrays[name]
    changes = read_back(systems, batch)
    assert (changes.rows, changes.constraints) == ([2], True)
    for atoms, found in zip(systems, batch_to_atoms(batch), strict=True):
        assert_same(atoms, found)


def test_momenta_of_a_system_whose_masses_change():
    systems, batch = made()
    systems[1].set_momenta([[1.0, 2, 3], [4, 5, 6]])
    read_back(systems, batch)
    systems[1].set_masses([2.0, 4.0])
    read_back(systems, batch)
    assert batch[1].velocities.tolist() == [[0.5, 1, 1.5], [1, 1.25, 1.5]]


def test_what_an_engine_added_stays():
    systems, batch = made()
    batch.add_key("velocity", torch.ones(batch.num_nodes, 3))
    batch["target"] = torch.arange(3)
    batch["status"] = torch.ones(3, 1, dtype=torch.int64)
    batch["energy"] = torch.ones(3, 1, dtype=torch.float64)
    batch.host[1]["note"] = "mine"
    systems[1].rattle(0.1, seed=0)
    assert list(read_back(systems, batch)) == [1]
    assert batch["target"].tolist() == [0, 1, 2]
    assert (batch["velocity"] == 1).all()
    assert batch["status"].tolist() == [[1], [1], [1]]
    assert batch["energy"].tolist() == [[1.0], [1.0], [1.0]]
    assert batch["system_id"].tolist() == [[0], [1], [2]]
    assert batch.host[1]["note"] == "mine"


def test_constraints_keep_what_they_learned():
    for copies in (True, False):
        atoms = molecule("CO")
        atoms.set_constraint([FixBondLengths([[0, 1]]), MirrorForce(0, 1)])
        batch = batch_from_atoms([atoms], copy_constraints=copies)
        host = batch.constraints[0][0]
        host.adjust_positions(atoms.positions, atoms.positions + 0.1, atoms.cell.array)
        length = host.constraints[0].bondlengths
        atoms.positions *= 1.5
        changes = read_back([atoms], batch, copy_constraints=copies)
        assert (changes.rows, changes.constraints) == ([0], False)
        assert batch.constraints[0][0].constraints[0].bondlengths is length


def test_the_list_of_constraints_is_a_new_one():
    systems, batch = made()
    before = batch.constraints
    systems[0].set_constraint(FixCartesian([1]))
    read_back(systems, batch)
    assert batch.constraints is not before
    assert before[0] == ()


def test_a_number_of_atoms_that_changed():
    systems, batch = made()
    systems[1] += ase.Atom("H")
    with pytest.raises(StructureError, match=r"^structure 1: it has 3 atoms, and had 2"):
        read_back(systems, batch)
    with pytest.raises(ValueError, match="2 Atoms for 3 systems"):
        read_back(systems[:2], batch)


def test_a_change_that_cannot_be():
    systems, batch = made()
    systems[2].set_cell(np.zeros((3, 3)))
    with pytest.raises(StructureError, match=r"^structure 2: .*singular"):
        read_back(systems, batch)


def test_a_system_that_is_lost_is_left_alone():
    systems, batch = made()
    batch["positions"] = torch.where(batch.batch.view(-1, 1) == 1, torch.nan, batch["positions"])
    write_back(batch, systems, momenta=False, results=False)
    assert np.isnan(systems[1].positions).all()
    for atoms in systems:
        atoms.set_momenta(np.ones((len(atoms), 3)))
    assert list(read_back(systems, batch)) == [0, 2]
    systems[1].positions[:] = 1.0 + np.eye(3)[:2]
    assert list(read_back(systems, batch)) == [1]
