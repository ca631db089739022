"""Walks along surfaces of constant energy, for one Atoms."""

import ase.md.contour_exploration
from ase.md.contour_exploration import normalize, subtract_projection

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["ContourExploration", "normalize", "subtract_projection"]


class ContourExploration(OneAtATime, ase.md.contour_exploration.ContourExploration):
    """``ase.md.contour_exploration.ContourExploration`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
