"""Subclasses that override internals of ASE's optimizers and integrators."""

import numpy as np
import pytest
from ase import units

from nvdyn_ase.md import NVTBerendsen
from nvdyn_ase.optimize import BFGS, FIRE, LBFGS
from tests.facades.test_lists import metals


class Half(BFGS):
    """Goes half as far."""

    def determine_step(self, dpos, steplengths):
        """Return half of it."""
        return 0.5 * super().determine_step(dpos, steplengths)


class Scaled(NVTBerendsen):
    """Scales in a way of its own."""

    def scale_velocities(self):
        """Leave them."""


def test_a_list_names_the_method_that_would_not_be_called():
    with pytest.raises(TypeError, match=r"Half overrides determine_step, .* one Atoms at a time"):
        Half(metals(2))
    with pytest.raises(TypeError, match="Half overrides determine_step"):
        Half(metals(1)[0], engine=True)
    with pytest.raises(TypeError, match="Scaled overrides scale_velocities"):
        Scaled(metals(2), units.fs, temperature_K=300, taut=10 * units.fs)


@pytest.mark.parametrize("everywhere", [False, True])
def test_one_atoms_is_moved_by_ases_code_which_calls_it(everywhere, monkeypatch):
    if everywhere:
        monkeypatch.setenv("NVDYN_ASE_ENGINE", "always")
    half, whole = metals(2)[1], metals(2)[1]
    start = half.positions.copy()
    Half(half, logfile=None).run(steps=1)
    BFGS(whole, logfile=None).run(steps=1)
    np.testing.assert_allclose(half.positions - start, 0.5 * (whole.positions - start), atol=1e-12)


def test_subclasses_that_are_heard_are_not_refused():
    calls = []

    class Looks(FIRE):
        def log(self, gradient):
            calls.append(self.nsteps)

        def todict(self):
            return super().todict() | {"mine": 1}

        def mine(self):
            """Is no method of ASE's."""

    class Steps(LBFGS):
        def step(self, forces=None):
            calls.append("step")
            super().step(forces)

        def determine_step(self, *args):
            """Is for whoever calls it."""

    Looks(metals(2)).run(fmax=1e-3, steps=1)
    Steps(metals(2), logfile=None).run(fmax=1e-3, steps=1)
    assert calls == [0, 1, "step"]
