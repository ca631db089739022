"""What users change between two steps of a generator, compared with what ASE makes of it."""

import subprocess
import sys

import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones

from tests.facades.everything import EVERYTHING, ases, ours, steps_of
from tests.facades.test_lists import metals
from tests.systems import with_velocities


class Scaled(LennardJones):
    """Has a parameter of its own that ASE knows nothing of."""

    factor = 1.0

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.results = {key: self.factor * value for key, value in self.results.items()}


def lj():
    return LennardJones(sigma=2.2, epsilon=0.3, rc=5.0)


def scaled():
    return Scaled(sigma=2.2, epsilon=0.3, rc=5.0)


def another(atoms):
    atoms.calc = lj()


def set_parameters(atoms):
    atoms.calc.set(epsilon=0.1)


def set_and_reset(atoms):
    atoms.calc.set(epsilon=0.1)
    atoms.calc.reset()


def set_attribute(atoms):
    atoms.calc.factor = 0.2


def set_attribute_and_reset(atoms):
    atoms.calc.factor = 0.2
    atoms.calc.reset()


#: The calculators that there are, and what is done to each of them.
CHANGES = {
    "another calculator": (EMT, another),
    "parameters": (lj, set_parameters),
    "parameters, reset": (lj, set_and_reset),
    "attribute": (scaled, set_attribute),
    "attribute, reset": (scaled, set_attribute_and_reset),
}


def systems(calculator):
    structures = metals(3, calculator)
    for seed, atoms in enumerate(structures):
        with_velocities(atoms, seed)
    return structures


def driven(dynamics, structures, change, watched):
    """Change things after step 4 of 10; return positions at every step, and what is observed."""
    frames, seen = [], []
    if watched:
        dynamics.attach(lambda: seen.append([a.get_potential_energy() for a in structures]))
    for _ in steps_of(dynamics, 10):
        if dynamics.nsteps == 4:
            for atoms in structures:
                change(atoms)
        frames.append([atoms.positions.copy() for atoms in structures])
    return frames, seen


def check(name, kind, watched):
    calculator, change = CHANGES[kind]
    batch = systems(calculator)
    frames, seen = driven(ours(name, batch), batch, change, watched)
    for index, atoms in enumerate(systems(calculator)):
        expected, energies = driven(ases(name, atoms, index), [atoms], change, watched)
        assert len(frames) == len(expected) == 11
        for step, (there,) in enumerate(expected):
            np.testing.assert_allclose(frames[step][index], there, atol=1e-9, err_msg=str(step))
        np.testing.assert_allclose([s[index] for s in seen], np.ravel(energies), atol=1e-7)
        assert batch[index].get_potential_energy() == pytest.approx(
            atoms.get_potential_energy(), abs=1e-7
        )


FEW = [
    ("FIRE", "another calculator", False),
    ("LBFGS", "another calculator", True),
    ("VelocityVerlet", "parameters", False),
    ("Langevin", "another calculator", True),
    ("FIRE", "attribute, reset", False),
]
# ASE's BAOAB goes on with accelerations of its own, whatever the calculator is. A line search that
# is told two functions fails in ASE, or compares numbers that are equal to the last digits.
COMPARABLE = [name for name in EVERYTHING if name != "LangevinBAOAB" and "LineSearch" not in name]
ALL = [
    (name, kind, watched) for name in COMPARABLE for kind in CHANGES for watched in (False, True)
]


@pytest.mark.parametrize(
    ("name", "kind", "watched"),
    [case if case in FEW else pytest.param(*case, marks=pytest.mark.slow) for case in ALL],
)
def test_a_calculator_changed_between_two_steps(name, kind, watched):
    check(name, kind, watched)


@pytest.mark.parametrize("name", ["FIRE", "VelocityVerlet"])
def test_a_calculator_changed_before_a_generator_is_left(name):
    structures = systems(EMT)
    dynamics = ours(name, structures)
    for _ in steps_of(dynamics, 10):
        if dynamics.nsteps == 3:
            for atoms in structures:
                another(atoms)
            break
    for atoms in structures:
        fresh = atoms.copy()
        fresh.calc = lj()
        assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy())


@pytest.mark.parametrize("name", ["FIRE", "LBFGS", "VelocityVerlet", "Langevin"])
def test_steps_by_hand_between_those_of_a_generator(name):
    def driven(dynamics, structures):
        frames = []
        for _ in steps_of(dynamics, 6):
            if dynamics.nsteps in (2, 3):
                for atoms in structures:
                    atoms.positions[0] += 0.05
                dynamics.step()
            frames.append([atoms.positions.copy() for atoms in structures])
        return frames

    batch = systems(EMT)
    frames = driven(ours(name, batch), batch)
    for index, atoms in enumerate(systems(EMT)):
        for here, (there,) in zip(frames, driven(ases(name, atoms, index), [atoms]), strict=True):
            np.testing.assert_allclose(here[index], there, atol=1e-10)


@pytest.mark.parametrize("name", ["FIRE", "VelocityVerlet"])
def test_a_step_by_hand_while_a_generator_waits(name):
    batch, steps = systems(EMT), 3
    dynamics = ours(name, batch)
    generator = steps_of(dynamics, 10)
    next(generator), next(generator)
    for _ in range(steps):
        dynamics.step()
    for index, atoms in enumerate(systems(EMT)):
        alone = ases(name, atoms, index)
        own = steps_of(alone, 10)
        next(own), next(own)
        for _ in range(steps):
            alone.step()
        np.testing.assert_allclose(batch[index].positions, atoms.positions, atol=1e-12)
        assert batch[index].get_potential_energy() == pytest.approx(atoms.get_potential_energy())


SCRIPT = """
from ase.build import bulk
from ase.calculators.emt import EMT
from nvdyn_ase.optimize import FIRE

atoms = bulk("Cu", cubic=True)
atoms.rattle(0.1, seed=0)
atoms.calc = EMT()
steps = FIRE([atoms], logfile=None).irun(fmax=0, steps=10)
next(steps), next(steps)
print("done")
"""


@pytest.mark.slow  # starts a process
def test_a_generator_that_is_never_run_to_its_end_lets_the_interpreter_exit():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")
