"""Gaussian process minimization, for one Atoms."""

from nvdyn_ase.rest_of_ase import rest_of_module, rest_of_package

__getattr__ = rest_of_module(__name__)
rest_of_package(__name__)
