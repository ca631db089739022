"""Rational function optimization, for one Atoms."""

import ase.optimize.rfo

from nvdyn_ase.optimize.one_at_a_time import OneAtATime


class RFO(OneAtATime, ase.optimize.rfo.RFO):
    """``ase.optimize.RFO`` as it is; it takes one Atoms."""
