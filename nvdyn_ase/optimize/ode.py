"""Relaxation as an ordinary differential equation, for one Atoms."""

import ase.optimize.ode
from ase.optimize.ode import ode12r

from nvdyn_ase.optimize.one_at_a_time import OneAtATime

__all__ = ["ODE12r", "ode12r"]


class ODE12r(OneAtATime, ase.optimize.ode.ODE12r):
    """``ase.optimize.ODE12r`` as it is; it takes one Atoms."""
