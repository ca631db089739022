"""What an engine knows of the ranks beside it, when it is a stage of a pipeline."""

import os
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field

from nvdyn_ase.data.buffers import Capacity

if TYPE_CHECKING:
    from nvdyn_ase.data import Batch
    from nvdyn_ase.dynamics.pipeline.arrivals import Arrivals
    from nvdyn_ase.dynamics.pipeline.departures import Departures
    from nvdyn_ase.dynamics.pipeline.stage_run import BufferCheck


class BufferConfig(BaseModel):
    """How much of what a stage is done with waits for the next stage; equal for neighbours.

    One such buffer is on the side of the sender, and one on that of the receiver for each rank that
    it receives from.

    Parameters
    ----------
    num_systems, num_nodes, num_edges
        Systems, atoms and pairs of all systems together. Pairs that an engine finds by itself are
        not sent.

    Raises
    ------
    ValueError
        A number that is negative or not whole.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_systems: int = Field(ge=0)
    num_nodes: int = Field(ge=0)
    num_edges: int = Field(ge=0)

    def __init__(self, *sizes: int, **named: int) -> None:
        super().__init__(**dict(zip(type(self).model_fields, sizes, strict=False)), **named)

    def __repr__(self) -> str:
        """Say how much it takes."""
        own = f"num_systems={self.num_systems}, num_nodes={self.num_nodes}"
        return f"BufferConfig({own}, num_edges={self.num_edges})"

    @property
    def capacity(self) -> Capacity:
        """The three numbers."""
        return Capacity(self.num_systems, self.num_nodes, self.num_edges)


class CommMode(StrEnum):
    """When a stage waits for a transfer.

    ``SYNC``: for one that is announced, at once. ``ASYNC_RECV``: just before the systems are
    needed. ``FULLY_ASYNC``: so too, and what it sends itself is on its way until the next step.
    """

    SYNC = "sync"
    ASYNC_RECV = "async_recv"
    FULLY_ASYNC = "fully_async"


class Communicating:
    """Says which ranks an engine receives from and sends to.

    Parameters
    ----------
    prior_rank, next_rank
        Of the stages before and after; None at an end of the chain; -1: as a pipeline wires it.
    comm_mode
        When to wait for transfers; a :class:`CommMode` or its name.
    buffer_config
        How much waits between this stage and its neighbours; a dict of its arguments is taken too.

    Raises
    ------
    ValueError
        Another ``comm_mode``, a rank below -1, or a rank without ``buffer_config``.
    TypeError
        ``buffer_config`` is neither a ``BufferConfig`` nor a dict.
    """

    def __init__(
        self, prior_rank: int | None, next_rank: int | None, comm_mode: Any, buffer_config: Any
    ) -> None:
        if comm_mode not in list(CommMode):
            raise ValueError(f"comm_mode must be {', '.join(CommMode)}, not {comm_mode!r}")
        if isinstance(buffer_config, dict):
            buffer_config = BufferConfig(**buffer_config)
        if not isinstance(buffer_config, (BufferConfig, type(None))):
            kind = type(buffer_config).__name__
            raise TypeError(f"buffer_config must be a BufferConfig or a dict, not {kind}")
        for name, rank in (("prior_rank", prior_rank), ("next_rank", next_rank)):
            if rank is None or rank == -1:
                continue
            if rank < -1:
                raise ValueError(f"{name} must be a rank, None or -1, not {rank}")
            if buffer_config is None:
                raise ValueError(f"{name}={rank} needs a buffer_config")
        self.prior_rank, self.next_rank = prior_rank, next_rank
        self.comm_mode = CommMode(comm_mode)
        self.buffer_config = buffer_config
        self._arrivals: Arrivals | None = None
        self._departures: Departures | None = None
        #: Of a first stage, what is called with systems that begin.
        self.check_coming: BufferCheck | None = None

    @property
    def send_buffer(self) -> "Batch | None":
        """What this stage is done with and waits to be sent; None if nothing does."""
        return None if self._departures is None else self._departures.buffer

    @property
    def recv_buffer(self) -> "Batch | None":
        """What has been received and waits to be moved; None if nothing does."""
        return None if self._arrivals is None else self._arrivals.buffer

    @property
    def is_first_stage(self) -> bool:
        """Whether nothing is received."""
        return self.prior_rank is None

    @property
    def is_final_stage(self) -> bool:
        """Whether nothing is sent."""
        return self.next_rank is None

    @property
    def has_neighbor(self) -> bool:
        """Whether there is a rank before or after; -1 is none."""
        return any(rank not in (None, -1) for rank in (self.prior_rank, self.next_rank))

    @property
    def global_rank(self) -> int:
        """Of this process among all; 0 if there is only one."""
        return dist.get_rank() if is_distributed() else int(os.environ.get("RANK", 0))

    @property
    def local_rank(self) -> int:
        """Of this process among those of its machine, as torchrun says; 0 if nobody says."""
        return int(os.environ.get("LOCAL_RANK", 0))


def is_distributed() -> bool:
    """Say whether there is a process group."""
    return dist.is_available() and dist.is_initialized()
