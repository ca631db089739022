"""How ranks learn that another one has failed, and why: a note in the process group's store."""

import json
import os
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Any

import torch.distributed

# How often a rank looks for a note, how long it waits for one that says more than that a connection
# was closed, and how long for the others to have read one: the store may end with it.
_EVERY, _PATIENCE, _FAREWELL = 0.5, 2.0, 5.0
#: A rank whose process gives no sign of life for so long in the middle of a run has died, s.
SILENCE = 15.0


class PipelineError(RuntimeError):
    """A rank of a pipeline has failed, and so the others end.

    Parameters
    ----------
    rank
        Which; None for the launcher of all ranks.
    reason
        Why.

    Attributes
    ----------
    rank, reason
        As given.
    """

    def __init__(self, rank: int | None, reason: str) -> None:
        self.rank, self.reason = rank, reason
        who = "the launcher" if rank is None else f"rank {rank}"
        super().__init__(f"{who} of the pipeline has failed: {reason}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle by the two arguments."""
        return type(self), (self.rank, self.reason)


class Watch:
    """Leaves a note for the other ranks when this one fails, and looks for theirs.

    Parameters
    ----------
    store
        Of the process group.
    rank, size
        This rank, and how many there are.
    """

    def __init__(self, store: Any, rank: int, size: int) -> None:
        self.store, self.rank, self.size = store, rank, size
        self._runs = 0
        self._stop = Event()

    def begin(self, report: Callable[[PipelineError], None]) -> None:
        """Look for notes from now on, in a thread of its own, and report the first."""
        self._stop = Event()
        self._live(self._runs, 0)
        Thread(target=self._look, args=(report, self._stop), daemon=True).start()

    def end(self) -> None:
        """Look no more."""
        self._stop.set()

    def _look(self, report: Callable[[PipelineError], None], stop: Event) -> None:
        run, sign = self._runs, 0
        neighbor = _Neighbor(self.store, run, (self.rank + 1) % self.size)
        while not stop.wait(_EVERY):
            sign += 1
            try:
                self._live(run, sign)
                if neighbor.is_silent(time.monotonic()):
                    self.fail(neighbor.rank, f"it has given no sign of life for {SILENCE:g} s")
                failure = self.failure()
            except Exception as error:
                if not stop.is_set():
                    report(self._storeless(error))
                return
            if failure is not None:
                report(failure)
                return

    def _live(self, run: int, sign: int) -> None:
        """Give a sign of life."""
        self.store.set(f"alive {run} {self.rank}", str(sign))

    def _storeless(self, error: Exception) -> PipelineError:
        why = str(error).split("\n")[0]
        lost = "the store of the process group is not there any more"
        if _is_of_launcher(self.store):
            where = os.environ.get("MASTER_ADDR", "its machine")
            return PipelineError(
                None,
                f"{lost}; torchrun on {where}, which holds it, was killed, or {where} cannot be "
                f"reached ({why})",
            )
        return PipelineError(0, f"{lost}; rank 0, which holds it, has died ({why})")

    def failure(self) -> PipelineError | None:
        """Return what another rank has left a note about, if any has."""
        if not self.store.check(["failed"]):
            return None
        rank, reason = json.loads(self.store.get("failed"))
        return PipelineError(rank, reason)

    def fail(self, rank: int | None, reason: str) -> None:
        """Leave a note, unless there is one."""
        try:
            if not self.store.check(["failed"]):
                self.store.set("failed", json.dumps([rank, reason]))
        except Exception:  # then the others notice that there is no store
            return

    def lost(self, rank: int, error: BaseException) -> PipelineError:
        """Return why a rank is not there any more: what its note says, or that it has died."""
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end:
            try:
                failure = self.failure()
            except Exception as storeless:
                return self._storeless(storeless)
            if failure is not None:
                return failure
            time.sleep(0.05)
        why = str(error).split("\n")[0]
        failure = PipelineError(rank, f"its process has died, and left no reason ({why})")
        self.fail(failure.rank, failure.reason)
        return failure

    def tell(self, name: str, value: bytes) -> None:
        """Tell the others something in this run."""
        try:
            self.store.set(f"{name} {self._runs} {self.rank}", value)
        except torch.distributed.DistError as error:
            raise self._storeless(error) from error

    def hear(self, name: str, rank: int, check: Callable[[], None]) -> bytes:
        """Return what a rank tells in this run; ``check`` is called meanwhile and may raise."""
        key = f"{name} {self._runs} {rank}"
        try:
            while not self.store.check([key]):
                check()
                time.sleep(0.01)
            return self.store.get(key)
        except torch.distributed.DistError as error:
            raise self._storeless(error) from error

    def leave(self) -> None:
        """Wait a little until all others know of a failure, so that each can say what it was."""
        end = time.monotonic() + _FAREWELL
        try:
            self.store.add("know", 1)
            while self.store.add("know", 0) < self.size and time.monotonic() < end:
                time.sleep(0.05)
        except Exception:  # there is nobody to wait for without the store
            return

    def wait_for_all(self, check: Callable[[], None]) -> None:
        """Return when all ranks have ended a run; ``check`` is called meanwhile and may raise.

        Rank 0, which may hold the store, returns when the others have seen it.
        """
        ended, seen = f"ended {self._runs}", f"seen {self._runs}"
        self._runs += 1
        try:
            self.store.add(ended, 1)
            pause = 0.001
            while self.store.add(ended, 0) < self.size:
                check()
                time.sleep(pause)
                pause = min(2 * pause, 0.2)
            self.store.add(seen, 1)
            end = time.monotonic() + _FAREWELL
            while not self.rank and self.store.add(seen, 0) < self.size and time.monotonic() < end:
                time.sleep(0.01)
        except torch.distributed.DistError as error:
            raise self._storeless(error) from error


def _is_of_launcher(store: Any) -> bool:
    """Say whether the launcher holds a store, as torchrun does, and not rank 0."""
    while hasattr(store, "underlying_store"):
        store = store.underlying_store
    its_port = str(getattr(store, "port", None)) == os.environ.get("MASTER_PORT")
    return its_port and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"


class _Neighbor:
    """The signs of life, in one run, of the rank after this one."""

    def __init__(self, store: Any, run: int, rank: int) -> None:
        self.rank = rank
        self._store, self._key = store, f"alive {run} {rank}"
        self._last: bytes | None = None
        self._since = 0.0

    def is_silent(self, now: float) -> bool:
        """Say whether it has given signs of life, and none for a long time."""
        sign = self._store.get(self._key) if self._store.check([self._key]) else None
        if sign != self._last:
            self._last, self._since = sign, now
        return self._last is not None and now - self._since > SILENCE
