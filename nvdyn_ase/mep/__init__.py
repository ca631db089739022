"""``ase.mep``, saddle points and paths to them: bands as in ASE, the dimer for one Atoms."""

from ase.mep import (
    NEB,
    AutoNEB,
    DimerControl,
    DyNEB,
    NEBTools,
    SingleCalculatorNEB,
    idpp_interpolate,
    interpolate,
)

from nvdyn_ase.mep.dimer import MinModeAtoms, MinModeTranslate
from nvdyn_ase.rest_of_ase import rest_of_module, rest_of_package

__all__ = [
    "NEB",
    "AutoNEB",
    "DimerControl",
    "DyNEB",
    "MinModeAtoms",
    "MinModeTranslate",
    "NEBTools",
    "SingleCalculatorNEB",
    "idpp_interpolate",
    "interpolate",
]

__getattr__ = rest_of_module(__name__)
rest_of_package(__name__)
