"""The systems of a run that still move; the others stop costing anything."""

from typing import TYPE_CHECKING

import numpy as np

from nvdyn_ase.data import FIELDS, Batch
from nvdyn_ase.dynamics.evaluated import Evaluated

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
        if not is_worth_a_new_batch(self.batch, frozen, _RELEASE):
            return None
        self.engine.explain(self.batch)
        leaving, staying = np.flatnonzero(frozen), np.flatnonzero(~frozen)
        state = self.engine.state
        left = self.batch.index_select(leaving)
        self.engine.show_last(left, end=False)
        self._left.append((self.rows[leaving], left, state.index_select(leaving)))
        self.batch, self.rows = go_on_with(self.engine, self.batch, staying), self.rows[staying]
        return staying

    def gather(self) -> Batch:
        """Bring the user's batch up to date, in its order; the run may go on afterwards."""
        self.engine.explain(self.batch)
        if self.batch is self.home:
            return self.home
        parts = [*self._left, (self.rows, self.batch, self.engine.state)]
        order = np.argsort(np.concatenate([rows for rows, _, _ in parts]))
        whole = put_together([batch for _, batch, _ in parts], order)
        self.home.set_edges({}, np.zeros(len(self.home), np.int64))
        self.home.neighbors = self.home.evaluated = None
        for key, tensor in whole:
            self.home.add_key(key, tensor, whole.level(key), overwrite=True)
        self.home.host = whole.host
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
        parts = [*self._left, (self.rows, self.batch, self.engine.state)]
        order = np.argsort(np.concatenate([rows for rows, _, _ in parts]))
        states = [state for _, _, state in parts]
        self.engine.align_states(states)
        return put_together(states, order)

    def adopt_home(self) -> None:
        """End the split and go on from the user's batch as it stands."""
        if self.batch is self.home:
            return
        self.engine.follow(self.home, self.whole_state(), None)
        self.batch, self.rows, self._left = self.home, np.arange(len(self.home)), []


def is_worth_a_new_batch(batch: Batch, frozen: np.ndarray, share: float) -> bool:
    """Say whether at least this share of the atoms is frozen; ``frozen`` is (B,) bool."""
    sizes = np.asarray(batch.num_nodes_list)
    return bool(frozen.any() and sizes[frozen].sum() >= share * sizes.sum())


def go_on_with(
    engine: "BaseDynamics", batch: Batch, staying: np.ndarray, joining: Batch | None = None
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
        Systems that come behind them. They make no move before there are forces on them, which the
        next step computes together with those of the others.
    """
    current, state = batch.evaluated, engine.state.index_select(staying)
    kept = batch.index_select(staying)
    if joining is not None:
        states = [state, engine.fresh_state(joining)]
        engine.align_states(states)
        kept, state = laid_behind(kept, joining), laid_behind(*states)
    if current is not None and current.holds(batch, current.model):
        kept.evaluated = Evaluated.now(kept, current.model, current.results)
    engine.follow(kept, state, staying)
    if joining is not None:
        engine.receive(kept, len(staying))
    return kept


def laid_behind(first: Batch, second: Batch) -> Batch:
    """Return the systems of both; they lose their pairs, and get each other's fields."""
    for part in (first, second):
        part.set_edges({}, np.zeros(len(part), np.int64))
    _complete(first, second)
    _complete(second, first)
    return first.followed_by(second)


def put_together(parts: list[Batch], order: np.ndarray) -> Batch:
    """Return the systems of all parts, in an order of them laid end to end; without pairs."""
    bare = [part.index_select(slice(None)) for part in parts]
    for part in bare:
        part.set_edges({}, np.zeros(len(part), np.int64))
    for part in bare:
        for other in bare:
            _complete(part, other)
    whole, *rest = bare
    whole.append(*rest)
    return whole.index_select(order)


def _complete(part: Batch, other: Batch) -> None:
    """Fill what was added after these systems had left: NaN, or zero where there is no NaN.

    A field that declares a default gets that when the parts are joined.
    """
    for key, like in other:
        if key in part or key in FIELDS or key in other.defaults:
            continue
        level = other.level(key)
        rows = part.num_rows(level)
        unknown = float("nan") if like.is_floating_point() else 0
        part.add_key(key, like.new_full((rows, *like.shape[1:]), unknown), level)
