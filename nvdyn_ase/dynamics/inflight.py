"""Inflight batching: systems that are done leave a running batch, and others take their place."""

from collections.abc import Iterator, Sequence
from typing import Any, cast

import numpy as np
import torch
from loguru import logger

from nvdyn_ase.data import AtomicData, Batch, StructureError
from nvdyn_ase.dynamics.active import go_on_with
from nvdyn_ase.dynamics.lifecycle import open_batch
from nvdyn_ase.dynamics.memory import MemoryMeter
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import Places
from nvdyn_ase.dynamics.sinks import DataSink, HostMemory
from nvdyn_ase.dynamics.together import forget_pairs, name_unknown, put_together

_UNLIMITED = 2**62


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

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle with the systems."""
        return type(self), (str(self), self.unwritten)


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
        Look every so many steps for systems that are done. Letting others take their place costs
        about as much as a step of a cheap model, for which 4 or so makes a run faster.
    max_batch_size
        Systems in the batch of a stage of a pipeline.
    done
        Whether there is nothing left to do.

    Attributes
    ----------
    active_batch
        What is being moved. After a run with a sampler that raised, what was in flight: the next
        run goes on with it. None if there is nothing.
    unread
        What the sampler could not read, with the reason, as ``Rejected``.
    input_fields
        Names of the fields that the systems brought along.

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
        self._need_sinks()
        self.refill_frequency = refill_frequency
        self.max_batch_size = max_batch_size
        self.done = done
        self.active_batch: Batch | None = None
        self.unread: list[Any] = []
        self.input_fields: frozenset[str] = frozenset()
        #: Of the batch in flight, how many steps each system had when it came, (B, 1).
        self.steps_on_coming: torch.Tensor | None = None
        self._sink_failure: BaseException | None = None
        self._taken: list[AtomicData] = []
        self._edges_counted: dict[int, int] = {}
        self._homeless: list[Batch] = []

    def _need_sinks(self) -> None:
        """See to it that what a sampler gives has somewhere to go."""
        if self.sampler is not None and not self.sinks:
            self.sinks = [HostMemory(_UNLIMITED)]

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

    @property
    def may_write(self) -> bool:
        """Whether a sink has room and, in this run, none has failed."""
        return self._sink_failure is None and not all(sink.is_full for sink in self.sinks)

    @property
    def takes_failures(self) -> bool:
        """Whether a system that the method cannot move leaves alone; otherwise that raises."""
        return self.inflight_mode

    # ---------------------------------------------------------------- coming

    def first_systems(self, batch: Batch | None) -> Batch | None:
        """Return what a run with a sampler begins with; None if there is nothing.

        Parameters
        ----------
        batch
            What the user gives for that; by default what the last run left in flight, or else what
            the sampler gives.

        Raises
        ------
        ValueError
            The user's batch, while there are others in flight; or generators of numpy.
        """
        self._sink_failure, self.done = None, False
        self._need_sinks()
        self.refuse_generators()
        flying = self.active_batch
        if flying is not None and len(flying):
            if batch is not None and batch is not flying:
                raise ValueError(
                    f"{len(flying)} systems are in flight since the last run was cut off: run() "
                    "goes on with them; to drop them, set active_batch to None"
                )
            return flying
        self.steps_on_coming = None
        if batch is None:
            admitted = self._from_the_sampler()
            batch = None if admitted is None else admitted[0]
        else:
            self.input_fields |= set(batch.keys())
        self.active_batch = batch
        return batch

    def _from_the_sampler(self) -> tuple[Batch, Batch] | None:
        """Return the first systems that it gives and a state for them; None if there are none."""
        if hasattr(self.sampler, "request_batch"):
            return self._many(())
        self._find_budget()
        admitted = self._admitted()  # what the last run took and could not put into a batch
        while admitted is None and not self.sampler.exhausted:
            try:
                self._taken = self.sampler.build_initial_batch().to_data_list()
            except RuntimeError:
                if not self.sampler.exhausted:
                    raise
            for data in self._taken:
                self._edges(data)
            admitted = self._admitted()
        self._taken = []
        self.write_rejected()
        return admitted

    def _find_budget(self) -> None:
        """On a GPU, give a sampler without budgets that of its memory, from one forward pass.

        The first system is evaluated for that; it is among the first that are moved.
        """
        engine, sampler = cast(Any, self), self.sampler
        limits = (sampler.max_atoms, sampler.max_edges, sampler.max_batch_size)
        if engine.device.type == "cpu" or limits != (None, None, None) or self._taken:
            return
        first = sampler.request_replacement(None, None)
        if first is None:
            return
        meter, batch = MemoryMeter(), self._prepared([first]).to(engine.device)
        engine.adopt(batch)
        with meter.watching(engine.device, batch.num_nodes):
            engine.compute(batch)
        sampler.max_atoms = meter.atoms_that_fit(engine.device, sampler.max_gpu_memory_fraction)
        self._taken, room = [first], _room(sampler.max_atoms) - first.num_nodes
        while (data := sampler.request_replacement(room, None)) is not None:
            self._taken.append(data)
            room -= data.num_nodes

    def _prepared(self, data: Sequence[AtomicData]) -> Batch:
        """Return systems that the sampler gave as what they are: nothing has happened to them."""
        engine: Any = self
        batch = Batch.from_data_list(data)
        open_batch(batch, engine.entry_status)
        batch["status"] = torch.full_like(batch["status"], engine.entry_status)
        batch["outcome"] = torch.full_like(batch["outcome"], int(Outcome.ACTIVE))
        batch["fmax"] = batch["positions"].new_full((len(batch), 1), float("inf"))
        for host in batch.host:
            host.pop("failure", None)
        return batch

    def _admitted(self) -> tuple[Batch, Batch] | None:
        """Return the systems that were taken, and a state for them; None if there are none.

        Those that the method cannot move are rejected, each with the reason.
        """
        engine: Any = self
        while self._taken:
            batch = self.delivered(self._prepared(self._taken).to(engine.device))
            self.input_fields |= set(batch.keys())
            try:
                return batch, engine.fresh_state(batch)
            except StructureError as error:
                if error.index is None:
                    raise
                self._reject(self._taken.pop(error.index), error.problem)
        return None

    def delivered(self, batch: Batch) -> Batch:
        """Return systems that the sampler has given, as the engine begins with them."""
        return batch

    def _newcomers(self, staying: Batch, rows: np.ndarray) -> tuple[Batch, Batch] | None:
        """Return systems that fit beside those that stay, and a state for them; None for nobody.

        Parameters
        ----------
        staying, rows
            A batch, and who of it stays.
        """
        sampler, admitted = self.sampler, None
        if hasattr(sampler, "request_batch"):
            return self._many(staying["system_id"].view(-1).cpu().numpy()[rows].tolist())
        sizes = np.asarray(staying.num_nodes_list)[rows]
        atoms = _room(sampler.max_atoms) - int(sizes.sum())
        edges = _room(sampler.max_edges) - self._edges_of_staying(staying, rows)
        places = _room(sampler.max_batch_size) - len(rows)
        while admitted is None:
            atoms_left = atoms - sum(data.num_nodes for data in self._taken)
            edges_left = edges - sum(self._edges(data) for data in self._taken)
            while places > len(self._taken) and not sampler.exhausted:
                data = sampler.request_replacement(atoms_left, edges_left)
                if data is None:
                    break
                self._taken.append(data)
                atoms_left, edges_left = atoms_left - data.num_nodes, edges_left - self._edges(data)
            if not self._taken:
                return None
            admitted = self._admitted()
        return admitted

    def _many(self, staying: Sequence[int]) -> tuple[Batch, Batch] | None:
        """Return the next systems of a sampler that hands them out many at a time, and a state.

        It has ``request_batch(staying)``, which returns a batch or None, and ``reject(index,
        reason)`` for those that the method cannot move. ``staying`` are the ``system_id`` of those
        that they have to fit beside.
        """
        engine: Any = self
        while (batch := self.sampler.request_batch(staying)) is not None:
            open_batch(batch, engine.entry_status)
            batch = self.delivered(batch.to(engine.device))
            while len(batch):
                try:
                    return batch, engine.fresh_state(batch)
                except StructureError as error:
                    if error.index is None:
                        raise
                    self.sampler.reject(int(batch["system_id"][error.index]), error.problem)
                    others = np.delete(np.arange(len(batch)), error.index)
                    batch = batch.index_select(others)
        return None

    def _edges(self, data: AtomicData) -> int:
        """Return how many pairs a system counts for: as many as its metadata say, if they do."""
        if self.sampler.max_edges is None:
            return 0
        metadata = getattr(self.sampler.dataset, "get_metadata", None)
        assert data.system_id is not None
        index = int(data.system_id)
        own = data.num_edges if metadata is None else int(metadata(index)[1])
        self._edges_counted[index] = own
        return own

    def _edges_of_staying(self, staying: Batch, rows: np.ndarray) -> int:
        """Return how many pairs those that stay count for, and forget the others."""
        if self.sampler.max_edges is None:
            return 0
        ids = staying["system_id"].view(-1).cpu().numpy()[rows].tolist()
        known = np.asarray(staying.num_edges_list)[rows].tolist()
        counted = self._edges_counted
        self._edges_counted = {i: counted.get(i, n) for i, n in zip(ids, known, strict=True)}
        return sum(self._edges_counted.values())

    def places_in_the_stream(self, batch: Batch) -> Places:
        """Return which of the values given one by one belong to systems of the sampler."""
        rows = batch["system_id"].view(-1).cpu().numpy()
        try:
            return Places(rows, len(self.sampler.dataset))
        except (TypeError, AttributeError):
            return Places(rows, None)

    def refuse_generators(self) -> None:
        """Raise ValueError if random numbers are to come from a generator for each system."""
        noise = getattr(self, "noise", None)
        if noise is not None and noise.wants_generators:
            raise ValueError(
                "rng: generators of numpy, one for each system, do not go with a sampler; give a "
                "seed: each system has a stream of its own then"
            )

    # ---------------------------------------------------------------- going

    def refill_check(self, batch: Batch, exit_status: int) -> Batch | None:
        """Write the systems that are done to the sinks, and let others take their place.

        What no sink takes stays in the batch, frozen, and nobody else is let in.

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
        self._need_sinks()
        self.input_fields |= set(batch.keys()) if batch is not self.active_batch else set()
        self.active_batch = batch
        frozen = (batch["status"].view(-1) >= exit_status).cpu().numpy()
        if frozen.any():
            self._sink_failure = None
            self.exchange(batch, frozen)
        if self.active_batch_size:
            return self.active_batch
        self.active_batch, self.done = None, self.sampler.exhausted and not self._homeless
        return None

    def exchange(self, batch: Batch, frozen: np.ndarray, refill: bool = True) -> np.ndarray:
        """Write frozen systems to the sinks, and put others in their place, behind those that stay.

        What no sink takes stays in the batch, frozen, and nobody else is let in. The batch is
        ``active_batch`` afterwards, also if this raises.

        Parameters
        ----------
        batch
            What the engine moves.
        frozen
            (B,) bool, on the host.
        refill
            Whether others take their place; otherwise the run ends here.

        Returns
        -------
        Rows of those that stay, (n,).
        """
        engine: Any = self
        engine.adopt(batch)
        engine.explain(batch)
        leaving, staying = np.flatnonzero(frozen), np.arange(len(batch))
        left = forget_pairs(engine, batch.index_select(leaving))
        name_unknown(left, self.input_fields)
        if refill:
            engine.show_last(left, end=False)
        joining, written = None, 0
        try:
            for written in self._write(left):
                staying = np.setdiff1d(np.arange(len(batch)), leaving[:written])
            if refill and written == len(leaving) and self.write_rejected():
                joining = self._newcomers(batch, staying)
            if joining is not None:
                self._go_on(batch, staying, joining)
                self._taken = []
        finally:
            if engine._batch is not batch:  # they have come
                self._taken = []
            elif written:
                self._go_on(batch, staying)
        return staying

    def _go_on(
        self, batch: Batch, staying: np.ndarray, joining: tuple[Batch, Batch] | None = None
    ) -> None:
        """Move those that stay, and those that come behind them."""
        self.active_batch = go_on_with(cast(Any, self), batch, staying, joining)
        if self.steps_on_coming is not None:
            rows = torch.from_numpy(staying).to(self.steps_on_coming.device)
            before, new = self.steps_on_coming, self.active_batch["steps"][len(staying) :]
            self.steps_on_coming = torch.cat([before.index_select(0, rows), new])

    def _write(self, batch: Batch) -> Iterator[int]:
        """Write systems into the first sinks that have room; yield how many are written so far."""
        done = 0
        for sink in self.sinks:
            fits = min(sink.capacity - len(sink), len(batch) - done)
            if fits <= 0:
                continue
            part = batch.index_select(slice(done, done + fits)) if fits < len(batch) else batch
            try:
                sink.write(part)
            except Exception as error:
                logger.error("{!r} failed, and no system is let in any more: {}", sink, error)
                self._sink_failure = error
                return
            done += len(part)
            yield done

    def _reject(self, data: AtomicData, reason: str) -> None:
        """Write a system that is not moved, with the reason."""
        batch, engine = self._prepared([data]), cast(Any, self)
        logger.warning("system {} is left out: {}", int(batch["system_id"]), reason)
        batch["status"] = torch.full_like(batch["status"], engine.exit_status)
        batch["outcome"] = torch.full_like(batch["outcome"], int(Outcome.REJECTED))
        batch.host[0]["failure"] = reason
        self._homeless.append(batch)

    def write_rejected(self) -> bool:
        """Write what was passed over; return whether there was room for it.

        Such a system has ``Outcome.REJECTED`` and, in its ``host``, the reason as ``failure``. What
        could not even be read is noted in ``unread``.
        """
        for one in getattr(self.sampler, "take_rejected", tuple)():
            if one.data is not None:
                self._reject(one.data, one.reason)
            else:
                logger.warning("system {} is left out: {}", one.index, one.reason)
                self.unread.append(one)
        while self._homeless and any(self._write(self._homeless[0])):
            self._homeless.pop(0)
        return not self._homeless

    def what_is_left(self, batch: Batch | None) -> Batch | None:
        """Return the systems of a run that has ended and that no sink has taken; None if none.

        Raises
        ------
        SinkError
            That is because a sink failed.
        """
        parts = [] if batch is None or not len(batch) else [batch]
        parts, self._homeless, self.active_batch = [*parts, *self._homeless], [], None
        self.done = not parts and self.sampler.exhausted
        if not parts:
            return None
        whole = put_together(parts, np.arange(sum(map(len, parts))))
        failure, self._sink_failure = self._sink_failure, None
        if failure is not None:
            message = f"{len(whole)} systems are done and could not be written: {failure}"
            raise SinkError(message, whole) from failure
        logger.warning("the sinks are full: {} systems are done and not written", len(whole))
        return whole


def _room(limit: int | None) -> int:
    return _UNLIMITED if limit is None else limit
