"""Molecular dynamics of a list, stopped anywhere and gone on with: the same bits."""

import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT

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
    VelocityVerlet,
)
from tests.systems import with_velocities

FS, BAR = units.fs, units.bar
BATH = {"temperature_K": [200, 300, 400]}
PRESSED = BATH | {"pressure_au": 100 * BAR, "compressibility_au": 1e-6 / BAR, "taup": 500 * FS}
CHAINS = BATH | {"pressure_au": 100 * BAR, "tdamp": 50 * FS, "pdamp": 500 * FS}
METHODS = {
    "VelocityVerlet": (VelocityVerlet, {}),
    "Langevin": (Langevin, BATH | {"friction": 0.02 / FS, "fixcm": False}),
    "Andersen": (Andersen, BATH | {"andersen_prob": 0.1}),
    "Bussi": (Bussi, BATH | {"taut": 50 * FS}),
    "NVTBerendsen": (NVTBerendsen, BATH | {"taut": 50 * FS}),
    "NoseHooverChainNVT": (NoseHooverChainNVT, BATH | {"tdamp": 50 * FS}),
    "LangevinBAOAB": (LangevinBAOAB, BATH | {"T_tau": 50 * FS}),
    "NPTBerendsen": (NPTBerendsen, PRESSED),
    "StochasticCellRescaling": (StochasticCellRescaling, PRESSED | {"taut": 50 * FS}),
    "IsotropicMTKNPT": (IsotropicMTKNPT, CHAINS),
    "MTKNPT": (MTKNPT, CHAINS),
}
FAST = {"Langevin", "NoseHooverChainNVT"}
CASES = [pytest.param(name, marks=() if name in FAST else pytest.mark.slow) for name in METHODS]


def metals():
    structures = [bulk(metal, cubic=True) for metal in ("Cu", "Au", "Pd")]
    for seed, atoms in enumerate(structures):
        atoms.calc = EMT()
        atoms.rattle(0.05, seed=seed)
        with_velocities(atoms, seed)
    return structures


def ran(name, lengths):
    """Return positions, momenta and cells after runs of these lengths."""
    kind, options = METHODS[name]
    structures = metals()
    np.random.seed(1)
    dynamics = kind(structures, timestep=2 * FS, **options)
    for length in lengths:
        dynamics.run(length)
    return [(a.get_positions(), a.get_momenta(), a.cell.array) for a in structures]


@pytest.mark.parametrize("name", CASES)
def test_a_run_in_parts_is_the_run_as_a_whole(name):
    whole = ran(name, [40])
    for seed in range(3):
        stops = np.random.default_rng(seed).choice(np.arange(1, 40), 4, replace=False)
        parts = ran(name, np.diff([0, *sorted(stops), 40]).tolist())
        for system, other in zip(parts, whole, strict=True):
            assert all(np.array_equal(*pair) for pair in zip(system, other, strict=True))
