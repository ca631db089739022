"""Optimizers: engines that go downhill."""

from nvdyn_ase.dynamics.optimizers.fire import FIRE

__all__ = ["FIRE"]
