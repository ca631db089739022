"""Optimizers: engines that go downhill."""

from nvdyn_ase.dynamics.optimizers.bfgs_line_search import BFGSLineSearch
from nvdyn_ase.dynamics.optimizers.fire import FIRE
from nvdyn_ase.dynamics.optimizers.fire2 import FIRE2
from nvdyn_ase.dynamics.optimizers.lbfgs import LBFGS
from nvdyn_ase.dynamics.optimizers.lbfgs_line_search import LBFGSLineSearch
from nvdyn_ase.dynamics.optimizers.mdmin import MDMin
from nvdyn_ase.dynamics.optimizers.optimizer import Optimizer

__all__ = ["FIRE", "FIRE2", "LBFGS", "BFGSLineSearch", "LBFGSLineSearch", "MDMin", "Optimizer"]
