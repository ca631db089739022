"""Replicas of solid argon, and what is sampled of them."""

import numpy as np
import torch
from ase import units
from ase.build import bulk
from ase.md.velocitydistribution import Stationary

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.data import segment_dot
from nvdyn_ase.dynamics import HookStageEnum
from nvdyn_ase.models import LennardJones
from tests.systems import with_velocities

SIGMA, EPSILON = 3.405, 0.0104
ATOMS, REPLICAS = 32, 64
DT = 5.0 * units.fs
PS = 1000.0 * units.fs
#: Lattice constant, Å, near zero pressure at 55 K.
LATTICE = 5.40


def model():
    return LennardJones(SIGMA, EPSILON, rc=2.5 * SIGMA, smooth=True)


def structures(temperature, count=REPLICAS, seed=0, constrain=None, drift=True):
    """Return cells of 32 atoms, with velocities that no constraint has seen.

    Without ``drift`` their total momentum is zero.
    """
    made = []
    for replica in range(count):
        atoms = bulk("Ar", "fcc", a=LATTICE, cubic=True) * 2
        atoms.rattle(0.15, seed=1000 * seed + replica)
        if constrain is not None:
            constrain(atoms)
        made.append(with_velocities(atoms, 1000 * seed + replica, temperature))
        if not drift:
            Stationary(atoms)
    return made


def replicas(temperature, count=REPLICAS, seed=0, constrain=None, drift=True):
    return batch_from_atoms(structures(temperature, count, seed, constrain, drift))


class Samples:
    """A hook that notes energies, eV, and volumes, Å³, of all replicas at some steps."""

    stage = HookStageEnum.AFTER_STEP

    def __init__(self, every):
        self.frequency = every
        self._rows = {"kinetic": [], "potential": [], "volume": []}

    def __call__(self, batch, dynamics):
        velocities = batch["velocities"]
        momenta = batch["atomic_masses"].view(-1, 1) * velocities
        kinetic = 0.5 * segment_dot(momenta, velocities, batch.ptr3).view(-1)
        volume = torch.linalg.det(batch["cell"]).abs()
        potential = dynamics.energy(batch).view(-1)
        for rows, row in zip(self._rows.values(), (kinetic, potential, volume), strict=True):
            rows.append(row.numpy().copy())

    def __getitem__(self, name):
        """Return (samples, replicas)."""
        return np.array(self._rows[name])


def sampled(engine, batch, warm_up, samples, every):
    """Return what is seen every so many steps, after a warm-up."""
    engine.run(batch, n_steps=warm_up)
    passes = engine.step_count // warm_up  # Berendsen's barostats take two for a step
    engine.step_count = 1  # the first sample is a whole interval away
    hook = Samples(passes * every)
    engine.register_hook(hook)
    engine.run(batch, n_steps=samples * every)
    assert len(hook["kinetic"]) == samples
    return hook
