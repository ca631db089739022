"""Which cases of a sweep are in the default suite."""

import pytest


def paced(names):
    """Return names of cases for ``parametrize``: variants, which have a comma, are slow."""
    return [pytest.param(name, marks=pytest.mark.slow if "," in name else ()) for name in names]
