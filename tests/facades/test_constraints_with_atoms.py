"""Constraints of the user's own that hold on to their Atoms see there what they see in ASE."""

import numpy as np
import pytest
from ase.calculators.emt import EMT

from tests.facades.everything import ases, ours
from tests.facades.test_lists import metals
from tests.systems import with_velocities


class Holding:
    """Pulls atom 0 back by where its own Atoms are, and drags it by their momenta."""

    def __init__(self, atoms, drag):
        self.atoms, self.home, self.drag = atoms, atoms.positions[0].copy(), drag

    def adjust_positions(self, atoms, new):
        new[0] += 0.1 * (self.home - self.atoms.positions[0])

    def adjust_forces(self, atoms, forces):
        forces[0] -= self.atoms.positions[0] - self.home

    def adjust_momenta(self, atoms, momenta):
        momenta[0] -= self.drag * self.atoms.get_momenta()[0]

    def get_removed_dof(self, atoms):
        return 0


def held(drag):
    structures = metals(3, EMT)
    for seed, atoms in enumerate(structures):
        with_velocities(atoms, seed)
        atoms.set_constraint(Holding(atoms, drag))
    return structures


OPTIMIZERS, INTEGRATORS = ["FIRE", "LBFGS"], ["VelocityVerlet", "NVTBerendsen", "Langevin"]


@pytest.mark.parametrize("name", OPTIMIZERS + INTEGRATORS)
def test_a_constraint_that_holds_on_to_its_atoms(name):
    # While it adjusts momenta, ASE's Langevin has those of the step before in the Atoms.
    drag = 0.0 if name == "Langevin" else 0.1
    batch, limits = held(drag), {"fmax": 0} if name in OPTIMIZERS else {}
    ours(name, batch).run(steps=8, **limits)
    for index, atoms in enumerate(held(drag)):
        ases(name, atoms, index).run(steps=8, **limits)
        np.testing.assert_allclose(batch[index].positions, atoms.positions, atol=1e-10)
        np.testing.assert_allclose(batch[index].get_momenta(), atoms.get_momenta(), atol=1e-8)


def test_atoms_that_nobody_moves_stay_where_the_user_put_them():
    batch = held(0.1)
    optimizer = ours("FIRE", batch)
    optimizer.run(fmax=0, steps=2)
    batch[0].positions[1] += 0.2
    there = batch[0].positions.copy()
    _ = optimizer.results, optimizer.optimizable.get_gradient()
    assert np.array_equal(batch[0].positions, there)
