"""The systems of a run that still move; the others stop costing anything."""

from typing import TYPE_CHECKING

import numpy as np

from nvdyn_ase.data import FIELDS, Batch, Level
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

    def release(self, frozen: np.ndarray) -> None:
        """Take frozen systems out of the batch if there are enough of them.

        Parameters
        ----------
        frozen
            (B,) bool for the present batch, on the host.
        """
        sizes = np.asarray(self.batch.num_nodes_list)
        if frozen.all() or sizes[frozen].sum() < _RELEASE * sizes.sum():
            return
        self.engine.explain_unheld(self.batch)
        leaving, staying = np.flatnonzero(frozen), np.flatnonzero(~frozen)
        state = self.engine.state
        left = self.batch.index_select(leaving)
        self.engine.show_last(left, end=False)
        self._left.append((self.rows[leaving], left, state.index_select(leaving)))
        current = self.batch.evaluated
        kept = self.batch.index_select(staying)
        if current is not None and current.holds(self.batch, current.model):
            kept.evaluated = Evaluated.now(kept, current.model, current.results)
        self.batch, self.rows = kept, self.rows[staying]
        self.engine.follow(kept, state.index_select(staying), staying)

    def gather(self) -> Batch:
        """Bring the user's batch up to date, in its order; the run may go on afterwards."""
        self.engine.explain_unheld(self.batch)
        if self.batch is self.home:
            return self.home
        parts = [*self._left, (self.rows, self.batch, self.engine.state)]
        order = np.argsort(np.concatenate([rows for rows, _, _ in parts]))
        whole = _whole([batch for _, batch, _ in parts], order)
        self.home.set_edges({}, np.zeros(len(self.home), np.int64))
        self.home.neighbors = self.home.evaluated = None
        for key, tensor in whole:
            self.home.add_key(key, tensor, whole.level(key), overwrite=True)
        self.home.host = whole.host
        return self.home

    def finish(self) -> Batch:
        """Bring the user's batch and the engine's state up to date, and end the split."""
        self.engine.explain_unheld(self.batch)
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
        return _whole(states, order)

    def adopt_home(self) -> None:
        """End the split and go on from the user's batch as it stands."""
        if self.batch is self.home:
            return
        self.engine.follow(self.home, self.whole_state(), None)
        self.engine.forget_pairs()  # those at hand are of the systems that moved last
        self.batch, self.rows, self._left = self.home, np.arange(len(self.home)), []


def _whole(parts: list[Batch], order: np.ndarray) -> Batch:
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
        rows = part.num_nodes if level is Level.NODE else len(part)
        unknown = float("nan") if like.is_floating_point() else 0
        part.add_key(key, like.new_full((rows, *like.shape[1:]), unknown), level)
