"""A system does not know its neighbours in the batch: the same bits alone, in any order."""

import numpy as np
import pytest
import torch

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import (
    BFGS,
    FIRE,
    FIRE2,
    LBFGS,
    MTKNPT,
    NPH,
    NVE,
    RFO,
    Andersen,
    BFGSLineSearch,
    Bussi,
    ConvergenceHook,
    GoodOldQuasiNewton,
    GradientDescent,
    InhomogeneousNPTBerendsen,
    IsotropicMTKNPT,
    Langevin,
    LangevinBAOAB,
    LBFGSLineSearch,
    MaskedMTKNPT,
    MDMin,
    MelchionnaNPT,
    NoseHooverChainNVT,
    NPTBerendsen,
    NVTBerendsen,
    StochasticCellRescaling,
)
from nvdyn_ase.models import EMT
from tests.pace import paced
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
    "bfgs": lambda: BFGS(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "bfgs, endless": lambda: BFGS(EMT(), alpha=20.0),
    "rfo": lambda: RFO(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.01)),
    "good old quasi-newton": lambda: GoodOldQuasiNewton(
        EMT(), diagonal=5.0, convergence_hook=ConvergenceHook.from_fmax(0.01)
    ),
    "good old quasi-newton, powell": lambda: GoodOldQuasiNewton(EMT(), "Powell"),
    "gradient descent": lambda: GradientDescent(
        EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)
    ),
    "nve": lambda: NVE(EMT(), dt=0.3),
    "andersen": lambda: Andersen(EMT(), 0.3, 300.0, 0.02, seed=7),
    "berendsen": lambda: NVTBerendsen(EMT(), 0.3, 300.0, 5.0),
    "berendsen, npt": lambda: NPTBerendsen(EMT(), 0.3, 300.0, 0.01, 5.0, 50.0, 1.0),
    "berendsen, inhomogeneous": lambda: InhomogeneousNPTBerendsen(
        EMT(), 0.3, 300.0, 0.01, 5.0, 50.0, 1.0
    ),
    "bussi": lambda: Bussi(EMT(), 0.3, 300.0, 5.0, seed=7),
    "rescaling": lambda: StochasticCellRescaling(EMT(), 0.3, 300.0, 0.01, 5.0, 50.0, 1.0, seed=7),
    "rescaling, any shape": lambda: StochasticCellRescaling(
        EMT(), 0.3, 300.0, 0.01, 5.0, 50.0, 1.0, isotropic=False, seed=7
    ),
    "langevin": lambda: Langevin(EMT(), 0.3, 300.0, 0.02, seed=7),
    "nose-hoover": lambda: NoseHooverChainNVT(EMT(), 0.3, 300.0, 100.0),
    "nose-hoover, as in ase": lambda: NoseHooverChainNVT(EMT(), 0.3, 300.0, 100.0, as_ase=True),
    "nph": lambda: NPH(EMT(), 0.3, 300.0, 0.0, 100.0),
    "mtk, isotropic": lambda: IsotropicMTKNPT(EMT(), 0.3, 300.0, 0.01, 100.0, 500.0),
    "mtk": lambda: MTKNPT(EMT(), 0.3, 300.0, 0.01, 100.0, 500.0, tchain=2, pchain=1, ploop=2),
    "mtk, masked": lambda: MaskedMTKNPT(
        EMT(), 0.3, 300.0, 0.01, 100.0, 500.0, mask=(False, True, True)
    ),
    "melchionna": lambda: MelchionnaNPT(EMT(), 0.3, 300.0, 0.01, 20.0, 2000.0),
    "baoab": lambda: LangevinBAOAB(EMT(), 0.3, 300.0, T_tau=20.0, seed=7),
    "baoab, npt": lambda: LangevinBAOAB(
        EMT(), 0.3, 300.0, -0.01, T_tau=20.0, P_mass=2000.0, seed=7
    ),
    "baoab, hydrostatic": lambda: LangevinBAOAB(
        EMT(), 0.3, 300.0, -0.01, True, T_tau=20.0, P_mass=2000.0, seed=7
    ),
    "langevin, fixcm": lambda: Langevin(EMT(), 0.3, 300.0, 0.02, fixcm=True, seed=7),
}
CELLS = {
    "nph",
    "mtk, isotropic",
    "mtk",
    "mtk, masked",
    "melchionna",
    "baoab, npt",
    "baoab, hydrostatic",
    "berendsen, npt",
    "berendsen, inhomogeneous",
    "rescaling",
    "rescaling, any shape",
}
KEYS = (
    "cell",
    "positions",
    "velocities",
    "forces",
    "energy",
    "steps",
    "evaluations",
    "outcome",
    "fmax",
)


def structures(name):
    everyone = [with_velocities(atoms, i) for i, atoms in enumerate(mixed(64))]
    for atoms in everyone if name in CELLS else ():
        atoms.set_constraint()
        if atoms.cell.rank < 3:
            atoms.center(vacuum=4.0)
        atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)
    return everyone


def by_system(batch, key):
    """Return the rows of a field of each system."""
    per_atom = batch.level(key) == "node"
    return batch[key].split(batch.num_nodes_list if per_atom else 1)


@pytest.mark.parametrize("name", paced(ENGINES))
def test_alone_together_and_in_any_order(name):
    everyone = structures(name)
    # A search without an end tries and tries where nothing is left to gain.
    steps = 20 if "search" in name else 30 if name in CELLS else 50
    together = batch_from_atoms(everyone)
    ENGINES[name]().run(together, n_steps=steps)
    order = np.random.default_rng(0).permutation(64)
    shuffled = batch_from_atoms([everyone[i] for i in order], indices=order.tolist())
    ENGINES[name]().run(shuffled, n_steps=steps)
    for key in KEYS:
        own, other = by_system(together, key), by_system(shuffled, key)
        for place, row in enumerate(order):
            assert torch.equal(own[row], other[place]), (row, key)
    for row in range(0, 64, 17):
        alone = batch_from_atoms([everyone[row]], indices=[row])
        ENGINES[name]().run(alone, n_steps=steps)
        for key in KEYS:
            assert torch.equal(by_system(together, key)[row], alone[key]), (row, key)
