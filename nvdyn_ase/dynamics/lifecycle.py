"""The bookkeeping fields of a batch when a run opens and closes, and what undoes half a step."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.outcome import Outcome

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


def open_batch(batch: Batch, reopen_below: int | None = None) -> None:
    """Give a batch the fields that every engine keeps.

    Parameters
    ----------
    batch
        The batch.
    reopen_below
        Reopen the systems that a run before this one finished, so that it can go on with them; what
        failed stays closed, and so do statuses that no run set.
    """
    fresh = "outcome" not in batch
    for key in ("status", "steps", "evaluations", "outcome"):
        if key not in batch:
            batch[key] = torch.zeros(len(batch), 1, dtype=torch.int64, device=batch.device)
    if "system_id" not in batch:
        batch["system_id"] = torch.arange(len(batch), device=batch.device).view(-1, 1)
    if reopen_below is None or fresh:
        return
    outcome, status = batch["outcome"], batch["status"]
    ended = (outcome == Outcome.CONVERGED) | (outcome == Outcome.BUDGET)
    shut = ended & (status.view(-1, 1) >= reopen_below)
    batch["status"] = torch.where(shut.view(status.shape), 0, status)
    batch["outcome"] = torch.where(ended, int(Outcome.ACTIVE), outcome)


def close_run(batch: Batch, exit_status: int) -> None:
    """Mark the systems that were still moving as having used their steps up."""
    active = batch["status"].view(-1, 1) < exit_status
    batch["outcome"] = torch.where(active, int(Outcome.BUDGET), batch["outcome"])


class Rollback:
    """Undoes a step that did not end, so that a batch is always at its last finished step.

    Methods replace tensors instead of writing into them, so that keeping the old ones is free.
    """

    def __init__(self, engine: "BaseDynamics", batch: Batch) -> None:
        self.batch, self.state = batch, engine.state
        self._fields = self._held(batch)
        self._state = {} if self.state is None else self._held(self.state)
        self._evaluated = batch.evaluated

    @staticmethod
    def _held(batch: Batch) -> dict[str, Tensor]:
        return {key: tensor for key, tensor in batch._fields.items()}

    def __enter__(self) -> None:
        """Nothing to do: the tensors are held."""

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        """Put the tensors back if the step raised."""
        if kind is None:
            return
        for key, tensor in self._fields.items():
            self.batch[key] = tensor
        for key, tensor in self._state.items():
            self.state[key] = tensor
        self.batch.evaluated = self._evaluated
