"""When a system is done: criteria on any field, and the hook that tests them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Int
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from nvdyn_ase.data import Batch, Level, segment_max
from nvdyn_ase.data.fields import canonical
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

_REDUCTIONS: dict[str, Callable[..., Tensor]] = {
    "min": torch.amin,
    "max": torch.amax,
    "mean": torch.mean,
    "sum": torch.sum,
    "norm": torch.linalg.vector_norm,
}


class ConvergenceCriterion(BaseModel):
    """One test on one field: reduced to a number per system, at or below a threshold.

    Parameters
    ----------
    key
        The field.
    threshold
        Converged where the value is at most this, in the field's unit; or the name of a system
        field that holds one threshold per system.
    reduce_op
        How each row is reduced; None if a row is a number already. Rows of atoms are then
        max-reduced over each system.
    reduce_dims
        The dimensions it runs over.
    custom_op
        A function from the whole tensor to a (B,) bool, or (B, 1); it decides alone.
    strict
        Below the threshold instead of at most, as ASE's optimizers have it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    key: str
    threshold: float | str = 0.0
    reduce_op: Literal["min", "max", "norm", "mean", "sum"] | None = None
    reduce_dims: int | tuple[int, ...] = -1
    custom_op: Callable[[Tensor], Tensor] | None = None
    strict: bool = False

    def mask(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Return which systems meet the criterion, without waiting for the device.

        Raises
        ------
        KeyError
            The batch has no such field; the message lists what is there.
        """
        if canonical(self.key) not in batch:
            raise KeyError(f"convergence tests {self.key!r}; there are {sorted(batch.keys())}")
        values = batch[self.key]
        if self.custom_op is not None:
            return self._decided(self.custom_op(values), len(batch))
        if self.reduce_op is not None:
            values = _REDUCTIONS[self.reduce_op](values, dim=self.reduce_dims)
        if batch.level(self.key) is Level.NODE:
            values = segment_max(values, batch.ptr)
        values = values.flatten(1).amax(1) if values.ndim > 2 else values
        values = values.view(-1) if values.numel() == len(batch) else values.amax(1)
        named = isinstance(self.threshold, str)
        threshold = batch[self.threshold].view(-1) if named else self.threshold
        return values < threshold if self.strict else values <= threshold

    def _decided(self, mask: Tensor, count: int) -> Bool[Tensor, " B"]:
        if mask.shape not in ((count,), (count, 1)) or mask.dtype is not torch.bool:
            raise ValueError(
                f"custom_op on {self.key!r} returned {mask.dtype} of shape {tuple(mask.shape)}; "
                f"it has to return one bool for each of the {count} systems"
            )
        return mask.view(-1)


class ConvergenceHook:
    """Tests every system against criteria that must all hold.

    Parameters
    ----------
    criteria
        A criterion, a dict of its arguments, or a list of either; None is ``fmax <= 0.05``.
    source_status, target_status
        With both, calling the hook moves converged systems from one status to the other.
    frequency
        Tested every so many steps, and when a run begins.

    Raises
    ------
    TypeError
        Criteria of another kind.
    ValueError
        A frequency that is not an int of at least 1.
    """

    stage = HookStageEnum.AFTER_STEP

    def __init__(
        self,
        criteria: Any = None,
        source_status: int | None = None,
        target_status: int | None = None,
        frequency: int = 1,
    ) -> None:
        if criteria is None:
            criteria = ConvergenceCriterion(key="fmax", threshold=0.05)
        listed = list(criteria) if isinstance(criteria, (list, tuple)) else [criteria]
        self.criteria = [_criterion(item) for item in listed]
        if not self.criteria:
            raise TypeError("an empty list of criteria converges never or always; give one")
        if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1:
            raise ValueError(f"frequency must be an int of at least 1, not {frequency!r}")
        self.source_status = source_status
        self.target_status = target_status
        self.frequency = frequency

    @classmethod
    def from_fmax(
        cls,
        threshold: float | str = 0.05,
        source_status: int | None = None,
        target_status: int | None = None,
        frequency: int = 1,
        *,
        strict: bool = False,
    ) -> "ConvergenceHook":
        """Test the largest force that the optimizer sees, eV/Å; a name means a system field."""
        criterion = ConvergenceCriterion(key="fmax", threshold=threshold, strict=strict)
        return cls(criterion, source_status, target_status, frequency)

    @classmethod
    def from_forces(
        cls,
        threshold: float,
        frequency: int = 1,
        source_status: int | None = None,
        target_status: int | None = None,
    ) -> "ConvergenceHook":
        """Test the largest norm in ``forces`` as the model gave them, eV/Å."""
        criterion = ConvergenceCriterion(key="forces", threshold=threshold, reduce_op="norm")
        return cls(criterion, source_status, target_status, frequency)

    def __repr__(self) -> str:
        """Say what is tested."""
        tests = " and ".join(
            f"{c.key} {'custom' if c.custom_op else '<' if c.strict else '<='} {c.threshold}"
            for c in self.criteria
        )
        return f"ConvergenceHook({tests})"

    @property
    def num_criteria(self) -> int:
        """Number of criteria."""
        return len(self.criteria)

    def evaluate_mask(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Return which systems meet every criterion, without waiting for the device."""
        mask = self.criteria[0].mask(batch)
        for criterion in self.criteria[1:]:
            mask = mask & criterion.mask(batch)
        return mask

    def evaluate(self, batch: Batch) -> Int[Tensor, " n"] | None:
        """Return the indices of the systems that meet every criterion, or None; it waits."""
        converged = self.evaluate_mask(batch).nonzero().view(-1)
        return converged if len(converged) else None

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Move converged systems from the source to the target status, if there are any."""
        if self.source_status is None or self.target_status is None or "status" not in batch:
            return
        status = batch["status"]
        moved = self.evaluate_mask(batch).view_as(status) & (status == self.source_status)
        batch["status"] = torch.where(moved, self.target_status, status)


def _criterion(item: Any) -> ConvergenceCriterion:
    if isinstance(item, ConvergenceCriterion):
        return item
    if isinstance(item, dict):
        return ConvergenceCriterion(**item)
    raise TypeError(
        f"a convergence criterion is a ConvergenceCriterion or a dict, not {type(item).__name__}"
    )
