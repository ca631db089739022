"""Nosé-Hoover chains on lists with constraints: ASE's numbers, or a refusal that says why."""

import ase.md.nose_hoover_chain
import numpy as np
import pytest
from ase import units
from ase.build import molecule
from ase.calculators.emt import EMT
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLength,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedPlane,
    FixInternals,
    FixSubsetCom,
    Hookean,
)

from nvdyn_ase import dynamics, models
from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.dynamics.constraints.applied_again import move_again
from nvdyn_ase.md.nose_hoover_chain import NoseHooverChainNVT
from nvdyn_ase.workflows import molecular_dynamics
from tests.systems import with_velocities

BATH = {"temperature_K": 300.0, "tdamp": 50 * units.fs}
SAME = [
    lambda: FixAtoms([2]),
    lambda: FixCom(),
    lambda: [FixAtoms([2]), FixCartesian([2, 3], (True, False, True))],
    lambda: [FixedPlane([1], (1, 2, 3)), FixedLine([4], (0, 1, 1)), FixAtoms([0])],
    lambda: [FixedPlane([2], (1, 0, 0)), FixedPlane([2], (0, 1, 0))],
    lambda: [FixSubsetCom([0, 1, 2]), FixAtoms([4])],
    lambda: [Hookean(0, 1, k=2.0, rt=1.3), FixCom()],
    lambda: [ExternalForce(0, 1, 0.3), FixAtoms([3])],
]
OTHERS = [
    lambda: [FixAtoms([2]), FixCom()],
    lambda: [FixCom(), FixAtoms([2])],
    lambda: [FixedPlane([1], (1, 2, 3)), FixCom()],
    lambda: [FixedPlane([1], (1, 2, 3)), FixedLine([1], (0, 1, 3))],
    lambda: [FixSubsetCom([0, 1, 2]), FixAtoms([1])],
    lambda: FixBondLength(0, 1),
    lambda: FixInternals(bonds=[[1.4, [0, 1]]]),
]
others = pytest.mark.parametrize("constraint", OTHERS)
pytestmark = pytest.mark.filterwarnings("ignore:as in ASE, this thermostat:UserWarning")


def methanol(constraint=None, seed=4):
    atoms = molecule("CH3OH", calculator=EMT())
    atoms.rattle(0.03, seed=seed)
    with_velocities(atoms, seed, temperature=300.0)
    atoms.set_constraint(constraint)
    return atoms


def alone(atoms):
    return ase.md.nose_hoover_chain.NoseHooverChainNVT(atoms, 2 * units.fs, **BATH)


def test_what_lets_pass_what_it_has_let_pass_is_as_in_ase_for_a_hundred_steps():
    structures = [methanol(make(), seed) for seed, make in enumerate(SAME)]
    batched, frames = NoseHooverChainNVT(structures, 2 * units.fs, **BATH), []
    batched.attach(lambda: frames.append([[a.positions, a.get_momenta()] for a in structures]))
    batched.attach(lambda: frames.append(np.array(frames.pop())))
    batched.run(100)
    for index, make in enumerate(SAME):
        atoms, expected = methanol(make(), index), []
        theirs = alone(atoms)
        theirs.attach(lambda a=atoms, e=expected: e.append([a.positions.copy(), a.get_momenta()]))
        theirs.run(100)
        for step in range(101):
            error = np.abs(frames[step][index] - expected[step]).max()
            assert error < 1e-10, (index, step, error)


@pytest.mark.parametrize(
    ("constraint", "evaluations"), [*((make, 1) for make in SAME), *((make, 3) for make in OTHERS)]
)
def test_ase_computes_forces_thrice_where_constraints_move_atoms_again(constraint, evaluations):
    # Why a step with one forward pass cannot have ASE's numbers.
    atoms, places = methanol(constraint()), []
    theirs, ask = alone(atoms), atoms.calc.calculate
    theirs.run(1)

    def calculate(*arguments, **options):
        places.append(atoms.positions.copy())
        return ask(*arguments, **options)

    atoms.calc.calculate = calculate
    theirs.run(3)
    assert len(places) == 3 * evaluations


@others
def test_the_others_are_refused_in_a_list_and_named(constraint):
    structures = [methanol(), methanol(constraint())]
    before = [atoms.positions.copy() for atoms in structures]
    batched = NoseHooverChainNVT(structures, 2 * units.fs, **BATH)
    with pytest.raises(StructureError, match=r"structure 1.*constrained=True"):
        batched.run(3)
    for atoms, place in zip(structures, before, strict=True):
        assert np.array_equal(atoms.positions, place)


@others
def test_the_thermostat_that_knows_of_constraints_takes_them(constraint):
    structures = [methanol(), methanol(constraint())]
    batched = NoseHooverChainNVT(structures, units.fs, **BATH, constrained=True)
    batched.run(3)
    assert batched.results[1].reason == "" and batched.results[1].steps == 3


def test_constraints_that_come_on_the_way_are_looked_at():
    structures = [methanol(FixAtoms([1])), methanol(FixCom())]
    batched = NoseHooverChainNVT(structures, 2 * units.fs, **BATH)
    batched.run(2)
    structures[0].set_constraint([FixAtoms([1]), FixCom()])
    with pytest.raises(StructureError, match="structure 0"):
        batched.run(2)
    structures[0].set_constraint()
    batched.run(2)


def test_in_a_stream_they_are_refused_alone():
    stream = [methanol(), methanol(OTHERS[0]()), methanol(FixCom())]
    options = {"integrator": "NoseHooverChainNVT", "steps": 4, "timestep": units.fs}
    found = list(molecular_dynamics(stream, "emt", ordered=True, **options, **BATH))
    assert [one.outcome is Outcome.ERROR for one in found] == [False, True, False]
    assert "applied again" in found[1].reason


def test_who_does_not_move_is_not_refused():
    batch = batch_from_atoms([methanol(OTHERS[0]()), methanol(FixCom())])
    again = move_again(batch)
    assert again.tolist() == [True, False]
    engine = dynamics.NoseHooverChainNVT(models.EMT(), units.fs, 300.0, 5.0, as_ase=True)
    with pytest.raises(StructureError, match="structure 0"):
        engine.run(batch, 1)
    batch["status"] = again.long().view(-1, 1)
    assert engine.run(batch, 2)["steps"].view(-1).tolist() == [0, 2]
