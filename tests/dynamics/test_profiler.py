"""The profiler counts every stretch of a step once, and its times add up."""

import time

import pytest

from nvdyn_ase.dynamics import FIRE, NVE, ConvergenceHook, HookStageEnum, ProfilerHook
from tests.wells import Well, wells

STAGES = tuple(HookStageEnum)[:8]


@pytest.fixture
def clock(monkeypatch):
    """Replace the clock by one that moves when it is told to."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    return Clock


class Takes:
    """Is called at a stage, and takes its time."""

    frequency = 1

    def __init__(self, clock, stage, seconds):
        self.clock, self.stage, self.seconds = clock, stage, seconds

    def __call__(self, batch, dynamics):
        self.clock.now += self.seconds


@pytest.mark.parametrize("frequency", [1, 2, 3])
def test_every_stretch_is_counted_in_due_steps(frequency):
    hook = ProfilerHook(frequency)
    NVE(Well(), dt=0.1, hooks=[hook]).run(wells(1.0, 2.0), n_steps=6)
    due = len(range(0, 6, frequency))
    for stage in STAGES[:-1]:
        first = stage is HookStageEnum.BEFORE_COMPUTE  # a run begins with an evaluation
        assert hook.times[stage].calls == due + first, stage
    assert hook.times[STAGES[-1]].calls == (5 if frequency == 1 else 0)


@pytest.mark.parametrize("stage", STAGES)
def test_time_is_where_it_is_spent(clock, stage):
    hook = ProfilerHook()
    model = Well()
    model.before = lambda _: setattr(clock, "now", clock.now + 1.0)
    hooks = [hook, Takes(clock, stage, 10.0)]
    NVE(model, dt=0.1, hooks=hooks).run(wells(1.0), n_steps=4)
    expected = dict.fromkeys(STAGES, 0.0)
    expected[HookStageEnum.BEFORE_COMPUTE] += 5.0
    calls = hook.times[stage].calls
    expected[stage] += 10.0 * calls
    assert {key: each.host for key, each in hook.times.items()} == expected
    assert all(each.device == 0.0 for each in hook.times.values())


def test_time_between_runs_is_nobodys(clock):
    hook = ProfilerHook()
    engine = NVE(Well(), dt=0.1, hooks=[hook])
    batch = wells(1.0)
    for _ in range(2):
        engine.run(batch, n_steps=2)
        clock.now += 100.0
    assert sum(each.host for each in hook.times.values()) == 0.0
    assert hook.times[HookStageEnum.BEFORE_STEP].calls == 4


def test_the_table_has_a_line_for_each_stage():
    hook = ProfilerHook()
    done = ConvergenceHook.from_fmax(0.05)
    FIRE(Well(), hooks=[hook], convergence_hook=done).run(wells(0.1, 2.0), n_steps=9)
    title, *lines = hook.table().splitlines()
    assert [line.split()[0] for line in lines] == [stage.name for stage in STAGES]
    assert "device" not in title
    shares = [float(line.split()[-1].rstrip("%")) for line in lines]
    assert sum(shares) == pytest.approx(100.0, abs=1.0)
    assert len({len(line) for line in (title, *lines)}) == 1
    assert ProfilerHook().table().count("\n") == 8
