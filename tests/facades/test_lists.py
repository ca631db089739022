"""What a list adds to ASE's optimizers and integrators."""

import io
import pickle

import ase.optimize
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, molecule
from ase.calculators.calculator import Calculator, all_changes
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.io import read
from ase.io.trajectory import Trajectory

import nvdyn_ase.optimize
from nvdyn_ase.atoms import Result
from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.md import Langevin, NoseHooverChainNVT, VelocityVerlet
from nvdyn_ase.optimize import (
    BFGS,
    FIRE,
    FIRE2,
    LBFGS,
    RFO,
    BFGSLineSearch,
    GoodOldQuasiNewton,
    LBFGSLineSearch,
    MDMin,
)
from tests.systems import mixed, with_velocities

FACADES = {
    "FIRE": lambda atoms, **options: FIRE(atoms, **{"logfile": None} | options),
    "FIRE2": lambda atoms, **options: FIRE2(atoms, **{"logfile": None} | options),
    "LBFGS": lambda atoms, **options: LBFGS(atoms, **{"logfile": None} | options),
    "BFGS": lambda atoms, **options: BFGS(atoms, **{"logfile": None} | options),
    "RFO": lambda atoms, **options: RFO(atoms, **{"logfile": None} | options),
    "GoodOldQuasiNewton": lambda atoms, **options: GoodOldQuasiNewton(
        atoms, **{"logfile": None} | options
    ),
    "BFGSLineSearch": lambda atoms, **options: BFGSLineSearch(atoms, **{"logfile": None} | options),
    "LBFGSLineSearch": lambda atoms, **options: LBFGSLineSearch(
        atoms, **{"logfile": None} | options
    ),
    "MDMin": lambda atoms, **options: MDMin(atoms, **{"logfile": None} | options),
    "VelocityVerlet": lambda atoms, **options: VelocityVerlet(atoms, timestep=0.2, **options),
    # Without noise, so that what is compared does not depend on it.
    "Langevin": lambda atoms, **options: Langevin(
        atoms, timestep=0.2, temperature_K=0, friction=0.02, fixcm=False, **options
    ),
    "NoseHooverChainNVT": lambda atoms, **options: NoseHooverChainNVT(
        atoms, timestep=0.2, temperature_K=300, tdamp=20.0, **options
    ),
}
facades = pytest.mark.parametrize("name", FACADES)
INTEGRATORS = ("VelocityVerlet", "Langevin", "NoseHooverChainNVT")
OPTIMIZERS = [name for name in FACADES if name not in INTEGRATORS]
optimizers = pytest.mark.parametrize("name", OPTIMIZERS)
RESTARTS = [*((name, {}) for name in OPTIMIZERS), ("LBFGS", {"memory": 3})]


def metals(count=4, calculator=EMT):
    structures = [bulk(m, cubic=True) for m in ("Cu", "Ag", "Au", "Ni", "Pd", "Pt")[:count]]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.02 + 0.03 * seed, seed=seed)
        atoms.calc = calculator()
    return structures


class Silent(Calculator):
    """A calculator of its own kind: harmonic, with a dipole, and an ear for the number of calls."""

    implemented_properties = ("energy", "forces", "dipole")

    def __init__(self, fail_at=None):
        super().__init__()
        self.calls, self.fail_at = 0, fail_at

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes):
        super().calculate(atoms, properties, system_changes)
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("the disk is full")
        r = atoms.positions
        self.results = {"energy": (r**2).sum() / 2, "forces": -r, "dipole": r.sum(0)}


# -------------------------------------------------------------------------------- who runs


@facades
def test_one_atoms_runs_ases_code_and_several_the_engine(name):
    atoms = metals(1)[0]
    assert FACADES[name](atoms).engine is None
    assert FACADES[name](atoms, engine=True).engine is not None
    assert FACADES[name]([atoms]).engine is not None
    assert FACADES[name]((atoms,)).engine is not None


@facades
def test_the_environment_variable_sends_one_atoms_through_the_engine(name, monkeypatch):
    monkeypatch.setenv("NVDYN_ASE_ENGINE", "always")
    assert FACADES[name](metals(1)[0]).engine is not None
    assert FACADES[name](metals(1)[0], engine=False).engine is None


@facades
def test_they_are_ases_classes_by_name_and_kind(name):
    ours = FACADES[name](metals(2))
    assert any(c.__module__.startswith("ase.") and c.__name__ == name for c in type(ours).__mro__)
    assert type(ours).__name__ == name


# -------------------------------------------------------------------------------- results


def test_results_tell_how_each_system_ended():
    structures = metals(4)
    structures[1].positions[0] = structures[1].positions[1]
    optimizer = FIRE(structures, logfile=None)
    assert optimizer.run(fmax=[1e-9, 0.05, 0.05, 0.05], steps=60) is False
    outcomes = [result.outcome for result in optimizer.results]
    assert outcomes == [Outcome.BUDGET, Outcome.NAN, Outcome.CONVERGED, Outcome.CONVERGED]
    assert all(isinstance(result, Result) for result in optimizer.results)
    assert "atoms 0 and 1" in optimizer.results[1].reason
    assert optimizer.nsteps == max(result.steps for result in optimizer.results)
    assert [result.index for result in optimizer.results] == [0, 1, 2, 3]
    assert optimizer.results[2].atoms is structures[2]


def test_a_failure_among_a_hundred_changes_nothing_for_the_others():
    def hundred():
        structures = mixed(100)
        for atoms in structures:
            atoms.calc = EMT()
        return structures

    reference, broken = hundred(), hundred()
    broken[42].positions[1] = broken[42].positions[0]
    first, second = FIRE(reference, logfile=None), FIRE(broken, logfile=None)
    first.run(fmax=0.05, steps=30)
    second.run(fmax=0.05, steps=30)
    assert second.results[42].outcome is Outcome.NAN
    for index in set(range(100)) - {42}:
        assert np.array_equal(reference[index].positions, broken[index].positions)
        one, other = first.results[index], second.results[index]
        assert (one.energy, one.steps, one.outcome) == (other.energy, other.steps, other.outcome)


@facades
@pytest.mark.parametrize("shared", [False, True])
def test_asking_for_results_needs_no_calculation(name, shared, monkeypatch):
    structures = metals(3)
    if shared:
        calc = EMT()
        for atoms in structures:
            atoms.calc = calc
    dynamics = FACADES[name](structures)
    dynamics.run(steps=5)
    monkeypatch.setattr(EMT, "calculate", None)
    for atoms, result in zip(structures, dynamics.results, strict=True):
        assert atoms.get_potential_energy() == result.energy
        assert atoms.get_forces().shape == (4, 3)
        assert atoms.get_stress().shape == (6,)


@facades
@pytest.mark.parametrize("shared", [False, True])
def test_results_are_those_of_the_calculator_itself(name, shared):
    structures = metals(3)
    if shared:
        calc = EMT()
        for atoms in structures:
            atoms.calc = calc
    FACADES[name](structures).run(steps=5)
    for atoms in structures:
        fresh = atoms.copy()
        fresh.calc = EMT()
        assert atoms.get_potential_energy() == pytest.approx(
            fresh.get_potential_energy(), abs=1e-12
        )
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-11)
        np.testing.assert_allclose(atoms.get_stress(), fresh.get_stress(), atol=1e-12)
        atoms.positions[0] += 0.1
        fresh.positions[0] += 0.1
        np.testing.assert_allclose(atoms.get_forces(), fresh.get_forces(), atol=1e-11)


@facades
def test_a_model_for_structures_without_calculators(name):
    structures = metals(3)
    reference = metals(3)
    for atoms in structures:
        atoms.calc = None
    FACADES[name](structures, model="emt").run(steps=5)
    FACADES[name](reference).run(steps=5)
    for one, other in zip(structures, reference, strict=True):
        assert np.array_equal(one.positions, other.positions)
        assert one.get_potential_energy() == other.get_potential_energy()


@facades
def test_results_of_a_model_do_not_mix_with_another_calculator(name):
    structures = metals(3)
    other = structures[2].calc = LennardJones(sigma=2.0, epsilon=0.1, rc=4.0)
    kept = structures[1].calc
    FACADES[name](structures, model=kept).run(steps=3)
    assert structures[1].calc is kept
    assert structures[2].calc is not other
    fresh = structures[2].copy()
    fresh.calc = EMT()
    for ask in ("get_potential_energy", "get_forces", "get_stress"):
        np.testing.assert_allclose(getattr(structures[2], ask)(), getattr(fresh, ask)(), atol=1e-9)


@facades
def test_any_calculator_works_system_by_system_with_ases_number_of_calls(name):
    def make():
        structures = [molecule("H2O"), molecule("CH4"), molecule("CO")]
        for atoms in structures:
            atoms.calc = Silent()
        return structures

    batch, singles = make(), make()
    FACADES[name](batch).run(steps=12)
    for one, other in zip(batch, singles, strict=True):
        FACADES[name](other).run(steps=12)
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-12)
        assert one.calc.calls == other.calc.calls
        np.testing.assert_allclose(one.get_dipole_moment(), other.get_dipole_moment(), atol=1e-11)
        assert one.calc.calls == other.calc.calls


def test_different_calculators_work():
    structures = [*metals(2), bulk("Ar", cubic=True)]
    structures[2].rattle(0.1, seed=0)
    structures[2].calc = LennardJones(sigma=3.4, epsilon=0.01, rc=8.0)
    optimizer = FIRE(structures, logfile=None)
    assert optimizer.run(fmax=0.05, steps=200)
    for atoms in structures:
        assert np.linalg.norm(atoms.get_forces(), axis=1).max() < 0.05


def test_a_calculator_that_raises_stops_its_own_system():
    structures = [molecule("H2O") for _ in range(3)]
    for index, atoms in enumerate(structures):
        atoms.calc = Silent(fail_at=4 if index == 1 else None)
    optimizer = FIRE(structures, logfile=None)
    optimizer.run(fmax=1e-9, steps=8)
    outcomes = [result.outcome for result in optimizer.results]
    assert outcomes == [Outcome.BUDGET, Outcome.ERROR, Outcome.BUDGET]
    assert "the disk is full" in optimizer.results[1].reason
    assert np.array_equal(structures[0].positions, structures[2].positions)
    assert np.isfinite(structures[1].positions).all()


# -------------------------------------------------------------------------------- looking


@facades
def test_observers_see_the_present_and_may_change_it(name):
    structures, reference = metals(3), metals(3)
    dynamics = FACADES[name](structures)
    seen = []

    def push(atoms):
        atoms.positions[0] += 0.05

    def look():
        seen.append([atoms.get_potential_energy() for atoms in structures])
        if dynamics.nsteps == 3:
            push(structures[0])

    limits = {"steps": 6} if name not in OPTIMIZERS else {"fmax": 0, "steps": 6}
    dynamics.attach(look)
    dynamics.run(**limits)
    assert len(seen) == 7
    # ASE's Nosé-Hoover chain puts atoms back where its own copy of them is; the engine does not.
    own = {"engine": True} if name == "NoseHooverChainNVT" else {}
    for index, atoms in enumerate(reference):
        alone = FACADES[name](atoms, **own)
        if index == 0:
            alone.attach(push, -3, atoms)
        alone.run(**limits)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-12)


@facades
def test_intervals_are_ases(name):
    dynamics = FACADES[name](metals(2))
    calls = {interval: [] for interval in (1, 3, 0, -4)}
    for interval, log in calls.items():
        dynamics.attach(lambda log=log: log.append(dynamics.nsteps), interval=interval)
    dynamics.insert_observer(lambda: calls[3].append("first"), interval=3)
    dynamics.run(steps=6) if name not in OPTIMIZERS else dynamics.run(fmax=0, steps=6)
    assert calls[1] == [0, 1, 2, 3, 4, 5, 6]
    assert calls[3] == ["first", 0, "first", 3, "first", 6]
    assert calls[0] == [0]
    assert calls[-4] == [4]


@facades
def test_irun_yields_with_the_atoms_current(name):
    structures, reference = metals(3), metals(3)
    dynamics = FACADES[name](structures)
    limits = {"steps": 5} if name not in OPTIMIZERS else {"fmax": 0, "steps": 5}
    frames = []
    for done in dynamics.irun(**limits):  # noqa: B007
        frames.append([atoms.positions.copy() for atoms in structures])
        assert all(np.isfinite(atoms.get_potential_energy()) for atoms in structures)
    assert len(frames) == 6
    assert done is (name not in OPTIMIZERS)
    for index, atoms in enumerate(reference):
        own = [atoms.positions.copy() for _ in FACADES[name](atoms).irun(**limits)]
        np.testing.assert_allclose([f[index] for f in frames], own, atol=1e-12)


@facades
def test_step_by_hand_moves_everyone(name):
    structures, reference = metals(2), metals(2)
    dynamics = FACADES[name](structures)
    for _ in range(3):
        dynamics.step()
    for one, other in zip(structures, reference, strict=True):
        alone = FACADES[name](other)
        for _ in range(3):
            alone.step()
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-12)


@facades
def test_with_and_todict(name):
    with FACADES[name](metals(2)) as dynamics:
        dynamics.run(steps=1)
        alone = FACADES[name](metals(1)[0])
        assert dynamics.todict().keys() == alone.todict().keys()


def test_converged_and_nsteps():
    optimizer = FIRE(metals(3), logfile=None)
    assert optimizer.run(fmax=0.01, steps=3) is False
    assert optimizer.nsteps == 3
    assert optimizer.run(fmax=0.01, steps=500) is True
    assert optimizer.converged()
    assert optimizer.get_number_of_steps() == optimizer.nsteps


def test_the_log_of_a_list_is_one_table():
    text = io.StringIO()
    optimizer = FIRE(metals(3), logfile=text)
    optimizer.run(fmax=0.05)
    lines = text.getvalue().splitlines()
    assert lines[0].split()[:2] == ["Step", "Time"]
    assert len(lines) == optimizer.nsteps + 2
    assert lines[-1].split()[3:6] == ["3", "3", "0"]


def test_the_log_of_a_list_in_molecular_dynamics(tmp_path):
    path = tmp_path / "md.log"
    structures = [with_velocities(atoms, 1) for atoms in metals(3)]
    VelocityVerlet(structures, timestep=0.2, logfile=str(path), loginterval=5).run(10)
    lines = path.read_text().splitlines()
    assert len(lines) == 4
    total = [float(line.split()[2]) for line in lines[1:]]
    assert total[0] == pytest.approx(total[2], abs=1e-3)


# -------------------------------------------------------------------------------- files


@facades
@pytest.mark.parametrize("form", ["pattern", "list"])
def test_each_system_has_a_trajectory_that_ends_at_its_own_last_step(name, form, tmp_path):
    structures = metals(3)
    names = [tmp_path / f"t-{i}.traj" for i in range(3)]
    target = str(tmp_path / "t-{index}.traj") if form == "pattern" else names
    dynamics = FACADES[name](structures, trajectory=target)
    dynamics.run(steps=40) if name not in OPTIMIZERS else dynamics.run(fmax=0.05, steps=40)
    for path, atoms, result in zip(names, structures, dynamics.results, strict=True):
        frames = read(path, ":")
        assert len(frames) == result.steps + 1
        assert np.array_equal(frames[-1].positions, atoms.positions)
        assert frames[-1].get_potential_energy() == atoms.get_potential_energy()
        np.testing.assert_array_equal(frames[-1].get_forces(), atoms.get_forces())


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("BFGS", {"maxstep": [0.1, 0.2], "alpha": [50.0, 60.0]}),
        ("BFGSLineSearch", {"maxstep": [0.1, 0.2], "alpha": [5.0, 6.0]}),
        ("FIRE", {"maxstep": [0.1, 0.2], "dt": [0.1, 0.05]}),
        ("GoodOldQuasiNewton", {"diagonal": [10.0, 20.0]}),
    ],
)
def test_the_header_of_a_trajectory_is_that_of_ase_alone(name, options, tmp_path):
    limits, every = [0.0, 1e-9], {"logfile": None, "loginterval": 2}
    target = str(tmp_path / "list-{index}.traj")
    kind, theirs = getattr(nvdyn_ase.optimize, name), getattr(ase.optimize, name)
    kind(metals(2), trajectory=target, **options, **every).run(fmax=limits, steps=2)
    for index, atoms in enumerate(metals(2)):
        own = {key: values[index] for key, values in options.items()}
        path = str(tmp_path / f"alone-{index}.traj")
        theirs(atoms, trajectory=path, **own, **every).run(fmax=limits[index], steps=2)
        found = [Trajectory(p).description for p in (target.replace("{index}", str(index)), path)]
        assert found[0] == found[1]


def test_several_systems_cannot_share_a_trajectory(tmp_path):
    with pytest.raises(ValueError, match="index"):
        FIRE(metals(2), trajectory=str(tmp_path / "one.traj"))
    with pytest.raises(ValueError, match="2 structures"):
        FIRE(metals(2), trajectory=[str(tmp_path / "one.traj")])


def test_append_trajectory(tmp_path):
    target = str(tmp_path / "t-{index}.traj")
    for append in (False, True, False):
        FIRE(metals(2), logfile=None, trajectory=target, append_trajectory=append).run(0, steps=2)
        assert len(read(tmp_path / "t-1.traj", ":")) == (5 if append else 3)


@optimizers
def test_a_list_goes_on_from_its_restart_file(name, tmp_path):
    whole, parts = metals(3), metals(3)
    FACADES[name](whole).run(fmax=0, steps=12)
    for steps in (7, 5):
        optimizer = FACADES[name](parts, restart=str(tmp_path / "restart.json"))
        optimizer.run(fmax=0, steps=steps)
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-12)


@optimizers
def test_a_restart_file_of_something_else_is_refused(name, tmp_path):
    path = str(tmp_path / "restart.json")
    FACADES[name](metals(3), restart=path).run(fmax=0, steps=2)
    with pytest.raises(RuntimeError, match="3 structures"):
        FACADES[name](metals(2), restart=path)
    ase.optimize.BFGS(metals(1)[0], logfile=None, restart=path + "b").run(fmax=0, steps=2)
    with pytest.raises(RuntimeError, match="restart file"):
        FACADES[name](metals(3), restart=path + "b")


@pytest.mark.parametrize(("name", "options"), RESTARTS)
def test_ases_restart_file_of_one_atoms_is_read_by_the_engine(name, options, tmp_path):
    whole, parts = metals(1)[0], metals(1)[0]
    for atoms, engine in ((whole, False), (parts, True)):
        path = str(tmp_path / f"{engine}.json")
        theirs = getattr(ase.optimize, name)
        theirs(atoms, logfile=None, restart=path, **options).run(fmax=0, steps=6)
        FACADES[name](atoms, restart=path, engine=engine, **options).run(fmax=0, steps=6)
    np.testing.assert_allclose(parts.positions, whole.positions, atol=1e-12)


@pytest.mark.parametrize(("name", "options"), RESTARTS)
def test_the_engines_restart_file_of_one_atoms_is_read_by_ase(name, options, tmp_path):
    whole, parts = metals(1)[0], metals(1)[0]
    for atoms, engine in ((whole, False), (parts, True)):
        path = str(tmp_path / f"{engine}.json")
        FACADES[name](atoms, restart=path, engine=engine, **options).run(fmax=0, steps=6)
        theirs = getattr(ase.optimize, name)
        theirs(atoms, logfile=None, restart=path, **options).run(fmax=0, steps=6)
    np.testing.assert_allclose(parts.positions, whole.positions, atol=1e-12)


# -------------------------------------------------------------------------------- parameters


def test_parameters_are_live_and_per_system():
    structures = metals(3)
    optimizer = FIRE(structures, logfile=None, dt=[0.1, 0.05, 0.02], maxstep=0.1)
    assert optimizer.dt.tolist() == [0.1, 0.05, 0.02]
    assert np.all(optimizer.maxstep == 0.1)
    optimizer.run(fmax=0, steps=2)
    optimizer.dt = 0.03
    assert np.all(optimizer.dt == 0.03)
    with pytest.raises(ValueError, match="dt"):
        FIRE(structures, logfile=None, dt=[0.1, 0.2])
    for index, atoms in enumerate(metals(3)):
        alone = FIRE(atoms, logfile=None, dt=[0.1, 0.05, 0.02][index], maxstep=0.1)
        alone.run(fmax=0, steps=2)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-12)


def test_a_time_step_per_system_when_there_are_as_many_systems_as_dimensions():
    structures, steps = metals(3), [0.1, 0.2, 0.3]
    for seed, atoms in enumerate(structures):
        with_velocities(atoms, seed)
    VelocityVerlet(structures, timestep=steps).run(10)
    for index, atoms in enumerate(metals(3)):
        with_velocities(atoms, index)
        VelocityVerlet(atoms, timestep=steps[index]).run(10)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-12)


# -------------------------------------------------------------------------------- bad input


def bad(change):
    structures = metals(4)
    change(structures)
    return structures


BAD = {
    "NaN positions": (lambda s: s[2].positions.__setitem__((0, 1), np.nan), r"structure 2.*finite"),
    "singular cell": (lambda s: s[1].set_cell([1, 1, 0]), r"structure 1.*singular"),
    "unknown element": (lambda s: s[3].set_atomic_numbers([92] * 4), r"structure 3.*U"),
    "empty Atoms": (lambda s: s.__setitem__(1, Atoms(calculator=EMT())), r"structure 1.*no atoms"),
    "no calculator": (lambda s: setattr(s[2], "calc", None), r"structure 2.*calculator"),
}


@facades
@pytest.mark.parametrize("case", BAD)
def test_bad_input_names_the_structure_and_changes_nothing(name, case):
    change, message = BAD[case]
    structures = bad(change)
    before = pickle.dumps([atoms.positions for atoms in structures])
    with pytest.raises(StructureError, match=message):
        FACADES[name](structures).run(steps=2)
    assert pickle.dumps([atoms.positions for atoms in structures]) == before


@facades
def test_an_empty_list_or_a_list_of_something_else(name):
    with pytest.raises(ValueError, match="empty"):
        FACADES[name]([])
    with pytest.raises(TypeError, match="item 1"):
        FACADES[name]([metals(1)[0], "Cu"])


@facades
def test_an_interrupt_leaves_everything_at_the_last_finished_step(name, tmp_path):
    class Interrupting(Silent):
        def calculate(self, *args, **kwargs):
            if self.calls == 3:
                raise KeyboardInterrupt
            super().calculate(*args, **kwargs)

    def make(calculator):
        structures = [molecule("H2O"), molecule("CO")]
        for atoms in structures:
            atoms.calc = Silent()
        structures[1].calc = calculator
        return structures

    structures, reference = make(Interrupting()), make(Silent())
    target = str(tmp_path / "t-{index}.traj")
    dynamics = FACADES[name](structures, trajectory=target)
    with pytest.raises(KeyboardInterrupt):
        dynamics.run(steps=20)
    steps = dynamics.nsteps
    assert steps == 2 or dynamics.engine._tries  # whose steps take more than one calculation
    FACADES[name](reference).run(steps=steps)
    for index in range(2):
        assert np.array_equal(structures[index].positions, reference[index].positions)
        frames = read(tmp_path / f"t-{index}.traj", ":")
        assert len(frames) == steps + 1
        assert np.array_equal(frames[-1].positions, structures[index].positions)
        assert structures[index].get_potential_energy() == dynamics.results[index].energy
