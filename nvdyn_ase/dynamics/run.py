"""One run: a batch, the engine that moves it, and who is still moving."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data import Batch, StructureError
from nvdyn_ase.dynamics.active import ActiveSystems, InflightSystems
from nvdyn_ase.dynamics.lifecycle import Rollback, open_batch
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.readback import Readback

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class Run:
    """Drives an engine over a batch, for ``BaseDynamics.run`` and for the ASE facades alike.

    In turn: :meth:`settle` tests who is done, :meth:`advance` does a step. :meth:`close` puts the
    user's batch together; it must be called, also after an error.

    Parameters
    ----------
    engine
        Who moves.
    batch
        The user's batch. Systems that an earlier run finished are reopened.
    n_steps
        Steps of every system; None for no limit.

    Attributes
    ----------
    systems
        What still moves, and where it stands in the user's batch.
    """

    def __init__(self, engine: "BaseDynamics", batch: Batch, n_steps: int | None = None) -> None:
        self.engine = engine
        self.n_steps = n_steps
        self._done = 0
        self._last_step: tuple[Tensor, Tensor] | None = None
        # Steps are counted for each system where systems come, or take several passes for a step.
        self._own_steps = n_steps is not None and (engine._tries or engine.inflight_mode)
        goes_on = engine.inflight_mode and engine.steps_on_coming is not None
        open_batch(batch, engine.entry_status, None if goes_on else engine.exit_status)
        engine.adopt(batch)
        engine.begin_run(batch, hurried=n_steps is not None and not self._own_steps)
        engine.forget_constraints()  # the user may have edited them
        frozen = (batch["status"].view(-1) >= engine.exit_status).cpu().numpy()
        if not frozen.any():
            engine.nobody_is_frozen(batch)
        if not goes_on:
            engine.steps_on_coming = batch["steps"]
        kind = InflightSystems if engine.inflight_mode else ActiveSystems
        self.systems = kind(engine, batch)
        self._readback = Readback()

    @property
    def batch(self) -> Batch:
        """What the engine moves now."""
        return self.systems.batch

    def settle(self) -> bool:
        """Make forces current, freeze who meets the criterion, and say whether nobody is left.

        The answer may come late on a GPU. That costs a step in which nothing moves and changes
        nothing.
        """
        batch, engine = self.batch, self.engine
        engine.prime(batch)
        engine.graduate(batch)
        if self._own_steps:
            self._retire_whose_steps_are_used_up()
        elif self.n_steps is not None and self._done >= self.n_steps:
            return True
        if engine.active(batch) is None:
            return False
        status = self._readback.exchange(batch["status"].view(-1))
        if status is None:
            return False
        frozen = status >= engine.exit_status
        engine.arrange(batch, status, self._readback.is_current)
        if self.systems.are_over(frozen):
            return True
        if self._readback.is_current and not frozen.any():
            engine.nobody_is_frozen(batch)
            return False
        return self._release(frozen)

    def _retire_whose_steps_are_used_up(self) -> None:
        batch, engine, since = self.batch, self.engine, self.engine.steps_on_coming
        assert since is not None and self.n_steps is not None
        if self._last_step is None or self._last_step[0] is not since:
            self._last_step = since, since + self.n_steps
        used_up = batch["steps"] >= self._last_step[1]
        if engine._arriving is not None:
            used_up = used_up & ~engine._arriving
        engine.retire(batch, used_up.view(-1), Outcome.BUDGET)

    def _release(self, frozen: np.ndarray) -> bool:
        """Take frozen systems out if it is worth it, and say whether nobody is left."""
        staying = self.systems.release(frozen)
        if staying is None:
            return bool(frozen.all())
        self._readback.forget()
        if len(staying) == len(self.batch):
            return bool(frozen[staying].all())
        # Who needs no forces may be done before the first step.
        return self.settle() if self.engine._arriving is None else False

    def admit(self) -> None:
        """Let in who waits outside, beside those that move; what is done is written before."""
        before = self.batch
        self.systems.admit()
        if self.batch is not before:
            self._readback.forget()

    def advance(self) -> None:
        """Do one step; if it raises, the batch is as it was before.

        Raises
        ------
        StructureError
            The method cannot move a system, unless the engine retires it for that.
        """
        engine, batch = self.engine, self.batch
        try:
            with Rollback(engine, batch):
                engine.advance(batch)
        except StructureError as error:
            if error.index is None:
                raise
            if not engine.takes_failures:
                raise StructureError(int(self.systems.rows[error.index]), error.problem) from error
            engine.fail(batch, {error.index: error.problem})
            return
        engine.step_count += 1
        self._done += 1

    def advance_together(self) -> None:
        """Do one whole step of every system; who ends it early waits for those who try again."""
        engine, batch = self.engine, self.batch
        if not engine._tries:
            self.advance()
            return
        with Rollback(engine, batch):
            self.advance()
            while (trying := self._trying()) is not None:
                status = batch["status"]
                held = ~trying.view(status.shape) & (status < engine.exit_status)
                batch["status"] = torch.where(held, engine.exit_status, status)
                self.advance()
                batch["status"] = torch.where(held, status, batch["status"])

    def _trying(self) -> Tensor | None:
        within = self.engine.within_step(self.batch)
        if within is None:
            return None
        trying = within & (self.batch["status"].view(-1, 1) < self.engine.exit_status)
        return trying if bool(trying.any()) else None

    def rejoin(self) -> None:
        """Take who is done into the batch that is moved again, where they do not move."""
        if self.batch is not self.systems.home:
            self.systems.finish()
            self._readback.forget()

    def close(self) -> Batch:
        """Bring the user's batch and the engine's state up to date, and return the batch."""
        self.engine.show_last(self.batch, end=True)
        return self.systems.finish()
