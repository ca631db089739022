"""ASE's analysis of trajectories."""

from ase.md.analysis import DiffusionCoefficient

from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["DiffusionCoefficient"]

__getattr__ = rest_of_module(__name__)
