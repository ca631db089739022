"""Integrators: engines that follow the equations of motion."""

from nvdyn_ase.dynamics.integrators.langevin import Langevin, NVTLangevin
from nvdyn_ase.dynamics.integrators.nve import NVE, VelocityVerlet

__all__ = ["NVE", "Langevin", "NVTLangevin", "VelocityVerlet"]
