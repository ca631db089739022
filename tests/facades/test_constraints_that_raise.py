"""A constraint that raises on the host ends its own system, with a reason; the others go on."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.constraints import FixInternals, FixSymmetry

from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.filters import FrechetCellFilter
from nvdyn_ase.md import Bussi, Langevin, VelocityVerlet
from nvdyn_ase.md.nvtberendsen import NVTBerendsen
from nvdyn_ase.optimize import FIRE, LBFGS, GoodOldQuasiNewton
from nvdyn_ase.workflows import molecular_dynamics, relax
from tests.systems import with_velocities

METHODS = {
    "FIRE": lambda atoms: FIRE(atoms, logfile=None),
    "LBFGS": lambda atoms: LBFGS(atoms, logfile=None),
    "VelocityVerlet": lambda atoms: VelocityVerlet(atoms, 2 * units.fs),
}


class Unwilling:
    """Lets everything pass, and refuses in one method from a call on."""

    def __init__(self, method, calls=0):
        self.method, self.calls = method, calls
        if method in ("adjust_cell", "adjust_stress"):  # not to be had otherwise
            setattr(self, method, lambda atoms, values: self._asked(method))

    def _asked(self, method):
        if method == self.method:
            self.calls -= 1
            if self.calls < 0:
                raise ZeroDivisionError("no more of this")

    def adjust_positions(self, atoms, new):
        self._asked("adjust_positions")

    def adjust_forces(self, atoms, forces):
        self._asked("adjust_forces")

    def adjust_momenta(self, atoms, momenta):
        self._asked("adjust_momenta")

    def get_removed_dof(self, atoms):
        self._asked("get_removed_dof")
        return 0

    def todict(self):
        return {"name": "Unwilling", "kwargs": {}}


class Potential(Unwilling):
    """Has forces in molecular dynamics too."""

    def adjust_potential_energy(self, atoms):
        self._asked("adjust_potential_energy")
        return 0.0


class Late(Unwilling):
    """Refuses where the atoms are in the fourth step, however often it is asked."""

    def __init__(self, method, place):
        super().__init__(method)
        self.place = place

    def _asked(self, method):
        pass

    def adjust_forces(self, atoms, forces):
        if np.array_equal(atoms.positions, self.place):
            raise ZeroDivisionError("no more of this")


def three(constraint=None):
    structures = [bulk("Cu", cubic=True), molecule("C2H6"), bulk("Au", cubic=True)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
        with_velocities(atoms, seed, temperature=300.0)
        atoms.calc = EMT()
    if constraint is not None:
        structures[1].set_constraint(constraint)
    return structures


def path(method, steps):
    """Return where the molecule is after each step, if nothing holds it."""
    atoms = three()
    dynamics, places = METHODS[method](atoms), []
    dynamics.attach(lambda: places.append(atoms[1].positions.copy()))
    dynamics.run(steps=steps)
    return places


def check_others(structures, method, steps):
    free = [three()[row] for row in (0, 2)]
    METHODS[method](free).run(steps=steps)
    for ours, alone in zip(structures[::2], free, strict=True):
        assert np.array_equal(ours.positions, alone.positions)
        assert np.array_equal(ours.get_momenta(), alone.get_momenta())


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        *((method, asked) for method in METHODS for asked in ("adjust_positions", "adjust_forces")),
        ("VelocityVerlet", "adjust_momenta"),
    ],
)
@pytest.mark.parametrize("calls", [0, 3])
def test_it_ends_its_own_system_at_a_place_of_its_path(method, asked, calls):
    constraint = (Potential if asked == "adjust_forces" else Unwilling)(asked, calls)
    structures = three(constraint)
    dynamics = METHODS[method](structures)
    dynamics.run(steps=8)
    result = dynamics.results[1]
    assert result.outcome is Outcome.ERROR and not result.converged
    why = f"{type(constraint).__name__}.{asked} raised ZeroDivisionError: no more of this"
    assert result.reason == why
    places = path(method, 8)
    np.testing.assert_allclose(structures[1].positions, places[result.steps], atol=1e-12)
    if asked != "adjust_forces":
        assert result.steps == calls
    elif not calls:
        assert result.steps == 0
    twin = structures[1].copy()
    twin.set_constraint()
    twin.calc = EMT()
    assert result.energy == pytest.approx(twin.get_potential_energy())
    assert dynamics.results[0].reason == dynamics.results[2].reason == ""
    check_others(structures, method, 8)


@pytest.mark.parametrize("method", ["FIRE", "LBFGS"])
def test_forces_that_are_refused_undo_the_step(method):
    places = path(method, 4)
    structures = three(Late("adjust_forces", places[4]))
    opt = METHODS[method](structures)
    opt.run(fmax=1e-9, steps=8)
    assert opt.results[1].outcome is Outcome.ERROR and opt.results[1].steps == 3
    assert "Late.adjust_forces" in opt.results[1].reason
    assert np.array_equal(structures[1].positions, places[3])


@pytest.mark.parametrize("asked", ["adjust_cell", "adjust_stress"])
@pytest.mark.parametrize("calls", [0, 3])
@pytest.mark.parametrize("facade", [FIRE, LBFGS])
def test_so_it_is_with_cells(facade, asked, calls):
    def crystals(constraint=None):
        crystals = [bulk(name, cubic=True) for name in ("Cu", "Pt", "Au")]
        for seed, atoms in enumerate(crystals):
            atoms.rattle(0.1, seed=seed)
            atoms.calc = EMT()
        crystals[1].set_constraint(constraint)
        return crystals

    structures, free = crystals(Unwilling(asked, calls)), crystals()
    opt = facade([FrechetCellFilter(atoms) for atoms in structures], logfile=None)
    opt.run(fmax=1e-9, steps=6)
    facade([FrechetCellFilter(atoms) for atoms in free], logfile=None).run(fmax=1e-9, steps=6)
    assert opt.results[1].outcome is Outcome.ERROR
    assert f"Unwilling.{asked} raised" in opt.results[1].reason
    assert opt.results[1].steps < 6
    if not calls:
        assert np.array_equal(structures[1].cell, crystals()[1].cell)
        assert np.array_equal(structures[1].positions, crystals()[1].positions)
    for ours, alone in zip(structures[::2], free[::2], strict=True):
        assert np.array_equal(ours.positions, alone.positions)
        assert np.array_equal(ours.cell, alone.cell)


@pytest.mark.parametrize("asked", ["adjust_positions", "adjust_forces"])
@pytest.mark.parametrize("calls", [0, 3])
@pytest.mark.parametrize("optimizer", ["FIRE", "LBFGS", "BFGSLineSearch"])
def test_a_stream_goes_on(optimizer, asked, calls):
    def found(constraint=None):
        stream = [*three(constraint), *three()] if constraint else [*three()[::2], *three()]
        options = {"optimizer": optimizer, "fmax": 0.02, "steps": 8, "batch_size": 2}
        return list(relax(stream, model="emt", ordered=True, **options))

    mixed, free = found(Unwilling(asked, calls)), found()
    assert len(mixed) == 6
    failed = mixed.pop(1)
    assert failed.outcome is Outcome.ERROR and f"Unwilling.{asked} raised" in failed.reason
    for ours, alone in zip(mixed, free, strict=True):
        assert ours.steps == alone.steps
        assert np.array_equal(ours.atoms.positions, alone.atoms.positions)


@pytest.mark.parametrize("calls", [0, 3, 9])
def test_stages_go_on(calls):
    def moved(structures):
        stages = FIRE(structures, logfile=None) + VelocityVerlet(structures, units.fs)
        stages.run(fmax=[1.0, None], steps=[5, 5])
        return stages

    structures, free = three(Unwilling("adjust_positions", calls)), three()[::2]
    stages = moved(structures)
    moved(free)
    assert stages.results[1].outcome is Outcome.ERROR
    assert "Unwilling.adjust_positions raised" in stages.results[1].reason
    for ours, alone in zip(structures[::2], free, strict=True):
        assert np.array_equal(ours.positions, alone.positions)


def test_a_stream_of_molecular_dynamics_goes_on():
    options = {"timestep": units.fs, "steps": 5, "ordered": True, "integrator": "VelocityVerlet"}
    found = list(molecular_dynamics(three(Unwilling("adjust_momenta", 2)), model="emt", **options))
    assert [one.outcome is Outcome.ERROR for one in found] == [False, True, False]
    assert "Unwilling.adjust_momenta raised" in found[1].reason


def ethane():
    atoms = molecule("C2H6", calculator=EMT())
    atoms.rattle(0.02, seed=1)
    atoms.set_constraint(FixInternals(dihedrals_deg=[[60.0, [2, 0, 1, 5]]], epsilon=1e-6))
    return atoms


def test_internals_that_do_not_converge_end_their_molecule_alone():
    metals, alone = three()[::2], three()[::2]
    structures = [metals[0], ethane(), metals[1]]
    opt = GoodOldQuasiNewton(structures, logfile=None)
    opt.run(steps=5)
    GoodOldQuasiNewton(alone, logfile=None).run(steps=5)
    assert opt.results[1].outcome is Outcome.ERROR
    assert opt.results[1].reason.startswith("FixInternals.adjust_positions raised ValueError")
    for ours, free in zip(metals, alone, strict=True):
        assert np.array_equal(ours.positions, free.positions)


@pytest.mark.parametrize("options", [{"engine": True}, {}])
def test_with_one_atoms_the_error_is_the_users_to_see_as_in_ase(options):
    with pytest.raises(ValueError, match="FixInternals"):
        GoodOldQuasiNewton(ethane(), logfile=None, **options).run(steps=5)


def test_internals_that_do_not_converge_do_not_end_a_stream():
    stream = [three()[0], ethane(), three()[2]]
    options = {"optimizer": "BFGSLineSearch", "fmax": 0.02, "ordered": True}
    found = list(relax(stream, model="emt", **options))
    assert [one.converged for one in found] == [True, False, True]
    assert "FixInternals.adjust_positions raised" in found[1].reason


def test_noise_that_is_refused():
    constraint = Unwilling("redistribute_forces_md")
    constraint.redistribute_forces_md = lambda atoms, forces, rand=False: constraint._asked(
        "redistribute_forces_md"
    )
    structures = three(constraint)
    before = structures[1].positions.copy()
    rngs = [np.random.default_rng(seed) for seed in range(3)]
    dynamics = Langevin(structures, units.fs, temperature_K=300, friction=0.01, rng=rngs)
    dynamics.run(3)
    assert "Unwilling.redistribute_forces_md raised" in dynamics.results[1].reason
    assert np.array_equal(structures[1].positions, before)


THERMOSTATS = {
    "Bussi": lambda atoms, **options: Bussi(
        atoms, units.fs, 300, 20 * units.fs, seed=[3, 4, 5][: len(atoms)], **options
    ),
    "NVTBerendsen": lambda atoms, **options: NVTBerendsen(
        atoms, units.fs, 300, 20 * units.fs, **options
    ),
}


@pytest.mark.parametrize("method", THERMOSTATS)
def test_degrees_of_freedom_that_are_not_told(method):
    structures, free = three(Unwilling("get_removed_dof")), three()
    before = structures[1].copy()
    dynamics = THERMOSTATS[method](structures)
    dynamics.run(4)
    THERMOSTATS[method](free).run(4)
    result = dynamics.results[1]
    assert result.outcome is Outcome.ERROR and result.steps == 0
    assert result.reason == "Unwilling.get_removed_dof raised ZeroDivisionError: no more of this"
    assert np.array_equal(structures[1].positions, before.positions)
    for ours, alone in zip(structures[::2], free[::2], strict=True):
        assert np.array_equal(ours.positions, alone.positions)
        assert np.array_equal(ours.get_momenta(), alone.get_momenta())


def test_who_does_not_need_them_does_not_mind(tmp_path):
    structures, log = three(Unwilling("get_removed_dof")), tmp_path / "md.log"
    dynamics = VelocityVerlet(structures, units.fs, logfile=str(log))
    dynamics.run(3)
    assert [one.outcome for one in dynamics.results] == [Outcome.BUDGET] * 3
    titles, *lines = (line.split() for line in log.read_text().splitlines())
    assert [line[titles.index("T[K]")] for line in lines] == ["nan"] * 4
    assert all(line.count("nan") == 1 for line in lines)


def test_a_later_stage_that_needs_them():
    structures = three(Unwilling("get_removed_dof"))
    stages = FIRE(structures, logfile=None) + THERMOSTATS["Bussi"](structures)
    stages.run(fmax=[1e-9, None], steps=[3, 4])
    assert [one.stage_steps for one in stages.results] == [(3, 4), (3, 0), (3, 4)]
    assert "get_removed_dof" in stages.results[1].reason


@pytest.mark.parametrize(
    ("options", "ended"),
    [({"integrator": "VelocityVerlet"}, False), ({"integrator": "Bussi", "taut": 5.0}, True)],
)
def test_a_stream_with_a_symmetry(options, ended):
    """Nobody knows how many degrees of freedom it takes away."""
    structures = three()
    structures[2].positions = bulk("Au", cubic=True).positions
    structures[2].set_constraint(FixSymmetry(structures[2]))
    if ended:
        options = {**options, "temperature_K": 300}
    found = list(
        molecular_dynamics(
            structures, model="emt", timestep=units.fs, steps=3, ordered=True, **options
        )
    )
    assert [one.outcome is Outcome.ERROR for one in found] == [False, False, ended]
    assert ("FixSymmetry" in found[2].reason) == ended
