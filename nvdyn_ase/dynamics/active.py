"""The systems of a run that still move; the others stop costing anything."""

from typing import TYPE_CHECKING

import numpy as np
import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.evaluated import Evaluated
from nvdyn_ase.dynamics.interrupts import HeldInterrupts
from nvdyn_ase.dynamics.together import forget_pairs, laid_behind, put_together, replace_fields

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

# A frozen system is carried along until this share of the atoms is frozen. Taking systems out costs
# about as much as a step, so that doing it at each convergence would not pay for large batches.
_RELEASE = 0.2


class ActiveSystems:
    """Splits the user's batch into what moves and what is done, and puts it together again.

    Parameters
    ----------
    engine
        The engine whose state goes along.
    home
        The user's batch, in the user's order.

    Attributes
    ----------
    batch
        What the engine moves now: ``home`` itself until the first systems are released.
    rows
        Where each of its systems stands in ``home``.
    """

    def __init__(self, engine: "BaseDynamics", home: Batch) -> None:
        self.engine = engine
        self.home = home
        self.batch = home
        self.rows = np.arange(len(home))
        self._left: list[tuple[np.ndarray, Batch, Batch]] = []
        self._steps_on_coming = engine.steps_on_coming

    def are_over(self, frozen: np.ndarray) -> bool:
        """Say whether nobody is left and nobody comes; ``frozen`` is (B,) bool."""
        return bool(frozen.all())

    def release(self, frozen: np.ndarray) -> np.ndarray | None:
        """Take frozen systems out of the batch if there are enough of them.

        Parameters
        ----------
        frozen
            (B,) bool for the present batch, on the host.

        Returns
        -------
        Rows of those that stay, (n,), if the batch is another one now.
        """
        if not self._are_enough(frozen):
            return None
        self.engine.explain(self.batch)
        leaving, staying = np.flatnonzero(frozen), np.flatnonzero(~frozen)
        state = self.engine.state
        left = forget_pairs(self.engine, self.batch.index_select(leaving))
        with HeldInterrupts():  # who has been shown for the last time has to leave
            self.engine.show_last(left, end=False)
            self._left.append((self.rows[leaving], left, state.index_select(leaving)))
            since = self.engine.steps_on_coming
            if since is not None:
                rows = torch.from_numpy(staying).to(since.device)
                self.engine.steps_on_coming = since.index_select(0, rows)
            self.batch, self.rows = go_on_with(self.engine, self.batch, staying), self.rows[staying]
        return staying

    def _are_enough(self, frozen: np.ndarray) -> bool:
        sizes = np.asarray(self.batch.num_nodes_list)
        return bool(frozen.any() and sizes[frozen].sum() >= _RELEASE * sizes.sum())

    def admit(self) -> None:
        """Let others in: to a batch of the user nobody comes."""

    def gather(self) -> Batch:
        """Bring the user's batch up to date, in its order; the run may go on afterwards."""
        self.engine.explain(self.batch)
        if self.batch is self.home:
            return self.home
        present = forget_pairs(self.engine, self.batch.index_select(slice(None)))
        parts = [*((rows, left) for rows, left, _ in self._left), (self.rows, present)]
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        replace_fields(self.home, put_together([batch for _, batch in parts], order))
        return self.home

    def finish(self) -> Batch:
        """Bring the user's batch and the engine's state up to date, and end the split."""
        self.engine.explain(self.batch)
        if self.batch is not self.home:
            current = self.batch.evaluated
            self.gather()
            if current is not None and current.holds(self.batch, current.model):
                self.home.evaluated = Evaluated.now(self.home, current.model, current.results)
            self.adopt_home()
        return self.home

    def whole_state(self) -> Batch:
        """Return the engine's state for the systems of the user's batch, in its order."""
        if self.batch is self.home:
            return self.engine.state
        parts = [*((rows, own) for rows, _, own in self._left), (self.rows, self.engine.state)]
        order = np.argsort(np.concatenate([rows for rows, _ in parts]))
        states = [state for _, state in parts]
        self.engine.align_states(states)
        return put_together(states, order)

    def adopt_home(self) -> None:
        """End the split and go on from the user's batch as it stands."""
        if self.batch is self.home:
            return
        self.engine.rejoin(self.home, self.whole_state(), self.rows)
        self.engine.steps_on_coming = self._steps_on_coming
        self.batch, self.rows, self._left = self.home, np.arange(len(self.home)), []


class InflightSystems(ActiveSystems):
    """The systems of a run to which a sampler gives others as they leave.

    Parameters
    ----------
    engine
        Who moves them; its ``active_batch`` is what it moves now.
    batch
        The first of them.
    """

    def are_over(self, frozen: np.ndarray) -> bool:
        """Say whether nobody is left and nobody comes; ``frozen`` is (B,) bool."""
        return bool(frozen.all()) and not (frozen.any() and self.engine.may_write)

    def release(self, frozen: np.ndarray) -> np.ndarray | None:
        """Let others take the place of frozen systems.

        That is done at once, so that nobody is evaluated who is done; with a model that costs less
        than it does, ``refill_frequency`` makes it rarer.

        Parameters
        ----------
        frozen
            (B,) bool for the present batch, on the host.

        Returns
        -------
        Rows of those that stay, (n,), if the batch is another one now.
        """
        engine, before = self.engine, self.batch
        due = engine.step_count % engine.refill_frequency == 0 or bool(frozen.all())
        # Whom the model has failed on would be asked about again in each step.
        due, engine.splitting.troubled = due or engine.splitting.troubled, False
        if not due or not engine.may_write or not frozen.any():
            return None
        staying = self._exchange(frozen, refill=True)
        return None if self.batch is before else staying

    def admit(self) -> None:
        """Let others in, whether or not somebody leaves."""
        frozen = (self.batch["status"].view(-1) >= self.engine.exit_status).cpu().numpy()
        self._exchange(frozen, refill=True)

    def _exchange(self, frozen: np.ndarray, refill: bool) -> np.ndarray:
        try:
            return self.engine.exchange(self.batch, frozen, refill)
        finally:
            assert self.engine.active_batch is not None
            self.home = self.batch = self.engine.active_batch

    def finish(self) -> Batch:
        """End the run: write who is done, and return the others."""
        self.engine.explain(self.batch)
        frozen = (self.batch["status"].view(-1) >= self.engine.exit_status).cpu().numpy()
        if frozen.any() and self.engine.may_write:
            self._exchange(frozen, refill=False)
        if self.engine.may_write:
            self.engine.write_rejected()
        return self.batch


def go_on_with(
    engine: "BaseDynamics",
    batch: Batch,
    staying: np.ndarray,
    joining: tuple[Batch, Batch] | None = None,
) -> Batch:
    """Move a part of a batch from now on, and new systems behind it; return them as one batch.

    Parameters
    ----------
    engine
        Who moves.
    batch
        What it has moved.
    staying
        Rows of those that go on, with what is known of them.
    joining
        Systems that come behind them, and the engine's state for these. They make no move before
        there are forces on them, which the next step computes together with those of the others.

    Raises
    ------
    ValueError
        A field of the input that only one side has, and that declares no default.
    """
    current, state = batch.evaluated, engine.state.index_select(staying)
    kept = forget_pairs(engine, batch.index_select(staying))
    is_current = current is not None and current.holds(batch, current.model)
    if joining is not None:
        systems, own = joining
        engine.align_states([state, own])
        kept = laid_behind(kept, forget_pairs(engine, systems), engine.input_fields)
        state = laid_behind(state, own)
    if current is not None and is_current:
        kept.evaluated = Evaluated.now(kept, current.model, current.results)
    engine.follow(kept, state, staying)
    if joining is not None:
        engine.receive(kept, len(staying))
    return kept
