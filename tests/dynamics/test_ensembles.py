"""Temperature, where theory says what it is: free atoms, and atoms in harmonic wells.

Seeds and numbers of samples are fixed beforehand. Replicas are independent; samples of one replica
are averaged first, so that the error follows from the spread of the replicas alone.
"""

import numpy as np
import pytest
import torch
from ase.units import kB

from nvdyn_ase.data import AtomicData, Batch, segment_dot
from nvdyn_ase.dynamics import Andersen, Bussi, Langevin, LangevinBAOAB, NVTBerendsen
from nvdyn_ase.models import Harmonic

TEMPERATURE = 300.0
ATOMS = 8


def replicas(count, speed=1.0):
    generator = torch.Generator().manual_seed(0)
    numbers = [18, 1, 79, 29, 18, 6, 13, 47]
    systems = []
    for _ in range(count):
        positions = torch.zeros(ATOMS, 3, dtype=torch.float64)
        velocities = torch.randn(ATOMS, 3, generator=generator, dtype=torch.float64)
        data = AtomicData(positions=positions, atomic_numbers=numbers)
        spread = speed * (kB * TEMPERATURE / data.atomic_masses.view(-1, 1)).sqrt()
        systems.append(data.model_copy(update={"velocities": spread * velocities}))
    return Batch.from_data_list(systems)


class Sampler:
    """Energies of each replica at some steps."""

    def __init__(self, engine, batch):
        self.engine, self.batch = engine, batch
        self.kinetic, self.potential = [], []

    def run(self, warm_up, samples, every):
        self.engine.run(self.batch, n_steps=warm_up)
        for _ in range(samples):
            self.engine.run(self.batch, n_steps=every)
            v = self.batch["velocities"]
            momenta = self.batch["atomic_masses"].view(-1, 1) * v
            kinetic = 0.5 * segment_dot(momenta, v, self.batch.ptr3).view(-1)
            self.kinetic.append(kinetic.numpy())
            self.potential.append(self.batch["energy"].view(-1).numpy())
        return self


def deviation(samples, expected):
    """Return how far the mean over independent replicas is from what it should be, in errors."""
    means = np.mean(samples, axis=0)
    return abs(means.mean() - expected) / (means.std(ddof=1) / np.sqrt(len(means)))


ENGINES = {
    "andersen": lambda model, dt: Andersen(model, dt, TEMPERATURE, 0.02, fixcm=False, seed=11),
    "bussi": lambda model, dt: Bussi(model, dt, TEMPERATURE, 5.0, seed=11),
    "langevin": lambda model, dt: Langevin(model, dt, TEMPERATURE, 0.1, seed=11),
}
engines = pytest.mark.parametrize("name", ENGINES)


@engines
def test_free_atoms_have_the_temperature(name):
    sampler = Sampler(ENGINES[name](Harmonic(k=0.0), 0.2), replicas(200)).run(100, 20, 20)
    mean = 1.5 * ATOMS * kB * TEMPERATURE
    assert deviation(sampler.kinetic, mean) < 4.0
    variance = mean * kB * TEMPERATURE
    fluctuation = (np.array(sampler.kinetic) - mean) ** 2
    assert deviation(fluctuation, variance) < 4.0


# Bussi's thermostat acts on the energy of all atoms at once: wells do not exchange theirs.
@pytest.mark.slow
@pytest.mark.parametrize(("name", "excess"), [("andersen", 0.02 / 2), ("langevin", 0.0)])
def test_harmonic_wells_have_the_temperature_in_both_energies(name, excess):
    # The step is a fiftieth of the lightest atom's period: its error is below that of the sample.
    engine = ENGINES[name](Harmonic(k=1.0), 0.12)
    sampler = Sampler(engine, replicas(400)).run(2000, 100, 100)
    for samples, kT in (
        (sampler.kinetic, kB * TEMPERATURE),
        (sampler.potential, kB * TEMPERATURE * (1.0 + excess)),
    ):
        mean = 1.5 * ATOMS * kT
        assert deviation(samples, mean) < 4.0
        assert deviation((np.array(samples) - mean) ** 2, mean * kT) < 4.0


def test_wells_have_the_exact_width_under_baoab_whatever_the_time_step():
    """<x²> = kT / k at a third and at nine tenths of the largest stable step."""
    for dt in (0.7, 1.8):  # that is 2 sqrt(m / k) of hydrogen
        engine = LangevinBAOAB(Harmonic(k=1.0), dt, TEMPERATURE, T_tau=20.0, seed=11)
        sampler = Sampler(engine, replicas(200)).run(500, 15, 20)
        assert deviation(sampler.potential, 1.5 * ATOMS * kB * TEMPERATURE) < 4.0


def test_bussis_thermostat_keeps_account_of_the_energy():
    drifts = []
    for dt in (0.1, 0.05):
        batch, energies = replicas(20), []
        engine = Bussi(Harmonic(k=1.0), dt, TEMPERATURE, 5.0, seed=11)
        for _ in range(10):
            engine.run(batch, n_steps=round(2 / dt))
            energies.append(engine.conserved_energy(batch).view(-1).numpy())
        drifts.append(np.ptp(energies, axis=0).max())
    assert drifts[1] < drifts[0] / 2.0 < 0.01


def test_berendsens_thermostat_gives_the_mean_and_not_the_fluctuations():
    sampler = Sampler(NVTBerendsen(Harmonic(k=0.0), 0.2, TEMPERATURE, 5.0), replicas(200))
    sampler.run(200, 20, 20)
    mean = 1.5 * ATOMS * kB * TEMPERATURE
    assert np.abs(np.array(sampler.kinetic) / mean - 1.0).max() < 1e-3


@pytest.mark.slow
@engines
def test_cold_atoms_are_heated_to_the_temperature(name):
    sampler = Sampler(ENGINES[name](Harmonic(k=0.0), 0.2), replicas(400, 0.1))
    sampler.run(1000, 50, 50)
    assert deviation(sampler.kinetic, 1.5 * ATOMS * kB * TEMPERATURE) < 4.0
