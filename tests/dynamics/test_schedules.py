"""Parameters as functions of time: each system's own, whatever else is in the batch."""

import numpy as np
import pytest
import torch
from ase import units

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import (
    FIRE,
    MTKNPT,
    NVE,
    Andersen,
    Bussi,
    InhomogeneousNPTBerendsen,
    IsotropicMTKNPT,
    Langevin,
    LangevinBAOAB,
    MelchionnaNPT,
    NoseHooverChainNVT,
    NPTBerendsen,
    NVTBerendsen,
    Outcome,
    Ramp,
    Schedule,
    StochasticCellRescaling,
)
from nvdyn_ase.models import EMT, Harmonic
from tests.dynamics.test_batch_invariance import structures
from tests.dynamics.test_cost import SYNCHRONISING, Still, operations
from tests.pace import paced
from tests.wells import Well, wells

DT = 0.3
ENGINES = {
    "andersen": lambda model, T: Andersen(model, DT, T, 0.02, seed=7),
    "berendsen": lambda model, T: NVTBerendsen(model, DT, T, 5.0),
    "bussi": lambda model, T: Bussi(model, DT, T, 5.0, seed=7),
    "langevin": lambda model, T: Langevin(model, DT, T, 0.02, seed=7),
    "nose-hoover": lambda model, T: NoseHooverChainNVT(model, DT, T, 100.0),
    "mtk": lambda model, T: MTKNPT(model, DT, T, 0.01, 100.0, 500.0),
    "mtk, isotropic": lambda model, T: IsotropicMTKNPT(model, DT, T, 0.01, 100.0, 500.0),
    "melchionna": lambda model, T: MelchionnaNPT(model, DT, T, 0.01, 20.0, 2000.0),
    "berendsen, npt": lambda model, T: NPTBerendsen(model, DT, T, 0.01, 5.0, 50.0, 1.0),
    "berendsen, inhomogeneous": lambda model, T: InhomogeneousNPTBerendsen(
        model, DT, T, 0.01, 5.0, 50.0, 1.0
    ),
    "rescaling": lambda model, T: StochasticCellRescaling(
        model, DT, T, 0.01, 5.0, 50.0, 1.0, seed=7
    ),
    "rescaling, any shape": lambda model, T: StochasticCellRescaling(
        model, DT, T, 0.01, 5.0, 50.0, 1.0, isotropic=False, seed=7
    ),
    "baoab": lambda model, T: LangevinBAOAB(model, DT, T, T_tau=20.0, seed=7),
    "baoab, npt": lambda model, T: LangevinBAOAB(
        model, DT, T, -0.01, T_tau=20.0, P_mass=2000.0, seed=7
    ),
}
#: The same as functions of the pressure.
PRESSED = {
    "mtk": lambda p: MTKNPT(EMT(), DT, 300.0, p, 100.0, 500.0),
    "mtk, isotropic": lambda p: IsotropicMTKNPT(EMT(), DT, 300.0, p, 100.0, 500.0),
    "berendsen, npt": lambda p: NPTBerendsen(EMT(), DT, 300.0, p, 5.0, 50.0, 1.0),
    "berendsen, inhomogeneous": lambda p: InhomogeneousNPTBerendsen(
        EMT(), DT, 300.0, p, 5.0, 50.0, 1.0
    ),
    "rescaling": lambda p: StochasticCellRescaling(EMT(), DT, 300.0, p, 5.0, 50.0, 1.0, seed=7),
    "rescaling, any shape": lambda p: StochasticCellRescaling(
        EMT(), DT, 300.0, p, 5.0, 50.0, 1.0, isotropic=False, seed=7
    ),
}
CELLS = {*PRESSED, "melchionna", "baoab, npt"}
engines = pytest.mark.parametrize("name", paced(ENGINES))


def some(name, count=8):
    return structures("mtk" if name in CELLS else name)[:count]


def waved(time, mean, period):
    return mean + 50.0 * torch.sin(time / period)


# -------------------------------------------------------------------------------- values


def test_a_ramp_goes_from_one_value_to_the_other_and_stays_there():
    engine = Langevin(Harmonic(), 0.5, Ramp([100.0, 0.0], [200.0, 300.0], [10.0, 5.0]), 0.1, seed=0)
    batch, seen = wells(1.0, 2.0), []
    for _ in range(30):
        engine.run(batch, n_steps=1)
        seen.append(engine.parameter("temperature").view(-1).numpy())
    time = 0.5 * np.arange(30)  # a step takes the value at its beginning
    np.testing.assert_allclose(np.array(seen)[:, 0], np.interp(time, [0, 10], [100, 200]))
    np.testing.assert_allclose(np.array(seen)[:, 1], np.interp(time, [0, 5], [0, 300]))
    assert (np.array(seen)[-1] == [200.0, 300.0]).all()


@engines
def test_a_constant_schedule_is_the_constant_bit_for_bit(name):
    ends = []
    for temperature in ([300.0] * 8, Ramp(300.0, 300.0, 5.0), Schedule(lambda time: 300.0)):
        batch = batch_from_atoms(some(name))
        ENGINES[name](EMT(), temperature).run(batch, n_steps=25)
        ends.append(batch)
    for other in ends[1:]:
        for key in ("positions", "velocities", "cell"):
            assert torch.equal(ends[0][key], other[key])


@engines
def test_a_schedule_is_what_setting_the_parameter_before_each_step_is(name):
    batch, stepped = (batch_from_atoms(some(name)) for _ in range(2))
    ENGINES[name](EMT(), Ramp(300.0, 900.0, 20 * DT)).run(batch, n_steps=30)
    engine, time = ENGINES[name](EMT(), 300.0), 0.0
    for _ in range(30):
        share = time / (20 * DT)
        engine.temperature = 300.0 + 600.0 * share if share < 1.0 else 900.0
        engine.run(stepped, n_steps=1)
        time += DT
    for key in ("positions", "velocities", "cell"):
        torch.testing.assert_close(batch[key], stepped[key], rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("name", PRESSED)
def test_a_pressure_that_follows_a_schedule_is_setting_it_before_each_step(name):
    batch, stepped = (batch_from_atoms(some(name, 3)) for _ in range(2))
    PRESSED[name](Ramp(0.0, 0.3, 10 * DT)).run(batch, n_steps=15)
    engine, time = PRESSED[name](0.0), 0.0
    for _ in range(15):
        engine.pressure = min(0.3 * time / (10 * DT), 0.3)
        engine.run(stepped, n_steps=1)
        time += DT
    for key in ("positions", "velocities", "cell"):
        torch.testing.assert_close(batch[key], stepped[key], rtol=0.0, atol=1e-9)


@pytest.mark.parametrize("name", ENGINES)
def test_a_step_takes_its_time_from_a_schedule_once(name):
    batch, engine = batch_from_atoms(some(name, 2)), ENGINES[name](EMT(), Ramp(1.0, 2.0, 5.0))
    for steps in (3, 2):
        engine.run(batch, n_steps=steps)
        torch.testing.assert_close(engine.state["temperature_time"], batch["steps"].double() * DT)
    assert batch["steps"].view(-1).tolist() == [5, 5]


def test_pressures_and_frictions_follow_schedules_and_time_steps_do_not():
    batch = batch_from_atoms(some("mtk"))
    engine = IsotropicMTKNPT(EMT(), DT, 300.0, Ramp(0.0, 0.1, 10 * DT), 100.0, 500.0)
    engine.run(batch, n_steps=6)
    torch.testing.assert_close(engine.parameter("pressure"), torch.full((8, 1), 0.05).double())
    engine = Langevin(EMT(), DT, Ramp(1.0, 2.0, 1.0), Ramp(0.0, 0.1, 1.0), seed=0)
    engine.run(batch_from_atoms(some("langevin")), n_steps=9)
    assert (engine.parameter("friction") == 0.1).all()
    with pytest.raises(TypeError, match=r"dt of NVE cannot follow.*none"):
        NVE(EMT(), Ramp(0.1, 0.2, 1.0))
    with pytest.raises(TypeError, match=r"taut of Bussi.*temperature"):
        Bussi(EMT(), 0.1, 300.0, Ramp(0.1, 0.2, 1.0))
    with pytest.raises(TypeError, match="externalstress of LangevinBAOAB cannot follow"):
        LangevinBAOAB(EMT(), 0.1, 300.0, Ramp(0.0, 0.1, 1.0))
    with pytest.raises(TypeError, match="maxstep"):
        FIRE(EMT(), maxstep=Ramp(0.1, 0.2, 1.0))


def test_bad_schedules():
    with pytest.raises(ValueError, match="above zero"):
        Ramp(1.0, 2.0, 0.0)
    with pytest.raises(TypeError, match="not a function"):
        Schedule([1.0, 2.0])
    engine = Langevin(Harmonic(), 0.1, Ramp([1.0, 2.0], 3.0, 1.0), 0.1, seed=0)
    with pytest.raises(ValueError, match="start of temperature: 2 values for 3 systems"):
        engine.run(wells(1.0, 2.0, 3.0), n_steps=1)
    engine = Langevin(Harmonic(), 0.1, Schedule(lambda time: time.view(-1)), 0.1, seed=0)
    with pytest.raises(ValueError, match="row by row"):
        engine.run(wells(1.0, 2.0, 3.0), n_steps=1)


def test_they_say_what_they_are():
    ramp = Ramp(300.0, 600.0, 10.0)
    assert repr(ramp) == "Ramp(300.0, 600.0, 10.0)"
    assert repr(units.kB * ramp / units.kB) == repr(ramp)
    assert repr(Schedule(waved, mean=1.0)) == "Schedule(waved, mean=1.0)"
    assert "temperature=Ramp(300.0, 600.0, 10.0)" in repr(Langevin(Well(), 0.1, ramp, 0.1, seed=0))


# -------------------------------------------------------------------------------- whose time


@engines
@pytest.mark.parametrize("kind", ["ramp", "wave"])
def test_a_system_has_its_own_time_and_values_alone_together_and_in_any_order(name, kind):
    everyone = some(name, 24)
    starts = np.linspace(200.0, 400.0, 24)

    def schedule(rows):
        if kind == "ramp":
            return Ramp(starts[rows], 800.0, 4.0)
        return Schedule(waved, mean=starts[rows], period=2.0)

    def run(rows):
        batch = batch_from_atoms([everyone[row] for row in rows], indices=list(rows))
        ENGINES[name](EMT(), schedule(rows)).run(batch, n_steps=25)
        return batch

    together, order = run(list(range(24))), np.random.default_rng(0).permutation(24).tolist()
    shuffled, alone = run(order), run([17])
    for key in ("positions", "velocities", "cell"):
        for row in range(24):
            own = shuffled[[order.index(row)]][key]
            assert torch.equal(together[[row]][key], own), (row, key)
        assert torch.equal(together[[17]][key], alone[key])


def test_a_frozen_system_has_no_time():
    batch = wells(1.0, 2.0, 3.0)
    engine = Langevin(Harmonic(), 0.5, Ramp(0.0, 100.0, 50.0), 0.1, seed=0)
    engine.run(batch, n_steps=10)
    engine.retire(batch, torch.tensor([False, True, False]), Outcome.ERROR)
    engine.run(batch, n_steps=10)
    assert engine.state["temperature_time"].view(-1).tolist() == [10.0, 5.0, 10.0]


def test_several_runs_are_one_and_a_new_batch_begins_anew():
    ends = []
    for runs in ([40], [13, 0, 27]):
        batch = batch_from_atoms(some("langevin"))
        engine = Langevin(EMT(), DT, Ramp(300.0, 600.0, 10.0), 0.02, seed=7)
        for steps in runs:
            engine.run(batch, n_steps=steps)
        ends.append(batch["positions"])
    assert torch.equal(*ends)
    engine.run(batch_from_atoms(some("langevin")), n_steps=1)
    assert (engine.state["temperature_time"] == DT).all()


def test_setting_a_parameter_ends_its_schedule_and_setting_a_schedule_begins_it():
    batch = wells(1.0, 2.0)
    engine = Langevin(Harmonic(), 0.5, 300.0, 0.1, seed=0)
    engine.run(batch, n_steps=7)
    engine.temperature = Ramp(300.0, [100.0, 200.0], 5.0)
    engine.run(batch, n_steps=5)
    assert (engine.state["temperature_time"] == 2.5).all()
    with pytest.raises(ValueError, match="3 values"):
        engine.temperature = [1.0, 2.0, 3.0]
    assert isinstance(engine.temperature, Ramp)
    engine.temperature = [50.0, 60.0]
    engine.run(batch, n_steps=2)
    assert engine.parameter("temperature").view(-1).tolist() == [50.0, 60.0]
    assert not [key for key, _ in engine.state if key.startswith("temperature_")]


# -------------------------------------------------------------------------------- cost


@engines
def test_a_schedule_costs_a_few_operations_and_the_host_does_not_wait(name):
    structures = some(name, 4)
    counts = []
    for temperature in ([300.0] * 4, Ramp(300.0, 400.0, 5.0)):
        batch = batch_from_atoms(structures)
        counts.append(operations(ENGINES[name](Still(batch), temperature), batch))
    plain, scheduled = counts
    assert not SYNCHRONISING & scheduled.keys()
    assert sum(scheduled.values()) - sum(plain.values()) <= 60
