"""Constant temperature and pressure: energies and volumes at two temperatures, and two pressures.

Each barostat that claims the isothermal-isobaric ensemble, and Berendsen's, which do not and must
fail.
"""

import pytest
from ase import units

from nvdyn_ase.dynamics import (
    MTKNPT,
    InhomogeneousNPTBerendsen,
    IsotropicMTKNPT,
    LangevinBAOAB,
    MaskedMTKNPT,
    MelchionnaNPT,
    NPTBerendsen,
    StochasticCellRescaling,
)
from tests.ensembles.argon import DT, PS, model, replicas, sampled
from tests.ensembles.checks import are_of_one_ensemble, data, is_of_the_temperature

pytestmark = pytest.mark.slow

HIGH = 700.0 * units.bar
#: Temperature, K, and pressure, eV/Å³.
STATES = ((50.0, 0.0), (60.0, 0.0), (60.0, HIGH))
#: Steps before the first sample, samples of each of 64 replicas, and steps between them: 2 ps, in
#: which a volume has forgotten all but a tenth of where it was. With faster baths it swings on.
SCHEDULE = (3000, 30, 400)
TIMES = (0.2 * PS, 1.0 * PS)
#: The same of stochastic cell rescaling, and about the compressibility of argon, Å³/eV.
RESCALING = (0.1 * PS, 0.5 * PS, 90.0)
#: Time constant of the thermostat, and bulk modulus times the square of that of the barostat.
MELCHIONNA = (0.3 * PS, (0.8 * PS) ** 2 / 90.0)
#: Those that do not count a motion as a whole, and want none.
AT_REST = {"MelchionnaNPT"}
#: Twice the latter is the time in which a motion of the cell loses a factor of e.
FRICTION = {"T_tau": 0.5 * PS, "P_tau": 0.4 * PS}

#: Of temperature and pressure, and of the number of the run: runs share no random numbers.
BAROSTATS = {
    "IsotropicMTKNPT": lambda T, p, n: IsotropicMTKNPT(model(), DT, T, p, *TIMES),
    "MTKNPT": lambda T, p, n: MTKNPT(model(), DT, T, p, *TIMES),
    "MaskedMTKNPT": lambda T, p, n: MaskedMTKNPT(
        model(), DT, T, p, *TIMES, mask=(True, False, True)
    ),
    "MelchionnaNPT": lambda T, p, n: MelchionnaNPT(model(), DT, T, p, *MELCHIONNA),
    "StochasticCellRescaling": lambda T, p, n: StochasticCellRescaling(
        model(), DT, T, p, *RESCALING, seed=340 + n
    ),
    "StochasticCellRescaling, any shape": lambda T, p, n: StochasticCellRescaling(
        model(), DT, T, p, *RESCALING, isotropic=False, seed=350 + n
    ),
    "LangevinBAOAB, hydrostatic": lambda T, p, n: LangevinBAOAB(
        model(), DT, T, -p, True, **FRICTION, seed=360 + n
    ),
    "LangevinBAOAB, any shape": lambda T, p, n: LangevinBAOAB(
        model(), DT, T, -p, **FRICTION, seed=370 + n
    ),
}


def checked(name, make, states=STATES, schedule=SCHEDULE):
    """Return the verdict of each check of a barostat."""
    found, verdicts = [], []
    for seed, (temperature, pressure) in enumerate(states):
        batch = replicas(temperature, seed=10 + seed, drift=name not in AT_REST)
        samples = sampled(make(temperature, pressure, seed), batch, *schedule)
        taken = 3 if name in AT_REST else 0
        found.append(data(samples, temperature, pressure, taken=taken))
        case = f"{name}, 700 bar" if pressure else name
        verdicts.append(is_of_the_temperature(case, found[-1], temperature))
    cold, warm, *pressed = found
    verdicts.append(are_of_one_ensemble(name, "enthalpy, 50 and 60 K", cold, warm))
    if pressed:
        verdicts.append(are_of_one_ensemble(name, "volume, 0 and 700 bar", warm, *pressed))
    return verdicts


@pytest.mark.parametrize("name", BAROSTATS)
def test_a_barostat_samples_its_ensemble(name):
    assert all(checked(name, BAROSTATS[name]))


@pytest.mark.parametrize("kind", [NPTBerendsen, InhomogeneousNPTBerendsen])
def test_berendsens_barostats_do_not(kind):
    def make(temperature, pressure, run):
        return kind(model(), DT, temperature, pressure, 0.1 * PS, *RESCALING[1:], fixcm=False)

    # Volumes vary so little that those at two pressures have none in common to compare.
    assert not any(checked(kind.__name__, make, STATES[:2], (2000, 6, 400)))
