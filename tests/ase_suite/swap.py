"""A pytest plugin that puts the facades where ASE's tests look for ASE's classes.

Loaded with ``-p tests.ase_suite.swap`` before any test is imported. A new facade is added to
``FACADES``; nothing else has to change.
"""

import importlib
import pkgutil
from types import ModuleType

import ase.md
import ase.optimize

from nvdyn_ase.optimize.driver import AtomsDriver

#: Modules of nvdyn_ase, and the classes in them that stand in for ASE's of the same name and path.
FACADES = {
    "optimize.bfgs": ["BFGS"],
    "optimize.cellawarebfgs": ["CellAwareBFGS"],
    "optimize.bfgslinesearch": ["BFGSLineSearch"],
    "optimize.fire": ["FIRE"],
    "optimize.fire2": ["FIRE2"],
    "optimize.lbfgs": ["LBFGS", "LBFGSLineSearch"],
    "optimize.mdmin": ["MDMin"],
    "optimize.oldqn": ["GoodOldQuasiNewton"],
    "optimize.rfo": ["RFO"],
    "md.andersen": ["Andersen"],
    "md.bussi": ["Bussi"],
    "md.langevin": ["Langevin"],
    "md.langevinbaoab": ["LangevinBAOAB"],
    "md.melchionna": ["MelchionnaNPT"],
    "md.nose_hoover_chain": ["IsotropicMTKNPT", "MTKNPT", "MaskedMTKNPT", "NoseHooverChainNVT"],
    "md.npt": ["NPT"],
    "md.nptberendsen": ["Inhomogeneous_NPTBerendsen", "NPTBerendsen"],
    "md.nvtberendsen": ["NVTBerendsen"],
    "md.verlet": ["VelocityVerlet"],
}


def ase_modules() -> list[ModuleType]:
    """Import and return every module below ``ase.optimize`` and ``ase.md``."""
    modules = [ase.optimize, ase.md]
    for package in (ase.optimize, ase.md):
        names = pkgutil.walk_packages(package.__path__, package.__name__ + ".")
        modules.extend(importlib.import_module(info.name) for info in names)
    return modules


def swap() -> int:
    """Replace ASE's classes in every module that has them; return how many places that were."""
    places = 0
    modules = ase_modules()
    for path, names in FACADES.items():
        ours = importlib.import_module(f"nvdyn_ase.{path}")
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
