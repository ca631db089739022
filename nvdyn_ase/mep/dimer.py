"""The dimer method, for one Atoms."""

import ase.mep.dimer

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module


class MinModeAtoms(OneAtATime, ase.mep.dimer.MinModeAtoms):
    """``ase.mep.MinModeAtoms`` as it is; it takes one Atoms."""


class MinModeTranslate(OneAtATime, ase.mep.dimer.MinModeTranslate):
    """``ase.mep.MinModeTranslate`` as it is; it takes one MinModeAtoms."""


__getattr__ = rest_of_module(__name__)
