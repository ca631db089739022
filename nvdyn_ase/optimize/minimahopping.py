"""Minima hopping, for one Atoms."""

import ase.optimize.minimahopping
from ase.optimize.minimahopping import ComparePositions, MHPlot, PassedMinimum

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["ComparePositions", "MHPlot", "MinimaHopping", "PassedMinimum"]


class MinimaHopping(OneAtATime, ase.optimize.minimahopping.MinimaHopping):
    """``ase.optimize.minimahopping.MinimaHopping`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
