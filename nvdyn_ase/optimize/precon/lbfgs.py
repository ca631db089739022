"""Preconditioned L-BFGS, for one Atoms."""

import ase.optimize.precon.lbfgs

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module


class PreconLBFGS(OneAtATime, ase.optimize.precon.lbfgs.PreconLBFGS):
    """``ase.optimize.precon.PreconLBFGS`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
