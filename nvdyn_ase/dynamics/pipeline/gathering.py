"""What has arrived at the last ranks of a pipeline, brought to all of them."""

import numpy as np
import torch.distributed as dist

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.pipeline.pipeline import DistributedPipeline
from nvdyn_ase.dynamics.together import put_together


def gathered(pipeline: DistributedPipeline) -> Batch:
    """Return, on every rank, what the first sinks of the last stage hold, by ``system_id``.

    All ranks have to call it, between a run and :meth:`DistributedPipeline.cleanup`.

    Raises
    ------
    PipelineError
        A rank has failed; it is named.
    """
    stage, wiring = pipeline.local_stage, pipeline.wiring
    last = wiring.last_ranks(wiring.stage_of(dist.get_rank()))
    parts = []
    for source in last:
        own = None
        if source == dist.get_rank():
            own = stage.sinks[0].read() if len(stage.sinks[0]) else Batch({}, ())
        part = _from(source, own, pipeline)
        parts += [part] if len(part) else []
    whole = put_together(parts, np.arange(sum(map(len, parts))))
    return whole.index_select(np.argsort(whole["system_id"].view(-1).numpy()))


def _from(source: int, own: Batch | None, pipeline: DistributedPipeline) -> Batch:
    """Return what a rank has, which gives it to all others."""
    if own is None:
        try:
            return Batch.recv(source)
        except RuntimeError as error:
            raise pipeline.watch.lost(source, error) from error
    for rank in range(dist.get_world_size()):
        if rank == source:
            continue
        try:
            own.send(rank)
        except RuntimeError as error:
            raise pipeline.watch.lost(rank, error) from error
    return own
