"""Integrators: engines that follow the equations of motion."""

from nvdyn_ase.dynamics.integrators.andersen import Andersen
from nvdyn_ase.dynamics.integrators.berendsen import NVTBerendsen
from nvdyn_ase.dynamics.integrators.bussi import Bussi
from nvdyn_ase.dynamics.integrators.langevin import Langevin, NVTLangevin
from nvdyn_ase.dynamics.integrators.nve import NVE, VelocityVerlet

__all__ = [
    "NVE",
    "Andersen",
    "Bussi",
    "Langevin",
    "NVTBerendsen",
    "NVTLangevin",
    "VelocityVerlet",
]
