"""Who of a batch moves, who waits for forces, who is done, and how that ended."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, cast

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nvdyn_ase.data import FIELDS, Batch
from nvdyn_ase.dynamics.cell_filters import collapsed
from nvdyn_ase.dynamics.constraints.hosted import Raised
from nvdyn_ase.dynamics.convergence import ConvergenceHook
from nvdyn_ase.dynamics.counts import count
from nvdyn_ase.dynamics.forward import ForwardPass
from nvdyn_ase.dynamics.frozen import ActiveMask
from nvdyn_ase.dynamics.hooked import Hooked
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum
from nvdyn_ase.dynamics.lifecycle import Rollback
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.models.base import BaseModelMixin

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics
    from nvdyn_ase.dynamics.fused import FusedStage


class WhoMoves(Hooked, ForwardPass):
    """Keeps the status of systems: below ``exit_status`` they move, from there on they are frozen.

    Parameters
    ----------
    model
        A batched model.
    convergence_hook
        When a system is done.
    exit_status
        Systems with at least this status are frozen.
    """

    _reasons: ClassVar[Mapping[Outcome, str]]
    _mutable_fields: ClassVar[tuple[str, ...]]
    #: The step that has begun and not ended.
    begun: Rollback | None = None
    #: Let what a constraint raises on the host pass, instead of retiring the system it is of.
    raise_errors: bool = False
    #: The fused run that this engine is a stage of.
    whole: "FusedStage | None" = None

    def __init__(
        self, model: BaseModelMixin, convergence_hook: ConvergenceHook | None, exit_status: int
    ) -> None:
        ForwardPass.__init__(self, model)
        self.convergence_hook = convergence_hook
        self.exit_status = exit_status
        self.newly_converged: Bool[Tensor, " B"] | None = None
        self._mask: tuple[Tensor, int, ActiveMask | None] | None = None
        self._met: Bool[Tensor, " B"] | None = None
        self._codes: dict[tuple[int, torch.device], Tensor] = {}

    @abstractmethod
    def within_step(self, batch: Batch) -> Bool[Tensor, "B 1"] | None:
        """Return the systems that need another forward pass to end their step; None for nobody."""

    # ---------------------------------------------------------------- who moves

    def active(self, batch: Batch) -> ActiveMask | None:
        """Return who moves, or None if the host knows that everyone does.

        Of a fused run's batch, an engine that is one of its stages moves those that are in it.
        """
        if self.whole is not None and batch is self.whole._batch:
            return self.whole.active_in(cast("BaseDynamics", self), batch)
        status = batch["status"]
        if self._mask is not None and self._mask[0] is status and self._mask[1] == status._version:
            return self._mask[2]
        mask = ActiveMask(status.view(-1, 1) < self.exit_status, batch)
        self._mask = (status, status._version, mask)
        return mask

    def arriving(self, batch: Batch) -> Bool[Tensor, "B 1"] | None:
        """Return who has come into the batch and waits for the first forces; None for nobody."""
        if self.whole is not None and batch is self.whole._batch:
            return self.whole._arriving
        return self._arriving

    def moving(self, batch: Batch) -> ActiveMask | None:
        """Return who moves in this step: of the active ones, those that have forces already."""
        active, arriving = self.active(batch), self.arriving(batch)
        if arriving is None:
            return active
        return ActiveMask(~arriving if active is None else active.system & ~arriving, batch)

    def nobody_is_frozen(self, batch: Batch) -> None:
        """Take the host's word that every system moves, until the status is changed."""
        self._mask = (batch["status"], batch["status"]._version, None)

    def receive(self, batch: Batch, first: int) -> None:
        """Take in the systems from row ``first`` on, which wait for their first forces."""
        rows = torch.arange(len(batch), device=batch.device).view(-1, 1)
        new = rows >= first
        if "forces" not in self.__needs_keys__:
            self._arrived = new
            return
        self._arriving = new if self._arriving is None else self._arriving | new
        needs = self.needs(batch)
        for key in needs - set(batch.keys()):
            self._make_room_for(batch, key)
        # The host knows of nothing that could have ended them: their fmax is not zero, as that of
        # the forces which fill their rows.
        self._fmax_source = batch["forces"]
        if batch.evaluated is not None:  # what only they need is missing nowhere else
            batch.evaluated = batch.evaluated._replace(results=batch.evaluated.results | needs)

    @staticmethod
    def _make_room_for(batch: Batch, key: str) -> None:
        """Give a batch a field that the model will fill."""
        field, dtype = FIELDS[key], batch["positions"].dtype
        shape = (batch.num_rows(field.level), *field.shape)
        value = 0.0 if field.default is None else field.default
        batch[key] = torch.full(shape, value, dtype=field.dtype or dtype, device=batch.device)

    # ---------------------------------------------------------------- who is done

    def graduate(self, batch: Batch) -> None:
        """Test convergence and freeze the systems that meet the criterion."""
        mask = self._test(batch, at_start=not self._registry.stepped)
        self._retire_unheld(batch)
        if mask is None:
            return
        active = self.active(batch)  # those that could not be held are not among them
        newly = mask if active is None else mask & active.system.view(-1)
        self._announce(batch, newly)
        self.retire(batch, newly, Outcome.CONVERGED)

    def _test(self, batch: Batch, at_start: bool = False) -> Bool[Tensor, " B"] | None:
        hook = self.convergence_hook
        if hook is None:
            return None
        return self._meets(hook, batch, self._due(batch, hook.frequency, at_start))

    def _meets(
        self, hook: ConvergenceHook, batch: Batch, due: Bool[Tensor, " B"] | None
    ) -> Bool[Tensor, " B"]:
        """Return who is due, at the end of a step with forces of its own, and meets a criterion."""
        mask, within = hook.evaluate_mask(batch), self.within_step(batch)
        for excluded in (self._arriving, within):
            mask = mask if excluded is None else mask & ~excluded.view(-1)
        return mask if due is None else mask & due

    def _due(
        self, batch: Batch, frequency: int, at_start: bool = False
    ) -> Bool[Tensor, " B"] | None:
        """Return who is to be tested now; None for everyone.

        That is so at every so many steps of each system, and before its first one in a run.
        """
        if at_start or frequency == 1:
            return None
        due = batch["steps"].view(-1) % frequency == 0
        return due if self._arrived is None else due | self._arrived.view(-1)

    def _count_steps(self, batch: Batch) -> None:
        active, within = self.moving(batch), self.within_step(batch)
        if within is None:
            count(batch, "steps", active)
            return
        ended = ~within if active is None else active.system & ~within
        batch["steps"] = batch["steps"] + ended

    def _announce(self, batch: Batch, newly: Bool[Tensor, " B"]) -> None:
        self.newly_converged = newly
        if self.hooks[HookStageEnum.ON_CONVERGE] and bool(newly.any()):
            self._fire(HookStageEnum.ON_CONVERGE, batch)

    # ---------------------------------------------------------------- how it ended

    def retire(self, batch: Batch, mask: Bool[Tensor, " B"], outcome: Outcome) -> None:
        """Freeze the masked systems that still move, and record how they ended."""
        if self.whole is not None and batch is self.whole._batch:
            self.whole.retire(batch, mask, outcome)
            return
        status = batch["status"]
        leaving = mask.view(status.shape) & (status < self.exit_status)
        batch["status"] = torch.where(leaving, self._code(self.exit_status, status), status)
        code = self._code(outcome, status)
        batch["outcome"] = torch.where(leaving.view(-1, 1), code, batch["outcome"])

    def put_back(self, batch: Batch, mask: Bool[Tensor, " B"]) -> None:
        """Put systems that still move where they were before the step that has begun, if one has.

        What was known of them there comes with it. It is for systems that failed in the step.
        """
        if self.whole is not None and batch is self.whole._batch:
            self.whole.put_back(batch, mask)
            return
        step = self.begun if self.whole is None else self.whole.begun
        if step is None:
            return
        failing, arriving = mask.view(-1, 1), self.arriving(batch)
        failing = failing & (batch["status"].view(-1, 1) < self.exit_status)
        failing = failing if arriving is None else failing & ~arriving
        if "cell_filter" in batch:
            lost = collapsed(batch) & failing
            batch["cell_lost"] = lost | batch["cell_lost"] if "cell_lost" in batch else lost
        step.put_back(batch, failing, self._mutable_fields)

    def fail(self, batch: Batch, rows: Mapping[int, str], outcome: Outcome = Outcome.ERROR) -> None:
        """Retire the systems in these rows, each with the reason in its ``host``."""
        mask = torch.zeros(len(batch), dtype=torch.bool)
        for row, reason in rows.items():
            mask[row] = True
            batch.host[row] = {"failure": reason, **batch.host[row]}
        there = mask.to(batch.device)
        self.put_back(batch, there)
        self.retire(batch, there, outcome)

    def _retire_unheld(self, batch: Batch) -> None:
        """Freeze the systems that constraints could not hold."""
        self._fail_raised(batch)
        for mask, _ in self.constraints(batch).failures():
            self.retire(batch, mask, Outcome.ERROR)

    def _fail_raised(self, batch: Batch) -> None:
        """Retire who moves and has a constraint that raised; within a step, put it back too."""
        raised = self.constraints(batch).take_raised()
        if not raised:
            return
        active = self.moving(batch)  # what is asked of the others has no meaning
        if active is not None:
            moves = active.system.view(-1).cpu().numpy()
            raised = {row: why for row, why in raised.items() if moves[row]}
        self.end_raised(batch, raised)

    def end_raised(self, batch: Batch, raised: Mapping[int, Raised]) -> None:
        """Retire the systems in these rows, or raise what their constraints did."""
        if not raised:
            return
        if self.raise_errors:
            raise next(iter(raised.values())).error
        self.fail(batch, {row: own.reason for row, own in raised.items()})

    def explain(self, batch: Batch) -> None:
        """Note in ``host`` why systems failed, where constraints or method know; it waits."""
        outcome = batch["outcome"].view(-1)
        unheld = self.constraints(batch).failures()
        known = [(mask & (outcome == int(Outcome.ERROR)), why) for mask, why in unheld]
        known += [(outcome == int(failed), why) for failed, why in self._reasons.items()]
        for rows, why in known:
            for row in np.flatnonzero(rows.cpu().numpy()).tolist():
                batch.host[row] = {"failure": why, **batch.host[row]}

    def _code(self, value: int, like: Int[Tensor, "..."]) -> Int[Tensor, ""]:
        """Return a number on the device, made once: as a Python number it costs two operations."""
        key = (int(value), like.device)
        if key not in self._codes:
            self._codes[key] = like.new_tensor(int(value))
        return self._codes[key]
