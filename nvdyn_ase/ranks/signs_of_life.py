"""Noticing that another rank has died, and stopping this one where everything is consistent."""

import os
import signal
import threading
import time
from types import FrameType
from typing import Any

from nvdyn_ase.ranks.job import RankJob

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
    signals are passed over, so that what is being brought in order is not disturbed.

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
        self._raised = False
        self._before: dict[int, Any] = {}
        self._thread = threading.Thread(target=self._work, name="nvdyn_ase signs of life")
        self._thread.daemon = True

    def __enter__(self) -> None:
        """Begin; only in the main thread."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._stop)
        self._thread.start()

    def __exit__(self, *exception: object) -> None:
        """End."""
        self._over.set()
        self._thread.join()
        for number, before in self._before.items():
            signal.signal(number, before)

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._raised:
            return
        self._raised = True
        raise KeyboardInterrupt if number == signal.SIGINT else Stopped

    def _work(self) -> None:
        """Look around every second, and stop the main thread if there is a reason."""
        try:
            neighbor = _Neighbor(self.job)
            count = 0
            while not self._over.wait(_EVERY if count else 0):
                count += 1
                self.job.say(f"alive/{self.job.rank}", count)
                neighbor.look()
                if self.job.failure() is not None:
                    break
        except RuntimeError:  # the store is gone, and with it the launcher
            pass
        if not self._over.is_set():
            os.kill(os.getpid(), signal.SIGTERM)


class _Neighbor:
    """The rank that this one watches."""

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
