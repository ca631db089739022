"""Shape annotations are checked at run time in every test."""

from jaxtyping import install_import_hook

import tests.shapes

install_import_hook("nvdyn_ase", f"{tests.shapes.__name__}.{tests.shapes.checked.__name__}")
