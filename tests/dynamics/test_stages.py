"""Engines as stages: what they know of their neighbours, and how stages are laid out over ranks."""

import pytest

from nvdyn_ase.dynamics import (
    NVE,
    BufferConfig,
    CommMode,
    ConvergenceHook,
    DistributedPipeline,
    HostMemory,
    SizeAwareSampler,
)
from tests.dynamics.streams import inputs
from tests.wells import Well

ROOM = {"num_systems": 2, "num_nodes": 9, "num_edges": 0}


def stage(steps=2, room=ROOM, **options):
    return NVE(Well(), dt=0.1, n_steps=steps, buffer_config=room, **options)


def test_an_engine_knows_its_neighbours():
    engine = NVE(Well(), dt=0.1)
    assert (engine.prior_rank, engine.next_rank) == (-1, -1)
    assert not engine.has_neighbor and not engine.is_first_stage and not engine.is_final_stage
    assert engine.comm_mode == "async_recv" and engine.buffer_config is None
    assert engine.send_buffer is None and engine.recv_buffer is None
    assert (engine.global_rank, engine.local_rank) == (0, 0)
    first, middle = stage(prior_rank=None, next_rank=1), stage(prior_rank=0, next_rank=2)
    assert first.is_first_stage and first.has_neighbor and not first.is_final_stage
    assert middle.has_neighbor and not middle.is_first_stage and not middle.is_final_stage
    assert stage(next_rank=None).is_final_stage and not stage(next_rank=None).has_neighbor
    assert middle.buffer_config == BufferConfig(**ROOM) and middle.buffer_config.num_nodes == 9
    assert stage(comm_mode="sync").comm_mode is CommMode.SYNC


def test_the_size_of_a_buffer_is_three_numbers_by_position_or_name():
    assert BufferConfig(2, 9, 0) == BufferConfig(**ROOM)
    assert repr(BufferConfig(2, 9, 0)) == "BufferConfig(num_systems=2, num_nodes=9, num_edges=0)"
    for row, name in enumerate(ROOM):
        for wrong in (-1, 1.0, "1", None):
            numbers = [2, 9, 0]
            numbers[row] = wrong
            with pytest.raises(ValueError, match=name):
                BufferConfig(*numbers)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"comm_mode": "sometimes"}, ValueError, "comm_mode must be sync, .* not 'sometimes'"),
        ({"room": 7}, TypeError, "BufferConfig or a dict, not int"),
        ({"room": {**ROOM, "num_nodes": -1}}, ValueError, "num_nodes"),
        ({"room": {**ROOM, "num_nodes": 1.5}}, ValueError, "num_nodes"),
        ({"room": None, "next_rank": 1}, ValueError, "next_rank=1 needs a buffer_config"),
        ({"room": None, "prior_rank": 0}, ValueError, "prior_rank=0 needs a buffer_config"),
        ({"prior_rank": -2}, ValueError, "not -2"),
    ],
)
def test_what_a_stage_cannot_be(options, error, message):
    with pytest.raises(error, match=message):
        stage(**options)


def test_stages_are_laid_out_over_ranks():
    a, b, c, d = (stage() for _ in range(4))
    pipe = a | b | c
    assert list(pipe.stages.values()) == [a, b, c]
    assert pipe.wiring.links == [(0, 1), (1, 2)] and pipe.wiring.size == 3
    both = (a | b) | (c | d)
    assert both.wiring.links == [(0, 1), (1, 2), (2, 3)]
    assert list((a | (b | c)).stages.values()) == [a, b, c]
    wide = DistributedPipeline({0: a, 1: b, 2: c}, replicas={1: 3})
    assert wide.wiring.size == 5 and list(wide.wiring.ranks[1]) == [1, 2, 3]
    assert wide.wiring.after(0) == [1, 2, 3] and wide.wiring.before(2) == [1, 2, 3]
    assert DistributedPipeline({0: a, 1: b, 2: b, 3: b}).wiring.after(0) == [1, 2, 3]
    assert (wide | d).wiring.size == 6
    assert repr(wide).count("NVE") == 3 and "x 3" in repr(wide)


def test_chains_are_made_by_what_stages_say():
    ends = [(None, 1), (0, None), (None, 3), (2, None)]
    stages = {i: stage(prior_rank=p, next_rank=n) for i, (p, n) in enumerate(ends)}
    pipe = DistributedPipeline(stages)
    assert pipe.wiring.links == [(0, 1), (2, 3)]
    assert (pipe | (stage() | stage())).wiring.links == [(0, 1), (2, 3), (4, 5)]
    two = DistributedPipeline({0: stage(), 1: stage(next_rank=None), 2: stage(), 3: stage()})
    assert two.wiring.links == [(0, 1), (2, 3)]


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ([stage()], "two stages, not 1"),
        ([stage(), stage(room=None)], "stage 1 has a neighbour and no buffer_config"),
        ([stage(), stage(room={**ROOM, "num_nodes": 8})], "stages 0 and 1 must be equal"),
        ([stage(sinks=[HostMemory(1)]), stage()], "stage 0 has sinks, and sends"),
        ([stage(), stage(sampler=SizeAwareSampler(inputs([1.0])))], "stage 1 has a sampler"),
        ([stage(), stage(steps=None)], "nothing ends stage 1"),
    ],
)
def test_what_a_pipeline_cannot_be(stages, message):
    with pytest.raises(ValueError, match=message):
        DistributedPipeline(dict(enumerate(stages))).setup()


def test_other_errors_have_the_types_that_they_should_have():
    with pytest.raises(TypeError, match="not by int"):
        stage() | 3
    with pytest.raises(TypeError, match="not by ConvergenceHook"):
        (stage() | stage()) | ConvergenceHook()
    with pytest.raises(TypeError, match="must be an engine"):
        DistributedPipeline({0: 3})
    with pytest.raises(ValueError, match="no stage 5"):
        DistributedPipeline({0: stage()}, replicas={5: 2})
    with pytest.raises(ValueError, match="do not agree"):
        DistributedPipeline({0: stage(next_rank=1), 1: stage(prior_rank=None)})
    pipe = stage() | stage()
    with pytest.raises(RuntimeError, match="set the pipeline up"):
        pipe.step()
    with pytest.raises(KeyError, match="rank 7 has no stage"):
        pipe.wiring.stage_of(7)
    pipe._is_set_up = True
    with pytest.raises(RuntimeError, match="set up already"):
        pipe | stage()


def test_fused_stages_are_stages():
    model = Well()
    parts = [NVE(model, dt=0.1, n_steps=1, buffer_config=ROOM) for _ in range(2)]
    pipe = (parts[0] + parts[1]) | stage()
    assert pipe.wiring.links == [(0, 1)]
    pipe.wiring.check()
