"""Equipartition where constraints take degrees of freedom away.

Bonds of fixed length, a centre of mass that stays, atoms that stay: the kinetic energy is that of
the degrees of freedom that are left, in all and in each part of a system.
"""

import numpy as np
import pytest
from ase import units
from ase.constraints import FixAtoms, FixBondLengths, FixCom

from nvdyn_ase.dynamics import (
    Andersen,
    Bussi,
    HookStageEnum,
    Langevin,
    LangevinBAOAB,
    NoseHooverChainNVT,
)
from tests.ensembles.argon import ATOMS, DT, PS, model, replicas, sampled
from tests.ensembles.checks import LIMIT, data, is_of_the_temperature
from tests.ensembles.record import record

pytestmark = pytest.mark.slow

TEMPERATURE = 60.0
REPLICAS = 64
SCHEDULE = (2000, 20, 400)

THERMOSTATS = {
    "Andersen": lambda: Andersen(model(), DT, TEMPERATURE, 0.01, fixcm=False, seed=31),
    "Bussi": lambda: Bussi(model(), DT, TEMPERATURE, 0.1 * PS, seed=32),
    "Langevin": lambda: Langevin(model(), DT, TEMPERATURE, 2.0 / PS, seed=33),
    "LangevinBAOAB": lambda: LangevinBAOAB(model(), DT, TEMPERATURE, T_tau=0.5 * PS, seed=34),
    "NoseHooverChainNVT": lambda: NoseHooverChainNVT(model(), DT, TEMPERATURE, 0.1 * PS),
}
#: What is put on, what it takes away of the first half of the atoms, and of all.
CONSTRAINTS = {
    "atoms fixed": (lambda: FixAtoms(range(8)), 24, 24),
    "bond lengths fixed": (lambda: FixBondLengths([(2 * i, 2 * i + 1) for i in range(4)]), 4, 4),
    "centre of mass fixed": (FixCom, 1.5, 3),
}


class HalfTheAtoms:
    """A hook that notes the kinetic energy of the first half of the atoms of each replica."""

    stage = HookStageEnum.AFTER_STEP

    def __init__(self, every):
        self.frequency, self.rows = every, []

    def __call__(self, batch, dynamics):
        velocities = batch["velocities"]
        own = 0.5 * batch["atomic_masses"].view(-1, 1) * velocities * velocities
        half = own.sum(1).view(-1, ATOMS)[:, : ATOMS // 2].sum(1)
        self.rows.append(half.numpy().copy())


# Andersen's collisions draw one component at a time, and constraints that tie components together
# then take a part of it away: what is held together is too cold, in ASE too. Positions under BAOAB
# do not follow constraints, in ASE neither, so that bonds would not keep their lengths.
LEFT_OUT = {
    ("Andersen", "bond lengths fixed"),
    ("Andersen", "centre of mass fixed"),
    ("LangevinBAOAB", "bond lengths fixed"),
}
CASES = [
    (name, constraint)
    for name in THERMOSTATS
    for constraint in CONSTRAINTS
    if (name, constraint) not in LEFT_OUT
]


@pytest.mark.parametrize(("name", "constraint"), CASES)
def test_equipartition_over_what_constraints_leave(name, constraint):
    make, of_half, taken = CONSTRAINTS[constraint]
    batch = replicas(TEMPERATURE, REPLICAS, seed=20, constrain=lambda a: a.set_constraint(make()))
    engine, half = THERMOSTATS[name](), HalfTheAtoms(SCHEDULE[2])
    engine.register_hook(half)
    samples = sampled(engine, batch, *SCHEDULE)
    case = f"{name}, {constraint}"
    simulation = data(samples, TEMPERATURE, taken=taken)
    kinetic = np.array(half.rows[-SCHEDULE[1] :]).mean(0)
    expected = 0.5 * (3 * ATOMS // 2 - of_half) * units.kB * TEMPERATURE
    deviation = abs(kinetic.mean() - expected) / (kinetic.std(ddof=1) / np.sqrt(REPLICAS))
    what = "kinetic energy of half of the atoms"
    record(case, what, kinetic.size, f"{deviation:.2f} errors", deviation < LIMIT)
    assert is_of_the_temperature(case, simulation, TEMPERATURE)
    assert deviation < LIMIT


def test_andersens_collisions_cool_a_system_whose_centre_of_mass_is_held():
    batch = replicas(TEMPERATURE, REPLICAS, seed=20, constrain=lambda a: a.set_constraint(FixCom()))
    samples = sampled(THERMOSTATS["Andersen"](), batch, *SCHEDULE)
    case = "Andersen, centre of mass fixed"
    assert not is_of_the_temperature(case, data(samples, TEMPERATURE, taken=3), TEMPERATURE)
    # A collision gives a component kT, of which all but a share of 1 / ATOMS is left.
    found = samples["kinetic"].mean() / (0.5 * (3 * ATOMS - 3) * units.kB * TEMPERATURE)
    assert found == pytest.approx(1.0 / (1.0 + 1.0 / ATOMS), abs=0.015)
