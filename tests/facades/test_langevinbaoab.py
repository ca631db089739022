"""BAOAB: ASE's numbers step for step, cells included, and what a list adds."""

import warnings

import ase.md.langevinbaoab
import numpy as np
import pytest
from ase import units
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.constraints import FixAtoms

from nvdyn_ase.data import StructureError
from nvdyn_ase.md.langevinbaoab import LangevinBAOAB
from tests.facades.test_lists import Silent
from tests.facades.test_nose_hoover import argons, metals, note
from tests.facades.test_parity import CountingEMT, CountingLJ

STEP = {"timestep": [2.0 * units.fs, 1.0 * units.fs, 1.5 * units.fs]}
BATH = STEP | {"temperature_K": [200.0, 300.0, 350.0], "T_tau": [20.0, 30.0, 40.0]}
# Three numbers for three systems might be one stress: these are said to be one each.
STRESS = {"externalstress": [[0.0], [-0.01], [0.02]], "P_tau": [200.0, 300.0, 400.0]}
SHAPES = [np.array([0.01, 0.0, 0.0]), -0.01 * np.eye(3), np.array([0.01, 0, 0, 0.003, 0, 0])]
CASES = {
    "NVE": STEP,
    "NVT": BATH,
    "NVT, default": BATH | {"T_tau": None},
    "NPH": STEP | STRESS,
    "NPH, hydrostatic": STEP | STRESS | {"hydrostatic": True},
    "NPT": BATH | STRESS,
    "NPT, hydrostatic": BATH | STRESS | {"hydrostatic": True},
    "NPT, defaults": BATH | STRESS | {"P_tau": None, "P_mass_factor": 2.0},
    "NPT, quiet cells": BATH | {"externalstress": SHAPES, "disable_cell_langevin": True},
    "NPT, inertia": BATH | STRESS | {"P_mass": [2000.0, 3000.0, 4000.0]},
}
cases = pytest.mark.parametrize("name", CASES)
pytestmark = [
    pytest.mark.filterwarnings("ignore:Got `:UserWarning"),
    pytest.mark.filterwarnings("ignore:Using heuristic:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*not been tested with constraints:UserWarning"),
]


def one(options, index):
    return {key: v[index] if isinstance(v, list) else v for key, v in options.items()}


def generators():
    return [np.random.default_rng(seed) for seed in range(3)]


@pytest.mark.parametrize(
    ("name", "make"),
    [*((name, metals) for name in CASES if "," not in name), ("NPT", argons)]
    + [pytest.param(name, metals, marks=pytest.mark.slow) for name in CASES if "," in name],
)
def test_every_step_is_ases_with_the_same_generator(name, make):
    options, batch, frames = CASES[name], make(), []
    singles = make({EMT: CountingEMT, LennardJones: CountingLJ}[type(batch[0].calc)])
    dynamics = LangevinBAOAB(batch, rng=generators(), **options)
    note(dynamics, batch, frames)
    dynamics.run(100)
    for index, atoms in enumerate(singles):
        own = one(options, index)
        alone, expected = ase.md.langevinbaoab.LangevinBAOAB(atoms, rng=index, **own), []
        note(alone, [atoms], expected)
        alone.run(100)
        for step in range(101):
            error = np.abs(frames[step][index] - expected[step][0]).max()
            assert error < 1e-10, (index, step, error)
        assert dynamics.results[index].evaluations == atoms.calc.calls == 101


@cases
def test_one_atoms_by_the_engine_is_one_atoms_by_ase(name):
    ends = []
    theirs = ase.md.langevinbaoab.LangevinBAOAB
    for cls, engine in ((theirs, {}), (LangevinBAOAB, {"engine": True}), (LangevinBAOAB, {})):
        atoms = metals(CountingEMT)[2]
        dynamics = cls(atoms, rng=7, **one(CASES[name], 2), **engine)
        for steps in (3, 0, 4):
            dynamics.run(steps)
        for _ in range(2):
            assert dynamics.step() is None
        ends.append(np.vstack([atoms.positions, atoms.get_momenta(), atoms.cell]))
        # Without a temperature T_tau is None in ASE; the engine has its default ready.
        known = ("T_tau",) if "temperature_K" in CASES[name] else ()
        for attribute in (*known, "P_tau", "barostat_mass", "p_eps", "externalstress"):
            if hasattr(dynamics, attribute) and CASES[name].get("externalstress"):
                ends[-1] = np.append(ends[-1], np.ravel(getattr(dynamics, attribute)))
        assert dynamics.temperature_K == one(CASES[name], 2).get("temperature_K")
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-10)
    assert np.array_equal(ends[2], ends[0])


@pytest.mark.parametrize("name", ["NVT", "NPT"])
def test_constraints_act_as_in_ase(name):
    def make():
        structures = metals()
        for atoms in structures:
            atoms.set_constraint(FixAtoms([0, 2]))
        return structures

    structures = make()
    LangevinBAOAB(structures, rng=generators(), **CASES[name]).run(30)
    for index, atoms in enumerate(make()):
        own = one(CASES[name], index)
        ase.md.langevinbaoab.LangevinBAOAB(atoms, rng=index, **own).run(30)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-10)
        np.testing.assert_allclose(structures[index].cell, atoms.cell, atol=1e-10)


@pytest.mark.parametrize("name", ["NVT", "NPT"])
@pytest.mark.parametrize("source", ["seed", "generator", "number", "numpy"])
def test_systems_of_a_list_do_not_know_each_other(name, source):
    def given():
        np.random.seed(4)
        makers = {"seed": {"seed": 3}, "generator": {"rng": np.random.default_rng(3)}}
        return (makers | {"number": {"rng": 3}, "numpy": {}})[source]

    options, together, alone = one(CASES[name], 0), metals(), metals()[:1]
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "No rng provided")
        for structures in (together, alone):
            LangevinBAOAB(structures, **options, **given()).run(10)
    assert np.array_equal(together[0].positions, alone[0].positions)
    assert np.array_equal(together[0].cell, alone[0].cell)


@pytest.mark.parametrize("temperatures", [500.0, None, [100.0, 500.0, 900.0]])
def test_the_temperature_is_set_as_in_ase(temperatures):
    structures = metals()
    dynamics = LangevinBAOAB(structures, rng=generators(), **CASES["NPT"])
    dynamics.run(5)
    dynamics.set_temperature(temperatures)
    assert np.array_equal(np.ravel(dynamics.temperature_K)[-1], np.ravel(temperatures)[-1])
    dynamics.run(5)
    for index, atoms in enumerate(metals()):
        alone = ase.md.langevinbaoab.LangevinBAOAB(atoms, rng=index, **one(CASES["NPT"], index))
        alone.run(5)
        alone.set_temperature(one({"t": temperatures}, index)["t"])
        alone.run(5)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-10)


def test_some_may_have_no_thermostat():
    structures, options = metals(), CASES["NPT"] | {"temperature_K": [None, 300.0, None]}
    LangevinBAOAB(structures, rng=generators(), **options).run(10)
    for index, atoms in enumerate(metals()):
        ase.md.langevinbaoab.LangevinBAOAB(atoms, rng=index, **one(options, index)).run(10)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-10)


def test_the_stress_can_be_set_on_the_way():
    ends = []
    for cls, engine in (
        (ase.md.langevinbaoab.LangevinBAOAB, {}),
        (LangevinBAOAB, {"engine": True}),
    ):
        atoms = metals()[1]
        dynamics = cls(atoms, rng=1, **one(CASES["NPT"], 1), **engine)
        dynamics.run(3)
        dynamics.externalstress = np.diag([0.0, 0.1, 0.0])
        dynamics.run(3)
        ends.append(atoms.cell.array)
    # In ASE the next half kick of the cell is still that of the old stress.
    np.testing.assert_allclose(*ends, atol=1e-5)


def test_it_is_ases_class():
    dynamics = LangevinBAOAB(metals(), seed=1, **CASES["NPT"])
    assert isinstance(dynamics, ase.md.langevinbaoab.LangevinBAOAB)
    assert dynamics.p_eps.shape == dynamics.externalstress.shape == (3, 3, 3)
    twin = ase.md.langevinbaoab.LangevinBAOAB(metals()[0], rng=1, **one(CASES["NPT"], 0))
    alone = LangevinBAOAB(metals()[0], rng=1, engine=True, **one(CASES["NPT"], 0))
    assert alone.todict() == twin.todict()
    assert dynamics.todict().keys() == twin.todict().keys()


@pytest.mark.parametrize("stress", [[0.0, 0.1, 0.2], np.zeros((3, 3)), [0.1, 0.2], np.zeros(4)])
def test_stresses_that_may_be_meant_in_two_ways_are_refused(stress):
    with pytest.raises(ValueError, match="externalstress"):
        LangevinBAOAB(metals(), externalstress=stress, **BATH)


def test_what_is_refused():
    with pytest.raises(ValueError, match="scalar when hydrostatic"):
        LangevinBAOAB(metals(), externalstress=SHAPES, hydrostatic=True, **BATH)
    with pytest.raises(ValueError, match="Invalid T_tau"):
        LangevinBAOAB(metals(), **BATH | {"T_tau": [1.0, 0.0, 1.0]})
    with pytest.raises(TypeError, match="needs the engine"):
        LangevinBAOAB(metals()[0], 1.0, seed=1)
    with pytest.raises(TypeError, match="seed or rng"):
        LangevinBAOAB(metals(), 1.0, seed=1, rng=2)
    flat = metals()
    flat[1].cell[2], flat[1].pbc = 0.0, False
    with pytest.raises(StructureError, match=r"structure 1.*no volume"):
        LangevinBAOAB(flat, **CASES["NPT"])
    LangevinBAOAB(flat, **CASES["NVT"])
    for atoms in flat:
        atoms.calc = Silent()
    with pytest.raises(ValueError, match=r"needs the stress.*Silent"):
        LangevinBAOAB(flat, **CASES["NPT"])
