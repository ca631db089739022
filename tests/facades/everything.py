"""Every optimizer and integrator of ASE that moves lists, with options that suit small metals."""

import ase.md
import ase.md.langevinbaoab
import ase.md.melchionna
import ase.md.nose_hoover_chain
import ase.md.nptberendsen
import ase.md.nvtberendsen
import ase.optimize
import ase.optimize.cellawarebfgs
import numpy as np
from ase import units

import nvdyn_ase.md
import nvdyn_ase.md.langevinbaoab
import nvdyn_ase.md.melchionna
import nvdyn_ase.md.nose_hoover_chain
import nvdyn_ase.md.nptberendsen
import nvdyn_ase.md.nvtberendsen
import nvdyn_ase.optimize

STEP = {"timestep": units.fs}
BATH = STEP | {"temperature_K": 300.0}
PRESS = {"pressure_au": 0.001, "taup": 500.0, "compressibility_au": 1.0}
CHAIN = BATH | {"tdamp": 50 * units.fs}
PISTON = {"pressure_au": 0.001, "pdamp": 500 * units.fs}

#: Modules below ``ase`` and ``nvdyn_ase``, and options; those with noise have a generator each.
OPTIMIZERS = dict.fromkeys(
    [
        *("FIRE", "FIRE2", "LBFGS", "BFGS", "RFO", "MDMin", "GoodOldQuasiNewton"),
        *("LBFGSLineSearch", "BFGSLineSearch"),
    ],
    ("optimize", {"logfile": None}),
)
INTEGRATORS = {
    "VelocityVerlet": ("md", STEP),
    "NVTBerendsen": ("md.nvtberendsen", BATH | {"taut": 20.0}),
    "NPTBerendsen": ("md.nptberendsen", BATH | PRESS | {"taut": 20.0}),
    "Inhomogeneous_NPTBerendsen": ("md.nptberendsen", BATH | PRESS | {"taut": 20.0}),
    "NoseHooverChainNVT": ("md.nose_hoover_chain", CHAIN),
    "IsotropicMTKNPT": ("md.nose_hoover_chain", CHAIN | PISTON),
    "MTKNPT": ("md.nose_hoover_chain", CHAIN | PISTON),
    "MelchionnaNPT": (
        "md.melchionna",
        BATH | {"externalstress": 0.0, "ttime": 25 * units.fs, "pfactor": 400.0},
    ),
}
STOCHASTIC = {
    "Langevin": ("md", BATH | {"friction": 0.02, "fixcm": False}),
    "Andersen": ("md", BATH | {"andersen_prob": 0.05}),
    "Bussi": ("md", BATH | {"taut": 20.0}),
    "LangevinBAOAB": ("md.langevinbaoab", BATH | {"T_tau": 20.0}),
}
EVERYTHING = OPTIMIZERS | INTEGRATORS | STOCHASTIC


def _class(package, name):
    module = package
    for part in EVERYTHING[name][0].split("."):
        module = getattr(module, part)
    return getattr(module, name)


def ours(name, systems, **more):
    """Return our class over a list."""
    if name in STOCHASTIC:
        more = {"rng": [np.random.default_rng(seed) for seed in range(len(systems))]} | more
    return _class(nvdyn_ase, name)(systems, **EVERYTHING[name][1] | more)


def ases(name, atoms, index, **more):
    """Return ASE's class over one Atoms of that list."""
    if name in STOCHASTIC:
        more = {"rng": np.random.default_rng(index)} | more
    return _class(ase, name)(atoms, **EVERYTHING[name][1] | more)


def steps_of(dynamics, steps):
    """Return the generator of a run of so many steps, whatever the forces."""
    if isinstance(dynamics, ase.md.md.MolecularDynamics):
        return dynamics.irun(steps)
    return dynamics.irun(fmax=0, steps=steps)
