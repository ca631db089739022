"""One run: a batch, the engine that moves it, and who is still moving."""

from typing import TYPE_CHECKING

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.active import ActiveSystems
from nvdyn_ase.dynamics.lifecycle import Rollback, open_batch
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

    Attributes
    ----------
    systems
        What still moves, and where it stands in the user's batch.
    """

    def __init__(self, engine: "BaseDynamics", batch: Batch) -> None:
        self.engine = engine
        engine.begin_run()
        open_batch(batch, reopen_below=engine.exit_status)
        engine.adopt(batch)
        engine.forget_constraints()  # the user may have edited them
        frozen = (batch["status"].view(-1) >= engine.exit_status).cpu().numpy()
        if not frozen.any():
            engine.nobody_is_frozen(batch)
        self.systems = ActiveSystems(engine, batch)
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
        if engine.active(batch) is None:
            return False
        status = self._readback.exchange(batch["status"].view(-1))
        if status is None:
            return False
        frozen = status >= engine.exit_status
        if frozen.all():
            return True
        if self._readback.is_current and not frozen.any():
            engine.nobody_is_frozen(batch)
            return False
        self.systems.release(frozen)
        if self.batch is not batch:
            self._readback.forget()
        return False

    def advance(self) -> None:
        """Do one step; if it raises, the batch is as it was before."""
        with Rollback(self.engine, self.batch):
            self.engine.advance(self.batch)
        self.engine.step_count += 1

    def close(self) -> Batch:
        """Bring the user's batch and the engine's state up to date, and return the batch."""
        self.engine.show_last(self.batch, end=True)
        return self.systems.finish()
