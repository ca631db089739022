"""Steps that take one forward pass for some systems and two for others."""

import numpy as np
import pytest
import torch

from nvdyn_ase import optimize
from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import FIRE2, ConvergenceHook, Outcome
from nvdyn_ase.models import EMT
from tests.systems import mixed
from tests.wells import Well, wells

OPTIONS = {"dt": 0.4, "dtmax": 3.0, "Nmin": 3}


@pytest.mark.parametrize("use_abc", [False, True])
def test_every_system_makes_the_steps_asked_for(use_abc):
    batch = batch_from_atoms(mixed(12))
    FIRE2(EMT(), use_abc=use_abc, **OPTIONS).run(batch, n_steps=40)
    assert (batch["steps"] == 40).all()
    assert (batch["outcome"] == Outcome.BUDGET).all()
    assert len(set(batch["evaluations"].view(-1).tolist())) > 1
    assert (batch["evaluations"] > 41).any()


@pytest.mark.parametrize("use_abc", [False, True])
def test_the_facade_in_step_and_the_engine_out_of_step_agree(use_abc):
    structures = mixed(12)
    batch = batch_from_atoms(structures)
    FIRE2(EMT(), use_abc=use_abc, **OPTIONS).run(batch, n_steps=40)
    optimizer = optimize.FIRE2(structures, model="emt", logfile=None, use_abc=use_abc, **OPTIONS)
    optimizer.run(fmax=0, steps=40)
    assert optimizer.nsteps == 40
    for row, (atoms, result) in enumerate(zip(structures, optimizer.results, strict=True)):
        assert np.array_equal(atoms.positions, batch[row].positions.numpy())
        assert result.steps == 40
        assert result.evaluations == batch["evaluations"][row].item()


def test_nobody_converges_half_a_step_back():
    engine = FIRE2(Well(), dt=1.0, convergence_hook=ConvergenceHook.from_fmax(1e9, strict=True))
    batch = wells(1.0)
    engine.adopt(batch)
    went_back = []
    for _ in range(12):
        _, converged = engine.step(batch)
        batch["status"] = torch.zeros_like(batch["status"])
        went_back.append(engine.state["went_back"].item())
        assert (converged is None) == went_back[-1]
    assert any(went_back)
    assert batch["steps"].item() == 12 - sum(went_back)


def test_an_interrupt_half_a_step_back_undoes_the_whole_step():
    class Interrupted(EMT):
        def forward(self, batch):
            if optimizer.engine.state["went_back"].any():
                raise KeyboardInterrupt
            return super().forward(batch)

    structures = mixed(5)
    optimizer = optimize.FIRE2(structures, model=Interrupted(), logfile=None, **OPTIONS)
    with pytest.raises(KeyboardInterrupt):
        optimizer.run(fmax=0, steps=60)
    results = optimizer.results
    steps = results[0].steps
    assert 0 < steps < 60
    assert all(result.steps == steps for result in results)
    reference = mixed(5)
    optimize.FIRE2(reference, model="emt", logfile=None, **OPTIONS).run(fmax=0, steps=steps)
    for one, other in zip(structures, reference, strict=True):
        assert np.array_equal(one.positions, other.positions)
