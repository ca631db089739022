"""Basin hopping, for one Atoms."""

import ase.optimize.basin

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module


class BasinHopping(OneAtATime, ase.optimize.basin.BasinHopping):
    """``ase.optimize.basin.BasinHopping`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
