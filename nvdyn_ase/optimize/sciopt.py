"""SciPy's minimizers, for one Atoms."""

import ase.optimize.sciopt
from ase.optimize.sciopt import (
    Converged,
    OptimizerConvergenceError,
    SciPyGradientlessOptimizer,
    SciPyOptimizer,
)

from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = [
    "Converged",
    "OptimizerConvergenceError",
    "SciPyFmin",
    "SciPyFminBFGS",
    "SciPyFminCG",
    "SciPyFminPowell",
    "SciPyGradientlessOptimizer",
    "SciPyOptimizer",
]


class SciPyFmin(OneAtATime, ase.optimize.sciopt.SciPyFmin):
    """``ase.optimize.sciopt.SciPyFmin`` as it is; it takes one Atoms."""


class SciPyFminBFGS(OneAtATime, ase.optimize.sciopt.SciPyFminBFGS):
    """``ase.optimize.sciopt.SciPyFminBFGS`` as it is; it takes one Atoms."""


class SciPyFminCG(OneAtATime, ase.optimize.sciopt.SciPyFminCG):
    """``ase.optimize.sciopt.SciPyFminCG`` as it is; it takes one Atoms."""


class SciPyFminPowell(OneAtATime, ase.optimize.sciopt.SciPyFminPowell):
    """``ase.optimize.sciopt.SciPyFminPowell`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
