"""What users change on the way, compared with what ASE makes of it."""

import io
import warnings

import ase.md
import ase.optimize
import numpy as np
import pytest
from ase.build import molecule
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms
from ase.io import read

from nvdyn_ase.dynamics import LoggingHook, Outcome
from nvdyn_ase.md import Langevin, VelocityVerlet
from nvdyn_ase.optimize import FIRE, FIRE2, MDMin
from nvdyn_ase.optimize.driver import AtomsDriver
from tests.facades.test_lists import Silent, metals
from tests.systems import with_velocities


def assert_as_in_ase(drive, count=3, **options):
    """Drive a list by the engine and each of its Atoms by ASE in the same way."""
    structures = metals(count)
    ours = FIRE(structures, logfile=None, **options)
    drive(ours, structures)
    for index, atoms in enumerate(metals(count)):
        drive(ase.optimize.FIRE(atoms, logfile=None, **options), [atoms])
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-12)
    return ours


def at_step(optimizer, step, change):
    optimizer.attach(change, interval=-step)


# -------------------------------------------------------------------------------- the Atoms


CHANGES = {
    "constraints": lambda atoms: atoms.set_constraint(FixAtoms([0])),
    "cell": lambda atoms: atoms.set_cell(atoms.cell * 1.02, scale_atoms=True),
    "positions": lambda atoms: atoms.rattle(0.05, seed=1),
    "calculator": lambda atoms: setattr(atoms, "calc", LennardJones(sigma=2.2, rc=5.0)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_two_runs(change):
    def drive(optimizer, structures):
        optimizer.run(fmax=0, steps=4)
        for atoms in structures:
            CHANGES[change](atoms)
        optimizer.run(fmax=0, steps=4)

    assert_as_in_ase(drive)


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_by_an_observer(change):
    def drive(optimizer, structures):
        at_step(optimizer, 3, lambda: [CHANGES[change](atoms) for atoms in structures])
        optimizer.run(fmax=0, steps=8)

    assert_as_in_ase(drive)


def test_other_parameters_of_a_calculator():
    def drive(optimizer, structures):
        optimizer.run(fmax=0, steps=4)
        for atoms in structures:
            atoms.calc.set(epsilon=0.1)
            atoms.calc.reset()  # ASE's would go on with the old forces for half a step
        optimizer.run(fmax=0, steps=4)

    def make():
        return metals(2, lambda: LennardJones(sigma=2.2, epsilon=0.3, rc=5.0))

    structures = make()
    drive(FIRE(structures, logfile=None), structures)
    for ours, atoms in zip(structures, make(), strict=True):
        drive(ase.optimize.FIRE(atoms, logfile=None), [atoms])
        np.testing.assert_allclose(ours.positions, atoms.positions, atol=1e-12)


def test_a_log_alone_does_not_write_to_the_atoms_at_every_step(monkeypatch):
    written = []
    original = AtomsDriver._write
    monkeypatch.setattr(AtomsDriver, "_write", lambda self: written.append(original(self)))
    FIRE(metals(2), logfile=io.StringIO()).run(fmax=0, steps=6)
    assert len(written) == 1


def test_a_new_calculator_has_the_results_of_its_own():
    structures = metals(2)
    optimizer = FIRE(structures, logfile=None)
    optimizer.run(fmax=0, steps=2)
    for atoms in structures:
        atoms.calc = LennardJones(sigma=2.2, rc=5.0)
    optimizer.run(fmax=0, steps=2)
    for atoms in structures:
        fresh = atoms.copy()
        fresh.calc = LennardJones(sigma=2.2, rc=5.0)
        assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy())


def test_a_change_before_a_generator_is_left():
    def drive(optimizer, structures):
        for _ in optimizer.irun(fmax=0, steps=20):
            if optimizer.nsteps == 4:
                for atoms in structures:
                    atoms.positions[0] += 0.3
                break

    assert_as_in_ase(drive)


def test_a_change_by_an_observer_that_raises():
    def drive(optimizer, structures):
        def change():
            for atoms in structures:
                atoms.positions[0] += 0.3
            raise KeyboardInterrupt

        at_step(optimizer, 4, change)
        with pytest.raises(KeyboardInterrupt):
            optimizer.run(fmax=0, steps=20)

    assert_as_in_ase(drive)


def test_a_change_before_the_first_run_costs_no_evaluation():
    atoms = molecule("H2O")
    atoms.calc = Silent()
    optimizer = FIRE([atoms], logfile=None)
    atoms.positions += 0.1
    optimizer.run(fmax=0, steps=3)
    assert atoms.calc.calls == 4


def test_a_structure_that_failed_moves_again_when_the_user_has_mended_it():
    structures = metals(3)
    whole = structures[1].positions.copy()
    structures[1].positions[0] = structures[1].positions[1]
    optimizer = FIRE(structures, logfile=None)
    assert not optimizer.run(fmax=0.05, steps=50)
    structures[1].positions[:] = whole
    assert optimizer.run(fmax=0.05, steps=50)
    assert [result.outcome for result in optimizer.results] == [Outcome.CONVERGED] * 3
    assert optimizer.results[1].reason == ""


# -------------------------------------------------------------------------------- the optimizer


def test_fmax_lowered_on_the_way_moves_on_who_had_converged():
    optimizer = FIRE(metals(3), logfile=None)
    at_step(optimizer, 12, lambda: setattr(optimizer, "fmax", 0.001))
    assert optimizer.run(fmax=0.1, steps=300) is True
    assert all(result.converged and result.fmax < 0.001 for result in optimizer.results)


def test_parameters_and_state_set_after_systems_have_left():
    def drive(optimizer, structures):
        def change():
            optimizer.dt = 0.03
            optimizer.vel = np.asarray(optimizer.vel) * 0.5
            optimizer.Nsteps = 10

        at_step(optimizer, 14, change)
        optimizer.run(fmax=0.03, steps=100)

    assert_as_in_ase(drive, count=6)


@pytest.mark.parametrize(("method", "name"), [(FIRE, "vel"), (FIRE2, "v"), (MDMin, "v")])
def test_the_velocity_can_be_taken_away(method, name):
    optimizer, fresh = method(metals(1), logfile=None), method(metals(1), logfile=None)
    optimizer.run(fmax=0, steps=1)
    fresh.atoms[0].positions[:] = optimizer.atoms[0].positions
    setattr(optimizer, name, None)
    assert getattr(optimizer, name) is None
    optimizer.run(fmax=0, steps=2)
    fresh.run(fmax=0, steps=2)
    assert np.array_equal(optimizer.atoms[0].positions, fresh.atoms[0].positions)


def test_the_downhill_steps_of_fire2_can_be_set():
    structures, references = metals(3), metals(3)
    optimizer = FIRE2(structures, logfile=None)
    at_step(optimizer, 3, lambda: setattr(optimizer, "Nsteps", 30))
    optimizer.run(fmax=0, steps=12)
    longest = 0.0
    for atoms, reference in zip(structures, references, strict=True):
        alone = ase.optimize.FIRE2(reference, logfile=None)
        at_step(alone, 3, lambda alone=alone: setattr(alone, "Nsteps", 30))
        alone.run(fmax=0, steps=12)
        np.testing.assert_allclose(atoms.positions, reference.positions, atol=1e-12)
        longest = max(longest, alone.dt)
    assert 0.05 < longest < 0.1  # which no halving of 0.1 reaches: a time step has grown


def test_a_wrong_number_of_values_changes_nothing():
    optimizer = FIRE(metals(3), logfile=None)
    with pytest.raises(ValueError, match="2 values for 3"):
        optimizer.dt = [0.1, 0.2]
    assert optimizer.dt.tolist() == [0.1, 0.1, 0.1]
    assert optimizer.engine.dt == 0.1


def test_ases_older_names_and_positions_of_arguments():
    with pytest.warns(FutureWarning, match="maxmove"):
        optimizer = FIRE(metals(2), None, None, None, 0.05, None, 0.07, 0.9)
    assert optimizer.maxstep.tolist() == [0.07, 0.07]
    assert optimizer.dtmax.tolist() == [0.9, 0.9]


# -------------------------------------------------------------------------------- its methods


def looking(name):
    """Return a function that puts a look at the Atoms in the place of a method."""

    def replace(optimizer, atoms):
        original, seen = getattr(optimizer, name), []

        def method(*args):
            returned = original(*args)
            seen.append((atoms.get_potential_energy(), *atoms.positions[0]))
            atoms.positions[0] += 0.01
            return returned

        setattr(optimizer, name, method)
        return seen

    return replace


@pytest.mark.parametrize("name", ["step", "log", "call_observers", "gradient_converged"])
def test_a_replaced_method_sees_the_present_and_may_change_it(name):
    seen = []
    for kind, options in ((FIRE, {"engine": True}), (ase.optimize.FIRE, {})):
        atoms = metals(2)[1]
        optimizer = kind(atoms, logfile=None, **options)
        seen.append(looking(name)(optimizer, atoms))
        optimizer.run(fmax=0, steps=4)
    np.testing.assert_allclose(*seen, atol=1e-12)


def test_a_criterion_of_the_users_own_decides_alone():
    def with_criterion(kind):
        class Own(kind):
            def gradient_converged(self, gradient):
                return bool(np.abs(gradient).max() < 1e-4)

        return Own

    ours, theirs = metals(2)[1], metals(2)[1]
    one = with_criterion(FIRE)(ours, logfile=None, engine=True)
    other = with_criterion(ase.optimize.FIRE)(theirs, logfile=None)
    assert one.run(fmax=0.05, steps=300) is other.run(fmax=0.05, steps=300) is True
    assert one.nsteps == other.nsteps
    structures = metals(3)
    assert with_criterion(FIRE)(structures, logfile=None).run(fmax=0.05, steps=300) is True
    assert max(np.abs(atoms.get_forces()).max() for atoms in structures) < 1e-4


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (VelocityVerlet, ase.md.VelocityVerlet, {"timestep": 0.3}),
        (FIRE, ase.optimize.FIRE, {"logfile": None}),
    ],
)
def test_steps_by_hand_take_and_return_forces_as_in_ase(ours, theirs, options):
    ends = []
    for kind, more in ((ours, {"engine": True}), (theirs, {})):
        atoms = with_velocities(metals(2)[1], 0)
        dynamics, forces = kind(atoms, **options, **more), atoms.get_forces()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ASE's optimizers warn of forces
            for _ in range(3):
                forces = dynamics.step(forces if forces is None else 0.9 * forces)
        ends.append(np.stack([atoms.positions, atoms.get_momenta(), atoms.get_forces()]))
        assert (forces is None) is (ours is FIRE)
    np.testing.assert_allclose(*ends, atol=1e-12)


# -------------------------------------------------------------------------------- looking


@pytest.mark.parametrize("logfile", [None, "file"])
def test_who_meets_the_criterion_at_the_start_has_converged(logfile):
    log = None if logfile is None else io.StringIO()
    for steps in (0, 5):
        optimizer = FIRE(metals(2), logfile=log)
        assert optimizer.run(fmax=5.0, steps=steps) is True
        assert all(result.converged and result.steps == 0 for result in optimizer.results)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", [FIRE, VelocityVerlet])
def test_a_log_of_nothing_but_failures(kind):
    structures = metals(2)
    for atoms in structures:
        atoms.positions[0] = atoms.positions[1]
    options = {"timestep": 0.1} if kind is VelocityVerlet else {}
    dynamics = kind(structures, logfile=io.StringIO(), **options)
    assert dynamics.run(steps=5) is False
    assert all(result.outcome is Outcome.NAN for result in dynamics.results)


def test_hooks_of_the_engine_are_entered_around_a_run(tmp_path):
    class Hook:
        stage, frequency, entered = 7, 1, 0

        def __call__(self, batch, dynamics):
            assert self.entered == 1

        def __enter__(self):
            self.entered += 1

        def __exit__(self, *exception):
            self.entered -= 1

    hook = Hook()
    for observed in (False, True):
        optimizer = FIRE(metals(2), logfile=io.StringIO() if observed else None)
        optimizer.engine.register_hook(hook)
        optimizer.engine.register_hook(LoggingHook(tmp_path / f"{observed}.csv"))
        optimizer.run(fmax=0, steps=3)
        assert hook.entered == 0
        assert len((tmp_path / f"{observed}.csv").read_text().splitlines()) == 1 + 3 * 2


# -------------------------------------------------------------------------------- files


def test_a_restart_file_does_not_overrule_the_constants(tmp_path):
    path = str(tmp_path / "fire.json")
    FIRE(metals(2), logfile=None, restart=path).run(fmax=0, steps=8)
    optimizer = FIRE(metals(2), logfile=None, restart=path, maxstep=0.01, dt=0.02)
    assert optimizer.maxstep.tolist() == [0.01, 0.01]
    assert np.all(optimizer.dt >= 0.05)  # what goes on is that of the file, as in ASE


@pytest.mark.parametrize("fmax", [0.9, 0.4, 0.0])
def test_files_that_go_on_have_as_many_images_as_ases(fmax, tmp_path):
    for _ in range(2):
        target = str(tmp_path / "{index}.traj")
        FIRE(metals(2), logfile=None, trajectory=target, append_trajectory=True).run(fmax, 3)
        for index, atoms in enumerate(metals(2)):
            target = str(tmp_path / f"ase-{index}.traj")
            options = {"trajectory": target, "append_trajectory": True}
            ase.optimize.FIRE(atoms, logfile=None, **options).run(fmax, 3)
    for index in range(2):
        counts = [len(read(tmp_path / f"{name}{index}.traj", ":")) for name in ("", "ase-")]
        assert counts[0] == counts[1]


def test_a_time_step_set_on_langevin_of_a_list_is_set_timestep():
    ends = []
    for setter in (lambda d: setattr(d, "dt", 0.1), lambda d: d.set_timestep(0.1)):
        systems = metals(2)
        dynamics = Langevin(systems, 0.2, temperature_K=300, friction=0.1, fixcm=False, seed=1)
        dynamics.run(2)
        setter(dynamics)
        dynamics.run(3)
        ends.append([atoms.positions for atoms in systems])
    np.testing.assert_array_equal(ends[0], ends[1])
