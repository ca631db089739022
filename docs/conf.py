"""Sphinx configuration: ``sphinx-build docs docs/_build``."""

project = "nvdyn_ase"
author = "The nvdyn_ase developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
html_theme = "furo"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
myst_enable_extensions = ["colon_fence"]
