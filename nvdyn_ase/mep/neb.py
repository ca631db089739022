"""Nudged elastic bands, as in ASE: one band is many images already."""

import ase.mep.neb
from ase.mep.neb import NEB, DyNEB, NEBTools, SingleCalculatorNEB, idpp_interpolate, interpolate

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = [
    "NEB",
    "DyNEB",
    "NEBOptimizer",
    "NEBTools",
    "SingleCalculatorNEB",
    "idpp_interpolate",
    "interpolate",
]


class NEBOptimizer(OneAtATime, ase.mep.neb.NEBOptimizer):
    """``ase.mep.neb.NEBOptimizer`` as it is; it takes one band."""


__getattr__ = rest_of_module(__name__)
