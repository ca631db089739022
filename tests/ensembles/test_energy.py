"""Constant energy: how well it is kept, and how that depends on the time step."""

import numpy as np
import pytest
from ase import units

from nvdyn_ase.dynamics import NVE, HookStageEnum
from tests.ensembles.argon import ATOMS, model, replicas
from tests.ensembles.record import record

TEMPERATURE = 55.0


class TotalEnergy:
    """A hook that notes the total energy per atom of each replica, eV, at some steps."""

    stage = HookStageEnum.AFTER_STEP

    def __init__(self, every=1):
        self.frequency, self.rows = every, []

    def __call__(self, batch, dynamics):
        energy = dynamics.conserved_energy(batch).view(-1) / ATOMS
        self.rows.append(energy.numpy().copy())


def energies(femtoseconds, length, batch):
    """Return total energies per atom, (samples, replicas), over a length of time in fs."""
    hook = TotalEnergy()
    engine = NVE(model(), femtoseconds * units.fs, hooks=[hook])
    engine.run(batch, n_steps=round(length / femtoseconds))
    return np.array(hook.rows)


def equilibrated(count, steps):
    batch = replicas(2 * TEMPERATURE, count, seed=30)  # half of it goes into potential energy
    NVE(model(), 5.0 * units.fs).run(batch, n_steps=steps)
    return batch


def fluctuations(start, length):
    """Return the fluctuation of the total energy at 4, 2 and 1 fs."""
    return [energies(dt, length, start.clone()).std(0).mean() for dt in (4.0, 2.0, 1.0)]


def test_fluctuations_fall_with_the_square_of_the_time_step():
    four, two, one = fluctuations(equilibrated(2, 50), 240.0)
    assert four / two == pytest.approx(4.0, rel=0.1)
    assert two / one == pytest.approx(4.0, rel=0.1)


@pytest.mark.slow
def test_fluctuations_fall_with_the_square_of_the_time_step_over_40_ps():
    four, two, one = fluctuations(equilibrated(12, 2000), 8000.0)
    ratios = f"{four / two:.3f}, {two / one:.3f}"
    record("NVE", "fluctuation at 4, 2 and 1 fs", 12, f"ratios {ratios}", abs(four / two - 4) < 0.2)
    assert four / two == pytest.approx(4.0, rel=0.05)
    assert two / one == pytest.approx(4.0, rel=0.05)


@pytest.mark.slow
def test_the_drift_over_20000_steps():
    hook = TotalEnergy(every=10)
    engine = NVE(model(), 2.0 * units.fs)
    batch = equilibrated(12, 2000)
    engine.register_hook(hook)
    engine.run(batch, n_steps=20_000)
    found = np.array(hook.rows)
    slope = np.polyfit(np.linspace(0.0, 1.0, len(found)), found, 1)[0]
    drift = float(np.sqrt((slope**2).mean()))
    record("NVE", "drift in 20,000 steps of 2 fs", found.size, f"{drift:.1e} eV/atom", drift < 2e-8)
    assert drift < 2e-8
