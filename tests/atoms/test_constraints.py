"""A ``HostConstraint`` does what ``ase.Atoms`` does with each of ASE's constraints."""

import copy
import importlib.util
import pickle

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCartesianParametricRelations,
    FixCom,
    FixedLine,
    FixedMode,
    FixedPlane,
    FixInternals,
    FixLinearTriatomic,
    FixScaled,
    FixScaledParametricRelations,
    FixSubsetCom,
    FixSymmetry,
    Hookean,
    MirrorForce,
    MirrorTorque,
)
from ase.stress import full_3x3_to_voigt_6_stress

from nvdyn_ase.atoms import HostConstraint, batch_from_atoms, from_atoms
from nvdyn_ase.atoms.constraints import copied, fixed_mask
from nvdyn_ase.dynamics.constraints import BatchConstraints


class Springs(Calculator):
    """Every atom on a spring to where it was first seen, and a stress that is made up."""

    implemented_properties = ("energy", "forces", "stress")

    def __init__(self):
        super().__init__()
        self.home = None

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.home = atoms.positions.copy() if self.home is None else self.home
        moved = atoms.positions - self.home
        forces = -1.7 * moved - 0.3 * np.sin(atoms.positions)
        stress = np.array([0.1, -0.2, 0.3, 0.05, -0.04, 0.02])
        self.results = {"energy": (moved**2).sum(), "forces": forces, "stress": stress}


def ethane(seed: int = 0) -> ase.Atoms:
    atoms = molecule("C2H6", cell=[8.0, 9.0, 10.0], pbc=True)
    atoms.rattle(0.02, seed=seed)
    return atoms


def carbon_dioxide(seed: int = 0) -> ase.Atoms:
    return molecule("CO2", cell=[8.0, 9.0, 10.0], pbc=True)


def copper(seed: int = 0) -> ase.Atoms:
    return bulk("Cu", cubic=True)


def parametric(kind, n: int = 8):
    return kind.from_expressions(
        list(range(n)),
        ["x"],
        [f"x + {0.1 * i}" if j == 0 else str(0.1 * j * i) for i in range(n) for j in range(3)],
    )


def random_mode(atoms):
    return np.random.default_rng(0).normal(size=(len(atoms), 3))


MAKERS = {
    "FixAtoms": (ethane, lambda a: [FixAtoms([0, -1])]),
    "FixCartesian": (ethane, lambda a: [FixCartesian([1, 2], mask=(True, False, True))]),
    "FixedLine": (ethane, lambda a: [FixedLine([0, 3], (1, 2, 3))]),
    "FixedPlane": (ethane, lambda a: [FixedPlane([0, 3], (1, 2, 3))]),
    "FixedMode": (ethane, lambda a: [FixedMode(random_mode(a))]),
    "FixCom": (ethane, lambda a: [FixCom()]),
    "FixSubsetCom": (ethane, lambda a: [FixSubsetCom([0, 1, 2])]),
    "FixScaled": (ethane, lambda a: [FixScaled([0, 1], mask=(True, False, True))]),
    "FixBondLengths": (ethane, lambda a: [FixBondLengths([[0, 1], [0, 2]])]),
    "FixInternals": (
        ethane,
        lambda a: [
            FixInternals(
                bonds=[[None, [0, 1]]],
                angles_deg=[[None, [2, 0, 1]]],
                dihedrals_deg=[[None, [2, 0, 1, 5]]],
                mic=True,
            )
        ],
    ),
    "FixLinearTriatomic": (carbon_dioxide, lambda a: [FixLinearTriatomic([(1, 0, 2)])]),
    "Hookean": (ethane, lambda a: [Hookean(0, 1, k=3.0, rt=1.0)]),
    "Hookean point": (ethane, lambda a: [Hookean(0, (0.0, 0.0, 5.0), k=3.0, rt=1.0)]),
    "Hookean plane": (ethane, lambda a: [Hookean(0, (0.0, 0.0, 1.0, -3.0), k=3.0)]),
    "ExternalForce": (ethane, lambda a: [ExternalForce(0, 1, 0.7)]),
    "MirrorForce": (ethane, lambda a: [FixAtoms([4]), MirrorForce(0, 1)]),
    "MirrorForce far": (ethane, lambda a: [MirrorForce(0, 1, max_dist=1.0)]),
    "MirrorTorque": (ethane, lambda a: [MirrorTorque(2, 0, 1, 5), FixAtoms([3])]),
    "scaled relations": (ethane, lambda a: [parametric(FixScaledParametricRelations)]),
    "cartesian relations": (ethane, lambda a: [parametric(FixCartesianParametricRelations)]),
    "several": (
        ethane,
        lambda a: [Hookean(0, 1, k=3.0, rt=1.0), FixAtoms([0]), FixBondLengths([[1, 5]]), FixCom()],
    ),
    "FixSymmetry": (copper, lambda a: [FixSymmetry(a)]),
}


@pytest.fixture(params=sorted(MAKERS))
def made(request):
    """Return two equal structures with equal constraints."""
    if "Symmetry" in request.param and importlib.util.find_spec("spglib") is None:
        pytest.skip("FixSymmetry needs spglib")
    build, make = MAKERS[request.param]
    pair = []
    for _ in range(2):
        atoms = build()
        atoms.set_constraint(make(atoms))
        pair.append(atoms)
    return pair


@pytest.mark.parametrize("copies", [True, False])
def test_a_host_constraint_does_what_atoms_do(made, copies):
    theirs, ours = made
    host = HostConstraint(ours, copy_constraints=copies)
    theirs.calc, raw = Springs(), Springs()
    rng = np.random.default_rng(3)
    positions, cell = ours.positions.copy(), ours.cell.array.copy()
    raw.get_forces(ours)  # the springs know their home
    theirs.get_forces()
    for _ in range(4):
        wanted = positions + 0.05 * rng.normal(size=positions.shape)
        positions = host.adjust_positions(positions, wanted, cell)
        theirs.set_positions(wanted)
        assert (positions == theirs.positions).all()

        here = ase.Atoms(ours.numbers, positions, cell=cell, pbc=ours.pbc)
        forces, stress = raw.get_forces(here), raw.get_stress(here)
        for md in (False, True):
            found = host.adjust_forces(positions, cell, forces, md)
            assert (found == theirs.get_forces(md=md)).all()
        added = host.adjust_potential_energy(positions, cell)
        assert raw.get_potential_energy(here) + added == pytest.approx(
            theirs.get_potential_energy(), abs=1e-14
        )
        assert host.has_potential or added == 0.0
        full = host.adjust_stress(positions, cell, _full(stress))
        assert (full_3x3_to_voigt_6_stress(full) == theirs.get_stress()).all()
        assert host.adjusts_stress or (full == _full(stress)).all()

        momenta = rng.normal(size=positions.shape)
        theirs.set_momenta(momenta)
        assert (host.adjust_momenta(positions, cell, momenta) == theirs.get_momenta()).all()

        strained = cell @ (np.eye(3) + 0.001 * rng.normal(size=(3, 3)))
        found = host.adjust_cell(cell, strained, positions)
        theirs.set_cell(strained)
        assert (found == theirs.cell.array).all()
        assert host.adjusts_cell or (found == strained).all()
        cell = found
    assert _removed(host.removed_dof) == _removed(
        lambda: sum(c.get_removed_dof(theirs) for c in theirs.constraints)
    )


def _removed(count):
    try:
        return count()
    except NotImplementedError:
        return None


def _full(voigt):
    xx, yy, zz, yz, xz, xy = voigt
    return np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])


def test_arguments_are_not_written_to(made):
    _, atoms = made
    host = HostConstraint(atoms)
    before = atoms.copy()
    given = [atoms.positions + 0.01, atoms.cell.array.copy(), np.ones((len(atoms), 3))]
    kept = copy.deepcopy(given)
    host.adjust_positions(atoms.positions, given[0], given[1])
    host.adjust_forces(given[0], given[1], given[2], md=False)
    host.adjust_momenta(given[0], given[1], given[2])
    assert all((a == b).all() for a, b in zip(given, kept, strict=True))
    assert atoms == before


def test_copies_keep_to_themselves_what_they_learn():
    atoms = ethane()
    atoms.set_constraint(FixBondLengths([[0, 1]]))
    moved = atoms.positions + 0.01
    HostConstraint(atoms).adjust_positions(atoms.positions, moved, atoms.cell.array)
    assert atoms.constraints[0].bondlengths is None
    own = HostConstraint(atoms, copy_constraints=False)
    own.adjust_positions(atoms.positions, moved, atoms.cell.array)
    assert atoms.constraints[0].bondlengths is not None


def test_constraints_that_hold_on_to_their_atoms():
    class Follower(FixAtoms):
        def __init__(self, atoms):
            super().__init__([0])
            self.atoms = atoms

        def adjust_forces(self, atoms, forces):
            assert self.atoms is atoms
            forces[0] = atoms.positions[0]

    atoms = ethane()
    atoms.set_constraint(Follower(atoms))
    host = HostConstraint(atoms)
    positions = atoms.positions + 1.0
    found = host.adjust_forces(positions, atoms.cell.array, np.zeros((8, 3)), md=False)
    assert (found[0] == positions[0]).all()


def test_pickling(made):
    _, atoms = made
    host = pickle.loads(pickle.dumps(HostConstraint(atoms)))
    ours = HostConstraint(atoms)
    forces = np.arange(3.0 * len(atoms)).reshape(-1, 3)
    args = (atoms.positions, atoms.cell.array, forces, False)
    assert (host.adjust_forces(*args) == ours.adjust_forces(*args)).all()
    assert repr(host) == repr(ours)


def test_batches_hold_each_system_by_its_own_constraints():
    systems = []
    for build, make in (MAKERS[k] for k in ("FixAtoms", "Hookean", "FixCartesian", "several")):
        atoms = build()
        atoms.set_constraint(make(atoms))
        atoms.calc = Springs()
        systems.append(atoms)
    batch = batch_from_atoms(systems)
    raw = [atoms.get_forces(apply_constraint=False) for atoms in systems]
    batch["forces"] = torch.as_tensor(np.concatenate(raw))
    forces = BatchConstraints(batch).forces(batch).numpy()
    expected = np.concatenate([atoms.get_forces() for atoms in systems])
    np.testing.assert_allclose(forces, expected, atol=1e-12)


def test_which_constraints_are_a_field():
    assert fixed_mask([FixAtoms([0]), FixAtoms([-1])], 3).tolist() == [True, False, True]
    assert fixed_mask([], 2).tolist() == [False, False]
    assert fixed_mask([FixAtoms([0]), FixAtoms([0])], 3) is None
    assert fixed_mask([FixAtoms([0]), FixCartesian([0])], 3) is None
    with pytest.raises(ValueError, match="atom 5, but there are 3"):
        fixed_mask([FixAtoms([5])], 3)


def test_copies_share_nothing():
    constraints = [FixAtoms([0, 1])]
    twins = copied(constraints)
    twins[0].index[0] = 7
    assert constraints[0].index.tolist() == [0, 1]


def test_the_users_own_objects_are_called_if_they_shall_be():
    atoms = ethane()
    atoms.set_constraint(MirrorForce(0, 1))
    assert from_atoms(atoms).constraints[0].constraints[0] is not atoms.constraints[0]
    data = from_atoms(atoms, copy_constraints=False)
    assert data.constraints[0].constraints[0] is atoms.constraints[0]
