"""Gaussian process minimization, for one Atoms."""

import ase.optimize.gpmin.gpmin

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module


class GPMin(OneAtATime, ase.optimize.gpmin.gpmin.GPMin):
    """``ase.optimize.GPMin`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
