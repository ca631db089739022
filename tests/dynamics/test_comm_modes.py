"""When a stage waits for a transfer: what the three modes of communication differ in."""

from concurrent.futures import Future

import pytest

from nvdyn_ase.data.buffers import Capacity
from nvdyn_ase.dynamics import NVE, BufferConfig
from nvdyn_ase.dynamics.pipeline.arrivals import Arrivals
from nvdyn_ase.dynamics.pipeline.departures import Departures
from nvdyn_ase.dynamics.pipeline.post import Kind, Letter
from tests.wells import Well, wells

ROOM = BufferConfig(4, 40, 0)
MODES = ["sync", "async_recv", "fully_async"]


class Transfer(Future):
    """Systems on their way, which come as soon as somebody waits for them."""

    waited = 0

    def result(self, timeout=None):
        self.waited += 1
        if not self.done():
            self.set_result(wells(1.0, 2.0))
        return super().result(timeout)


class Diary:
    """Stands where the messages to other ranks go out, and notes what is asked of it."""

    def __init__(self):
        self.notes = []

    def tell(self, rank, kind, room=None):
        self.notes.append(("tell", rank, kind))

    def send(self, rank, batch, wait):
        self.notes.append(("send and wait" if wait else "send", rank, len(batch)))
        return f"what went to {rank}"

    def wait(self, rank, sending):
        assert sending == f"what went to {rank}"
        self.notes.append(("wait", rank))


def stage(mode):
    return NVE(Well(), dt=0.1, n_steps=1, buffer_config=ROOM, comm_mode=mode, max_batch_size=4)


@pytest.mark.parametrize("mode", MODES)
def test_a_transfer_is_awaited_when_it_is_announced_or_when_it_is_needed(mode):
    arrivals = Arrivals(stage(mode), Diary(), [0], None)
    arrivals.begin()
    transfer = Transfer()
    arrivals.take(Letter(0, Kind.SYSTEMS, Capacity(2, 5, 0), transfer))
    assert transfer.waited == (1 if mode == "sync" else 0)
    others = arrivals.request_batch([7])  # somebody moves: what has not come is not needed
    assert (others is not None) == transfer.done() == (mode == "sync")
    if mode != "sync":
        needed = arrivals.request_batch([])  # nobody moves
        assert transfer.waited == 1 and len(needed) == 2
    assert not arrivals.has_some


@pytest.mark.parametrize("mode", MODES)
def test_what_is_sent_is_awaited_at_once_or_before_the_next(mode):
    diary = Diary()
    departures = Departures(stage(mode), diary, [1], ROOM)
    departures.begin()
    for distance in (1.0, 2.0):
        departures.write(wells(distance))
    departures.end()
    if mode == "fully_async":
        sent = [("send", 1, 1), ("wait", 1), ("send", 1, 1), ("wait", 1)]
    else:
        sent = [("send and wait", 1, 1)] * 2
    assert diary.notes == [*sent, ("tell", 1, Kind.END)]
