"""Schedules where facades take temperatures, pressures and frictions."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT

from nvdyn_ase.dynamics import Ramp
from nvdyn_ase.md import (
    MTKNPT,
    Andersen,
    Bussi,
    IsotropicMTKNPT,
    Langevin,
    LangevinBAOAB,
    NoseHooverChainNVT,
    NPTBerendsen,
    NVTBerendsen,
    StochasticCellRescaling,
)
from nvdyn_ase.md.melchionna import MelchionnaNPT
from tests.systems import with_velocities

DT = 2.0 * units.fs
BATHS = {"tdamp": 50 * units.fs, "pdamp": 500 * units.fs}
FACADES = {
    "Andersen": (Andersen, {"andersen_prob": 0.02, "seed": 1}),
    "Bussi": (Bussi, {"taut": 50.0, "seed": 1}),
    "Langevin": (Langevin, {"friction": 0.01, "fixcm": False, "seed": 1}),
    "LangevinBAOAB": (LangevinBAOAB, {"T_tau": 50 * units.fs, "seed": 1}),
    "NVTBerendsen": (NVTBerendsen, {"taut": 50.0}),
    "NPTBerendsen": (NPTBerendsen, {"pressure_au": 0.0, "compressibility_au": 1.0}),
    "StochasticCellRescaling": (
        StochasticCellRescaling,
        {"pressure_au": 0.0, "compressibility_au": 1.0, "seed": 1},
    ),
    "NoseHooverChainNVT": (NoseHooverChainNVT, {"tdamp": 50 * units.fs}),
    "IsotropicMTKNPT": (IsotropicMTKNPT, {"pressure_au": 0.0, **BATHS}),
    "MTKNPT": (MTKNPT, {"pressure_au": 0.0, **BATHS}),
    "MelchionnaNPT": (MelchionnaNPT, {"externalstress": 0.0, "ttime": 20.0, "pfactor": 2000.0}),
}
each = pytest.mark.parametrize("name", FACADES)
RAMP = Ramp(300.0, [400.0, 500.0, 600.0], 10 * DT)


def metals():
    structures = [bulk(metal, cubic=True) for metal in ("Cu", "Au", "Pd")]
    for seed, atoms in enumerate(structures):
        atoms.calc = EMT()
        with_velocities(atoms, seed)
    return structures


def made(name, atoms, temperature, **more):
    method, options = FACADES[name]
    if method is StochasticCellRescaling:  # which ASE does not have
        more.pop("engine", None)
    return method(atoms, DT, temperature_K=temperature, **options, **more)


@each
def test_a_list_and_one_atoms_by_the_engine_take_a_ramp(name, tmp_path):
    structures, alone = metals(), metals()[0]
    files = {"logfile": str(tmp_path / "log"), "trajectory": str(tmp_path / "{index}.traj")}
    several = made(name, structures, RAMP, **files)
    several.run(7)
    now = several.engine.parameter("temperature").view(-1).numpy()
    np.testing.assert_allclose(now, [360.0, 420.0, 480.0])
    several.run(8)
    assert (several.engine.parameter("temperature").view(-1).numpy() == [400, 500, 600]).all()
    one = made(name, alone, Ramp(300.0, 400.0, 10 * DT), engine=True)
    one.run(15)
    assert np.array_equal(alone.positions, structures[0].positions)
    assert np.array_equal(alone.get_momenta(), structures[0].get_momenta())


@pytest.mark.parametrize("name", sorted(FACADES.keys() - {"StochasticCellRescaling"}))
def test_ases_own_code_does_not_take_one_and_says_so(name):
    method, options = FACADES[name]
    options = {key: value for key, value in options.items() if key != "seed"}
    with pytest.raises(TypeError, match=r"a schedule needs the engine.*engine=True"):
        method(metals()[0], DT, temperature_K=Ramp(1.0, 2.0, 3.0), **options)


@pytest.mark.parametrize(
    "name",
    ["Andersen", "Langevin", "LangevinBAOAB", "NVTBerendsen", "NPTBerendsen", "MelchionnaNPT"],
)
def test_setters_begin_and_end_schedules(name):
    structures, twins = metals(), metals()
    moved, reference = made(name, structures, 300.0), made(name, twins, 300.0)
    moved.run(3)
    reference.run(3)
    moved.set_temperature(temperature_K=RAMP)
    moved.run(4)
    engine = moved.engine
    now = engine.parameter("temperature").view(-1).numpy()
    np.testing.assert_allclose(now, [330.0, 360.0, 390.0])
    moved.set_temperature(temperature_K=[200.0, 250.0, 300.0])
    moved.run(2)
    assert np.allclose(engine.parameter("temperature").view(-1), [200.0, 250.0, 300.0])
    assert not any(key.startswith("temperature_") for key, _ in engine.state)
    assert not np.array_equal(structures[0].positions, twins[0].positions)


def test_what_is_read_is_what_was_given_or_what_it_is_now():
    langevin, berendsen = made("Langevin", metals(), RAMP), made("NVTBerendsen", metals(), RAMP)
    assert isinstance(langevin.temp, Ramp)
    assert langevin.todict()["temperature_K"].start == 300.0
    berendsen.run(6)
    np.testing.assert_allclose(berendsen.temperature, [350.0, 400.0, 450.0])


@pytest.mark.parametrize("name", ["IsotropicMTKNPT", "NPTBerendsen", "StochasticCellRescaling"])
def test_pressure(name):
    pressure = Ramp(0.0, 0.1, 10 * DT)
    method, options = FACADES[name]
    facade = method(metals(), DT, temperature_K=300.0, **options | {"pressure_au": pressure})
    facade.run(6)
    assert np.allclose(facade.engine.parameter("pressure"), 0.05)


def test_friction():
    facade = Langevin(metals(), DT, temperature_K=300.0, friction=Ramp(0.1, 0.0, 10 * DT), seed=1)
    facade.run(20)
    assert (facade.engine.parameter("friction") == 0.0).all()


def test_a_list_as_long_as_the_run_is_not_a_schedule():
    with pytest.raises(ValueError, match="10 values for 3 systems"):
        made("NVTBerendsen", metals(), np.linspace(300.0, 400.0, 10)).run(10)


@each
@pytest.mark.parametrize("count", [2, 12])
def test_a_list_of_another_length_is_named_by_its_argument(name, count):
    method, options = FACADES[name]
    given = {"timestep": DT, "temperature_K": 300.0} | options
    names = given.keys() - {"seed", "fixcm", "externalstress"}
    for argument in names:
        wrong = given | {argument: [given[argument]] * count}
        with pytest.raises(ValueError, match=rf"^{argument}: {count} values for 3 systems"):
            method(metals(), **wrong)
