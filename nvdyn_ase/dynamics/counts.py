"""Counting steps and evaluations per system, free of charge while nobody is frozen."""

from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.frozen import ActiveMask


class _Tally:
    """A count that all systems share until somebody reads it."""

    def __init__(self, base: Tensor, more: int) -> None:
        self.base, self.more = base, more

    def __call__(self) -> Tensor:
        return self.base + self.more


def count(batch: Batch, key: str, active: ActiveMask | None) -> None:
    """Add one to a counter of every active system.

    Parameters
    ----------
    batch
        The batch.
    key
        ``"steps"`` or ``"evaluations"``.
    active
        Who counts; None for everyone, in which case the tensor is made when it is next read.
    """
    if active is not None:
        batch[key] = batch[key] + active.ones
        return
    tally = batch.deferred(key)
    base, more = (tally.base, tally.more) if isinstance(tally, _Tally) else (batch[key], 0)
    batch.defer(key, _Tally(base, more + 1))
