"""ASE's observer that takes the rotation of one Atoms away."""

import ase.md.fix

from nvdyn_ase.optimize.one_at_a_time import OneAtATime

__all__ = ["FixRotation"]


class FixRotation(OneAtATime, ase.md.fix.FixRotation):
    """``ase.md.fix.FixRotation`` as it is; attach one for each Atoms of a list."""
