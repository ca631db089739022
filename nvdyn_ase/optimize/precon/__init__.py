"""Preconditioned optimizers, for one Atoms, and ASE's preconditioners."""

import ase.optimize.precon
from ase.optimize.precon import (
    C1,
    FF,
    Exp,
    Exp_FF,
    Pfrommer,
    Precon,
    PreconImages,
    SplineFit,
    make_precon,
)

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.optimize.precon.fire import PreconFIRE
from nvdyn_ase.optimize.precon.lbfgs import PreconLBFGS
from nvdyn_ase.rest_of_ase import rest_of_module, rest_of_package

__all__ = [
    "C1",
    "FF",
    "Exp",
    "Exp_FF",
    "Pfrommer",
    "Precon",
    "PreconFIRE",
    "PreconImages",
    "PreconLBFGS",
    "PreconODE12r",
    "SplineFit",
    "make_precon",
]


class PreconODE12r(OneAtATime, ase.optimize.precon.PreconODE12r):
    """``ase.optimize.precon.PreconODE12r`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
rest_of_package(__name__)
