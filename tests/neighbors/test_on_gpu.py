"""What the other tests show for a device that is made believe, on one that is there."""

from importlib.util import find_spec

import numpy as np
import pytest
import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.neighbors import DevicePairs, NeighborList
from tests.neighbors.structures import argon, jostle, rows_of
from tests.neighbors.test_against_ase import HARD

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
BACKENDS = ["auto", "grid", "images"] + (["nvalchemi"] if find_spec("nvalchemiops") else [])


def rows_on_host(pairs):
    """Return i, j and S of pairs on a device."""
    flat = pairs.flat()
    return torch.cat([flat.i[:, None], flat.j[:, None], flat.shift], dim=1).cpu().numpy()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("half", [False, True])
def test_as_on_the_cpu(backend, half):
    batch = Batch.from_data_list([*HARD.values(), *(argon(1, repeat=n)[0] for n in (1, 2, 4))])
    wanted = rows_of(NeighborList(4.321, half).update(batch))
    pairs = NeighborList(4.321, half, backend=backend).update(batch.to("cuda"))
    assert isinstance(pairs, DevicePairs) and pairs.flat().i.is_cuda
    np.testing.assert_array_equal(rows_on_host(pairs), wanted)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_few_steps(backend):
    host = argon(8)
    batch = host.to("cuda")
    here = NeighborList(5.0, True, 0.6)
    there = NeighborList(5.0, True, 0.6, backend)
    for step in range(6):
        here.update(host)
        there.update(batch)
        np.testing.assert_array_equal(rows_on_host(batch.neighbors), rows_of(host.neighbors))
        np.testing.assert_array_equal(here.rebuilds, there.rebuilds)
        torch.testing.assert_close(batch["shifts"].cpu(), host["shifts"])
        if step == 3:
            here.select(np.array([5, 2, 0]))
            there.select(np.array([5, 2, 0]))
            host, batch = host[[5, 2, 0]], batch[[5, 2, 0]]
        jostle(host, 0.15, seed=step)
        jostle(batch, 0.15, seed=step)


def test_a_steady_state_waits_once():
    """For the answer whether anything has left the skin; not even that if nothing moved."""
    batch = argon(8).to("cuda")
    neighbors = NeighborList(5.0, True, 1.0)
    neighbors.update(batch)
    torch.cuda.set_sync_debug_mode("error")
    try:
        neighbors.update(batch)
        batch["positions"] = batch["positions"] + 0.01
        with pytest.raises(RuntimeError, match="synchronizing"):
            neighbors.update(batch)
    finally:
        torch.cuda.set_sync_debug_mode("default")
