"""On a GPU the host learns late who is done. That changes nothing but how long it takes."""

import pytest
import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import (
    FIRE,
    NVE,
    ConvergenceHook,
    HostMemory,
    Langevin,
    LBFGSLineSearch,
    NaNDetectorHook,
    SizeAwareSampler,
)
from nvdyn_ase.dynamics.readback import Readback
from tests.dynamics.streams import by_identity, check_user_fields, inputs
from tests.wells import Well

KEYS = ("positions", "velocities", "energy", "forces", "fmax", "steps", "evaluations", "outcome")
DISTANCES = [0.01, 4.0, 0.5, 2.0, 0.02, 3.0, 1.0, 0.04, 0.9, 6.0]


class Late(Readback):
    """Values arrive two exchanges after they were sent."""

    def send(self, tensor):
        self._flying.append((None, tensor.clone()))
        return [self._land()] if len(self._flying) > 2 else []

    def _land(self):
        return self._flying.popleft()[1].numpy()


@pytest.fixture
def late(monkeypatch):
    monkeypatch.setattr("nvdyn_ase.dynamics.run.Readback", Late)


def engines(model):
    def relax(fmax):
        return FIRE(model, convergence_hook=ConvergenceHook.from_fmax(fmax))

    searching = LBFGSLineSearch(model, convergence_hook=ConvergenceHook.from_fmax(0.1))
    heat = Langevin(model, 0.2, 300.0, 0.1, seed=1, n_steps=5)
    return {
        "relax": relax(0.05),
        "counted": NVE(model, dt=0.2, n_steps=6, hooks=[NaNDetectorHook()]),
        "searching": searching,
        "fused": relax(0.3) + heat + relax(0.02),
        "fused, searching": searching + relax(0.02),
    }


@pytest.mark.parametrize("name", engines(Well()))
@pytest.mark.parametrize("refilled", [False, True])
def test_learning_late_changes_nothing(name, refilled, late, monkeypatch):
    systems, model = inputs(DISTANCES), Well(fail={5})
    engine = engines(model)[name]
    if refilled:
        engine.sampler = SizeAwareSampler(systems, max_batch_size=3)
        engine.sinks = [HostMemory(99)]
        assert engine.run() is None
        found = engine.sinks[0].read()
    else:
        found = engine.run(Batch.from_data_list(systems))
    check_user_fields(found)
    found = by_identity(found)
    monkeypatch.undo()
    reference = engines(Well(fail={5}))[name].run(Batch.from_data_list(systems))
    for number, one in by_identity(reference).items():
        for key in KEYS:
            a, b = found[number][key], one[key]
            assert torch.equal(a[~a.isnan()], b[~b.isnan()]), (number, key)
        if "stage_steps" in one:
            assert torch.equal(found[number]["stage_steps"], one["stage_steps"])
