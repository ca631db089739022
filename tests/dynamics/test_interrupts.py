"""Ctrl-C at any point of the exchange: every system leaves once."""

import signal
import sys
import threading

import pytest

from nvdyn_ase.dynamics import FIRE, ConvergenceHook, HostMemory, SizeAwareSampler, SnapshotHook
from nvdyn_ase.dynamics.interrupts import HeldInterrupts
from tests.dynamics.streams import identities, inputs
from tests.wells import Well

DISTANCES = [0.5, 1.0, 2.0, 0.01, 3.0, 1.5, 2.5]


def relaxation(sinks, sampler=None):
    return FIRE(
        Well(),
        convergence_hook=ConvergenceHook.from_fmax(0.05),
        sampler=sampler or SizeAwareSampler(inputs(DISTANCES), max_atoms=8, max_batch_size=3),
        sinks=sinks,
    )


def run_on(engine):
    """Run until it ends, whoever interrupts; return how often it was interrupted."""
    for interrupts in range(100):
        try:
            assert engine.run() is None
        except KeyboardInterrupt:
            continue
        return interrupts
    raise AssertionError("it does not end")


class Interrupted(HostMemory):
    """A sink whose write of this number is interrupted from inside."""

    def __init__(self, capacity, at, when):
        super().__init__(capacity)
        self.at, self.when, self.writes = at, when, 0

    def write(self, batch, mask=None):
        self.writes += 1
        if self.writes - 1 != self.at:
            super().write(batch, mask)
            return
        if self.when == "half way":
            super().write(batch[: len(batch) // 2], mask)
        if self.when == "behind":
            super().write(batch, mask)
        raise KeyboardInterrupt


@pytest.mark.parametrize("when", ["before", "half way", "behind"])
@pytest.mark.parametrize("at", range(4))
def test_who_a_sink_has_taken_before_it_was_interrupted_does_not_come_again(at, when):
    sinks = [Interrupted(4, at, when), HostMemory(9)]
    assert run_on(relaxation(sinks)) == (at < sinks[0].writes)
    found = [number for sink in sinks if len(sink) for number in identities(sink.read())]
    assert sorted(found) == list(range(len(DISTANCES)))


def interrupted_at(line):
    """Return a tracer that presses Ctrl-C at the line of this number of the exchange; -1 counts."""
    state = {"lines": 0}

    def of_lines(frame, event, argument):
        if event == "line":
            state["lines"] += 1
            if state["lines"] - 1 == line:
                signal.raise_signal(signal.SIGINT)
        return of_lines

    def of_calls(frame, event, argument):
        return of_lines if frame.f_code.co_filename.endswith("dynamics/inflight.py") else None

    return of_calls, state


_STRIDE = 60
_PARTS = [pytest.param(k, marks=pytest.mark.slow if k % 30 else ()) for k in range(_STRIDE)]


@pytest.mark.parametrize("part", _PARTS)
def test_ctrl_c_on_any_line_of_the_exchange(part):
    handler, outer = signal.getsignal(signal.SIGINT), sys.gettrace()
    line, came = -1, 0
    while True:
        sinks, seen = [HostMemory(3), HostMemory(9)], HostMemory(99)
        engine = relaxation(sinks)
        engine.register_hook(SnapshotHook(seen, 10**6))  # the last of everyone
        tracer, state = interrupted_at(line)
        sys.settrace(tracer)
        try:
            came += run_on(engine)
        finally:
            sys.settrace(outer)
        assert signal.getsignal(signal.SIGINT) is handler
        found = [number for sink in sinks for number in identities(sink.read())]
        assert sorted(found) == list(range(len(DISTANCES))), line
        if line >= state["lines"]:
            break
        line = part if line < 0 else line + _STRIDE
    assert came > 3


def test_it_waits_until_the_end_and_comes_once():
    seen = []

    def press():
        with HeldInterrupts():
            for _ in range(3):
                signal.raise_signal(signal.SIGINT)
                seen.append("went on")

    with pytest.raises(KeyboardInterrupt):
        press()
    assert seen == ["went on"] * 3
    with HeldInterrupts() as held, pytest.raises(KeyboardInterrupt), held.let_through():
        signal.raise_signal(signal.SIGINT)


def test_what_waits_comes_where_it_is_let_through():
    with HeldInterrupts() as held:
        signal.raise_signal(signal.SIGINT)
        with pytest.raises(KeyboardInterrupt), held.let_through():
            raise AssertionError("it is too late")


def test_in_another_thread_and_where_the_signal_is_ignored_nothing_is_changed():
    handler = signal.getsignal(signal.SIGINT)
    inside = []

    def look():
        with HeldInterrupts():
            inside.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert inside == [handler]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        look()
        assert inside[-1] is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, handler)
