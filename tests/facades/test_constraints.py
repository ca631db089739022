"""Constraints in a list: every step ASE's, for every kind, among systems with others and none."""

import ase.filters
import ase.md
import ase.optimize
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixScaled,
    Hookean,
)

from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.md import Langevin, VelocityVerlet
from nvdyn_ase.optimize import FIRE, LBFGS
from tests.atoms.constrained import MAKERS, constrained, free_molecule, mixed_up, symmetric
from tests.facades.test_parity import trajectory
from tests.systems import with_velocities

METHODS = {
    "FIRE": (ase.optimize.FIRE, FIRE, {"logfile": None}),
    "LBFGS": (ase.optimize.LBFGS, LBFGS, {"logfile": None}),
    "VelocityVerlet": (ase.md.VelocityVerlet, VelocityVerlet, {"timestep": 0.5 * units.fs}),
    "Langevin": (
        *(ase.md.Langevin, Langevin),
        {"timestep": 0.5 * units.fs, "temperature_K": 300, "friction": 0.02, "fixcm": False},
    ),
}
methods = pytest.mark.parametrize("method", METHODS)


class Springy(FixAtoms):
    """A constraint of a user's own, of which nobody but its user knows anything."""

    def adjust_forces(self, atoms, forces):
        forces[self.index] *= 0.25

    def adjust_momenta(self, atoms, momenta):
        pass

    def adjust_positions(self, atoms, new):
        new[self.index, 2] = atoms.positions[self.index, 2]


def everything(seed):
    # A mode is taken out of momenta, but out of steps too: with unequal masses atoms fly apart.
    at_ease = [2 + seed % 2 if kind == "FixedMode" else seed + i for i, kind in enumerate(MAKERS)]
    structures = [constrained(kind, i) for kind, i in zip(MAKERS, at_ease, strict=True)]
    structures += [symmetric(seed), free_molecule(), mixed_up(seed, 3)]
    structures.append(free_molecule())
    structures[-1].set_constraint([FixCom(), Springy([0, 3]), FixCartesian([1], (1, 0, 0))])
    for i, atoms in enumerate(structures):
        atoms.calc = EMT()
        with_velocities(atoms, 10 * seed + i, temperature=200.0)
    return structures


@methods
@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_every_step_is_ases(method, seed):
    theirs, ours, options = METHODS[method]
    together, singles = everything(seed), everything(seed)
    rngs = [[np.random.default_rng(i) for i in range(len(singles))] for _ in range(2)]
    noise = {"rng": rngs[0]} if method == "Langevin" else {}
    # L-BFGS amplifies the last bit: ASE against ASE, one ulp apart, differs by 8e-11 Å at step 20.
    steps = 15 if method == "LBFGS" else 40
    frames = trajectory(ours(together, **options, **noise), together, steps)
    for index, atoms in enumerate(singles):
        noise = {"rng": rngs[1][index]} if method == "Langevin" else {}
        expected = trajectory(theirs(atoms, **options, **noise), [atoms], steps)
        for step, (ours_now, theirs_now) in enumerate(zip(frames, expected, strict=True)):
            error = np.abs(ours_now[index] - theirs_now[0]).max()
            if not np.isfinite(theirs_now[0]).all():
                break  # ASE's LBFGS after a step that moved nothing
            assert error < 1e-10, (index, atoms.constraints, step, error)
        if np.isfinite(atoms.positions).all():
            np.testing.assert_allclose(
                together[index].get_momenta(), atoms.get_momenta(), atol=1e-9
            )
            energies = [one.get_potential_energy() for one in (together[index], atoms)]
            assert energies[0] == pytest.approx(energies[1], abs=1e-9)


def relaxable(constraints):
    atoms = molecule("C2H6", calculator=EMT())
    atoms.rattle(0.05, seed=1)
    atoms.set_constraint(constraints)
    return atoms


def test_objects_of_the_user_come_back_and_have_learned():
    bonds, line = FixBondLengths([[0, 1]]), FixedLine([2], (0, 0, 1))
    structures = [relaxable([bonds, line]), relaxable(FixAtoms([0]))]
    length = structures[0].get_distance(0, 1)
    VelocityVerlet(structures, units.fs).run(5)
    assert structures[0].constraints == [bonds, line]
    assert bonds.bondlengths == pytest.approx([length])
    assert structures[0].get_distance(0, 1) == pytest.approx(length, abs=1e-12)


def test_lengths_are_learned_where_the_atoms_are_when_it_begins():
    structures = [relaxable(FixBondLengths([[0, 1]])), relaxable([])]
    dynamics = FIRE(structures, logfile=None)
    structures[0].positions[0] += 0.1
    length = structures[0].get_distance(0, 1)
    dynamics.run(steps=3)
    assert structures[0].get_distance(0, 1) == pytest.approx(length, abs=1e-12)


def edit_in_place(atoms):
    atoms.constraints[0].dir = np.array([1.0, 0.0, 0.0])


def replace(atoms):
    atoms.set_constraint([FixCartesian([2], (True, True, False)), FixCom()])


def remove(atoms):
    atoms.set_constraint()


@pytest.mark.parametrize("change", [edit_in_place, replace, remove])
def test_changes_of_constraints_are_taken_up(change):
    ends = []
    for several in (True, False):
        structures = [relaxable([FixedLine([2], (0, 0, 1))]), relaxable([])]
        moved = structures if several else structures[0]
        dynamics = (VelocityVerlet if several else ase.md.VelocityVerlet)(moved, units.fs)
        dynamics.run(4)
        change(structures[0])
        dynamics.run(4)
        ends.append(structures[0].positions.copy())
    np.testing.assert_allclose(*ends, atol=1e-10)


@pytest.mark.parametrize("facade", [FIRE, VelocityVerlet])
def test_bonds_that_cannot_be_had_end_their_system_alone(facade):
    impossible = FixBondLengths([[0, 1], [1, 2], [0, 2]], bondlengths=[1.0, 1.0, 9.0])
    structures = [relaxable([]), relaxable(impossible), relaxable(FixBondLengths([[0, 1]]))]
    singles = [relaxable([]), relaxable(FixBondLengths([[0, 1]]))]
    options = {"timestep": units.fs} if facade is VelocityVerlet else {"logfile": None}
    before = structures[1].positions.copy()
    opt = facade(structures, **options)
    opt.run(steps=5)
    facade(singles, **options).run(steps=5)
    assert opt.results[1].outcome is Outcome.ERROR
    assert "did not converge" in opt.results[1].reason
    assert np.array_equal(structures[1].positions, before)
    assert opt.results[0].reason == opt.results[2].reason == ""
    for ours, alone in zip(structures[::2], singles, strict=True):
        assert np.array_equal(ours.positions, alone.positions)


@pytest.mark.parametrize(
    "constraint",
    [
        *(FixedPlane([9], (1, 0, 0)), FixScaled([0, -12], (True, True, True))),
        *(Hookean(0, 9, k=1.0, rt=1.0), FixBondLengths([[0, 9]]), ExternalForce(8, 0, 1.0)),
    ],
    ids=lambda c: type(c).__name__,
)
def test_atoms_that_are_not_there_are_named(constraint):
    structures = [relaxable([]), relaxable([FixCom(), constraint])]
    with pytest.raises(StructureError, match=r"structure 1.*names atom (9|-12|8), but there are 8"):
        FIRE(structures)


@pytest.mark.parametrize("kind", ["FrechetCellFilter", "UnitCellFilter"])
def test_cells_obey_too(kind):
    def made():
        structures = [symmetric(0), symmetric(1), symmetric(2)]
        structures[2].set_constraint([FixScaled([1], (True, False, True)), FixCartesian([2])])
        for atoms in structures:
            atoms.calc = EMT()
        return structures, [getattr(ase.filters, kind)(atoms) for atoms in structures]

    together, filtered = made()
    frames = trajectory(FIRE(filtered, logfile=None), together, 20)
    for index, (atoms, one) in enumerate(zip(*made(), strict=True)):
        expected = trajectory(ase.optimize.FIRE(one, logfile=None), [atoms], 20)
        for ours, theirs in zip(frames, expected, strict=True):
            np.testing.assert_allclose(ours[index], theirs[0], atol=1e-10)
        np.testing.assert_allclose(together[index].cell, atoms.cell, atol=1e-10)
