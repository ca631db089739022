"""ASE's molecular dynamics, for one Atoms or a list: the import is all that changes."""

from nvdyn_ase.md.andersen import Andersen
from nvdyn_ase.md.bussi import Bussi
from nvdyn_ase.md.cell_rescaling import StochasticCellRescaling
from nvdyn_ase.md.langevin import Langevin
from nvdyn_ase.md.langevinbaoab import LangevinBAOAB
from nvdyn_ase.md.logger import MDLogger
from nvdyn_ase.md.nose_hoover_chain import (
    MTKNPT,
    IsotropicMTKNPT,
    MaskedMTKNPT,
    NoseHooverChainNVT,
)
from nvdyn_ase.md.nptberendsen import Inhomogeneous_NPTBerendsen, NPTBerendsen
from nvdyn_ase.md.nvtberendsen import NVTBerendsen
from nvdyn_ase.md.velocitydistribution import thermalize_momenta
from nvdyn_ase.md.verlet import VelocityVerlet
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = [
    "MTKNPT",
    "Andersen",
    "Bussi",
    "Inhomogeneous_NPTBerendsen",
    "IsotropicMTKNPT",
    "Langevin",
    "LangevinBAOAB",
    "MDLogger",
    "MaskedMTKNPT",
    "NPTBerendsen",
    "NVTBerendsen",
    "NoseHooverChainNVT",
    "StochasticCellRescaling",
    "VelocityVerlet",
    "thermalize_momenta",
]

__getattr__ = rest_of_module(__name__)
