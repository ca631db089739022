"""ASE's optimizers, for one Atoms or a list: the import is all that changes."""

from nvdyn_ase.optimize.fire import FIRE
from nvdyn_ase.optimize.fire2 import FIRE2
from nvdyn_ase.optimize.lbfgs import LBFGS
from nvdyn_ase.optimize.mdmin import MDMin

__all__ = ["FIRE", "FIRE2", "LBFGS", "MDMin"]
