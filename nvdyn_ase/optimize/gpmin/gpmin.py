"""Gaussian process minimization, for one Atoms."""

import ase.optimize.gpmin.gpmin

from nvdyn_ase.optimize.one_at_a_time import OneAtATime


class GPMin(OneAtATime, ase.optimize.gpmin.gpmin.GPMin):
    """``ase.optimize.GPMin`` as it is; it takes one Atoms."""
