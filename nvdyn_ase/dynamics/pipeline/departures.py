"""The sending side of a stage: it stands where an engine has its sinks."""

from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.data.buffers import Capacity
from nvdyn_ase.data.messages import Sending
from nvdyn_ase.dynamics.communication import BufferConfig, CommMode
from nvdyn_ase.dynamics.pipeline.post import Kind, Letter, Post
from nvdyn_ase.dynamics.sinks import DataSink
from nvdyn_ase.dynamics.sinks.data_sink import chosen_systems

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class Departures(DataSink):
    """Sends systems to the ranks of the next stage, as these have room for them.

    What none of them has room for waits here; when this buffer is full too, systems wait in the
    engine's batch, and nobody else is let in there. Of several ranks, the one with most room gets
    the next system.

    Parameters
    ----------
    engine
        Who is done with the systems.
    post
        Where they go out.
    ranks
        Who takes them.
    config
        How much waits here, and with each of the others.
    """

    def __init__(
        self, engine: "BaseDynamics", post: Post, ranks: list[int], config: BufferConfig
    ) -> None:
        self.engine, self.post, self.ranks = engine, post, ranks
        self.limits, self.capacity = config.capacity, config.num_systems
        self.buffer: Batch | None = None
        self.room = dict.fromkeys(ranks, config.capacity)
        self.open = set[int]()
        self._blocked = False
        self._flying: list[tuple[int, Sending]] = []

    # ---------------------------------------------------------------- with the other ranks

    def begin(self) -> None:
        """Begin a run: systems may be sent again."""
        self.open, self._blocked = set(self.ranks), False
        self.flush()

    def take(self, letter: Letter) -> None:
        """Take note of room, or that a rank takes no more in this run."""
        if letter.kind is Kind.ROOM:
            self.room[letter.rank] += letter.room
            self.flush()
        elif letter.kind is Kind.CLOSED:
            self.open.discard(letter.rank)

    def end(self) -> None:
        """Say that there is no more in this run."""
        self.wait()
        for rank in self.ranks:
            self.post.tell(rank, Kind.END)

    def wait(self) -> None:
        """Wait for what is on its way."""
        for rank, sending in self._flying:
            self.post.wait(rank, sending)
        self._flying = []

    def flush(self) -> None:
        """Send what there is room for, to each rank as one transfer."""
        if self.buffer is None or not len(self.buffer):
            return
        shares = self._shares(self.buffer)
        taken = sorted(row for rows in shares.values() for row in rows)
        if not taken:
            return
        self.wait()
        for rank, rows in shares.items():
            if rows:
                part = self.buffer.index_select(rows)
                waits = self.engine.comm_mode is not CommMode.FULLY_ASYNC
                sending = self.post.send(rank, part, waits)
                self._flying += [] if waits else [(rank, sending)]
        rest = np.setdiff1d(np.arange(len(self.buffer)), taken)
        self.buffer._become(self.buffer.index_select(rest))
        self._blocked = False

    def _shares(self, buffer: Batch) -> dict[int, list[int]]:
        """Return which systems go to whom, and take the room for them."""
        shares: dict[int, list[int]] = {rank: [] for rank in self.ranks if rank in self.open}
        nodes, edges = buffer.num_nodes_list, buffer.num_edges_list
        for row in range(len(buffer)):
            need = Capacity(1, nodes[row], edges[row])
            able = [rank for rank in shares if self.room[rank].holds(need)]
            if not able:
                break
            rank = max(able, key=lambda rank: self.room[rank])
            self.room[rank] -= need
            shares[rank].append(row)
        return shares

    # ---------------------------------------------------------------- as a sink

    def __len__(self) -> int:
        """Return the number of systems that wait here."""
        return 0 if self.buffer is None else len(self.buffer)

    @property
    def is_full(self) -> bool:
        """Whether nothing is taken until there is room again with another rank."""
        return self._blocked or not self.open or len(self) >= self.capacity

    def fits(self, batch: Batch, first: int = 0) -> int:
        """Return how many systems there is room for, from that one on."""
        room = self.limits if self.buffer is None else self.limits - Capacity.of(self.buffer)
        rows = room.fitting(batch, np.arange(first, len(batch)), skip=False)
        self._blocked = not len(rows)
        return len(rows) if self.open else 0

    def write(self, batch: Batch, mask: Bool[Tensor, " B"] | None = None) -> None:
        """Take systems, and send them on if there is room."""
        part = batch if mask is None else chosen_systems(batch, mask)
        self.check_room(part)
        if not len(self):  # what came before may have had other fields
            self.buffer = Batch.empty(*self.limits, template=part)
        assert self.buffer is not None
        if not bool(self.buffer.put(part).all()):
            raise RuntimeError(f"{len(part)} systems do not fit into the buffer {self.limits}")
        self.flush()

    def read(self) -> Batch:
        """Return what waits here."""
        if self.buffer is None or not len(self.buffer):
            raise RuntimeError("nothing waits to be sent")
        return self.buffer.clone()

    def zero(self) -> None:
        """Forget what waits here."""
        if self.buffer is not None:
            self.buffer.zero()
