"""Systems whose numbers are no longer numbers."""

from typing import TYPE_CHECKING

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.rows import largest_norm

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class NaNDetectorHook:
    """Freezes a system whose energy or forces are NaN or infinite; the others go on.

    Its outcome is ``Outcome.NAN``, and it is put back to where the step began. Nothing waits for
    the device.

    Parameters
    ----------
    frequency
        Tested every so many steps.
    """

    stage = HookStageEnum.AFTER_COMPUTE

    def __init__(self, frequency: int = 1) -> None:
        self.frequency = frequency

    def __repr__(self) -> str:
        """Say how often it looks."""
        return f"NaNDetectorHook(frequency={self.frequency})"

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Retire every system with a number that is not finite.

        Zero times a finite number is zero, and NaN is not equal to zero.
        """
        largest = batch["fmax"] if "fmax" in batch else largest_norm(batch["forces"], batch.ptr)
        broken = ((largest + batch["energy"]) * 0.0 != 0.0).view(-1)
        dynamics.put_back(batch, broken)
        dynamics.retire(batch, broken, Outcome.NAN)
