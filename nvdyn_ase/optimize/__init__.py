"""ASE's optimizers, for one Atoms or a list: the import is all that changes."""

from nvdyn_ase.optimize.bfgs import BFGS
from nvdyn_ase.optimize.bfgslinesearch import BFGSLineSearch
from nvdyn_ase.optimize.cellawarebfgs import CellAwareBFGS
from nvdyn_ase.optimize.fire import FIRE
from nvdyn_ase.optimize.fire2 import FIRE2
from nvdyn_ase.optimize.gpmin.gpmin import GPMin
from nvdyn_ase.optimize.lbfgs import LBFGS, LBFGSLineSearch
from nvdyn_ase.optimize.mdmin import MDMin
from nvdyn_ase.optimize.ode import ODE12r
from nvdyn_ase.optimize.oldqn import GoodOldQuasiNewton
from nvdyn_ase.optimize.optimize import RestartError
from nvdyn_ase.optimize.rfo import RFO
from nvdyn_ase.rest_of_ase import rest_of_module

QuasiNewton = BFGSLineSearch

__all__ = [
    "BFGS",
    "FIRE",
    "FIRE2",
    "LBFGS",
    "RFO",
    "BFGSLineSearch",
    "CellAwareBFGS",
    "GPMin",
    "GoodOldQuasiNewton",
    "LBFGSLineSearch",
    "MDMin",
    "ODE12r",
    "QuasiNewton",
    "RestartError",
]

__getattr__ = rest_of_module(__name__)
