"""Where a rank of a pipeline fails, the others end, and say which rank it was and why."""

import os
import re
import signal
import time

import pytest
import torch
from torch.distributed import HashStore, TCPStore

from nvdyn_ase.dynamics import (
    FIRE,
    NVE,
    BufferConfig,
    ConvergenceHook,
    DistributedPipeline,
    HookStageEnum,
    SizeAwareSampler,
)
from nvdyn_ase.dynamics.pipeline import watch
from tests.dynamics.streams import Moody, identities, inputs
from tests.ranks import results, run_ranks
from tests.wells import Well

ROOM = BufferConfig(num_systems=2, num_nodes=8, num_edges=0)
OTHER = BufferConfig(num_systems=1, num_nodes=8, num_edges=0)


class AtStep:
    """Does something in a step."""

    stage, frequency = HookStageEnum.AFTER_COMPUTE, 1

    def __init__(self, action, step=3):
        self.action, self.step = action, step

    def __call__(self, batch, dynamics):
        if dynamics.step_count >= self.step:
            self.action()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def give_up():
    raise ArithmeticError("a hook gave up")


def three_stages(guilty, hook, sinks=None, room=ROOM, last_room=ROOM):
    """Return a pipeline of three stages, one of which has a hook."""
    hooks = [[hook] if hook is not None and rank == guilty else [] for rank in range(3)]
    model, limit = Well(), ConvergenceHook.from_fmax(0.05)
    source = SizeAwareSampler(inputs([0.5, 1.5, 0.9] * 4), max_batch_size=3)
    first = FIRE(
        model,
        hooks=hooks[0],
        convergence_hook=limit,
        n_steps=9,
        sampler=source,
        buffer_config=room,
    )
    second = NVE(model, hooks=hooks[1], dt=0.2, n_steps=6, buffer_config=room)
    third = NVE(model, hooks=hooks[2], dt=0.2, n_steps=6, buffer_config=last_room, sinks=sinks)
    return DistributedPipeline({0: first, 1: second, 2: third})


def run(rank, guilty, action):
    if action == "dies":
        watch._FAREWELL = 1.0  # it never learns that it has died
    sinks = [Moody(99, {1})] if action == "sink" else None
    acts = {"dies": die, "raises": give_up, "stops": stop}
    hook = AtStep(acts[action]) if action in acts else None
    room = BufferConfig(num_systems=2, num_nodes=3, num_edges=0) if "large" in action else ROOM
    with three_stages(guilty, hook, sinks, room, room) as pipe:
        if action == "larger than a sampler of a stream takes" and rank == 0:
            stream = iter(inputs([0.5, 1.5, 0.9] * 4))
            pipe.local_stage.sampler = SizeAwareSampler(stream, max_atoms=3)
        return pipe.run()


DEAD = "its process has died|store of the process group"
CASES = [
    (1, "dies", DEAD),
    pytest.param(0, "dies", DEAD, marks=pytest.mark.slow),
    pytest.param(2, "dies", DEAD, marks=pytest.mark.slow),
    (1, "raises", "ArithmeticError: a hook gave up"),
    (2, "sink", "SinkError: .*the disk is on fire"),
    (0, "large", "structure 2: it has 4 atoms and 0 pairs, and the buffers .* num_nodes=3"),
    (0, "larger than a sampler of a stream takes", "structure 2: it has 4 atoms .* num_nodes=3"),
]


@pytest.mark.parametrize(("guilty", "action", "reason"), CASES)
def test_the_others_end_and_name_the_rank_and_the_reason(guilty, action, reason):
    begun = time.monotonic()
    found = run_ranks(run, 3, guilty, action, init=False, limit=30)
    assert time.monotonic() - begun < 30
    for rank, value in enumerate(found):
        if rank == guilty:
            assert value is None if action == "dies" else value[0] == "raised"
            continue
        kind, (name, message, trace) = value
        assert (kind, name) == ("raised", "PipelineError"), trace
        pattern = rf"rank {guilty} of the pipeline has failed: .*({reason})"
        assert re.search(pattern, message, re.DOTALL), message


def a_launcher():
    """Start a process that holds a store, as torchrun does; return its id and the port."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        os.write(writing, str(store.port).encode())
        while os.getppid() != 1:
            time.sleep(0.1)
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        return child, pipe.read(5)


def without_launcher(rank, launcher, port):
    """Run a pipeline, on one rank of which the launcher is killed."""
    os.environ.update(MASTER_PORT=port, TORCHELASTIC_USE_AGENT_STORE="True")
    hook = AtStep(lambda: os.kill(launcher, signal.SIGKILL))
    with three_stages(1, hook) as pipe:
        return pipe.run()


def test_where_the_launcher_dies_no_rank_is_blamed():
    launcher, port = a_launcher()
    found = run_ranks(without_launcher, 3, launcher, port, init=False, limit=30)
    os.waitpid(launcher, 0)
    for kind, (name, message, trace) in found:
        assert (kind, name) == ("raised", "PipelineError"), trace
        pattern = r"the launcher of the pipeline has failed: .* torchrun on 127.0.0.1, which holds"
        assert re.search(pattern, message), message


@pytest.mark.slow
def test_a_rank_that_is_stopped_does_not_stop_the_others():
    found = run_ranks(run, 3, 1, "stops", init=False, limit=45)  # then it is killed
    assert found[1] is None
    for rank in (0, 2):
        assert found[rank][1][0] == "PipelineError", found[rank]
        assert "rank 1 of the pipeline has failed: it has given no sign" in found[rank][1][1]


class Immovable(Well):
    """A model that no device takes."""

    to = None


def outside_of_a_run(rank, where):
    """Fail on rank 1, in setting up or after it."""
    pipe = three_stages(0, None, last_room=ROOM)
    if rank == 1 and where == "setup":
        pipe.wiring.stages[1].model = Immovable()
    with pipe:
        if rank == 1:
            raise ArithmeticError("the script gave up")
        pipe.run()


@pytest.mark.parametrize(
    ("where", "reason"),
    [("setup", "RuntimeError: Immovable has no .to"), ("script", "the script gave up")],
)
def test_the_others_learn_of_what_fails_outside_of_a_run(where, reason):
    found = run_ranks(outside_of_a_run, 3, where, init=False, limit=30)
    for rank in (0, 2):
        kind, (name, message, trace) = found[rank]
        assert (kind, name) == ("raised", "PipelineError"), trace
        assert re.search(rf"rank 1 of the pipeline has failed: .*{reason}", message), message


def test_a_process_that_is_stopped_gives_no_sign_of_life():
    store = HashStore()
    neighbor = watch._Neighbor(store, 0, 1)
    assert not neighbor.is_silent(0.0)
    assert not neighbor.is_silent(1000.0)  # it has not come yet
    store.set("alive 0 1", "1")
    assert not neighbor.is_silent(1001.0)
    assert not neighbor.is_silent(1000.0 + watch.SILENCE)
    assert neighbor.is_silent(1002.0 + watch.SILENCE)
    store.set("alive 0 1", "2")
    assert not neighbor.is_silent(1003.0 + watch.SILENCE)


# ---------------------------------------------------------------- what is wrong from the start


def begin(rank, pipe):
    pipe.setup()


@pytest.mark.parametrize(
    ("last_room", "size", "error", "message"),
    [
        (ROOM, 2, "RuntimeError", "need 3 ranks, and there are 2"),
        (OTHER, 3, "ValueError", "buffers of stages 1 and 2 must be equal"),
        (None, 3, "ValueError", "stage 2 .* buffer_config"),
    ],
)
def test_what_cannot_run_says_so_on_every_rank(last_room, size, error, message):
    pipe = three_stages(0, None, last_room=last_room)
    for kind, (name, text, _) in run_ranks(begin, size, pipe, init=False):
        assert (kind, name) == ("raised", error)
        assert re.search(message, text), text


# ---------------------------------------------------------------- full sinks


def fill_twice(rank):
    """Run into a full sink, make room, and run again."""
    sinks = [Moody(5)]
    with three_stages(0, None, sinks) as pipe:
        left, runs = [], 0
        while True:
            back = pipe.run()
            left += identities(back)
            runs += 1
            more = torch.tensor([0 if pipe.local_stage.done else 1])
            torch.distributed.all_reduce(more)
            if pipe.local_stage.is_final_stage and len(sinks[0]):
                left += identities(sinks[0].drain())
            if not more:
                break
        return left, runs


def test_a_full_sink_stops_all_ranks_and_loses_nothing():
    found = results(run_ranks(fill_twice, 3))
    left, runs = found[2]
    assert sorted(left) == list(range(12))
    assert runs == found[0][1] > 1
