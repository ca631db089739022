"""Preconditioned FIRE, for one Atoms."""

import ase.optimize.precon.fire

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module


class PreconFIRE(OneAtATime, ase.optimize.precon.fire.PreconFIRE):
    """``ase.optimize.precon.PreconFIRE`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
