"""Systems that join others in the middle of their runs, as after a refill: the same bits as alone.

A state has fields of rows, systems and matrices, and some of them are as long as the longest
history: the newcomers get a fresh one, and the others go on with theirs.
"""

import numpy as np
import pytest
import torch

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import (
    BFGS,
    FIRE,
    FIRE2,
    LBFGS,
    RFO,
    BFGSLineSearch,
    CellAwareBFGS,
    GoodOldQuasiNewton,
    GradientDescent,
    LBFGSLineSearch,
    MDMin,
    filter_cells,
)
from nvdyn_ase.dynamics.active import put_together
from nvdyn_ase.models import EMT
from tests.facades.test_filters import gold

ENGINES = {
    "fire": FIRE,
    "fire, checked": lambda model: FIRE(model, downhill_check=True, dtmax=3.0, maxstep=0.5),
    "fire2": FIRE2,
    "abc-fire": lambda model: FIRE2(model, use_abc=True),
    "mdmin": lambda model: MDMin(model, dt=0.05),
    "gradient descent": GradientDescent,
    "bfgs": BFGS,
    "rfo": RFO,
    "good old quasi-newton": GoodOldQuasiNewton,
    "bfgs line search": BFGSLineSearch,
    "lbfgs": LBFGS,
    "lbfgs, as in ase": lambda model: LBFGS(model, scaled=False, memory=6),
    "lbfgs line search": LBFGSLineSearch,
}
MIXED = ["none", "frechet", "strain", "unit_cell"]
KEYS = ("positions", "cell", "strain", "energy", "forces", "fmax", "steps")


def systems(rows, kinds, **options):
    """Return some of four crystals, each with its filter."""
    structures = gold(4)
    batch = batch_from_atoms([structures[row] for row in rows], indices=list(rows))
    for place, row in enumerate(rows):
        filter_cells(batch, kinds[row], systems=[place], **options)
    return batch


def joined(make, old, new, order):
    """Let systems join others that have moved; return the engine and the batch of all."""
    engine, fresh = make(EMT()), make(EMT())
    engine.run(old, n_steps=9)
    fresh.run(new, n_steps=0)
    states = [engine.state, fresh.state]
    engine.align_states(states)
    everyone, state = put_together([old, new], order), put_together(states, order)
    engine.follow(everyone, state, None)
    return engine, everyone


def stiff(model):
    """Return an engine that wants filters of one kind."""
    return CellAwareBFGS(model)


CASES = [pytest.param(make, MIXED, {}, id=name) for name, make in ENGINES.items()]
CASES += [pytest.param(stiff, ["frechet"] * 4, {"cell_factor": 1.0}, id="cell-aware bfgs")]
CASES += [
    pytest.param(make, ["none"] * 4, {}, id=f"{name}, no filters", marks=pytest.mark.slow)
    for name, make in ENGINES.items()
]


@pytest.mark.parametrize(("make", "kinds", "options"), CASES)
def test_newcomers_and_those_who_were_there_do_as_alone(make, kinds, options):
    order = np.array([2, 0, 3, 1])  # the newcomers take places among the others
    old, new = (systems(rows, kinds, **options) for rows in ([0, 1], [2, 3]))
    engine, everyone = joined(make, old, new, order)
    engine.run(everyone, n_steps=6)
    assert everyone["steps"].view(-1).tolist() == [6 if row > 1 else 15 for row in order]
    for place, row in enumerate(order.tolist()):
        alone, own = systems([row], kinds, **options), make(EMT())
        for steps in (9, 6) if row < 2 else (6,):
            own.run(alone, n_steps=steps)
        for key in KEYS:
            assert torch.equal(everyone[[place]][key], alone[key]), (row, key)
