"""Shape annotations are checked at run time in every test."""

import numba
from jaxtyping import install_import_hook

import tests.shapes

numba.njit = tests.shapes.unwrapping(numba.njit)
install_import_hook("nvdyn_ase", f"{tests.shapes.__name__}.{tests.shapes.checked.__name__}")
