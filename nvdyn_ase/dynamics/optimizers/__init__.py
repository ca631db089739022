"""Optimizers: engines that go downhill."""

from nvdyn_ase.dynamics.optimizers.bfgs import BFGS
from nvdyn_ase.dynamics.optimizers.bfgs_line_search import BFGSLineSearch
from nvdyn_ase.dynamics.optimizers.cellawarebfgs import CellAwareBFGS
from nvdyn_ase.dynamics.optimizers.fire import FIRE
from nvdyn_ase.dynamics.optimizers.fire2 import FIRE2
from nvdyn_ase.dynamics.optimizers.gradient_descent import GradientDescent
from nvdyn_ase.dynamics.optimizers.lbfgs import LBFGS
from nvdyn_ase.dynamics.optimizers.lbfgs_line_search import LBFGSLineSearch
from nvdyn_ase.dynamics.optimizers.mdmin import MDMin
from nvdyn_ase.dynamics.optimizers.oldqn import GoodOldQuasiNewton
from nvdyn_ase.dynamics.optimizers.optimizer import Optimizer
from nvdyn_ase.dynamics.optimizers.rfo import RFO

__all__ = [
    "BFGS",
    "FIRE",
    "FIRE2",
    "LBFGS",
    "RFO",
    "BFGSLineSearch",
    "CellAwareBFGS",
    "GoodOldQuasiNewton",
    "GradientDescent",
    "LBFGSLineSearch",
    "MDMin",
    "Optimizer",
]
