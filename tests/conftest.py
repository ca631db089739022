"""Shape annotations are checked at run time in every test, and the suite repeats itself.

``HYPOTHESIS_PROFILE=searching`` tries new examples instead of the same ones every time.
``NVDYN_ASE_PRETEND_CUDA=1`` runs the tests that need a GPU on one that is made believe.
"""

import os
from contextlib import nullcontext

# The workers of a run share the cores; with a thread for each core in each they would wait for
# one another. It has to be said before torch is imported, and holds for commands that tests run.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import jaxtyping
import numba
import pytest
import torch
from hypothesis import settings
from jaxtyping import install_import_hook

import tests.shapes
from tests.pretended_cuda import pretended_cuda

PRETEND = bool(os.environ.get("NVDYN_ASE_PRETEND_CUDA"))
if PRETEND:  # what is marked says so when it is imported
    torch.cuda.is_available = lambda: True

settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.register_profile("searching", deadline=None, print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))

jaxtyping.jaxtyped = tests.shapes.economical(jaxtyping.jaxtyped)
# The import hook wraps functions innermost, where numba would have to compile the wrapper.
numba.njit = tests.shapes.unwrapping(numba.njit)
install_import_hook("nvdyn_ase", f"{tests.shapes.__name__}.{tests.shapes.checked.__name__}")


def pytest_collection_modifyitems(items):
    """Skip what needs a GPU where there is none."""
    if not torch.cuda.is_available():
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Give a test that needs a GPU the one that is made believe, if that was asked for."""
    pretends = PRETEND and item.get_closest_marker("gpu")
    with pretended_cuda() if pretends else nullcontext():
        return (yield)
