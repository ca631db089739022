"""Integrators: engines that follow the equations of motion."""

from nvdyn_ase.dynamics.integrators.andersen import Andersen
from nvdyn_ase.dynamics.integrators.baoab import LangevinBAOAB
from nvdyn_ase.dynamics.integrators.berendsen import NVTBerendsen
from nvdyn_ase.dynamics.integrators.bussi import Bussi
from nvdyn_ase.dynamics.integrators.cell_rescaling import StochasticCellRescaling
from nvdyn_ase.dynamics.integrators.langevin import Langevin, NVTLangevin
from nvdyn_ase.dynamics.integrators.melchionna import MelchionnaNPT
from nvdyn_ase.dynamics.integrators.mtk import NPH, NPT, IsotropicMTKNPT
from nvdyn_ase.dynamics.integrators.mtk_flexible import MTKNPT, MaskedMTKNPT
from nvdyn_ase.dynamics.integrators.nose_hoover import NoseHooverChainNVT, NVTNoseHoover
from nvdyn_ase.dynamics.integrators.npt_berendsen import InhomogeneousNPTBerendsen, NPTBerendsen
from nvdyn_ase.dynamics.integrators.nve import NVE, VelocityVerlet

__all__ = [
    "MTKNPT",
    "NPH",
    "NPT",
    "NVE",
    "Andersen",
    "Bussi",
    "InhomogeneousNPTBerendsen",
    "IsotropicMTKNPT",
    "Langevin",
    "LangevinBAOAB",
    "MaskedMTKNPT",
    "MelchionnaNPT",
    "NPTBerendsen",
    "NVTBerendsen",
    "NVTLangevin",
    "NVTNoseHoover",
    "NoseHooverChainNVT",
    "StochasticCellRescaling",
    "VelocityVerlet",
]
