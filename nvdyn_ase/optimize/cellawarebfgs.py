"""BFGS that knows the stiffness of the cell, for one Atoms in a filter."""

import ase.optimize.cellawarebfgs
from ase.optimize.cellawarebfgs import calculate_isotropic_elasticity_tensor

from nvdyn_ase.optimize.one_at_a_time import OneAtATime

__all__ = ["CellAwareBFGS", "calculate_isotropic_elasticity_tensor"]


class CellAwareBFGS(OneAtATime, ase.optimize.cellawarebfgs.CellAwareBFGS):
    """``ase.optimize.CellAwareBFGS`` as it is; it takes one Atoms."""
