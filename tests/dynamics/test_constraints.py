"""Constraints of a batch do what ``ase.Atoms`` does with each system, in the order of its user."""

import importlib.util
import pickle

import ase
import numpy as np
import pytest
import torch
from ase import units
from ase.build import molecule
from ase.cell import Cell
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixCom, FixedPlane, Hookean
from ase.geometry import find_mic
from ase.stress import voigt_6_to_full_3x3_stress

from nvdyn_ase.atoms import HostConstraint, batch_from_atoms, batch_to_atoms, from_atoms
from nvdyn_ase.atoms.descriptions import Surroundings, descriptions, say_the_same, undescribed
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import LBFGS, NVE, ConvergenceHook, Langevin
from nvdyn_ase.dynamics.constraints import BatchConstraints, Tether
from nvdyn_ase.dynamics.constraints.bond_lengths import levels
from nvdyn_ase.dynamics.constraints.bond_sweeps import swept_torch
from nvdyn_ase.dynamics.constraints.minimum_image import MinimumImage
from nvdyn_ase.dynamics.constraints.vectors import completed
from nvdyn_ase.dynamics.matrices import inverse
from nvdyn_ase.models import EMT
from tests.atoms.constrained import MAKERS, constrained, free_molecule, mixed_up, symmetric
from tests.systems import with_velocities

SPGLIB = importlib.util.find_spec("spglib") is not None
KINDS = [*MAKERS, *(["FixSymmetry"] if SPGLIB else [])]


class Given:
    """A calculator that answers what it was told."""

    def __init__(self, forces, stress):
        self.forces, self.stress = forces, stress

    def get_forces(self, atoms):
        return self.forces.copy()

    def get_stress(self, atoms):
        return self.stress.copy()

    def get_potential_energy(self, atoms, force_consistent=False):
        return 0.0


def of_kind(kind, seeds=8):
    if kind == "FixSymmetry":
        return [symmetric(seed) for seed in range(seeds)]
    return [constrained(kind, seed) for seed in range(seeds)]


def hosted(batch, structures):
    """Return the same batch with all constraints on the host."""
    twin = batch.clone()
    del twin["fixed"]
    twin.constraints = [
        (HostConstraint(atoms),) if atoms.constraints else () for atoms in structures
    ]
    return twin


def close(ours, theirs, scale=1.0):
    np.testing.assert_allclose(np.asarray(ours), np.concatenate(theirs), rtol=1e-12, atol=1e-12)


def check_against_ase(structures, seed=0):
    rng = np.random.default_rng(seed)
    # Each is where its constraints have been: bonds know their lengths.
    for atoms in structures:
        atoms.set_positions(atoms.positions + 0.02 * rng.normal(size=atoms.positions.shape))
    batch = batch_from_atoms(structures, copy_constraints=False)
    if "fixed" not in batch:
        batch["fixed"] = torch.zeros(batch.num_nodes, dtype=torch.bool)
    paths = [batch, hosted(batch, structures)]
    known = [BatchConstraints(each) for each in paths]
    ptr = batch.host_ptr
    cuts = [slice(*ptr[row : row + 2]) for row in range(len(batch))]
    for _ in range(2):
        step, raw, velocities = (
            scale * rng.normal(size=(batch.num_nodes, 3)) for scale in (0.05, 1.0, 0.1)
        )
        stress = rng.normal(size=(len(batch), 6))
        full = np.stack([voigt_6_to_full_3x3_stress(own) for own in stress])
        strain = np.eye(3) + 0.01 * rng.normal(size=(len(batch), 3, 3))
        for atoms, cut, own in zip(structures, cuts, stress, strict=True):
            atoms.calc = Given(raw[cut], own)
            atoms.set_momenta(velocities[cut] * atoms.get_masses()[:, None])
        for each, constraints in zip(paths, known, strict=True):
            each["forces"] = torch.tensor(raw)
            old = each["positions"]
            allowed = constraints.velocities(each, torch.tensor(velocities))
            close(allowed, [atoms.get_velocities() for atoms in structures])
            for md in (False, True):
                expected = [atoms.get_forces(md=md) for atoms in structures]
                close(constraints.forces(each, md=md), expected)
            energy = constraints.energy(each, torch.zeros(len(each), 1, dtype=torch.float64))
            close(energy.view(-1), [[atoms.get_potential_energy()] for atoms in structures])
            expected = [atoms.get_stress(voigt=False)[None] for atoms in structures]
            close(constraints.stress(each, torch.tensor(full)), expected)
            cells = each["cell"] @ torch.tensor(strain)
            found = constraints.cell(each, each["cell"], cells)
            stored = []
            for atoms, cell in zip(structures, cells.numpy(), strict=True):
                twin = atoms.copy()
                twin.set_constraint(atoms.constraints)
                twin.set_cell(cell)
                stored.append(twin.cell.array[None])
            close(found, stored)
            each["positions"] = constraints.positions(each, old, old + torch.tensor(step))
            assert constraints.are_of(each)
            assert not any(mask.any() for mask, _ in constraints.failures())
        for atoms, cut in zip(structures, cuts, strict=True):
            atoms.set_positions(atoms.positions + step[cut])
        for each in paths:
            close(each["positions"], [atoms.positions for atoms in structures])
    return batch, known


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_does_what_ase_does(kind):
    structures = [*of_kind(kind), free_molecule()]
    batch, (native, host) = check_against_ase(structures)
    own = [each for each in batch.constraints if each]
    if kind == "FixAtoms":
        assert not own and native.fixed is not None
    else:
        assert len(own) == 8
        assert not any(isinstance(c, HostConstraint) for each in own for c in each)
    if kind == "FixSymmetry":
        sizes = [[3.0 * len(atoms)] for atoms in structures]
        for constraints in (native, host):
            assert constraints.degrees_of_freedom(batch, needed=False).tolist() == sizes
            assert not constraints.take_raised()
            for _ in range(2):  # it is said whenever it matters
                assert constraints.degrees_of_freedom(batch).tolist() == sizes
                assert sorted(constraints.take_raised()) == [*range(8)]
        return
    expected = [atoms.get_number_of_degrees_of_freedom() for atoms in structures]
    assert native.degrees_of_freedom(batch).view(-1).tolist() == expected
    assert host.degrees_of_freedom(batch).view(-1).tolist() == expected


@pytest.mark.parametrize("seed", range(12))
def test_any_number_of_them_in_the_order_of_their_user(seed):
    structures = [mixed_up(100 * seed + i) for i in range(8)]
    batch, (native, _) = check_against_ase(structures, seed)
    expected = [atoms.get_number_of_degrees_of_freedom() for atoms in structures]
    assert native.degrees_of_freedom(batch).view(-1).tolist() == expected


# -------------------------------------------------------------------------------- who acts


class Own(FixCartesian):
    """A subclass: what it does is for it to say."""

    def adjust_forces(self, atoms, forces):
        forces[self.index] = 1.0


def test_a_subclass_and_what_is_strange_go_their_own_way_with_all_of_their_system():
    patched = FixCartesian([1])
    patched.adjust_forces = lambda atoms, forces: None
    doubled = FixAtoms([0, -8])  # one atom twice
    listed = FixAtoms([1])
    listed.index = [1]
    for constraint in (Own([1]), patched, doubled, Hookean(0, 1, k=1.0)):
        atoms = free_molecule()
        atoms.set_constraint([FixCom(), constraint])
        (own,) = batch_from_atoms([atoms]).constraints[0]
        assert isinstance(own, HostConstraint)
    atoms.set_constraint([FixCom(), listed])
    assert not any(isinstance(own, HostConstraint) for own in from_atoms(atoms).constraints)
    structures = [free_molecule() for _ in range(3)]
    structures[0].set_constraint([FixCom(), Own([1]), FixedPlane([1], (1, 2, 3))])
    structures[2].set_constraint([FixCartesian([0]), FixCom()])
    check_against_ase(structures)


def test_many_constraints_on_different_atoms_are_one():
    atoms = free_molecule()
    planes = [FixedPlane(i, (0, 1, i)) for i in range(5)]
    atoms.set_constraint(
        [FixAtoms([7]), FixCartesian([6], (1, 0, 0)), *planes, FixedPlane(0, (1, 0, 0))]
    )
    batch = batch_from_atoms([atoms])
    assert [len(own.index) for own in batch.constraints[0]] == [2, 5, 1]
    assert len(BatchConstraints(batch)._kinds) == 3
    check_against_ase([atoms])


class Pinned:
    """An object that follows the protocol and knows nothing of ASE."""

    has_potential = False

    def adjust_positions(self, old, new, cell):
        return old

    def adjust_forces(self, positions, cell, forces, md):
        return 0.0 * forces

    def adjust_momenta(self, positions, cell, momenta):
        return 0.0 * momenta

    def adjust_noise(self, noise):
        return noise

    def removed_dof(self):
        return 5


def test_objects_and_descriptions_mix_in_a_system():
    data = from_atoms(free_molecule())
    data.constraints = (Tether(np.array([0]), np.ones(3), 2.0, 0.1, None), Pinned())
    batch = Batch.from_data_list([data, from_atoms(free_molecule())])
    batch["forces"] = torch.ones(batch.num_nodes, 3, dtype=torch.float64)
    constraints = BatchConstraints(batch)
    assert constraints.forces(batch)[:8].eq(0).all() and constraints.forces(batch)[8:].eq(1).all()
    assert constraints.degrees_of_freedom(batch).view(-1).tolist() == [19, 24]
    stress = torch.ones(2, 3, 3, dtype=torch.float64)
    assert constraints.stress(batch, stress) is stress
    assert constraints.cell(batch, batch["cell"], stress) is stress


@pytest.mark.parametrize("kind", KINDS)
def test_what_atoms_are_made_of_descriptions_alone(kind):
    for atoms in of_kind(kind, 4):
        (own,) = descriptions(atoms)
        again = undescribed(own, atoms)
        assert say_the_same(atoms, again, [own])
        bare = atoms.copy()
        bare.set_constraint()
        data = from_atoms(bare)
        data.constraints = (own,)
        batch = Batch.from_data_list([pickle.loads(pickle.dumps(data)), from_atoms(bare)])
        one, other = batch_to_atoms(batch)
        assert say_the_same(one, one.constraints, [own]) and not other.constraints


# -------------------------------------------------------------------------------- bits

ENGINES = {
    "lbfgs": lambda: LBFGS(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "nve": lambda: NVE(EMT(), dt=0.05),
    "langevin": lambda: Langevin(EMT(), 0.05, 300.0, 0.02, seed=7),
}


def crowd():
    structures = [mixed_up(seed, 3) for seed in range(24)]
    structures += [symmetric(seed) for seed in range(2)] + [free_molecule()]
    structures.append(free_molecule())
    structures[-1].set_constraint([FixCom(), Own([0])])
    return [with_velocities(atoms, i) for i, atoms in enumerate(structures)]


def bits(engine, structures, indices):
    batch = batch_from_atoms([structures[i].copy() for i in indices], indices=indices)
    ENGINES[engine]().run(batch, n_steps=30)
    return {i: batch[[place]] for place, i in enumerate(indices)}


def equal(a, b):
    keys = ("positions", "velocities", "forces", "energy", "fmax", "outcome", "evaluations")
    return all(torch.equal(a[key].nan_to_num(), b[key].nan_to_num()) for key in keys)


@pytest.mark.parametrize("engine", ENGINES)
def test_alone_together_and_in_any_order(engine):
    structures = crowd()
    together = bits(engine, structures, list(range(len(structures))))
    shuffled = np.random.default_rng(0).permutation(len(structures)).tolist()
    others = bits(engine, structures, shuffled)
    for i in together:
        assert equal(together[i], others[i]), structures[i].constraints
        if i % 10 == 0:
            alone = bits(engine, structures, [i])[i]
            assert equal(together[i], alone), structures[i].constraints


@pytest.mark.parametrize("kind", KINDS)
def test_a_system_that_is_no_number_leaves_the_others_alone(kind):
    structures = of_kind(kind, 4)
    batch = batch_from_atoms(structures)
    results = []
    for lost in (False, True):
        generator = np.random.default_rng(1)
        batch = batch_from_atoms(structures)
        rows = [torch.tensor(generator.normal(size=(batch.num_nodes, 3))) for _ in range(3)]
        own = slice(*batch.host_ptr[1:3])
        batch["forces"], velocities, step = rows
        if lost:
            for tensor in (batch["positions"], batch["forces"], velocities, step):
                tensor[own] = float("nan")
        constraints = BatchConstraints(batch)
        zero = torch.zeros(len(batch), 1, dtype=torch.float64)
        found = [constraints.forces(batch), constraints.velocities(batch, velocities)]
        found.append(
            constraints.positions(batch, batch["positions"], batch["positions"] + 0.02 * step)
        )
        kept = torch.ones(batch.num_nodes, dtype=torch.bool)
        kept[own] = False
        energy = constraints.energy(batch, zero)[[0, 2, 3]]
        results.append([*(tensor[kept] for tensor in found), energy])
        assert not any(mask[[0, 2, 3]].any() for mask, _ in constraints.failures())
    assert all(map(torch.equal, *results))


# -------------------------------------------------------------------------------- bonds


def test_bonds_that_share_an_atom_stay_in_order():
    pairs = np.array([[0, 1], [2, 3], [1, 2], [4, 5], [0, 4], [3, 6]])
    assert [level.tolist() for level in levels(pairs)] == [[0, 1, 3], [2, 4, 5]]
    water = np.array([[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]])
    assert [level.tolist() for level in levels(water)] == [[0, 3], [1, 4], [2, 5]]


@pytest.mark.parametrize("seed", range(4))
def test_sweeps_as_torch_operations_are_those_of_the_loop(seed, monkeypatch):
    structures = [constrained("FixBondLengths", 4 * seed + i) for i in range(6)]
    triangle = [[0, 1], [1, 2], [0, 2]]
    structures[0].set_constraint(FixBondLengths(triangle, bondlengths=[1.0, 1.0, 9.0]))
    rng = np.random.default_rng(seed)
    batch = batch_from_atoms(structures)
    step = torch.tensor(0.05 * rng.normal(size=(batch.num_nodes, 3)))
    batch["forces"] = torch.tensor(rng.normal(size=(batch.num_nodes, 3)))
    results = []
    for _ in range(2):
        constraints = BatchConstraints(batch)
        results.append(
            [
                constraints.positions(batch, batch["positions"], batch["positions"] + step),
                constraints.velocities(batch, step),
                constraints.forces(batch),
                constraints.failures()[0][0],
            ]
        )
        monkeypatch.setattr("nvdyn_ase.dynamics.constraints.bond_lengths.swept", swept_torch)
    others = slice(int(batch.host_ptr[1]), None)
    for ours, theirs in zip(results[0][:3], results[1][:3], strict=True):
        np.testing.assert_allclose(ours[others], theirs[others], atol=1e-12)
    assert results[0][3].tolist() == results[1][3].tolist() == [True] + [False] * 5


def test_a_cell_that_changes_too_much_ends_its_system():
    batch = batch_from_atoms([symmetric(0), free_molecule()])
    constraints = BatchConstraints(batch)
    old = batch["cell"]
    assert not torch.equal(constraints.cell(batch, old, 1.1 * old), old)
    assert not constraints.failures()[0][0].any()
    assert torch.equal(constraints.cell(batch, old, 1.3 * old)[0], old[0])
    assert constraints.failures()[0][0].tolist() == [True, False]
    with pytest.raises(RuntimeError, match="large deformation"):
        symmetric(0).set_cell(1.3 * old[0].numpy())


def test_cells_are_completed_as_in_ase():
    cells = np.array([np.eye(3) * (1, 2, 0), [[1, 2, 3], [0, 0, 0], [2, 0, 1]], np.zeros((3, 3))])
    found = completed(torch.tensor(cells, dtype=torch.float64)).numpy()
    expected = [Cell(cell).complete() for cell in cells]
    np.testing.assert_allclose(found, expected, atol=1e-14)
    one = completed(torch.tensor([[[0.0, 0, 0], [0, 2, 1], [0, 0, 0]]], dtype=torch.float64))
    assert torch.linalg.det(one)[0] == pytest.approx(np.sqrt(5))
    np.testing.assert_allclose((inverse(one).matrix @ one)[0], np.eye(3), atol=1e-14)


@pytest.mark.parametrize("pbc", [(1, 1, 1), (1, 0, 0), (0, 1, 1), (0, 0, 0)])
def test_shortest_images_are_ases(pbc):
    rng = np.random.default_rng(2)
    for shear in (0.0, 0.8, 3.0):
        cell = np.diag([5.0, 6.0, 7.0]) + 5 * shear * np.tril(rng.uniform(-1, 1, (3, 3)), -1)
        atoms = ase.Atoms("H2", positions=np.zeros((2, 3)), cell=cell, pbc=pbc)
        batch = batch_from_atoms([atoms])
        vectors = rng.uniform(-20, 20, size=(200, 3))
        reduction = Surroundings(atoms).reduction
        image = MinimumImage(batch, torch.zeros(200, dtype=torch.int64), [reduction] * 200)
        expected = np.array([find_mic(vector, atoms.cell, atoms.pbc)[0] for vector in vectors])
        np.testing.assert_allclose(image(batch, torch.tensor(vectors)), expected, atol=1e-12)


def test_who_does_not_move_does_not_fail_to_be_held():
    waters = [molecule("H2O"), molecule("H2O")]
    for atoms in waters:
        atoms.set_constraint(FixBondLengths([[0, 1], [0, 2]]))
    flying = np.random.default_rng(0).normal(size=(3, 3)) * 50  # no correction can hold that
    waters[1].arrays["momenta"] = flying * waters[1].get_masses()[:, None]
    for mask, failing in (([True, False], [False, False]), ([True, True], [False, True])):
        batch, engine = batch_from_atoms(waters), NVE(EMT(), dt=1 * units.fs)
        batch["forces"] = torch.zeros_like(batch["positions"])
        engine.masked_update(batch, torch.tensor(mask))
        ((failed, _),) = engine.constraints(batch).failures()
        assert failed.tolist() == failing
