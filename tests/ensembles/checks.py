"""Statistical tests of ensembles by ``physical_validation``, and what they may show by chance.

P. T. Merz and M. R. Shirts, PLOS ONE 13, e0202764 (2018). Seeds, numbers of samples and the number
of checks are fixed beforehand.
"""

import pytest
from ase import units
from scipy.stats import norm

from tests.ensembles.record import record

validation = pytest.importorskip("physical_validation")

#: Checks in the whole suite, at least as many as there are; and how often one of them all may fail
#: for an integrator that does what it should.
CHECKS, CHANCE = 91, 0.01
#: The same for one check: a probability, and two-sided in standard deviations.
LEAST_P = CHANCE / CHECKS
LIMIT = float(norm.isf(0.5 * LEAST_P))

_UNITS = validation.data.UnitData(
    kb=units.kB,
    energy_conversion=units.mol / units.kJ,
    energy_str="eV",
    length_conversion=0.1,
    length_str="A",
    volume_conversion=1e-3,
    volume_str="A^3",
    temperature_conversion=1.0,
    temperature_str="K",
    pressure_conversion=1.0 / units.bar,
    pressure_str="eV/A^3",
    time_conversion=1.0 / (1000.0 * units.fs),
    time_str="t",
)


def data(samples, temperature, pressure=None, atoms=32, taken=0):
    """Return samples of independent replicas as one simulation.

    Parameters
    ----------
    samples
        Energies and volumes, (samples, replicas).
    temperature, pressure
        That were asked for, K and eV/Å³.
    atoms, taken
        Atoms of a replica, and degrees of freedom that constraints take away.
    """
    kinetic, potential, volume = (
        samples[name].ravel() for name in ("kinetic", "potential", "volume")
    )
    system = validation.data.SystemData(
        natoms=atoms, nconstraints=taken, ndof_reduction_tra=0, ndof_reduction_rot=0
    )
    if pressure is None:
        ensemble = validation.data.EnsembleData(
            "NVT", natoms=atoms, volume=float(volume[0]), temperature=temperature
        )
    else:
        ensemble = validation.data.EnsembleData(
            "NPT", natoms=atoms, pressure=pressure, temperature=temperature
        )
    observables = validation.data.ObservableData(
        kinetic_energy=kinetic,
        potential_energy=potential,
        total_energy=kinetic + potential,
        volume=volume,
    )
    return validation.data.SimulationData(
        units=_UNITS, system=system, ensemble=ensemble, observables=observables
    )


def kinetic_p_value(simulation):
    """Return how likely kinetic energies of the ensemble are as far from it as these."""
    p = validation.kinetic_energy.distribution(
        simulation, strict=True, verbosity=0, data_is_uncorrelated=True
    )
    return float(p)


def ensemble_deviation(one, other):
    """Return how far the ratio of two distributions is from what it should be, in errors."""
    deviations = validation.ensemble.check(
        one, other, verbosity=0, data_is_uncorrelated=True, bootstrap_seed=1
    )
    return float(max(abs(deviation) for deviation in deviations))


def is_of_the_temperature(case, simulation, temperature):
    """Say whether kinetic energies are distributed as they should be, and record it."""
    p = kinetic_p_value(simulation)
    size = len(simulation.observables.kinetic_energy)
    what = f"kinetic energy, {temperature:g} K"
    record(case, what, size, f"p = {p:.3g}", p > LEAST_P)
    return p > LEAST_P


def are_of_one_ensemble(case, what, one, other):
    """Say whether two simulations differ as the ensemble says, and record it."""
    deviation = ensemble_deviation(one, other)
    size = 2 * len(one.observables.kinetic_energy)
    record(case, what, size, f"{deviation:.2f} errors", deviation < LIMIT)
    return deviation < LIMIT
