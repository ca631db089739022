"""One run: a batch, the engine that moves it, and who is still moving."""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.active import ActiveSystems
from nvdyn_ase.dynamics.inflight import InflightSystems
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
    resumed
        The systems go on where another process has left them: none is reopened, and the steps that
        they have done count.

    Attributes
    ----------
    systems
        What still moves, and where it stands in the user's batch.
    """

    def __init__(
        self,
        engine: "BaseDynamics",
        batch: Batch,
        n_steps: int | None = None,
        resumed: bool = False,
    ) -> None:
        self.engine = engine
        self.n_steps = n_steps
        self._done = 0
        engine.begin_run()
        if not resumed:
            open_batch(batch, engine.entry_status, reopen_below=engine.exit_status)
        engine.adopt(batch)
        engine.forget_constraints()  # the user may have edited them
        frozen = (batch["status"].view(-1) >= engine.exit_status).cpu().numpy()
        if not frozen.any():
            engine.nobody_is_frozen(batch)
        self._last_step: Tensor | None = None
        if n_steps is not None and (engine._tries or engine.inflight_mode):
            # Each system has its own number of forward passes to its last step.
            done = torch.zeros_like(batch["steps"]) if resumed else batch["steps"]
            self._last_step = done + n_steps
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
        if self._last_step is not None:
            engine.retire(batch, (batch["steps"] >= self._last_step).view(-1), Outcome.BUDGET)
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
        staying = self.systems.release(frozen)
        if staying is not None:
            self._readback.forget()
            self._follow(staying)
        return not len(self.batch)

    def _follow(self, staying: np.ndarray) -> None:
        """Keep the last step of those that stay, and give those that come behind them theirs."""
        if self._last_step is None:
            return
        rows = torch.as_tensor(staying, device=self.batch.device)
        last, steps = self._last_step.index_select(0, rows), self.batch["steps"][len(staying) :]
        self._last_step = torch.cat([last, steps + self.n_steps])

    def advance(self) -> None:
        """Do one step; if it raises, the batch is as it was before."""
        with Rollback(self.engine, self.batch):
            self.engine.advance(self.batch)
        self.engine.step_count += 1
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
