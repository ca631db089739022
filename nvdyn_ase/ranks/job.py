"""Joining a job that ``torchrun`` has started, and talking to its other ranks.

All there is between the ranks is the store of ``torch.distributed``, a table of short texts and
counters that the launcher keeps. Nobody waits in it: what is not there yet is asked for again. So a
rank that dies leaves nobody behind in a call that does not return.
"""

import json
import math
import os
import socket
import time
from collections.abc import Callable
from typing import Any

import torch.distributed
from torch.distributed import PrefixStore, Store

#: How long to wait before asking again, s: at first, and at most.
_SOONEST, _LATEST = 0.01, 0.25


class RankError(Exception):
    """A rank has failed; it says which, and why."""


class RankJob:
    """One of the ranks of a job: this process.

    Parameters
    ----------
    store
        What the ranks have in common.
    rank, world_size
        Which one this is, from 0, and how many there are.
    local_rank
        Which one on this node.
    restarts
        How often the launcher has started all ranks again.

    Attributes
    ----------
    store, rank, world_size, local_rank, restarts
        As given.
    """

    def __init__(
        self, store: Store, rank: int, world_size: int, local_rank: int = 0, restarts: int = 0
    ) -> None:
        self.store, self.rank, self.world_size = store, rank, world_size
        self.local_rank, self.restarts = local_rank, restarts

    @classmethod
    def joined(cls) -> "RankJob":
        """Join the job that the environment names.

        Raises
        ------
        RankError
            The store cannot be reached.
        """
        try:
            store, rank, world_size = next(iter(torch.distributed.rendezvous("env://")))
        except (RuntimeError, ValueError) as error:
            address = f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            raise RankError(f"cannot reach the launcher's store at {address}: {error}") from error
        local_rank = int(os.environ.get("LOCAL_RANK", 0))
        restarts = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", 0))
        # The launcher may keep its store, and what is in it, when it starts the ranks again.
        own = PrefixStore(f"nvdyn_ase/{restarts}/{world_size}", store)
        job = cls(own, rank, world_size, local_rank, restarts)
        job.say(f"process/{rank}", {"host": socket.gethostname(), "pid": os.getpid()})
        return job

    def __repr__(self) -> str:
        """Say which rank this is."""
        return f"RankJob(rank {self.rank} of {self.world_size})"

    def name(self, rank: int | None = None) -> str:
        """Return what people call a rank: which it is, and where; this one by default."""
        rank = self.rank if rank is None else rank
        process = self.heard(f"process/{rank}")
        where = f" on {process['host']}" if process else ""
        return f"rank {rank} of {self.world_size}{where}"

    # ---------------------------------------------------------------- the store

    def say(self, key: str, fact: Any) -> None:
        """Write something down for the others, as JSON holds it."""
        self.store.set(key, json.dumps(fact))

    def heard(self, key: str) -> Any:
        """Return what somebody has written down, or None."""
        return json.loads(self.store.get(key)) if self.store.check([key]) else None

    def hear(
        self,
        key: str,
        meanwhile: Callable[[], None] = lambda: None,
        seconds: float = math.inf,
    ) -> Any:
        """Return what somebody writes down, as soon as it is there.

        Parameters
        ----------
        key
            What it is called.
        meanwhile
            Called again and again.
        seconds
            After so long there is nothing, and None is returned.

        Raises
        ------
        RankError
            A rank has failed.
        """
        pause, end = _SOONEST, time.monotonic() + seconds
        while (fact := self.heard(key)) is None:
            self.check()
            meanwhile()
            if time.monotonic() > end:
                return None
            time.sleep(pause)
            pause = min(1.5 * pause, _LATEST)
        return fact

    def add(self, key: str, number: int) -> int:
        """Add to a counter of all ranks; return what it is then."""
        return self.store.add(key, number)

    def wait_until(self, key: str, number: int, seconds: float) -> None:
        """Wait until a counter has come to a number, but no longer than so many seconds."""
        end = time.monotonic() + seconds
        while self.add(key, 0) < number and time.monotonic() < end:
            time.sleep(_SOONEST)

    # ---------------------------------------------------------------- when a rank fails

    def fail(self, reason: str, rank: int | None = None) -> bool:
        """Tell all ranks that one has failed, this one by default; return whether it is news."""
        failed = {
            "rank": self.rank if rank is None else rank,
            "teller": self.rank,
            "error": f"{self.name(rank)}: {reason}",
        }
        text = json.dumps(failed)
        # Stores give back text or bytes, by version.
        kept: Any = self.store.compare_set("failed", "", text)
        return (kept if isinstance(kept, str) else kept.decode()) == text

    def failure(self) -> str | None:
        """Return which rank has failed and why, if one has."""
        failed = self.heard("failed")
        return None if failed is None else failed["error"]

    def check(self) -> None:
        """Raise RankError if a rank has failed."""
        failure = self.failure()
        if failure is not None:
            raise RankError(failure)

    def gone(self) -> int | None:
        """Return a rank on this node whose process is not there any more, or None."""
        here = socket.gethostname()
        for rank in range(self.world_size):
            process = self.heard(f"process/{rank}")
            if process and process["host"] == here and not _is_there(process["pid"]):
                return rank
        return None


def _is_there(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
