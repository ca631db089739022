"""Recording systems when they are done."""

from typing import TYPE_CHECKING

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics
    from nvdyn_ase.dynamics.sinks import DataSink


class ConvergedSnapshotHook:
    """Writes each system to a sink once, when it meets the criterion of the engine.

    It is written as it is in that moment, with the status that it had while it moved. Finding out
    who it is waits for the device, in every step.

    Parameters
    ----------
    sink
        Where to.
    """

    stage = HookStageEnum.ON_CONVERGE
    frequency = 1

    def __init__(self, sink: "DataSink") -> None:
        self.sink = sink

    def __repr__(self) -> str:
        """Say where to."""
        return f"ConvergedSnapshotHook({self.sink!r})"

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Write the systems that have just converged."""
        self.sink.write(batch, dynamics.newly_converged)
