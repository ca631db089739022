"""What a hook is, and when it is called."""

from enum import IntEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from nvdyn_ase.data import Batch

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class HookStageEnum(IntEnum):
    """The moments of a step, in order; ``ON_CONVERGE`` when a system meets its criterion."""

    BEFORE_STEP = 0
    BEFORE_PRE_UPDATE = 1
    AFTER_PRE_UPDATE = 2
    BEFORE_COMPUTE = 3
    AFTER_COMPUTE = 4
    BEFORE_POST_UPDATE = 5
    AFTER_POST_UPDATE = 6
    AFTER_STEP = 7
    ON_CONVERGE = 8


@runtime_checkable
class Hook(Protocol):
    """A callable with a stage and a frequency.

    Optional attributes: ``stages``, a sequence of stages instead of the one in ``stage``;
    ``__enter__`` and ``__exit__``, or ``close()``, entered once and left once around a run;
    ``records_last``, True for one that is also called with the last state of every system, or
    ``"run"`` for one that is called with the state in which a run ends; ``of_one_engine``, True for
    one that, registered on a stage of a fused run, is shown the systems of this stage alone.

    Attributes
    ----------
    frequency
        Called when ``step_count`` is a multiple of it; at least 1.
    stage
        When in a step.
    """

    frequency: int
    stage: HookStageEnum

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Look at the batch or change it."""
