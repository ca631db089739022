"""A pytest plugin that puts the facades where ASE's tests look for ASE's classes.

Loaded with ``-p tests.ase_suite.swap`` before any test is imported. A new facade is added to
``FACADES``; nothing else has to change.
"""

import importlib
import pkgutil
from types import ModuleType

import ase.md
import ase.mep
import ase.optimize

from nvdyn_ase.optimize.driver import AtomsDriver

#: Modules of nvdyn_ase, and what in them stands in for ASE's classes and functions of the same
#: name and path. Not ODE12r and PreconODE12r: ASE's second calls the first one by its name, which
#: would be the facade then.
FACADES = {
    "optimize.basin": ["BasinHopping"],
    "optimize.bfgs": ["BFGS"],
    "optimize.cellawarebfgs": ["CellAwareBFGS"],
    "optimize.climbfixinternals": ["BFGSClimbFixInternals"],
    "optimize.bfgslinesearch": ["BFGSLineSearch"],
    "optimize.fire": ["FIRE"],
    "optimize.fire2": ["FIRE2"],
    "optimize.gpmin.gpmin": ["GPMin"],
    "optimize.lbfgs": ["LBFGS", "LBFGSLineSearch"],
    "optimize.mdmin": ["MDMin"],
    "optimize.minimahopping": ["MinimaHopping"],
    "optimize.oldqn": ["GoodOldQuasiNewton"],
    "optimize.precon.fire": ["PreconFIRE"],
    "optimize.precon.lbfgs": ["PreconLBFGS"],
    "optimize.rfo": ["RFO"],
    "optimize.sciopt": ["SciPyFmin", "SciPyFminBFGS", "SciPyFminCG", "SciPyFminPowell"],
    "mep.dimer": ["MinModeAtoms", "MinModeTranslate"],
    "mep.neb": ["NEBOptimizer"],
    "md.andersen": ["Andersen"],
    "md.bussi": ["Bussi"],
    "md.contour_exploration": ["ContourExploration"],
    "md.fix": ["FixRotation"],
    "md.langevin": ["Langevin"],
    "md.langevinbaoab": ["LangevinBAOAB"],
    "md.logger": ["MDLogger"],
    "md.melchionna": ["MelchionnaNPT"],
    "md.nose_hoover_chain": ["IsotropicMTKNPT", "MTKNPT", "MaskedMTKNPT", "NoseHooverChainNVT"],
    "md.npt": ["NPT"],
    "md.nptberendsen": ["Inhomogeneous_NPTBerendsen", "NPTBerendsen"],
    "md.nvtberendsen": ["NVTBerendsen"],
    "md.switch_langevin": ["SwitchLangevin"],
    "md.velocitydistribution": [
        *("MaxwellBoltzmannDistribution", "Stationary", "ZeroRotation"),
        *("force_temperature", "thermalize_momenta"),
    ],
    "md.verlet": ["VelocityVerlet"],
}


def ase_modules() -> list[ModuleType]:
    """Import and return every module below ``ase.optimize``, ``ase.md`` and ``ase.mep``."""
    modules = [ase.optimize, ase.md, ase.mep]
    for package in (ase.optimize, ase.md, ase.mep):
        names = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        modules.extend(importlib.import_module(info.name) for info in names)
    return modules


def swap() -> int:
    """Replace ASE's classes in every module that has them; return how many places that were."""
    places = 0
    modules = ase_modules()
    # All before the first is swapped: each is a subclass of what it stands in for.
    facades = {path: importlib.import_module(f"nvdyn_ase.{path}") for path in FACADES}
    for path, names in FACADES.items():
        ours = facades[path]
        theirs = importlib.import_module(f"ase.{path}")
        for name in names:
            original, facade = getattr(theirs, name), getattr(ours, name)
            for module in modules:
                for key, value in list(vars(module).items()):
                    if value is original:
                        setattr(module, key, facade)
                        places += 1
    return places


def pytest_configure(config) -> None:
    """Swap before the tests are collected, and count what the engine is asked to move."""
    assert swap() > 0
    original = AtomsDriver.__init__

    def counting(self, *arguments, **options):
        config.engines = getattr(config, "engines", 0) + 1
        original(self, *arguments, **options)

    AtomsDriver.__init__ = counting


def pytest_terminal_summary(terminalreporter, exitstatus, config) -> None:
    """Say what was swapped, and how often the engine came in."""
    names = ", ".join(name for names in FACADES.values() for name in names)
    engines = getattr(config, "engines", 0)
    terminalreporter.write_line(f"nvdyn_ase stands in for {names}; engines made: {engines}")
