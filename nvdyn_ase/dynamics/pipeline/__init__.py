"""``relax | md``: stages on the ranks of ``torch.distributed``; systems go from one to the next."""

from nvdyn_ase.dynamics.pipeline.pipeline import DistributedPipeline
from nvdyn_ase.dynamics.pipeline.watch import PipelineError

__all__ = ["DistributedPipeline", "PipelineError"]
