"""BFGS with a line search, for one Atoms."""

import ase.optimize.bfgslinesearch

from nvdyn_ase.optimize.one_at_a_time import OneAtATime


class BFGSLineSearch(OneAtATime, ase.optimize.bfgslinesearch.BFGSLineSearch):
    """``ase.optimize.BFGSLineSearch`` as it is; it takes one Atoms."""
