"""Recording the batch in a sink."""

from typing import TYPE_CHECKING

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics
    from nvdyn_ase.dynamics.sinks import DataSink


class SnapshotHook:
    """Writes every system that is in the batch to a sink, and each one's last state in any case.

    Parameters
    ----------
    sink
        Where to.
    frequency
        Written every so many steps.
    """

    stage = HookStageEnum.AFTER_STEP
    records_last = True

    def __init__(self, sink: "DataSink", frequency: int = 1) -> None:
        self.sink = sink
        self.frequency = frequency

    def __repr__(self) -> str:
        """Say where to and how often."""
        return f"SnapshotHook({self.sink!r}, frequency={self.frequency})"

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Write the batch."""
        self.sink.write(batch)
