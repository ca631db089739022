"""Half-steps of integrators are compiled whole, into a handful of kernels."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dynamics.integrating import INTEGRATORS

ROOT = Path(__file__).parents[2]
FEW = ("langevin", "rescaling")
#: How many operations may be beside the kernels: sums over the atoms of systems, noise and, where
#: cells change their shape, products of small matrices, of which an exponential has up to twenty.
BESIDE, PRODUCTS = 12, 45


def half_steps(backend, *names):
    """Compile in a process of its own: here, every function has the run-time check of shapes."""
    command = [sys.executable, "-m", "tests.dynamics.compile_half_steps", backend, *names]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [line.split(";") for line in done.stdout.splitlines()]


def test_half_steps_are_compiled_without_a_break():
    found = half_steps("eager", *FEW)
    assert [row[:2] for row in found] == [
        [n, h] for n in FEW for h in ("pre_update", "post_update")
    ]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="the compiler needs g++")
@pytest.mark.parametrize("name", INTEGRATORS)
def test_half_steps_are_a_handful_of_kernels(name):
    of_any_shape = "mtk" in name or "baoab" in name or name == "rescaling, any shape"
    limit = PRODUCTS if of_any_shape else BESIDE
    for _, half, kernels, others in half_steps("inductor", name):
        assert 1 <= int(kernels) <= 8, (half, kernels)
        assert int(others) <= limit, (half, others)
