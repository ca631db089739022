"""A system does not know its neighbours in the batch: the same bits alone, in any order."""

import numpy as np
import pytest
import torch

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import (
    FIRE,
    FIRE2,
    LBFGS,
    NVE,
    Andersen,
    BFGSLineSearch,
    Bussi,
    ConvergenceHook,
    Langevin,
    LBFGSLineSearch,
    MDMin,
    NVTBerendsen,
)
from nvdyn_ase.models import EMT
from tests.systems import mixed, with_velocities

ENGINES = {
    "fire": lambda: FIRE(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "fire, endless": lambda: FIRE(EMT()),
    "fire, checked": lambda: FIRE(
        EMT(), downhill_check=True, convergence_hook=ConvergenceHook.from_fmax(0.05)
    ),
    "fire2": lambda: FIRE2(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "abc-fire, endless": lambda: FIRE2(EMT(), use_abc=True, dtmax=2.0, Nmin=3),
    "lbfgs": lambda: LBFGS(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "lbfgs, as in ase": lambda: LBFGS(EMT(), scaled=False, memory=20),
    "lbfgs line search": lambda: LBFGSLineSearch(
        EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)
    ),
    "lbfgs line search, as in ase, endless": lambda: LBFGSLineSearch(EMT(), scaled=False),
    "bfgs line search, endless": lambda: BFGSLineSearch(EMT()),
    "mdmin": lambda: MDMin(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "nve": lambda: NVE(EMT(), dt=0.3),
    "andersen": lambda: Andersen(EMT(), 0.3, 300.0, 0.02, seed=7),
    "berendsen": lambda: NVTBerendsen(EMT(), 0.3, 300.0, 5.0),
    "bussi": lambda: Bussi(EMT(), 0.3, 300.0, 5.0, seed=7),
    "langevin": lambda: Langevin(EMT(), 0.3, 300.0, 0.02, seed=7),
    "langevin, fixcm": lambda: Langevin(EMT(), 0.3, 300.0, 0.02, fixcm=True, seed=7),
}
KEYS = ("positions", "velocities", "forces", "energy", "steps", "evaluations", "outcome", "fmax")


def structures():
    return [with_velocities(atoms, i) for i, atoms in enumerate(mixed(64))]


@pytest.mark.parametrize("name", ENGINES)
def test_alone_together_and_in_any_order(name):
    everyone = structures()
    together = batch_from_atoms(everyone)
    ENGINES[name]().run(together, n_steps=100)
    order = np.random.default_rng(0).permutation(64)
    shuffled = batch_from_atoms([everyone[i] for i in order], indices=order.tolist())
    ENGINES[name]().run(shuffled, n_steps=100)
    for row in range(64):
        place = int(np.flatnonzero(order == row)[0])
        for key in KEYS:
            assert torch.equal(together[[row]][key], shuffled[[place]][key]), (row, key)
    for row in range(0, 64, 5):
        alone = batch_from_atoms([everyone[row]], indices=[row])
        ENGINES[name]().run(alone, n_steps=100)
        for key in KEYS:
            assert torch.equal(together[[row]][key], alone[key]), (row, key)
