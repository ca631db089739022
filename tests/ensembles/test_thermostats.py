"""Constant temperature: kinetic energies, and energies at two temperatures.

Each thermostat that claims the canonical ensemble, and Berendsen's, which does not and must fail.
Velocities at the start are Maxwell's, so that the total momentum is not zero: all three degrees of
freedom per atom take part.
"""

import pytest

from nvdyn_ase.dynamics import (
    Andersen,
    Bussi,
    Langevin,
    LangevinBAOAB,
    NoseHooverChainNVT,
    NVTBerendsen,
)
from tests.ensembles.argon import DT, PS, model, replicas, sampled
from tests.ensembles.checks import are_of_one_ensemble, data, is_of_the_temperature

pytestmark = pytest.mark.slow

TEMPERATURES = (50.0, 60.0)
#: Steps before the first sample, samples of each of 64 replicas, and steps between them: 2 ps, in
#: which the energy of every thermostat here has forgotten all but a tenth of where it was.
SCHEDULE = (2000, 40, 400)

#: Of a temperature, and of the number of the run: runs share no random numbers.
THERMOSTATS = {
    "Andersen": lambda T, n: Andersen(model(), DT, T, 0.01, fixcm=False, seed=210 + n),
    "Bussi": lambda T, n: Bussi(model(), DT, T, 0.1 * PS, seed=220 + n),
    "Langevin": lambda T, n: Langevin(model(), DT, T, 2.0 / PS, seed=230 + n),
    "LangevinBAOAB": lambda T, n: LangevinBAOAB(model(), DT, T, T_tau=0.5 * PS, seed=240 + n),
    "NoseHooverChainNVT": lambda T, n: NoseHooverChainNVT(model(), DT, T, 0.1 * PS),
}


def simulations(make, schedule=SCHEDULE):
    for seed, temperature in enumerate(TEMPERATURES):
        samples = sampled(make(temperature, seed), replicas(temperature, seed=seed), *schedule)
        yield data(samples, temperature)


@pytest.mark.parametrize("name", THERMOSTATS)
def test_a_thermostat_samples_the_canonical_ensemble(name):
    cold, warm = simulations(THERMOSTATS[name])
    verdicts = [
        is_of_the_temperature(name, cold, TEMPERATURES[0]),
        is_of_the_temperature(name, warm, TEMPERATURES[1]),
        are_of_one_ensemble(name, "energy, 50 and 60 K", cold, warm),
    ]
    assert all(verdicts)


def test_berendsens_thermostat_does_not():
    def make(temperature, run):
        return NVTBerendsen(model(), DT, temperature, 0.1 * PS, fixcm=False)

    cold, warm = simulations(make, (2000, 10, 400))
    verdicts = [
        is_of_the_temperature("NVTBerendsen", cold, TEMPERATURES[0]),
        is_of_the_temperature("NVTBerendsen", warm, TEMPERATURES[1]),
        are_of_one_ensemble("NVTBerendsen", "energy, 50 and 60 K", cold, warm),
    ]
    assert not any(verdicts)
