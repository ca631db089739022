"""Basin hopping, for one Atoms."""

import ase.optimize.basin

from nvdyn_ase.optimize.one_at_a_time import OneAtATime


class BasinHopping(OneAtATime, ase.optimize.basin.BasinHopping):
    """``ase.optimize.basin.BasinHopping`` as it is; it takes one Atoms."""
