"""What goes between a rank and its neighbours: systems, room, and the end.

Every neighbour is listened to by a thread of its own, which sleeps until something comes: a rank
finds what has come by looking into its inbox, and asks nobody.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future
from datetime import timedelta
from enum import IntEnum
from queue import Empty, SimpleQueue
from threading import Thread
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.data.buffers import Capacity
from nvdyn_ase.data.messages import Sending, Transport, received
from nvdyn_ase.dynamics.pipeline.watch import SILENCE, PipelineError, Watch

_TAG = 7919
#: A rank may have nothing to say for as long as it likes: whether it lives is seen otherwise.
_FOREVER = timedelta(days=1000)
#: A rank takes at once what comes, in a thread; one that does not has stopped.
TAKEN = timedelta(seconds=SILENCE + 3.0)
_NOTHING = Capacity(0, 0, 0)


class Kind(IntEnum):
    """What a notice says."""

    SYSTEMS = 0  # they follow
    END = 1  # there are no more in this run
    ROOM = 2  # so much has become free
    CLOSED = 3  # no more are taken in this run


class Letter(NamedTuple):
    """What has come from a rank; with systems, their number and the transfer that brings them."""

    rank: int
    kind: Kind
    room: Capacity
    transfer: "Future[Batch] | None" = None


class Post:
    """Sends to the neighbours of a rank, and takes in what they send.

    A transfer of systems is three messages, whatever it holds; room and ends are one each.

    Parameters
    ----------
    prior, following
        The ranks to receive from, and to send to.
    device
        Where to put systems that come.
    watch
        Who knows why ranks fail.

    Attributes
    ----------
    sent
        How many messages were sent.
    """

    def __init__(
        self, prior: list[int], following: list[int], device: torch.device, watch: Watch
    ) -> None:
        self.prior, self.following, self.device, self.watch = prior, following, device, watch
        self.sent = 0
        self._place = Transport.of(None)
        self._inbox: SimpleQueue[Letter | PipelineError | tuple[int, BaseException]] = SimpleQueue()
        self._opened = deque[Letter]()

    def open(self) -> None:
        """Listen to every neighbour until it has said that there is no more in this run."""
        for rank in self.prior:
            self._listen(rank, Kind.END)
        for rank in self.following:
            self._listen(rank, Kind.CLOSED)
        self.watch.begin(self._inbox.put)

    def close(self) -> None:
        """Look for failures no more."""
        self.watch.end()

    # ---------------------------------------------------------------- coming

    def _listen(self, rank: int, last: Kind) -> None:
        name = f"listening to rank {rank}"
        Thread(target=self._take_in, args=(rank, last), name=name, daemon=True).start()

    def _take_in(self, rank: int, last: Kind) -> None:
        try:
            while True:
                notice = torch.zeros(4, dtype=torch.int64, device=self._place.header)
                work = dist.irecv(notice, rank, tag=_TAG)
                assert work is not None
                work.wait(_FOREVER)
                kind, *room = notice.tolist()
                if kind != Kind.SYSTEMS:
                    self._inbox.put(Letter(rank, Kind(kind), Capacity(*room)))
                    if kind == last:
                        return
                    continue
                transfer: Future[Batch] = Future()
                self._inbox.put(Letter(rank, Kind.SYSTEMS, Capacity(*room), transfer))
                self._bring(rank, transfer)
        except BaseException as error:
            self._inbox.put((rank, error))

    def _bring(self, rank: int, transfer: "Future[Batch]") -> None:
        try:
            transfer.set_result(received(rank, self.device, _TAG, None))
        except BaseException as error:
            transfer.set_exception(error)
            raise

    def letters(self, wait: bool) -> Iterator[Letter]:
        """Yield what has come; if nothing has and ``wait``, what comes next.

        Raises
        ------
        PipelineError
            A rank has failed.
        """
        while self._opened:
            wait = False
            yield self._opened.popleft()
        yield from self._come(wait)

    def _come(self, wait: bool) -> Iterator[Letter]:
        """Yield what is in the inbox."""
        if not wait and self._inbox.empty():
            return
        try:
            while True:
                found = self._inbox.get(block=wait)
                wait = False
                if isinstance(found, PipelineError):
                    raise found
                if not isinstance(found, Letter):
                    raise self.watch.lost(*found)
                yield found
        except Empty:
            return

    def check(self) -> None:
        """Raise PipelineError if a rank has failed; what else has come is kept for later."""
        self._opened.extend(self._come(wait=False))

    # ---------------------------------------------------------------- going

    def tell(self, rank: int, kind: Kind, room: Capacity = _NOTHING) -> None:
        """Send a notice."""
        self._wait_for(rank, self._send_notice(rank, kind, room))

    def send(self, rank: int, batch: Batch, wait: bool) -> Sending:
        """Send systems; without ``wait``, whoever gets the handle does that with :meth:`wait`."""
        notice = self._send_notice(rank, Kind.SYSTEMS, Capacity.of(batch))
        self.sent += 2
        try:
            systems = batch.isend(rank, _TAG)
        except RuntimeError as error:
            raise self.watch.lost(rank, error) from error
        both = Sending(notice._works + systems._works, notice._parts + systems._parts)
        if wait:
            self._wait_for(rank, both)
        return both

    def wait(self, rank: int, sending: Sending) -> None:
        """Wait until something that was sent is on its way."""
        self._wait_for(rank, sending)

    def _send_notice(self, rank: int, kind: Kind, room: Capacity) -> Sending:
        notice: Tensor = torch.tensor([int(kind), *room], device=self._place.header)
        self.sent += 1
        try:
            work: Any = dist.isend(notice, rank, tag=_TAG)
        except RuntimeError as error:
            raise self.watch.lost(rank, error) from error
        return Sending([work], [notice])

    def _wait_for(self, rank: int, sending: Sending) -> None:
        try:
            sending.wait(TAKEN)
        except RuntimeError as error:
            raise self.watch.lost(rank, error) from error
