"""What cannot be meant is refused at once, in the words of the caller."""

import numpy as np
import pytest
from ase import units
from ase.constraints import FixSymmetry
from ase.mep import NEB

from nvdyn_ase.md import Bussi, Langevin, VelocityVerlet
from nvdyn_ase.optimize import BFGS, FIRE, LBFGS
from tests.facades.test_lists import metals
from tests.systems import with_velocities


@pytest.mark.parametrize("count", [1, 2])
@pytest.mark.parametrize("kind", [BFGS, FIRE, LBFGS])
def test_a_mistyped_argument_is_told_in_the_name_of_the_class(kind, count):
    systems = metals(count)
    with pytest.raises(TypeError, match=f"{kind.__name__} has no argument 'maxstp'.*'maxstep'"):
        kind(systems if count > 1 else systems[0], maxstp=0.1)


@pytest.mark.parametrize("given", [(atoms for atoms in metals(2)), "structures.traj"])
def test_what_is_no_list_is_told_to_become_one(given):
    kind = type(given).__name__
    with pytest.raises(TypeError, match=f"FIRE takes one Atoms or a list of them, not a {kind}"):
        FIRE(given)


@pytest.mark.parametrize(("name", "word"), [("friction", "friction"), ("temperature_K",) * 2])
def test_a_wrong_shape_names_the_argument(name, word):
    options = {"temperature_K": 300, "friction": 0.1, "fixcm": False}
    with pytest.raises(ValueError, match=f"^{word}"):
        Langevin(metals(2), units.fs, **options | {name: [np.ones(4), np.ones(4)]})


@pytest.mark.parametrize("bad", [-5.0, float("nan"), [300.0, -5.0], [300.0, float("nan")]])
def test_temperatures_that_cannot_be(bad):
    where = " of system 1" if isinstance(bad, list) else ""
    with pytest.raises(ValueError, match=f"temperature_K{where} is"):
        Langevin(metals(2), units.fs, temperature_K=bad, friction=0.1, fixcm=False)


@pytest.mark.parametrize("kind", [BFGS, FIRE, LBFGS])
@pytest.mark.parametrize("bad", [-1.0, float("nan"), [0.2, -1.0]])
def test_step_lengths_that_cannot_be(kind, bad):
    with pytest.raises(ValueError, match=r"maxstep.* is"):
        kind(metals(2), maxstep=bad)


def test_time_steps_that_cannot_be():
    with pytest.raises(ValueError, match="dt is not a number"):
        FIRE(metals(2), dt=float("nan"))
    with pytest.raises(ValueError, match="timestep of system 1 is not a number"):
        VelocityVerlet(metals(2), [1.0, float("nan")])


def test_a_scaled_step_for_a_band_names_what_was_asked():
    with pytest.raises(TypeError, match="scaled=True needs something else"):
        LBFGS(NEB(metals(1) * 3, allow_shared_calculator=True), scaled=True)


def test_constraints_that_leave_an_unknown_freedom_name_their_structure():
    systems = metals(2)
    for seed, atoms in enumerate(systems):
        with_velocities(atoms, seed)
    systems[1].set_constraint(FixSymmetry(systems[1]))
    with pytest.raises(NotImplementedError, match=r"structure 1: .*FixSymmetry"):
        Bussi(systems, units.fs, 300, 50 * units.fs)


def test_steps_of_an_optimizer_are_one_number():
    optimizer = FIRE(metals(2), logfile=None)
    for run in (optimizer.run, optimizer.irun):
        with pytest.raises(TypeError, match="steps of FIRE is one number"):
            run(fmax=0.1, steps=[1, 2])
