"""Berendsen's barostats: ASE's numbers step for step, cells and force calls included."""

import ase.md.nptberendsen
import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms, FixBondLengths

import nvdyn_ase.md.nptberendsen
from nvdyn_ase.data import StructureError
from tests.facades.test_lists import Silent
from tests.facades.test_nose_hoover import argons, metals, note
from tests.facades.test_parity import CountingEMT, CountingLJ
from tests.facades.test_thermostats import Case
from tests.pace import paced

OPTIONS = {
    "timestep": [2.0 * units.fs, 1.0 * units.fs, 1.5 * units.fs],
    "temperature_K": [200.0, 300.0, 350.0],
    "pressure_au": [0.0, 0.01, -0.01],
    "taut": [20.0, 30.0, 40.0],
    "taup": [100.0, 200.0, 150.0],
    "compressibility_au": [1.0, 0.5, 0.8],
}


def case(name, **more):
    theirs, ours = (getattr(m.md.nptberendsen, name) for m in (ase, nvdyn_ase))
    return Case(theirs, ours, OPTIONS | more, stochastic=False)


CASES = {
    "NPTBerendsen": case("NPTBerendsen"),
    "NPTBerendsen, free": case("NPTBerendsen", fixcm=False),
    "Inhomogeneous": case("Inhomogeneous_NPTBerendsen"),
    "Inhomogeneous, masked": case("Inhomogeneous_NPTBerendsen", mask=(1, 0, 1)),
}
cases = pytest.mark.parametrize("name", CASES)
each = pytest.mark.parametrize("name", ["NPTBerendsen", "Inhomogeneous"])


@pytest.mark.parametrize("name", paced(CASES))
@pytest.mark.parametrize("make", [metals, pytest.param(argons, marks=pytest.mark.slow)])
def test_every_step_is_ases(name, make):
    case, batch, frames = CASES[name], make(), []
    singles = make({EMT: CountingEMT, LennardJones: CountingLJ}[type(batch[0].calc)])
    dynamics = case.of_list(batch)
    note(dynamics, batch, frames)
    dynamics.run(100)
    for index, atoms in enumerate(singles):
        alone, expected = case.one(case.theirs, index, atoms), []
        note(alone, [atoms], expected)
        alone.run(100)
        for step in range(101):
            error = np.abs(frames[step][index] - expected[step][0]).max()
            assert error < 1e-10, (index, step, error)
        assert dynamics.results[index].evaluations == atoms.calc.calls == 201
        assert dynamics.results[index].steps == 100


@cases
def test_one_atoms_by_the_engine_is_one_atoms_by_ase(name):
    case, ends = CASES[name], []
    for cls, engine in ((case.theirs, {}), (case.ours, {"engine": True}), (case.ours, {})):
        atoms = metals()[2]
        atoms.pbc = (True, True, False)
        dynamics = case.one(cls, 2, atoms, **engine)
        for steps in (3, 0, 4):
            dynamics.run(steps)
        forces = dynamics.step()
        np.testing.assert_allclose(forces, atoms.get_forces(md=True), atol=1e-12)
        ends.append(np.vstack([atoms.positions, atoms.get_momenta(), atoms.cell]))
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-10)
    assert np.array_equal(ends[2], ends[0])


@each
@pytest.mark.parametrize("constraint", [lambda: FixAtoms([0]), lambda: FixBondLengths([(0, 1)])])
def test_atoms_that_are_held_move_with_the_cell_as_in_ase(name, constraint):
    def make():
        structures = metals()
        for atoms in structures:
            atoms.set_constraint(constraint())
        return structures

    case, structures = CASES[name], make()
    case.of_list(structures).run(20)
    for index, atoms in enumerate(make()):
        case.one(case.theirs, index, atoms).run(20)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-10)
        np.testing.assert_allclose(structures[index].cell, atoms.cell, atol=1e-10)


SETTERS = {
    "pressure": lambda d: setattr(d, "pressure", 0.05),
    "taup": lambda d: d.set_taup(20.0),
    "taut": lambda d: d.set_taut(5.0),
    "compressibility": lambda d: d.set_compressibility(compressibility_au=3.0),
    "timestep": lambda d: d.set_timestep(0.05),
    "temperature": lambda d: d.set_temperature(temperature_K=900),
    "mask": lambda d: setattr(d, "mask", (0, 0, 1)),
}


@pytest.mark.parametrize("which", SETTERS)
def test_setters_on_the_way(which):
    case, ends = CASES["Inhomogeneous"], []
    for cls, engine in ((case.theirs, {}), (case.ours, {"engine": True})):
        atoms = metals()[1]
        dynamics = case.one(cls, 1, atoms, **engine)
        dynamics.run(3)
        SETTERS[which](dynamics)
        dynamics.run(3)
        ends.append(np.vstack([atoms.positions, atoms.cell]))
    np.testing.assert_allclose(*ends, atol=1e-10)


def test_the_pressure_is_set_in_either_unit_for_one_and_for_several():
    for dynamics in (
        CASES["NPTBerendsen"].one(CASES["NPTBerendsen"].ours, 0, metals()[0]),
        CASES["NPTBerendsen"].of_list(metals()),
    ):
        dynamics.set_pressure(pressure_au=0.02)
        np.testing.assert_allclose(dynamics.get_pressure(), 0.02)
        dynamics.set_pressure(pressure_bar=10.0)
        np.testing.assert_allclose(dynamics.get_pressure(), 10.0 * units.bar)
        with pytest.warns(FutureWarning, match="pressure_au"):
            dynamics.set_pressure(20.0)
        np.testing.assert_allclose(dynamics.get_pressure(), 20.0 * units.bar)


def test_older_arguments_are_in_bar():
    options = {key: v for key, v in OPTIONS.items() if not key.endswith("_au")}
    with pytest.warns(FutureWarning, match=r"pressure_au|atomic units"):
        dynamics = nvdyn_ase.md.nptberendsen.NPTBerendsen(
            metals(), pressure=[1.0, 2.0, 3.0], compressibility=4e-5, **options
        )
    np.testing.assert_allclose(dynamics.pressure, np.array([1.0, 2.0, 3.0]) * units.bar)
    np.testing.assert_allclose(dynamics.compressibility, 4e-5 / units.bar)


@each
def test_they_are_ases_classes(name):
    case = CASES[name]
    dynamics = case.of_list(metals())
    assert isinstance(dynamics, case.theirs)
    assert type(dynamics).__name__ == case.theirs.__name__
    alone = case.one(case.ours, 0, metals()[0], engine=True)
    assert alone.todict() == case.one(case.theirs, 0, metals()[0]).todict()


def test_what_is_refused():
    case, structures = CASES["Inhomogeneous"], metals()
    with pytest.raises(ValueError, match="mask"):
        case.of_list(structures, mask=(1, 1))
    with pytest.raises(TypeError, match="compressibility_au"):
        case.of_list(structures, compressibility_au=None)
    with pytest.raises(TypeError, match="pressure_au"):
        case.of_list(structures, pressure_au=None)
    with pytest.raises(ValueError, match="2 values for 3"):
        case.of_list(structures, taup=np.ones(2))
    with pytest.raises(TypeError, match="takes no forces"):
        case.of_list(structures).step(np.zeros((12, 3)))
    structures[1].cell[2], structures[1].pbc = 0.0, False
    with pytest.raises(StructureError, match=r"structure 1.*no volume"):
        case.of_list(structures)
    for atoms in structures:
        atoms.calc = Silent()
    with pytest.raises(ValueError, match=r"needs the stress.*Silent"):
        case.of_list(structures)


def test_each_system_may_have_a_mask():
    structures = metals()
    CASES["Inhomogeneous"].of_list(structures, mask=np.eye(3)).run(5)
    for index, (atoms, before) in enumerate(zip(structures, metals(), strict=True)):
        same = np.abs(atoms.cell.lengths() - before.cell.lengths()) < 1e-12
        assert same.tolist() == [axis != index for axis in range(3)]
