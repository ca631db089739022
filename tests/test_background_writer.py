import errno
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.background_writer import BackgroundWriter, WriteError


class Memory:
    """Keeps items, and fails when it is told to."""

    def __init__(self, fails_at=None, flush_fails_at=None):
        self.written, self.safe = [], []
        self.fails_at, self.flush_fails_at = fails_at, flush_fails_at
        self.flushes, self.threads = 0, set()
        self.gate = threading.Event()
        self.gate.set()

    def write(self, item):
        self.threads.add(threading.get_ident())
        assert self.gate.wait(10)
        if len(self.written) == self.fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.written.append(item)

    def flush(self):
        self.threads.add(threading.get_ident())
        self.flushes += 1
        if self.flushes == self.flush_fails_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.safe = list(self.written)


@given(st.integers(0, 40), st.integers(1, 5), st.integers(1, 7))
@settings(max_examples=30)
def test_everything_is_written_once_in_order_by_one_thread(count, capacity, flush_items):
    target = Memory()
    with BackgroundWriter(target, capacity, flush_items) as writer:
        for item in range(count):
            writer.put(item)
    assert target.safe == list(range(count))
    assert writer.unwritten() == []
    assert len(target.threads) == 1
    assert threading.get_ident() not in target.threads
    assert target.flushes == count // flush_items + 1


@given(st.data())
@settings(max_examples=60)
def test_nothing_is_lost_when_the_target_fails(data):
    """What is safe and what is handed back are together all that was taken."""
    fails_at = data.draw(st.none() | st.integers(0, 12))
    flush_fails_at = data.draw(st.integers(1, 4))
    target = Memory(fails_at, flush_fails_at)
    writer = BackgroundWriter(target, data.draw(st.integers(1, 4)), data.draw(st.integers(1, 5)))
    taken = []
    try:
        for item in range(12):
            writer.put(item)
            taken.append(item)
            if data.draw(st.booleans()):
                writer.flush()
        writer.close()
    except WriteError:
        with pytest.raises(WriteError, match="No space") as caught:
            writer.close()
        assert isinstance(caught.value.__cause__, OSError)
    assert writer.failed or target.safe == taken
    assert target.safe + writer.unwritten() == taken
    again = Memory()
    with BackgroundWriter(again) as other:
        for item in writer.unwritten():
            other.put(item)
    assert target.safe + again.safe == taken


def test_put_does_not_wait_for_the_target_but_for_room():
    target = Memory()
    target.gate.clear()
    writer = BackgroundWriter(target, capacity=3)
    for item in range(3):
        writer.put(item)  # it would hang here if it waited
    blocked = threading.Thread(target=writer.put, args=(3,), daemon=True)
    blocked.start()
    assert target.written == []
    assert writer.unwritten() == [0, 1, 2]
    target.gate.set()
    blocked.join()
    writer.close()
    assert target.safe == [0, 1, 2, 3]


def test_who_waits_for_room_hears_of_the_failure():
    target = Memory(fails_at=0)
    target.gate.clear()
    writer = BackgroundWriter(target, capacity=1)
    writer.put(0)
    heard = []

    def put():
        with pytest.raises(WriteError):
            writer.put(1)
        heard.append(True)

    blocked = threading.Thread(target=put)
    blocked.start()
    target.gate.set()
    blocked.join()
    assert heard
    assert writer.unwritten() == [0]


def test_flush_makes_safe_what_was_taken():
    target = Memory()
    writer = BackgroundWriter(target)
    for item in range(5):
        writer.put(item)
    writer.flush()
    assert target.safe == [0, 1, 2, 3, 4]
    assert writer.unwritten() == []
    writer.close()


def test_what_nothing_comes_behind_is_flushed_after_a_while():
    target = Memory()
    flushed = threading.Event()
    target.flush = flushed.set
    writer = BackgroundWriter(target, flush_seconds=0.0)
    writer.put(0)
    assert flushed.wait(10)
    writer.close()


def test_calls_are_made_by_the_thread_that_writes_behind_what_was_taken():
    target = Memory()
    writer = BackgroundWriter(target)
    writer.put(0)
    assert writer.call(lambda more: (threading.get_ident(), target.written + more), [1]) == (
        *target.threads,
        [0, 1],
    )
    ends = []
    writer.close(ends.append, 7)
    assert ends == [7]
    writer.close(ends.append, 8)
    assert ends == [7]
    with pytest.raises(RuntimeError, match="closed"):
        writer.put(1)


def test_the_target_is_closed_by_that_thread_also_when_it_has_failed():
    target = Memory(fails_at=0)
    writer = BackgroundWriter(target)
    writer.put(0)
    closed_by = []
    with pytest.raises(WriteError):
        writer.close(lambda: closed_by.append(threading.get_ident()))
    assert set(closed_by) == target.threads


def test_a_call_that_fails_is_a_failure():
    writer = BackgroundWriter(Memory())
    with pytest.raises(WriteError, match="division"):
        writer.call(lambda: 1 / 0)
    assert writer.failed
    with pytest.raises(WriteError):
        writer.close()


def test_an_error_on_its_way_is_not_hidden():
    def run():
        with writer:
            writer.put(0)
            raise KeyboardInterrupt

    writer = BackgroundWriter(Memory(fails_at=0))
    with pytest.raises(KeyboardInterrupt):
        run()
    assert writer.unwritten() == [0]


def test_an_interrupt_while_waiting_for_room_leaves_it_whole(monkeypatch):
    target = Memory()
    target.gate.clear()
    writer = BackgroundWriter(target, capacity=1)
    writer.put(0)
    real = threading.Condition.wait_for

    def interrupted(self, predicate, timeout=None):
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return real(self, predicate, timeout)

    with monkeypatch.context() as patch:
        patch.setattr(threading.Condition, "wait_for", interrupted)
        with pytest.raises(KeyboardInterrupt):
            writer.put(1)
    target.gate.set()
    writer.put(2)
    writer.close()
    assert target.safe == [0, 2]


@pytest.mark.parametrize("name", ["capacity", "flush_items"])
def test_no_room_at_all_is_refused(name):
    with pytest.raises(ValueError, match=name):
        BackgroundWriter(Memory(), **{name: 0})
