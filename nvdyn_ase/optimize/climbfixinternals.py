"""BFGS that climbs along an internal coordinate, for one Atoms."""

import ase.optimize.climbfixinternals

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module


class BFGSClimbFixInternals(OneAtATime, ase.optimize.climbfixinternals.BFGSClimbFixInternals):
    """``ase.optimize.climbfixinternals.BFGSClimbFixInternals`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
