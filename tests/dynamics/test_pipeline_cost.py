"""What a pipeline costs: no message and no operation where there is nothing to say."""

import time

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from nvdyn_ase.dynamics import (
    NVE,
    BufferConfig,
    DistributedPipeline,
    SizeAwareSampler,
)
from nvdyn_ase.dynamics.run import Run
from tests.dynamics.streams import identities, inputs
from tests.dynamics.test_cost import VIEWS
from tests.ranks import results, run_ranks
from tests.wells import Well

ROOM = BufferConfig(num_systems=6, num_nodes=99, num_edges=0)


def counted(action, times=5):
    """Return the operations of so many turns, views apart."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        for _ in range(times):
            action()
    leaves = [event.name for event in profiler.events() if not event.cpu_children]
    names = [name.removeprefix("aten::") for name in leaves if name.startswith("aten::")]
    return len([name for name in names if name not in VIEWS])


def steady(rank):
    """Count the operations and messages of steps in which nobody is done."""
    source = SizeAwareSampler(inputs([1.0] * 4), max_batch_size=4)
    stages = [
        NVE(Well(), dt=0.1, n_steps=40, sampler=source, buffer_config=ROOM),
        NVE(Well(), dt=0.1, n_steps=40, buffer_config=ROOM),
    ]
    with DistributedPipeline(dict(enumerate(stages))) as pipe:
        run, found = pipe.stage_run, None
        pipe._begin(None)
        while pipe._turn(wait=True):
            started = run.steps is not None and int(run.steps.batch["steps"].max()) % 40 >= 5
            begins = run.arrivals is None or not run.arrivals.open  # that this is all has come too
            if found is None and started and begins:
                sent = run.post.sent
                found = counted(lambda: run.turn(wait=False)), run.post.sent - sent
        whole = run.post.sent
        run.end()
        pipe._finish()
        found = (*found, whole)
    engine = stages[rank]
    engine.sampler = SizeAwareSampler(inputs([1.0] * 4), max_batch_size=4)
    engine.sinks = []
    steps = Run(engine, engine.first_systems(None), 40)
    for _ in range(6):
        steps.settle()
        steps.advance()
    alone = counted(lambda: (steps.settle(), steps.advance()))
    return *found, alone


def test_a_rank_with_nothing_to_say_sends_nothing_and_adds_few_operations():
    # Four systems in one transfer, and the end; word of the room that they leave, and of the end.
    wholes = 4, 2
    for (here, messages, sent, alone), whole in zip(
        results(run_ranks(steady, 2)), wholes, strict=True
    ):
        assert messages == 0
        assert here <= alone + 5 * 5
        assert sent == whole


# ---------------------------------------------------------------- a slow stage


class Slow(Well):
    """A well whose forward pass takes a time, as if it were on a machine of its own."""

    def __init__(self, seconds):
        super().__init__()
        self.seconds = seconds

    def forward(self, batch):
        time.sleep(self.seconds)
        return super().forward(batch)


def slow_second(rank, replicas, count):
    """Run a stage and a slow one on so many ranks; return who was here, and the forward passes."""
    source = SizeAwareSampler(inputs([1.0] * count), max_batch_size=2)
    room = BufferConfig(num_systems=2, num_nodes=99, num_edges=0)
    stages = {
        0: NVE(Slow(0.01), dt=0.1, n_steps=5, sampler=source, buffer_config=room),
        1: NVE(Slow(0.1), dt=0.1, n_steps=5, buffer_config=room, max_batch_size=2),
    }
    with DistributedPipeline(stages, replicas={1: replicas}) as pipe:
        pipe.run()
        stage = pipe.local_stage
        here = identities(stage.sinks[0].read()) if stage.is_final_stage else []
        return here, stage.model.forwards


# What that is in time, examples/benchmarks/replicas.py measures.
@pytest.mark.slow
def test_three_replicas_of_a_slow_stage_share_its_work():
    one, three = (results(run_ranks(slow_second, 1 + n, n, 60)) for n in (1, 3))
    for found in (one, three):
        assert sorted(number for here, _ in found for number in here) == list(range(60))
    assert one[1][1] / max(forwards for _, forwards in three[1:]) >= 2.4


def room_is_used(rank):
    """Return how many systems the first stage is done with before the second has begun a step."""
    source = SizeAwareSampler(inputs([1.0] * 12), max_batch_size=2)
    room = BufferConfig(num_systems=3, num_nodes=99, num_edges=0)
    stages = {
        0: NVE(Well(), dt=0.1, n_steps=2, sampler=source, buffer_config=room),
        1: NVE(Well(), dt=0.1, n_steps=2, buffer_config=room, max_batch_size=2),
    }
    with DistributedPipeline(stages) as pipe:
        pipe._begin(None)
        run = pipe.stage_run
        if rank == 0:
            for _ in range(40):  # the other rank takes nothing yet
                run.turn(wait=False)
            done = 12 - run.engine.active_batch_size - len(run.engine.sampler)
            frozen = int((run.engine.active_batch["status"] >= 1).sum())
        torch.distributed.barrier()
        while pipe._turn(wait=True):
            pass
        run.end()
        pipe._finish()
        return (done, frozen) if rank == 0 else identities(run.engine.sinks[0].read())


def test_a_stage_goes_on_until_the_room_of_the_next_is_used_up():
    (done, frozen), ids = results(run_ranks(room_is_used, 2))
    assert done == 2 * 3  # what the other has room for, and what waits here
    assert frozen == 2  # and the places of those that are done
    assert sorted(ids) == list(range(12))
