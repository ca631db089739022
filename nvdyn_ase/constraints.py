"""ASE's constraints, under the names and with the parameters that they have in ASE.

They are ASE's own classes. In the batch, those of ``nvdyn_ase.dynamics.constraints`` do their work.
"""

from ase.constraints import *  # noqa: F403
from ase.constraints import __all__, dict2constraint

from nvdyn_ase.rest_of_ase import rest_of_module, rest_of_package

__all__ = [*__all__, "dict2constraint"]

__getattr__ = rest_of_module(__name__)
rest_of_package(__name__)
