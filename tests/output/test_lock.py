"""What keeps other runs away from an output, while any process of a run is there."""

import os
import time

import pytest

from nvdyn_ase.output import OutputError, result_file
from tests.killing import killed_after

NAMES = ["out.db", "out_{index}.extxyz"]


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def left():
    return [name for name in os.listdir() if name.endswith(".lock")]


def whose(output):
    """Return what another run that wants an output is told, or None if it gets it."""
    try:
        with output.locked():
            return None
    except OutputError as error:
        return str(error)


class Rank:
    """A process of a run that holds the lock until it is told to go."""

    def __init__(self, output, signature):
        self._here, there = os.pipe()
        self._gone, gone = os.pipe()
        if not os.fork():
            with output.joined(signature):
                os.write(gone, b"+")
                os.read(self._here, 1)
            os._exit(0)
        os.close(gone)
        self._there = there
        assert os.read(self._gone, 1) == b"+"

    def go(self):
        os.write(self._there, b"-")
        assert os.read(self._gone, 1) == b""
        os.wait()


@pytest.mark.parametrize("name", NAMES)
def test_it_is_held_until_the_last_has_gone(name):
    output = result_file(name)
    with output.locked() as lock:
        signature = lock.share()
        ranks = [Rank(output, signature) for _ in range(2)]
    for rank in ranks:
        told = killed_after(-1, lambda say: say(whose(output)))[0]
        assert f"in use by the ranks of process {os.getpid()} on" in told
        rank.go()
    assert left() == []
    assert whose(output) is None


def dies(say, output, pipe):
    """Hold the lock, share it with a child, and be killed."""
    with output.locked() as lock:
        signature = lock.share()
        if not os.fork():
            with output.joined(signature):
                say("joined")
                os.read(pipe, 1)
            os._exit(0)
        time.sleep(60)


@pytest.mark.parametrize("name", NAMES)
def test_it_is_held_when_the_first_is_killed(name):
    output = result_file(name)
    reading, writing = os.pipe()
    assert killed_after(1, dies, output, reading) == ["joined"]
    assert "in use by the ranks of process" in whose(output)
    os.write(writing, b"-")
    while (told := whose(output)) is not None:
        assert "in use by the ranks of process" in told
    assert left() == []
    os.close(reading)
    os.close(writing)


def test_who_comes_too_late_is_sent_away():
    output = result_file("out.db")
    with output.locked() as lock:
        signature = lock.share()
    with pytest.raises(OutputError, match="in use by another process"), output.joined(signature):
        pytest.fail("nobody has it")
    with output.locked() as lock:
        other = f"{signature} no more"
        assert killed_after(-1, joins, output, other)[0].endswith("until that has ended")
        lock.share()  # another run lets its own ranks in
        assert killed_after(-1, joins, output, other)[0].endswith("until that has ended")


def joins(say, output, signature):
    try:
        with output.joined(signature):
            say("it has joined")
    except OutputError as error:
        say(error)


def test_without_locks_all_are_let_in(monkeypatch):
    def unable(handle, how):
        raise OSError("no locks available")

    monkeypatch.setattr("nvdyn_ase.output.lock.fcntl.lockf", unable)
    output = result_file("out.db")
    with output.locked() as lock:
        signature = lock.share()
        assert signature is None
        with output.joined(signature):
            assert left() == []
