"""A pipeline that was cut off: a second start completes it, each structure once."""

import functools
import os
import signal
import tempfile
import time
from pathlib import Path

import pytest

from nvdyn_ase.atoms import DatabaseSink, TrajectorySink
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import (
    FIRE,
    BufferConfig,
    ConvergenceHook,
    DistributedPipeline,
    HookStageEnum,
    Langevin,
    SizeAwareSampler,
    ZarrData,
)
from nvdyn_ase.dynamics.pipeline import watch
from tests.data.strategies import same_bits
from tests.dynamics.streams import by_identity, identities, inputs
from tests.ranks import results, run_ranks
from tests.wells import Well

ROOM = BufferConfig(3, 12, 0)
DISTANCES = [0.02, 1.5, 0.3, 0.9, 0.01, 2.2, 0.5, 1.1, 0.7, 1.9]


class Death:
    """Kills its process after some steps, when something has been written."""

    stage, frequency = HookStageEnum.AFTER_COMPUTE, 1

    def __init__(self, step, folder):
        self.step, self.folder = step, Path(folder)

    def __call__(self, batch, dynamics):
        if dynamics.step_count < self.step:
            return
        while not any(path.stat().st_size for path in self.folder.iterdir()):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)


def start(rank, folder, form, kind="list", dies=None, step=0, writers=1, resume=False):
    """Start a pipeline that writes into files, one of whose ranks may die."""
    watch._PATIENCE = watch._FAREWELL = 0.5
    data = inputs(DISTANCES)
    source = None if kind == "batch" else iter(data) if kind == "stream" else data
    hooks = [[Death(step, folder)] if stage == dies else [] for stage in range(2)]
    relax = FIRE(
        Well(),
        hooks=hooks[0],
        convergence_hook=ConvergenceHook.from_fmax(0.05),
        n_steps=40,
        sampler=source and SizeAwareSampler(source, max_batch_size=3),
        buffer_config=ROOM,
    )
    options = {"hooks": hooks[1], "n_steps": 7, "buffer_config": ROOM, "max_batch_size": 2}
    heat = Langevin(Well(), 0.2, 300.0, 0.1, seed=3, **options)
    if rank:
        heat.sinks = [form(Path(folder, f"{rank}.db"))]
    with DistributedPipeline({0: relax, 1: heat}, replicas={1: writers}) as pipe:
        pipe.run(Batch.from_data_list(data) if kind == "batch" else None, resume=resume)
        return relax.model.systems if rank == 0 else heat.sinks[0].read()


def outcome_of(batch):
    keys = ("positions", "velocities", "forces", "energy", "steps", "outcome")
    return {number: {key: own[key] for key in keys} for number, own in by_identity(batch).items()}


def in_files(form, folder, writers=1):
    """Return what is in the files, by number, and how often each number is there."""
    sinks = [form(Path(folder, f"{rank}.db")) for rank in range(1, 1 + writers)]
    parts = [sink.read() for sink in sinks if len(sink)]
    ids = [number for part in parts for number in identities(part)]
    assert sorted(ids) == sorted(number for sink in sinks for number in sink.system_ids())
    return {n: own for part in parts for n, own in outcome_of(part).items()}, sorted(ids)


@functools.cache
def expected(form):
    """Return what a pipeline writes that nobody kills, and how many forwards that took."""
    with tempfile.TemporaryDirectory() as folder:
        evaluated, written = results(run_ranks(start, 2, folder, form))
    return outcome_of(written), evaluated


CASES = [
    (TrajectorySink, "list", 1, 20, 1),
    pytest.param(TrajectorySink, "stream", 0, 25, 1, marks=pytest.mark.slow),
    pytest.param(ZarrData, "batch", 1, 20, 1, marks=pytest.mark.slow),
    pytest.param(DatabaseSink, "list", 1, 9, 2, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("form", "kind", "dies", "step", "writers"), CASES)
def test_a_second_start_does_what_a_first_has_not(tmp_path, form, kind, dies, step, writers):
    how = start, 1 + writers, tmp_path, form, kind
    run_ranks(*how, dies, step, writers, init=False)
    before, ids = in_files(form, tmp_path, writers)
    assert 0 < len(ids) == len(set(ids)) < len(DISTANCES)
    evaluated, *_ = results(run_ranks(*how, None, 0, writers, True, init=False))
    after, ids = in_files(form, tmp_path, writers)
    assert ids == list(range(len(DISTANCES)))
    whole, forwards = expected(form)
    assert evaluated < forwards  # what was done is not begun again
    for number, own in whole.items():
        for key, tensor in own.items():
            assert same_bits(after[number][key], tensor), (number, key)
            if number in before:
                assert same_bits(before[number][key], tensor), (number, key)
