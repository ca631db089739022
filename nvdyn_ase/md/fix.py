"""ASE's observer that takes the rotation of one Atoms away."""

import ase.md.fix

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["FixRotation"]


class FixRotation(OneAtATime, ase.md.fix.FixRotation):
    """``ase.md.fix.FixRotation`` as it is; attach one for each Atoms of a list."""


__getattr__ = rest_of_module(__name__)
