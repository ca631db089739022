"""``ase.md.npt.NPT``, an older name of ``MelchionnaNPT``."""

import ase.md.npt

from nvdyn_ase.md.melchionna import MelchionnaNPT, WeakMethodWrapper

__all__ = ["NPT", "WeakMethodWrapper"]


class NPT(MelchionnaNPT, ase.md.npt.NPT):
    """Another name of ``MelchionnaNPT``, deprecated in ASE."""
