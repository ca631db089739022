"""``to_atoms(from_atoms(a))`` is ``a``: alone, in batches, and after what happens to batches."""

import itertools
import pickle

import ase
import numpy as np
import pytest
import torch
from ase.constraints import FixAtoms, MirrorForce
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import (
    HostConstraint,
    batch_from_atoms,
    batch_to_atoms,
    field_key,
    from_atoms,
    to_atoms,
)
from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.dynamics.constraints import BatchConstraints, Cartesian
from tests.atoms.structures import DTYPES, HOSTED, NAMES, assert_same, structures, values

lists = st.lists(structures(), min_size=1, max_size=4)


@given(structures())
@settings(max_examples=150, deadline=None)
def test_a_structure_comes_back_as_it_was(atoms):
    before = atoms.copy()
    data = from_atoms(atoms)
    found = to_atoms(data)
    assert_same(atoms, found)
    assert found.calc is None
    # Nothing is shared: the user's object is as it was, whatever happens to the system.
    data.positions += 1.0
    data.cell += 1.0
    assert_same(atoms, to_atoms(from_atoms(before)))


@given(lists)
@settings(max_examples=80, deadline=None)
def test_batches_give_every_structure_back(systems):
    batch = batch_from_atoms(systems)
    for atoms, found in zip(systems, batch_to_atoms(batch), strict=True):
        assert_same(atoms, found)
    for row, atoms in enumerate(systems):
        assert_same(atoms, to_atoms(batch[row]))


@given(lists)
@settings(max_examples=60, deadline=None)
def test_a_batch_is_what_joining_the_systems_gives(systems):
    batch = batch_from_atoms(systems)
    joined = Batch.from_data_list([from_atoms(atoms, index=i) for i, atoms in enumerate(systems)])
    assert set(batch.keys()) == set(joined.keys())
    assert batch.num_nodes_list == joined.num_nodes_list
    for key, tensor in batch:
        assert batch.level(key) is joined.level(key)
        assert tensor.dtype == joined[key].dtype, key
        assert torch.equal(tensor.nan_to_num(7.0), joined[key].nan_to_num(7.0)), key
    assert batch.defaults == joined.defaults


@given(lists, lists, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_structures_survive_what_happens_to_batches(first, second, random):
    systems = first + second
    batch = batch_from_atoms(first)
    batch.append(batch_from_atoms(second, indices=range(len(first), len(systems))))
    order = list(range(len(systems)))
    random.shuffle(order)
    moved = batch.index_select(order)
    assert moved["system_id"].view(-1).tolist() == order
    for row, found in zip(order, batch_to_atoms(moved.clone()), strict=True):
        assert_same(systems[row], found)


@given(structures())
@settings(max_examples=25, deadline=None)
def test_systems_are_pickled_and_copied_with_all_they_have(atoms):
    data = from_atoms(atoms)
    for found in (to_atoms(data.clone()), to_atoms(data.to(dtype=torch.float64))):
        assert_same(atoms, found)
    found = to_atoms(pickle.loads(pickle.dumps(data)))
    found.info = atoms.info
    assert_same(atoms, found)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_type_of_array(dtype):
    rng = np.random.default_rng(0)
    systems = [ase.Atoms("CuAuH", positions=np.eye(3)) for _ in range(3)]
    systems[0].arrays["mine"] = values(rng, dtype, (3,))
    systems[2].arrays["mine"] = values(rng, dtype, (3,))
    batch = batch_from_atoms(systems)
    key = field_key("mine", (), dtype) if dtype not in HOSTED else None
    assert [name for name, _ in batch if "mine" in name] == ([key] if key else [])
    for atoms, found in zip(systems, batch_to_atoms(batch), strict=True):
        assert_same(atoms, found)


def test_arrays_of_one_name_and_many_types_share_a_batch():
    systems = []
    for dtype in DTYPES:
        for shape in [(), (3,)]:
            atoms = ase.Atoms("CuAu", positions=np.eye(3)[:2])
            atoms.arrays["mine"] = values(np.random.default_rng(1), dtype, (2, *shape))
            systems.append(atoms)
    for atoms, found in zip(systems, batch_to_atoms(batch_from_atoms(systems)), strict=True):
        assert_same(atoms, found)


def test_no_two_arrays_get_the_same_key():
    shapes, kinds = [(), (3,), (2, 2)], [bool, int, float, complex]
    keys = [field_key(*args) for args in itertools.product(NAMES, shapes, kinds)]
    assert len(set(keys)) == len(keys)
    assert field_key("plain") == "plain"
    assert field_key("initial_magmoms", (3,)) == "initial_magmoms_3"
    assert field_key("marked", (), bool) == "marked_bool"
    assert field_key("forces") == "array_forces"


def test_declared_arrays_are_declared_fields():
    atoms = ase.Atoms("HO", positions=[[0, 0, 0], [1, 0, 0]], tags=[3, 4], charges=[0.5, -0.5])
    atoms.set_masses([2.0, 16.0])
    atoms.set_velocities([[1, 2, 3], [4, 5, 6]])
    atoms.set_constraint(FixAtoms([1]))
    data = from_atoms(atoms, index=5)
    assert data.system_id.item() == 5
    assert data.tags.tolist() == [3, 4]
    assert data.initial_charges.tolist() == [0.5, -0.5]
    assert data.atomic_masses.tolist() == [2.0, 16.0]
    assert data.velocities.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert data.fixed.tolist() == [False, True]
    assert data.constraints == ()


def test_single_precision():
    atoms = ase.Atoms("HO", positions=[[0, 0, 0.1], [1, 0, 0]], momenta=[[0.1, 0.2, 0.3]] * 2)
    data = from_atoms(atoms, dtype=torch.float32)
    batch = batch_from_atoms([atoms], dtype=torch.float32)
    for key in ("positions", "velocities", "atomic_masses", "cell"):
        assert getattr(data, key).dtype == batch[key].dtype == torch.float32
    found = to_atoms(data)
    np.testing.assert_allclose(found.positions, atoms.positions, atol=1e-7)
    assert (found.get_momenta() == atoms.get_momenta()).all()


def test_momenta_that_changed_are_mass_times_velocity():
    atoms = ase.Atoms("HO", positions=np.eye(3)[:2], momenta=np.ones((2, 3)))
    data = from_atoms(atoms)
    data.velocities = data.velocities * 2
    np.testing.assert_allclose(to_atoms(data).get_momenta(), 2 * np.ones((2, 3)), rtol=1e-15)
    data.velocities = torch.zeros(2, 3, dtype=torch.float64)
    assert (to_atoms(data).arrays["momenta"] == 0).all()


def test_what_a_system_got_on_the_way_becomes_arrays_info_and_results():
    atoms = ase.Atoms("HO", positions=np.eye(3)[:2], cell=[4, 4, 4], pbc=True)
    data = from_atoms(atoms)
    data.add_node_property("score", torch.tensor([1, 2]))
    data.add_system_property("label", 4)
    data.energy, data.forces, data.stress = -1.5, np.ones((2, 3)), np.eye(3)
    data.add_system_property("dipole", [[1.0, 2.0, 3.0]])
    found = to_atoms(data)
    assert found.arrays["score"].tolist() == [1, 2]
    assert found.info == {"label": 4}
    assert found.get_potential_energy() == found.get_potential_energy(force_consistent=True) == -1.5
    assert (found.get_forces() == 1).all()
    assert found.get_stress().tolist() == [1, 1, 1, 0, 0, 0]
    assert found.get_dipole_moment().tolist() == [1, 2, 3]


def test_results_a_system_does_not_have():
    periodic = ase.Atoms("Cu", cell=[3, 3, 3], pbc=True)
    batch = batch_from_atoms([ase.Atoms("HO", positions=np.eye(3)[:2]), periodic])
    batch["energy"] = torch.tensor([[1.0], [2.0]], dtype=torch.float64)
    batch["stress"] = torch.zeros(2, 3, 3, dtype=torch.float64)
    batch["dipole"] = torch.tensor([[1.0, 0, 0], [np.nan] * 3], dtype=torch.float64)
    batch.add_key("charges", torch.tensor([np.nan, np.nan, 2.0]).double())
    molecule, crystal = batch_to_atoms(batch)
    assert set(molecule.calc.results) == {"energy", "free_energy", "dipole"}
    assert set(crystal.calc.results) == {"energy", "free_energy", "stress", "charges"}


def test_systems_that_never_were_atoms():
    data = AtomicData(
        positions=np.eye(3),
        atomic_numbers=[1, 8, 1],
        cell=np.diag([4.0, 0, 0]),
        pbc=[True, False, False],
    )
    found = to_atoms(data)
    assert list(found.arrays) == ["numbers", "positions"]
    assert found.calc is None
    data.fixed, data.tags = [True, False, False], [0, 0, 2]
    data.atomic_masses, data.velocities = [2.0, 16, 1], np.ones((3, 3))
    found = to_atoms(data)
    assert found.constraints[0].index.tolist() == [0]
    assert found.get_tags().tolist() == [0, 0, 2]
    assert found.get_masses().tolist() == [2, 16, 1]
    assert found.get_momenta()[:, 0].tolist() == [2, 16, 1]


def test_atoms_that_are_held_since_then():
    atoms = ase.Atoms("HO", positions=np.eye(3)[:2], constraint=FixAtoms([1]))
    data = from_atoms(atoms)
    data.fixed = [True, True]
    assert to_atoms(data).constraints[0].index.tolist() == [0, 1]
    data.fixed = [False, False]
    assert to_atoms(data).constraints == []


def test_constraints_ride_as_a_field_as_descriptions_or_as_one_object():
    atoms = ase.Atoms("HO", positions=np.eye(3)[:2])
    other = atoms.copy()
    atoms.set_constraint([FixAtoms([0]), FixAtoms([1])])
    other.set_constraint([FixAtoms([0]), FixAtoms([0])])
    mirrored = atoms.copy()
    mirrored.set_constraint([FixAtoms([0]), MirrorForce(0, 1)])
    batch = batch_from_atoms([atoms, other, mirrored])
    assert batch["fixed"].tolist() == [True, True] + [False] * 4
    assert batch.constraints[0] == ()
    assert [type(own) for own in batch.constraints[1]] == [Cartesian, Cartesian]
    # ASE counts an atom that is held twice twice among the removed degrees of freedom.
    known = batch[:2]
    dof = BatchConstraints(known).degrees_of_freedom(known).view(-1).tolist()
    assert dof == [one.get_number_of_degrees_of_freedom() for one in (atoms, other)]
    assert [type(own) for own in batch.constraints[2]] == [HostConstraint]
    for one, again in zip((atoms, other, mirrored), batch_to_atoms(batch), strict=True):
        assert [c.todict() for c in again.constraints] == [c.todict() for c in one.constraints]


def test_atoms_convert_through_the_doors_of_the_data_layer():
    atoms = ase.Atoms("HO", positions=np.eye(3)[:2], info={"a": 1})
    assert_same(atoms, AtomicData.from_atoms(atoms, index=3).to_atoms())


def test_info_and_host_arrays_are_copied_as_ase_copies_them():
    atoms = ase.Atoms("HO", positions=np.eye(3)[:2], info={"deep": {}})
    atoms.arrays["words"] = np.array(["a", "b"])
    data = from_atoms(atoms)
    atoms.info["new"] = 1
    atoms.arrays["words"][0] = "z"
    found = to_atoms(data)
    assert found.info == {"deep": {}}
    assert found.arrays["words"].tolist() == ["a", "b"]
    found.info["other"] = 2
    assert "other" not in to_atoms(data).info


def test_arrays_of_unusual_types_that_changed_are_not_rounded():
    atoms = ase.Atoms("HO", positions=np.eye(3)[:2])
    atoms.arrays |= {"positions": np.eye(3, dtype=int)[:2], "mine": np.array([1, 2], np.int8)}
    data = from_atoms(atoms)
    data.positions = data.positions + 0.25
    data.mine_int = [300, 2]
    found = to_atoms(data)
    assert (found.positions == np.eye(3)[:2] + 0.25).all()
    assert found.arrays["mine"].tolist() == [300, 2]
