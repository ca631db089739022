"""``ase.md.npt.NPT``, an older name of ``MelchionnaNPT``."""

import ase.md.npt

from nvdyn_ase.md.melchionna import MelchionnaNPT, WeakMethodWrapper
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["NPT", "WeakMethodWrapper"]


class NPT(MelchionnaNPT, ase.md.npt.NPT):
    """Another name of ``MelchionnaNPT``, deprecated in ASE."""


__getattr__ = rest_of_module(__name__)
