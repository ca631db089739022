"""Inflight batching: systems that are done leave a running batch, and others take their place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from loguru import logger

from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.dynamics.active import ActiveSystems, go_on_with, is_worth_a_new_batch, laid_behind
from nvdyn_ase.dynamics.lifecycle import open_batch
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import Places
from nvdyn_ase.dynamics.sinks import DataSink, HostMemory

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

# Systems that are done stay in the batch until this share of the atoms is frozen: exchanging them
# costs about as much as a step, whatever their number.
_REFILL = 0.1


class SinkError(RuntimeError):
    """A sink failed; nothing is lost.

    Attributes
    ----------
    unwritten
        The systems that are done and in no sink.
    """

    def __init__(self, message: str, unwritten: Batch) -> None:
        super().__init__(message)
        self.unwritten = unwritten


class InflightBatching:
    """What an engine knows of where systems come from and where they go.

    Parameters
    ----------
    sampler
        Where systems come from, as a ``SizeAwareSampler``; None: from whoever calls ``run``.
    sinks
        Where those that are done go: into the first that has room. With a sampler and no sinks, a
        ``HostMemory`` of unlimited capacity.
    refill_frequency
        Look every so many steps for systems that are done.
    max_batch_size
        Systems in the batch of a stage of a pipeline.
    done
        Whether there is nothing left to do.

    Attributes
    ----------
    active_batch
        What is being moved; None between runs with a sampler.
    unread
        What the sampler could not read, with the reason, as ``Rejected``.

    Raises
    ------
    ValueError
        A frequency or size below 1.
    """

    exit_status: int

    def __init__(
        self,
        sampler: Any,
        sinks: Sequence[DataSink] | None,
        refill_frequency: int,
        max_batch_size: int,
        done: bool,
    ) -> None:
        for name, value in (
            ("refill_frequency", refill_frequency),
            ("max_batch_size", max_batch_size),
        ):
            if value < 1:
                raise ValueError(f"{name} must be at least 1, not {value}")
        self.sampler = sampler
        self.sinks = list(sinks or ())
        if sampler is not None and not self.sinks:
            self.sinks = [HostMemory(_UNLIMITED)]
        self.refill_frequency = refill_frequency
        self.max_batch_size = max_batch_size
        self.done = done
        self.active_batch: Batch | None = None
        self.unread: list[Any] = []
        self._sink_failure: BaseException | None = None
        self._homeless: list[Batch] = []

    # ---------------------------------------------------------------- what it is

    @property
    def inflight_mode(self) -> bool:
        """Whether a sampler gives the systems."""
        return self.sampler is not None

    @property
    def active_batch_size(self) -> int:
        """Systems that are being moved."""
        return 0 if self.active_batch is None else len(self.active_batch)

    @property
    def room_in_active_batch(self) -> int:
        """How many more systems the batch of a stage takes."""
        return max(self.max_batch_size - self.active_batch_size, 0)

    @property
    def active_batch_has_room(self) -> bool:
        """Whether the batch of a stage takes another system."""
        return self.room_in_active_batch > 0

    # ---------------------------------------------------------------- coming

    def first_batch(self) -> Batch | None:
        """Return the first systems that the sampler gives, ready to be moved; None if it is empty.

        Raises
        ------
        RuntimeError
            None of them fits the budget.
        """
        if self.sampler.exhausted:
            self.done = True
            return None
        batch = self.sampler.build_initial_batch()
        return None if batch is None else self._prepared(batch)

    def _prepared(self, batch: Batch) -> Batch:
        """Return systems that the sampler gave, as every run wants them."""
        batch = batch.to(self.device)  # type: ignore[attr-defined]
        open_batch(batch, self.entry_status)  # type: ignore[attr-defined]
        return batch

    def newcomers(self, staying: Batch) -> Batch | None:
        """Return systems that fit beside those that stay; None if there are none."""
        sampler = self.sampler
        if hasattr(sampler, "request_batch"):  # one that takes many at a time
            batch = sampler.request_batch(sampler.share(staying))
            return None if batch is None else self._prepared(batch)
        atoms = _room(sampler.max_atoms) - staying.num_nodes
        edges = _room(sampler.max_edges) - self._edges(_ids(staying), staying.num_edges_list)
        places = _room(sampler.max_batch_size) - len(staying)
        taken: list[AtomicData] = []
        while places > len(taken) and not sampler.exhausted:
            data = sampler.request_replacement(atoms, edges)
            if data is None:
                break
            atoms, edges = atoms - data.num_nodes, edges - self._edges(_ids(data), [data.num_edges])
            taken.append(data)
        return self._prepared(Batch.from_data_list(taken)) if taken else None

    def _edges(self, ids: list[int], known: Sequence[int]) -> int:
        """Return how many pairs systems count for: as many as their metadata say, if they do."""
        if self.sampler.max_edges is None:
            return 0
        metadata = getattr(self.sampler.dataset, "get_metadata", None)
        return sum(known) if metadata is None else sum(int(metadata(index)[1]) for index in ids)

    def _places_in_the_stream(self, batch: Batch) -> Places | None:
        """Return which of the values given one by one belong to systems of the sampler."""
        try:
            count = len(self.sampler.dataset)
        except (TypeError, AttributeError):
            return None
        return Places(batch["system_id"].view(-1).cpu().numpy(), count)

    # ---------------------------------------------------------------- going

    def refill_check(self, batch: Batch, exit_status: int) -> Batch | None:
        """Write the systems that are done to the sinks, and let others take their place.

        Parameters
        ----------
        batch
            What the engine moves.
        exit_status
            Systems with at least this status are done.

        Returns
        -------
        Batch or None
            Those that stay and behind them the newcomers; the batch that was given if nobody is
            done; None if there is nothing left to do, and then ``done`` is set.

        Raises
        ------
        RuntimeError
            There is no sampler.
        """
        if not self.inflight_mode:
            raise RuntimeError("refill_check needs a sampler; give the engine one")
        frozen = (batch["status"].view(-1) >= exit_status).cpu().numpy()
        if frozen.any():
            batch = self.exchange(batch, frozen)
        if len(batch):
            return batch
        self.done = self.sampler.exhausted
        return None

    def exchange(self, batch: Batch, frozen: np.ndarray) -> Batch:
        """Write frozen systems to the sinks, and return the others with newcomers behind them.

        What no sink takes stays in the batch, frozen, and nobody else is let in.

        Parameters
        ----------
        batch
            What the engine moves.
        frozen
            (B,) bool, on the host.
        """
        engine: Any = self
        engine.adopt(batch)
        engine.explain(batch)
        leaving = np.flatnonzero(frozen)
        left = batch.index_select(leaving)
        engine.show_last(left, end=False)
        written = self._write(left)
        staying = np.setdiff1d(np.arange(len(batch)), leaving[:written])
        kept = batch if len(staying) == len(batch) else None
        joining = None
        if written == len(leaving) and self.write_rejected():
            remaining = batch.index_select(staying) if kept is None else batch
            joining = self.newcomers(remaining)
        if kept is not None and joining is None:
            return batch
        return go_on_with(engine, batch, staying, joining)

    def _write(self, batch: Batch) -> int:
        """Write systems into the first sinks that have room; return how many found some."""
        done = 0
        for sink in self.sinks:
            room = sink.capacity - len(sink)
            part = batch.index_select(slice(done, done + max(room, 0)))
            if not len(part):
                continue
            try:
                sink.write(part)
            except Exception as error:
                logger.error("{!r} failed, and no system is let in any more: {}", sink, error)
                self._sink_failure = error
                break
            done += len(part)
        return done

    def write_rejected(self) -> bool:
        """Write what the sampler has passed over; return whether there was room for it.

        Such a system has ``Outcome.REJECTED`` and, in its ``host``, the reason as ``failure``. What
        could not even be read is noted in ``unread``.
        """
        for one in getattr(self.sampler, "take_rejected", tuple)():
            logger.warning("system {} is left out: {}", one.index, one.reason)
            if one.data is None:
                self.unread.append(one)
                continue
            batch = self._prepared(Batch.from_data_list([one.data]))
            batch["status"] = torch.full_like(batch["status"], self.exit_status)
            batch["outcome"] = torch.full_like(batch["outcome"], int(Outcome.REJECTED))
            batch.host[0]["failure"] = one.reason
            self._homeless += [] if self._write(batch) else [batch]
        return not self._homeless

    def what_is_left(self, batch: Batch) -> Batch | None:
        """Return the systems of a run that has ended and that no sink has taken; None if none.

        Raises
        ------
        SinkError
            That is because a sink failed.
        """
        self.active_batch = None
        homeless, self._homeless = self._homeless, []
        for one in homeless:
            batch = laid_behind(batch, one) if len(batch) else one
        self.done = not len(batch) and self.sampler.exhausted
        if not len(batch):
            return None
        failure, self._sink_failure = self._sink_failure, None
        if failure is not None:
            message = f"{len(batch)} systems are done and could not be written: {failure}"
            raise SinkError(message, batch) from failure
        logger.warning("the sinks are full: {} systems are done and not written", len(batch))
        return batch


class InflightSystems(ActiveSystems):
    """The systems of a run to which a sampler gives others as they leave.

    Parameters
    ----------
    engine
        Who moves them.
    batch
        The first of them.

    Attributes
    ----------
    batch
        What the engine moves now.
    """

    def __init__(self, engine: "BaseDynamics", batch: Batch) -> None:
        super().__init__(engine, batch)
        engine.active_batch = batch

    def are_over(self, frozen: np.ndarray) -> bool:
        """Say whether nobody is left and nobody comes; ``frozen`` is (B,) bool."""
        return bool(frozen.all()) and not self._may_exchange(frozen)

    def _may_exchange(self, frozen: np.ndarray) -> bool:
        sinks = self.engine.sinks
        return bool(frozen.any()) and not self.engine._sink_failure and not _all_full(sinks)

    def release(self, frozen: np.ndarray) -> np.ndarray | None:
        """Let others take the place of frozen systems if there are enough of them.

        Parameters
        ----------
        frozen
            (B,) bool for the present batch, on the host.

        Returns
        -------
        Rows of those that stay, (n,), if the batch is another one now.
        """
        engine, before = self.engine, self.batch
        due = engine.step_count % engine.refill_frequency == 0 or frozen.all()
        if not due or not self._may_exchange(frozen):
            return None
        # Whom the model has failed on would be asked about again in each step.
        urgent = engine.splitting is not None and engine.splitting.troubled
        if not urgent and not is_worth_a_new_batch(before, frozen, _REFILL):
            return None
        if engine.splitting is not None:
            engine.splitting.troubled = False
        ids = before["system_id"].view(-1).cpu().numpy()
        self.home = self.batch = engine.active_batch = engine.exchange(before, frozen)
        if self.batch is before:
            return None
        now = self.batch["system_id"].view(-1).cpu().numpy()
        return np.flatnonzero(np.isin(ids, now))

    def finish(self) -> Batch:
        """End the run: write who is done, and return the others."""
        batch = self.batch
        frozen = (batch["status"].view(-1) >= self.engine.exit_status).cpu().numpy()
        self.engine.explain(batch)
        if self._may_exchange(frozen):
            rows = np.flatnonzero(frozen)
            written = self.engine._write(batch.index_select(rows))
            staying = np.setdiff1d(np.arange(len(batch)), rows[:written])
            self.home = self.batch = go_on_with(self.engine, batch, staying)
        self.engine.write_rejected()
        return self.batch


_UNLIMITED = 2**62


def _room(limit: int | None) -> int:
    return _UNLIMITED if limit is None else limit


def _ids(systems: Batch | AtomicData) -> list[int]:
    assert systems.system_id is not None
    return systems.system_id.view(-1).tolist()


def _all_full(sinks: Sequence[DataSink]) -> bool:
    return all(sink.is_full for sink in sinks)
