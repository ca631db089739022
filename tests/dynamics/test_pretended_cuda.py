"""Every engine, constraint and filter on a CUDA device that is made believe: nobody ever waits."""

import pytest
import torch
from ase.build import bulk

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import LBFGS, NVE, filter_cells
from nvdyn_ase.dynamics.run import Run
from tests.atoms.constrained import constrained, free_molecule, symmetric
from tests.dynamics.test_cost import CONSTRAINTS, ENGINES, Still
from tests.pretended_cuda import COMPILER, pretended_cuda
from tests.wells import wells

pytestmark = pytest.mark.skipif(not COMPILER, reason="needs a C++ compiler")

#: Those in the default suite: of each kind of step one.
DEFAULT = {"fire", "bfgs", "lbfgs line search", "FixAtoms", "frechet"}


def mostly_slow(names):
    return [pytest.param(name, marks=() if name in DEFAULT else pytest.mark.slow) for name in names]


def ends(make, device, batch, act):
    """Return positions after some steps; in the last of them nobody may wait."""
    batch = batch.to(device)
    act(batch)
    run = Run(make(Still(batch)), batch, n_steps=10**9)
    for step in range(8):
        if step == 5:
            torch.cuda.set_sync_debug_mode("error")
        run.settle()
        run.advance()
    torch.cuda.set_sync_debug_mode("default")
    run.close()
    return batch["positions"].cpu()


def assert_device_and_cpu_agree(make, batch, act=lambda batch: None):
    with pretended_cuda():
        there = ends(make, "cuda", batch, act)
        here = ends(make, "cpu", batch, act)
    torch.testing.assert_close(there, here, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", mostly_slow(ENGINES))
def test_an_engine(name):
    assert_device_and_cpu_agree(ENGINES[name][1], wells(*[3.0] * 4, sizes=[3] * 4))


@pytest.mark.parametrize("kind", mostly_slow(CONSTRAINTS))
def test_a_constraint(kind):
    of_kind = [
        symmetric(1) if kind == "FixSymmetry" else constrained(kind, 4 * seed) for seed in range(3)
    ]
    batch = batch_from_atoms([free_molecule(), *of_kind])
    assert_device_and_cpu_agree(lambda model: NVE(model, dt=0.01), batch)


@pytest.mark.parametrize("kind", mostly_slow(["unit_cell", "frechet", "exp", "strain"]))
def test_a_filter(kind):
    batch = batch_from_atoms([bulk("Cu") * (2, 1, 1) for _ in range(4)])
    assert_device_and_cpu_agree(LBFGS, batch, lambda batch: filter_cells(batch, kind))


def test_the_device_is_told_from_the_host():
    with pretended_cuda() as device:
        there = torch.tensor([1.0, 2.0, 3.0], device="cuda")
        assert there.is_cuda and there[1:].is_cuda and (there + 1).is_cuda
        with pytest.raises(RuntimeError, match="add: tensors of host and device"):
            there + torch.ones(3)
        with pytest.raises((RuntimeError, TypeError)):
            there.numpy()
        assert not device.waits
        there[torch.tensor([0, 1], device="cuda")] = 5.0
        assert not device.waits
        assert float(there.sum()) == 13.0
        assert there.tolist() == [5.0, 5.0, 3.0]
        assert there[torch.tensor([2])].cpu() == 3.0
        assert len(device.waits) == 4
    assert not torch.cuda.is_available()
