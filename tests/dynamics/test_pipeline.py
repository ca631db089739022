"""``relax | md`` over ranks: what a system does, and that each arrives once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import (
    FIRE,
    NVE,
    BufferConfig,
    ConvergenceHook,
    DistributedPipeline,
    HostMemory,
    Langevin,
    SizeAwareSampler,
)
from tests.data.strategies import same_bits
from tests.dynamics.streams import by_identity, check_user_fields, identities, inputs
from tests.ranks import results, run_ranks
from tests.wells import Well

DISTANCES = [0.02, 1.5, 0.3, 0.9, 0.01, 2.2, 0.5, 1.1]
MODEL = Well()
ROOM = BufferConfig(num_systems=3, num_nodes=9, num_edges=0)


def relax(sampler=None, **options):
    """Return an optimizer that lets systems go early or late."""
    return FIRE(
        MODEL,
        convergence_hook=ConvergenceHook.from_fmax(0.05),
        n_steps=40,
        sampler=sampler,
        **options,
    )


def heat(steps=7, **options):
    """Return an integrator with random numbers."""
    return Langevin(MODEL, 0.2, 300.0, 0.1, seed=3, n_steps=steps, **options)


def sampler(distances=DISTANCES, **budget):
    return SizeAwareSampler(inputs(distances), **(budget or {"max_batch_size": 3}))


def outcome_of(batch):
    """Return what must be the same however systems got where they are."""
    keys = ("positions", "velocities", "forces", "energy", "steps", "outcome", "atomic_numbers")
    return {number: {key: own[key] for key in keys} for number, own in by_identity(batch).items()}


def assert_same_outcome(found, expected):
    assert found.keys() == expected.keys()
    for number, own in expected.items():
        for key, tensor in own.items():
            assert same_bits(found[number][key], tensor), (number, key)


def run_pipe(rank, make, mode):
    """Run a pipeline, and return on the last rank what the sink has."""
    pipe = make(mode)
    with pipe:
        assert pipe.run() is None
        stage = pipe.local_stage
        assert stage.done and stage.active_batch is None
        if stage.is_final_stage:
            return stage.sinks[0].read() if len(stage.sinks[0]) else None
    return None


def relax_then_heat(mode):
    options = {"buffer_config": ROOM, "comm_mode": mode, "max_batch_size": 3}
    return relax(sampler(), **options) | heat(**options)


def fused_then_heat(mode):
    options = {"buffer_config": ROOM, "comm_mode": mode, "max_batch_size": 2}
    return (relax(sampler(), **options) + heat(3)) | heat(5, **options)


@pytest.mark.parametrize("mode", ["sync", "async_recv", "fully_async"])
def test_on_two_ranks_systems_do_what_they_do_on_one(mode):
    _, found = results(run_ranks(run_pipe, 2, relax_then_heat, mode))
    one = relax(sampler()) + heat()
    one.run()
    check_user_fields(found)
    assert sorted(identities(found)) == list(range(len(DISTANCES)))
    assert_same_outcome(outcome_of(found), outcome_of(one.sinks[0].read()))
