"""The receiving side of a stage: it stands where an engine has its sampler."""

from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.data.buffers import Capacity
from nvdyn_ase.dynamics.communication import CommMode
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.pipeline.post import TAKEN, Kind, Letter, Post
from nvdyn_ase.dynamics.together import put_together

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class Arrivals:
    """Gives an engine the systems that other ranks send, as there is room for them.

    The room that this makes is told to the rank that they came from. Systems that have failed in
    an earlier stage are not moved; they go on to the engine's sinks as they are.

    Parameters
    ----------
    engine
        Who moves them.
    post
        Where they come in.
    ranks
        Who sends them.
    dataset
        What the first stage reads, for how many systems there are; None if nobody knows.
    """

    max_atoms = max_edges = max_batch_size = None

    def __init__(
        self, engine: "BaseDynamics", post: Post, ranks: Iterable[int], dataset: Any
    ) -> None:
        self.engine, self.post, self.dataset = engine, post, dataset
        self.ranks = frozenset(ranks)
        self.open = set[int]()
        self.closed = set[int]()
        self._waiting: deque[tuple[int, Future[Batch]]] = deque()
        self._come: deque[tuple[int, Batch]] = deque()
        self._freed = dict.fromkeys(sorted(self.ranks), Capacity(0, 0, 0))
        self._handed: Batch | None = None

    # ---------------------------------------------------------------- what comes

    def begin(self) -> None:
        """Begin a run: whoever sends may do so again."""
        self.open, self.closed = set(self.ranks), set()

    def take(self, letter: Letter) -> None:
        """Take in what has come from a rank."""
        if letter.kind is Kind.END:
            self.open.discard(letter.rank)
            self.close(letter.rank)
        elif letter.transfer is not None:
            self._waiting.append((letter.rank, letter.transfer))
            if self.engine.comm_mode is CommMode.SYNC:
                self._land(wait=True)

    def close(self, rank: int) -> None:
        """Say once that no more is taken from a rank in this run."""
        if rank not in self.closed:
            self.closed.add(rank)
            self.post.tell(rank, Kind.CLOSED)

    def add(self, batch: Batch) -> None:
        """Take in systems that the user gives."""
        self._come.append((-1, batch))

    def leave_out(self, ids: set[int]) -> None:
        """Drop those of these numbers from what the user has given."""
        given, self._come = self._come, deque()
        for rank, batch in given:
            rest = [row for row, i in enumerate(batch["system_id"].view(-1)) if int(i) not in ids]
            self._come.extend([(rank, batch.index_select(rest))] if rest else [])

    def _land(self, wait: bool) -> None:
        """Take up transfers that have come; with ``wait``, wait for the first if there is one."""
        while self._waiting and (wait or self._waiting[0][1].done()):
            rank, transfer = self._waiting.popleft()
            try:
                self._come.append((rank, transfer.result(TAKEN.total_seconds())))
            except (RuntimeError, TimeoutError) as error:
                raise self.post.watch.lost(rank, error) from error
            wait = False

    @property
    def buffer(self) -> Batch | None:
        """What has come and waits to be moved; None if nothing does."""
        parts = [batch for _, batch in self._come]
        return put_together(parts, np.arange(sum(map(len, parts)))) if parts else None

    @property
    def has_some(self) -> bool:
        """Whether systems wait to be moved, or are about to."""
        return bool(self._come or self._waiting)

    # ---------------------------------------------------------------- what an engine asks

    @property
    def exhausted(self) -> bool:
        """Whether all has come and been given."""
        return not self.open and not self.has_some

    def request_batch(self, staying: Sequence[int]) -> Batch | None:
        """Return the next systems, as they begin in this stage, or None."""
        room = self.engine.max_batch_size - len(staying)
        self._land(wait=not staying and not self._come)
        parts: list[Batch] = []
        while self._come and room > 0 and not self.engine.has_unwritten:
            part = self._next(room)
            if part is not None:
                parts.append(part)
                room -= len(part)
        self.tell_room()
        if not parts:
            return None
        self._handed = self._fresh(put_together(parts, np.arange(sum(map(len, parts)))))
        return self._handed

    def _next(self, room: int) -> Batch | None:
        """Return the first systems that wait, without those that have failed; these go on."""
        rank, batch = self._come.popleft()
        if len(batch) > room:
            self._come.appendleft((rank, batch.index_select(slice(room, None))))
            batch = batch.index_select(slice(room))
        if rank in self._freed:
            self._freed[rank] += Capacity.of(batch)
        outcome = batch["outcome"].view(-1).cpu().numpy() if "outcome" in batch else None
        failed = np.zeros(len(batch), bool) if outcome is None else outcome >= Outcome.NAN
        for row in np.flatnonzero(failed):
            self._pass_on(batch.index_select([int(row)]))
        moves = np.flatnonzero(~failed)
        return batch.index_select(moves) if len(moves) else None

    def _fresh(self, batch: Batch) -> Batch:
        """Return systems as nothing has happened to them in this stage."""
        entry = self.engine.entry_status
        for key, value in (("status", entry), ("outcome", int(Outcome.ACTIVE))):
            batch[key] = torch.full((len(batch), 1), value, device=batch.device)
        batch["fmax"] = batch["positions"].new_full((len(batch), 1), float("inf"))
        return batch

    def _pass_on(self, batch: Batch) -> None:
        """Let a system go to the sinks as it is."""
        shape = batch["status"].shape if "status" in batch else (1, 1)
        batch["status"] = torch.full(shape, self.engine.exit_status, device=batch.device)
        self.engine.leave_out(batch)

    def reject(self, index: int, reason: str) -> None:
        """Take back a system that the engine cannot move; it goes on with the reason."""
        assert self._handed is not None
        ids = self._handed["system_id"].view(-1).tolist()
        batch = self._handed.index_select([ids.index(index)])
        batch["outcome"] = torch.full_like(batch["outcome"], int(Outcome.REJECTED))
        batch.host[0]["failure"] = reason
        self._pass_on(batch)

    def tell_room(self) -> None:
        """Tell those whose systems have been taken that there is room again."""
        for rank, freed in self._freed.items():
            if freed.systems and rank in self.open - self.closed:
                self.post.tell(rank, Kind.ROOM, freed)
                self._freed[rank] = Capacity(0, 0, 0)
