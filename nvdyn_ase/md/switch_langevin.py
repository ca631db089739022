"""Thermodynamic integration between two potentials, for one Atoms."""

import ase.md.switch_langevin
from ase.md.switch_langevin import get_lambda

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["SwitchLangevin", "get_lambda"]


class SwitchLangevin(OneAtATime, ase.md.switch_langevin.SwitchLangevin):
    """``ase.md.switch_langevin.SwitchLangevin`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
