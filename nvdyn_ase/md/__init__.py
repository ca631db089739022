"""ASE's molecular dynamics, for one Atoms or a list: the import is all that changes."""

from nvdyn_ase.md.langevin import Langevin
from nvdyn_ase.md.verlet import VelocityVerlet

__all__ = ["Langevin", "VelocityVerlet"]
