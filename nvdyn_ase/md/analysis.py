"""ASE's analysis of trajectories."""

from ase.md.analysis import DiffusionCoefficient

__all__ = ["DiffusionCoefficient"]
