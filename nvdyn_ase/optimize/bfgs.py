"""BFGS, for one Atoms."""

import ase.optimize.bfgs

from nvdyn_ase.optimize.one_at_a_time import OneAtATime


class BFGS(OneAtATime, ase.optimize.bfgs.BFGS):
    """``ase.optimize.BFGS`` as it is; it takes one Atoms."""


class oldBFGS(OneAtATime, ase.optimize.bfgs.oldBFGS):  # noqa: N801
    """``ase.optimize.bfgs.oldBFGS`` as it is; it takes one Atoms."""
