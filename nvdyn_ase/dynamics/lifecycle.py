"""When a run opens and closes: whose engine it is, its batch's fields; half a step undone."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.evaluated import RESULTS, Evaluated
from nvdyn_ase.dynamics.frozen import ActiveMask
from nvdyn_ase.dynamics.outcome import Outcome

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


def open_batch(batch: Batch, entry_status: int = 0, reopen_below: int | None = None) -> None:
    """Give a batch the fields that every engine keeps.

    Parameters
    ----------
    batch
        The batch.
    entry_status
        Status of the systems that have none, and of those that are reopened.
    reopen_below
        Reopen the systems that a run before this one finished, so that it can go on with them; what
        failed stays closed, and so do statuses that no run set.
    """
    fresh = "outcome" not in batch
    for key in ("status", "steps", "evaluations", "outcome"):
        if key not in batch:
            value = entry_status if key == "status" else 0
            batch[key] = torch.full((len(batch), 1), value, device=batch.device)
    if "system_id" not in batch:
        batch["system_id"] = torch.arange(len(batch), device=batch.device).view(-1, 1)
    if reopen_below is None or fresh:
        return
    outcome, status = batch["outcome"], batch["status"]
    ended = (outcome == Outcome.CONVERGED) | (outcome == Outcome.BUDGET)
    shut = ended & (status.view(-1, 1) >= reopen_below)
    batch["status"] = torch.where(shut.view(status.shape), entry_status, status)
    batch["outcome"] = torch.where(ended, int(Outcome.ACTIVE), outcome)


def close_run(batch: Batch, exit_status: int) -> None:
    """Mark the systems that were still moving as having used their steps up."""
    active = batch["status"].view(-1, 1) < exit_status
    batch["outcome"] = torch.where(active, int(Outcome.BUDGET), batch["outcome"])


@contextmanager
def only_run_of(engine: "BaseDynamics") -> Iterator[None]:
    """Keep an engine, with those it is made of, for one run, until that has ended or been closed.

    Raises
    ------
    RuntimeError
        It is in a run already. Both would move on from what the other has left.
    """
    engines = engine.made_of()
    if any(one._in_run for one in engines):
        raise RuntimeError(
            f"this {type(engine).__name__} is in a run already, which has neither ended nor been "
            "closed; make an engine for each run"
        )
    for one in engines:
        one._in_run = True
    try:
        yield
    finally:
        for one in engines:
            one._in_run = False


class Rollback:
    """Undoes a step that did not end, so that a batch is always at its last finished step.

    Methods that replace tensors instead of writing into them make this free: the old tensors are
    held. Of a method that writes in place, what it may change is copied.
    """

    def __init__(self, engine: "BaseDynamics", batch: Batch) -> None:
        self._kept = [(held, _contents(held, copied)) for held, copied in engine.undoable(batch)]
        self._engine, self._outer = engine, engine.begun

    def __enter__(self) -> None:
        """Let the engine put single systems back."""
        self._engine.begun = self

    def put_back(self, batch: Batch, mask: Bool[Tensor, "B 1"], fields: Iterable[str]) -> None:
        """Put systems where they were before the step, with what was known of them there.

        Parameters
        ----------
        batch
            A batch that is being moved.
        mask
            Which systems.
        fields
            What moves.
        """
        before = next((contents for held, contents in self._kept if held is batch), None)
        if before is None:
            return
        current, staying = batch.evaluated, ActiveMask(~mask, batch)
        known = current is not None and current.holds(batch, current.model)
        for key in dict.fromkeys([*fields, *RESULTS]):
            old = before["_fields"].get(key)
            if old is None or key not in batch:
                continue
            new = batch[key]
            if new is not old and new.shape == old.shape:
                batch[key] = staying.merge(batch, key, new, old)
        if known:
            batch.evaluated = Evaluated.now(batch, current.model, current.results)

    def __exit__(self, kind: type | None, error: object, trace: object) -> None:
        """Put everything back if the step raised."""
        self._engine.begun = self._outer
        if kind is None:
            return
        for batch, contents in self._kept:
            batch.__dict__.clear()
            batch.__dict__.update(contents)


def _contents(batch: Batch, copied: Iterable[str]) -> dict[str, Any]:
    contents = dict(batch.__dict__)
    for name in ("_fields", "_levels", "_deferred"):
        contents[name] = dict(contents[name])
    contents["host"] = list(contents["host"])
    fields = contents["_fields"]
    # A field that is not computed yet has its place, and nothing in it.
    fields.update({key: fields[key].clone() for key in copied if fields.get(key) is not None})
    return contents
