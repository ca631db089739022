"""Noticing that another rank has died, and stopping this one where everything is consistent."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from nvdyn_ase.ranks.job import RankJob

#: A process that has been told to end and has not, ends all the same, s.
GRACE = 15.0
#: A rank that has given no sign of life for so long has died, s; and one that has not come at all.
PATIENCE, PATIENCE_AT_FIRST = 20.0, 300.0
_EVERY = 1.0


class Stopped(BaseException):
    """Somebody wants this process to end: the launcher, or the rank itself as another has died.

    Like ``KeyboardInterrupt`` it is no ``Exception``, so that nobody takes it for a structure's
    fault.
    """


class SignsOfLife:
    """Gives signs of life while a rank works, looks for those of the next, and ends with the job.

    Each rank watches the one after it, in a thread: the cost does not depend on how many there are.
    The launcher's SIGTERM, Ctrl-C and the death of a rank all raise in the main thread, once; later
    signals are passed over, so that what is being brought in order is not disturbed. A main thread
    that does not come to it, as a device does not answer, ends with the process: what is on the
    disk survives that as it survives ``kill -9``.

    Parameters
    ----------
    job
        This rank.

    Attributes
    ----------
    job
        As given.
    """

    def __init__(self, job: RankJob) -> None:
        self.job = job
        self._over = threading.Event()
        self._is_raised = self._has_begun = False
        self._early: int | None = None
        self._told_at: float | None = None
        self._before: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._work, name="nvdyn_ase signs of life")
        self._thread.daemon = True

    def begin(self) -> None:
        """Begin; only in the main thread, and where what it raises is looked at."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._stop)
        self._thread.start()
        self._has_begun = True
        if self._early is not None:
            self._stop(self._early, None)

    def end(self) -> None:
        """End."""
        self._over.set()
        if self._has_begun:
            self._thread.join()
        for number, before in self._before.items():
            signal.signal(number, before)

    def pass_over(self) -> None:
        """Raise nothing any more: the work has ended already."""
        self._is_raised = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._is_raised:
            return
        if not self._has_begun:  # the thread would be left half started
            self._early = number
            return
        self._is_raised = True
        self._told_at = self._told_at or time.monotonic()
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped

    def _work(self) -> None:
        """Look around every second, and stop the main thread if there is a reason."""
        neighbor, count = Neighbor(self.job), 0
        while not self._over.wait(_EVERY if count else 0):
            count += 1
            if self._told_at is not None:
                if time.monotonic() > self._told_at + GRACE:
                    os._exit(2)
            elif not self._is_well(neighbor, count):
                self._told_at = time.monotonic()
                os.kill(os.getpid(), signal.SIGTERM)

    def _is_well(self, neighbor: "Neighbor", count: int) -> bool:
        """Give a sign of life, and say whether there are such of the others."""
        try:
            self.job.say(f"alive/{self.job.rank}", count)
            neighbor.look()
            return self.job.failure() is None
        except RuntimeError:  # the store is gone, and with it the launcher
            return False


class Neighbor:
    """The rank that another one watches: the one after it, and the first after the last.

    Parameters
    ----------
    job
        The one that watches.
    """

    def __init__(self, job: RankJob) -> None:
        self._job, self._rank = job, (job.rank + 1) % job.world_size
        self._last: Any = None
        self._since = time.monotonic()

    def look(self) -> None:
        """Tell all ranks if it has died."""
        if self._rank == self._job.rank:
            return
        sign, now = self._job.heard(f"alive/{self._rank}"), time.monotonic()
        if sign != self._last:
            self._last, self._since = sign, now
        if now - self._since > (PATIENCE_AT_FIRST if sign is None else PATIENCE):
            for_long = f"for {now - self._since:.0f} s"
            self._job.fail(f"it has given no sign of life {for_long}", self._rank)
