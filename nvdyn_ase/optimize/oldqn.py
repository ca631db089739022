"""Quasi-Newton with a trust radius, for one Atoms."""

import ase.optimize.oldqn

from nvdyn_ase.optimize.one_at_a_time import OneAtATime


class GoodOldQuasiNewton(OneAtATime, ase.optimize.oldqn.GoodOldQuasiNewton):
    """``ase.optimize.GoodOldQuasiNewton`` as it is; it takes one Atoms."""
