"""What one rank of a pipeline does: mail, newcomers, a step, and again."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from nvdyn_ase.data import Batch, StructureError
from nvdyn_ase.data.buffers import Capacity
from nvdyn_ase.dynamics.pipeline.arrivals import Arrivals
from nvdyn_ase.dynamics.pipeline.departures import Departures
from nvdyn_ase.dynamics.pipeline.post import Kind, Post
from nvdyn_ase.dynamics.run import Run

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class StageRun:
    """Runs the engine of a rank, with what it receives and what it sends.

    Parameters
    ----------
    engine
        Of this rank.
    post
        To the neighbours.
    arrivals
        What stands where the engine has its sampler; None if it has one of its own.
    departures
        What stands where it has its sinks; None if it has its own.
    """

    def __init__(
        self,
        engine: "BaseDynamics",
        post: Post,
        arrivals: Arrivals | None,
        departures: Departures | None,
    ) -> None:
        self.engine, self.post = engine, post
        self.arrivals, self.departures = arrivals, departures
        self.steps: Run | None = None

    # ---------------------------------------------------------------- the whole

    def begin(self) -> None:
        """Begin a run: listen to the neighbours, and tell them what has become free."""
        self.steps = None
        self._began = self._is_stopped = self._has_ended = False
        self.post.open()
        if self.arrivals is not None:
            self.arrivals.begin()
            self.arrivals.tell_room()
        if self.departures is not None:
            self.departures.begin()

    def turn(self, wait: bool) -> bool:
        """Take in what has come and do a step; say whether there is more to do.

        Parameters
        ----------
        wait
            Whether to wait for work or room if nothing can be done without.
        """
        self.take_mail(wait=False)
        self._take_in()
        if self._moves():
            assert self.steps is not None
            self.steps.advance()
            return True
        if self._is_over() and not self._has_unsent():
            self._say_end()
            return False
        self.take_mail(wait and not self._can_go_on())
        return True

    def end(self) -> Batch | None:
        """Send what is left, agree with the neighbours on the end, and return what no sink took."""
        batch = None if self.steps is None else self.steps.close()
        self.steps = None
        while self._has_unsent():  # what was done with last
            self.take_mail(wait=True)
        self._say_end()
        if self.arrivals is not None:
            for rank in sorted(self.arrivals.open):
                self.arrivals.close(rank)
        while self._are_open():
            self.take_mail(wait=True)
        if self.departures is not None:
            engine = self.engine
            engine.active_batch = batch if batch is not None and len(batch) else None
            engine.done = not engine.active_batch_size and engine.sampler.exhausted
            return None
        return self.engine.what_is_left(batch)

    def _has_unsent(self) -> bool:
        """Say whether systems wait for a rank that still takes some."""
        own = self.departures
        return own is not None and len(own) > 0 and bool(own.open)

    def _say_end(self) -> None:
        """Say once that there is no more in this run."""
        if self.departures is not None and not self._has_ended:
            self._has_ended = True
            self.departures.end()

    def abandon(self) -> None:
        """End the engine's part of a run that has failed."""
        if self.steps is not None:
            self.steps.close()
            self.steps = None

    def _are_open(self) -> bool:
        ends = (self.arrivals, self.departures)
        return any(own is not None and own.open for own in ends)

    # ---------------------------------------------------------------- one turn

    def take_mail(self, wait: bool) -> None:
        """Take in what has come; with ``wait``, wait for something if nothing has."""
        for letter in self.post.letters(wait):
            comes_down = letter.kind in (Kind.SYSTEMS, Kind.END)
            side = self.arrivals if comes_down else self.departures
            assert side is not None
            side.take(letter)
        if self.departures is not None and not self.departures.open:
            self._is_stopped = True

    def _take_in(self) -> None:
        """Let those in for whom there is room."""
        engine = self.engine
        if engine.has_unwritten and engine.may_write:
            engine.write_rejected()
        if self.steps is None:
            self._take_first()
        elif self._has_newcomers():
            self.steps.admit()

    def _take_first(self) -> None:
        receives = self.arrivals is not None
        if self._began and not receives:
            return
        if receives and not (self.arrivals.has_some or self.engine.active_batch_size):  # type: ignore[union-attr]
            return
        batch = self.engine.first_systems(None)
        self._began = True
        if batch is not None:
            self.steps = Run(self.engine, batch, self.engine.n_steps)

    def _has_newcomers(self) -> bool:
        """Say whether systems have come for whom there is a place."""
        engine = self.engine
        if self.arrivals is None or not self.arrivals.has_some:
            return False
        return engine.active_batch_has_room and engine.may_write

    def _can_go_on(self) -> bool:
        """Say whether the next turn finds something to do, though nobody moves and nothing comes.

        Who is done finds room, where sinks have some, and makes room for others.
        """
        return (self._holds_systems() and self.engine.may_write) or self._has_newcomers()

    def _moves(self) -> bool:
        """Say whether somebody moves; who is done is sent on."""
        return self.steps is not None and len(self.steps.batch) > 0 and not self.steps.settle()

    def _holds_systems(self) -> bool:
        return self.engine.active_batch_size > 0 or self.engine.has_unwritten

    def _is_over(self) -> bool:
        """Say whether nothing is left to do, or nothing can be done in this run."""
        engine = self.engine
        failure = engine._sink_failure
        if failure is not None and self.departures is not None:
            raise failure
        if self._is_stopped or failure is not None:
            return True
        if self._holds_systems() or (self.arrivals is not None and self.arrivals.has_some):
            return self.departures is None and not engine.may_write
        if self.arrivals is None:
            return self._began and engine.sampler.exhausted
        return self.arrivals.exhausted


class BufferCheck:
    """Raises for systems that no buffer of the pipeline takes, as a hook would see them come.

    Parameters
    ----------
    engine
        Of a first stage.
    """

    def __init__(self, engine: "BaseDynamics") -> None:
        self.engine = engine

    def check_sampler(self) -> None:
        """Look at all that a sampler knows the size of."""
        bins = getattr(self.engine.sampler, "_bins", None)
        for one in bins or ():
            self._check(one.index, one.atoms, one.edges)

    def __call__(self, batch: Batch) -> None:
        """Look at systems that begin."""
        ids = batch["system_id"].view(-1).tolist()
        sizes = zip(batch.num_nodes_list, batch.num_edges_list, strict=True)
        for index, (nodes, edges) in zip(ids, sizes, strict=True):
            self._check(index, nodes, edges)

    def _check(self, index: int, nodes: int, edges: int) -> None:
        config = self.engine.buffer_config
        assert config is not None
        sent = 0 if self.engine.finds_pairs else edges
        if not config.capacity.holds(Capacity(1, nodes, sent)):
            raise StructureError(
                index,
                f"it has {nodes} atoms and {sent} pairs, and the buffers of the pipeline take no "
                f"such system: {config!r}; make them larger, or leave it out",
            )


def given(batch: Batch) -> Any:
    """Return how many systems the user gives, as a dataset of which only that is asked.

    None if they have other numbers than their places, by which values of single systems cannot be
    found.
    """
    places = np.arange(len(batch))
    if "system_id" not in batch:
        batch["system_id"] = torch.from_numpy(places).to(batch.device).view(-1, 1)
    return places if np.array_equal(batch["system_id"].view(-1).cpu(), places) else None
