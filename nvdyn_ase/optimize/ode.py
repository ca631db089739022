"""Relaxation as an ordinary differential equation, for one Atoms."""

import ase.optimize.ode
from ase.optimize.ode import ode12r

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["ODE12r", "ode12r"]


class ODE12r(OneAtATime, ase.optimize.ode.ODE12r):
    """``ase.optimize.ODE12r`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
