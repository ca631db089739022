"""Calculators under the facades: whose numbers, how many calculations, and what is left in them."""

import ase.md.verlet
import ase.optimize
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.calculator import CalculationFailed, all_changes
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms, Hookean
from ase.io import Trajectory

from nvdyn_ase.atoms import unwrapped
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.md import VelocityVerlet
from nvdyn_ase.optimize import FIRE
from tests.atoms.calculators import CountingEMT, Watchful
from tests.systems import mixed, with_velocities


def copper(seed=0):
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.1, seed=seed)
    return atoms


@pytest.fixture(params=["environment", "argument"])
def engine(request, monkeypatch):
    """Return the options that send a single Atoms through the engine."""
    if request.param == "argument":
        return {"engine": True}
    monkeypatch.setenv("NVDYN_ASE_ENGINE", "always")
    return {}


@pytest.mark.parametrize("make", [CountingEMT, Watchful])
def test_a_single_atoms_keeps_its_calculator(make, engine):
    ours, theirs = copper(), copper()
    calculator = ours.calc = make()
    theirs.calc = make()
    FIRE(ours, logfile=None, **engine).run(fmax=0.01, steps=15)
    ase.optimize.FIRE(theirs, logfile=None).run(fmax=0.01, steps=15)
    assert ours.calc is calculator
    # ASE asks for energy and forces one after the other; some calculators start twice for that.
    assert calculator.count == 16
    assert theirs.calc.count == (16 if make is CountingEMT else 32)
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-12)
    before = calculator.count
    energy, forces = ours.get_potential_energy(), ours.get_forces()
    assert calculator.count == before
    assert energy == pytest.approx(theirs.get_potential_energy(), abs=1e-12)
    np.testing.assert_allclose(forces, theirs.get_forces(), atol=1e-12)
    assert calculator.results["energy"] == energy
    assert not any(key in vars(calculator) for key in ("calculate", "check_state"))


@pytest.mark.parametrize("interval", [1, 3])
def test_whoever_looks_costs_no_calculation(interval, engine, tmp_path):
    counts = []
    for make, options, name in ((FIRE, engine, "ours"), (ase.optimize.FIRE, {}, "theirs")):
        atoms = copper()
        atoms.calc = CountingEMT()
        file = str(tmp_path / f"{name}.traj")
        optimizer = make(atoms, logfile=str(tmp_path / name), trajectory=file, **options)
        seen = []
        optimizer.attach(lambda a=atoms, s=seen: s.append(a.get_potential_energy()), interval)
        optimizer.run(fmax=0.02, steps=12)
        with Trajectory(file) as images:
            energies = [image.get_potential_energy() for image in images]
        counts.append((atoms.calc.count, seen, energies))
    assert counts[0][0] == counts[1][0]
    np.testing.assert_allclose(counts[0][1], counts[1][1], atol=1e-12)
    np.testing.assert_allclose(counts[0][2], counts[1][2], atol=1e-12)


def test_molecular_dynamics_of_a_single_atoms(engine):
    runs = []
    for make, options in ((VelocityVerlet, engine), (ase.md.verlet.VelocityVerlet, {})):
        atoms = with_velocities(copper(), seed=1)
        atoms.calc = CountingEMT()
        make(atoms, timestep=2 * units.fs, **options).run(8)
        runs.append(atoms)
    assert runs[0].calc.count == runs[1].calc.count
    np.testing.assert_allclose(runs[0].positions, runs[1].positions, atol=1e-12)
    np.testing.assert_allclose(runs[0].get_momenta(), runs[1].get_momenta(), atol=1e-12)


@pytest.mark.parametrize("kind", ["own", "shared", "batched own", "batched shared"])
def test_a_list_leaves_the_results_of_its_last_positions(kind):
    systems = mixed(7)
    systems[0].set_constraint([FixAtoms([0]), Hookean(0, 1, k=1.0, rt=2.0)])
    make = EMT if "batched" in kind else CountingEMT
    one = make()
    for atoms in systems:
        atoms.calc = one if "shared" in kind else make()
    calculators = [atoms.calc for atoms in systems]
    optimizer = FIRE(systems, logfile=None)
    optimizer.run(fmax=0.05, steps=10)
    if make is CountingEMT:
        assert sum(c.count for c in set(calculators)) == sum(
            r.evaluations for r in optimizer.results
        )
    counted = [getattr(c, "count", 0) for c in calculators]
    for atoms, calculator, result in zip(systems, calculators, optimizer.results, strict=True):
        twin = atoms.copy()
        twin.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(twin.get_potential_energy(), abs=1e-9)
        np.testing.assert_allclose(atoms.get_forces(), twin.get_forces(), atol=1e-9)
        assert unwrapped(atoms.calc) is calculator
        assert (atoms.calc is calculator) == ("shared" not in kind)
        assert result.outcome in (Outcome.CONVERGED, Outcome.BUDGET)
    assert counted == [getattr(c, "count", 0) for c in calculators]


def test_a_second_run_starts_from_what_the_first_left():
    systems = [copper(seed) for seed in range(3)]
    one = CountingEMT()
    for atoms in systems:
        atoms.calc = one
    FIRE(systems, logfile=None).run(fmax=0.05, steps=3)
    count = one.count
    optimizer = FIRE(systems, logfile=None)
    optimizer.run(fmax=100.0, steps=3)
    assert one.count == count
    assert all(result.converged for result in optimizer.results)


def test_a_calculator_that_fails_is_one_systems_problem():
    class Fragile(CountingEMT):
        def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
            super().calculate(atoms, properties, system_changes)
            if self.count == 3:
                raise CalculationFailed("no more")

    systems = [copper(seed) for seed in range(3)]
    for index, atoms in enumerate(systems):
        atoms.calc = Fragile() if index == 1 else CountingEMT()
    twin = systems[2].copy()
    twin.calc = EMT()
    optimizer = FIRE(systems, logfile=None)
    optimizer.run(fmax=0.01, steps=6)
    ase.optimize.FIRE(twin, logfile=None).run(fmax=0.01, steps=6)
    np.testing.assert_allclose(systems[2].positions, twin.positions, atol=1e-12)
    outcomes = [result.outcome for result in optimizer.results]
    assert outcomes[1] is Outcome.ERROR
    assert optimizer.results[1].reason == "Fragile raised CalculationFailed: no more"
    assert Outcome.ERROR not in (outcomes[0], outcomes[2])
    assert systems[1].calc.count == 3


def test_what_an_observer_changes_is_taken_up():
    runs = []
    for options in ({"engine": True}, {"engine": False}):
        atoms = with_velocities(copper(), seed=1)
        atoms.calc = CountingEMT()
        dynamics = VelocityVerlet(atoms, timestep=2 * units.fs, **options)

        def kick(atoms=atoms, dynamics=dynamics):
            if dynamics.nsteps == 3:
                atoms.set_momenta(atoms.get_momenta() * 0.5)
            if dynamics.nsteps == 5:
                atoms.positions[0] += 0.05

        dynamics.attach(kick)
        dynamics.run(10)
        runs.append(atoms)
    assert runs[0].calc.count == runs[1].calc.count
    np.testing.assert_allclose(runs[0].positions, runs[1].positions, atol=1e-12)
    np.testing.assert_allclose(runs[0].get_momenta(), runs[1].get_momenta(), atol=1e-12)


@pytest.mark.parametrize("shared", [True, False])
def test_what_calculators_find_besides_survives_systems_that_leave_early(shared):
    systems = [copper(seed) for seed in range(6)]
    one = Watchful(k=3.0)
    for index, atoms in enumerate(systems):
        atoms.positions *= 0.002 * 2**index
        atoms.calc = one if shared else Watchful(k=3.0)
    calculators = {id(unwrapped(atoms.calc)): unwrapped(atoms.calc) for atoms in systems}
    optimizer = FIRE(systems, logfile=None)
    optimizer.run(fmax=0.02, steps=300)
    assert all(result.converged for result in optimizer.results)
    steps = [result.steps for result in optimizer.results]
    assert len(set(steps)) > 3
    count = sum(calculator.count for calculator in calculators.values())
    assert count == sum(result.evaluations for result in optimizer.results)
    for atoms in systems:
        np.testing.assert_allclose(atoms.get_dipole_moment(), atoms.positions.sum(axis=0))
        assert atoms.get_potential_energy() == pytest.approx(3.0 * (atoms.positions**2).sum())
    assert count == sum(calculator.count for calculator in calculators.values())
