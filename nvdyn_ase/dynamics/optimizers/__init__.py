"""Optimizers: engines that go downhill."""

from nvdyn_ase.dynamics.optimizers.fire import FIRE
from nvdyn_ase.dynamics.optimizers.lbfgs import LBFGS

__all__ = ["FIRE", "LBFGS"]
