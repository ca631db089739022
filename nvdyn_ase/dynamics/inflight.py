"""Inflight batching: systems that are done leave a running batch, and others take their place."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from loguru import logger

from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.dynamics.active import go_on_with
from nvdyn_ase.dynamics.intake import Intake
from nvdyn_ase.dynamics.interrupts import HeldInterrupts
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.sinks import DataSink, HostMemory
from nvdyn_ase.dynamics.together import forget_pairs, name_unknown, put_together

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

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


class InflightBatching(Intake):
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
        Intake.__init__(self, sampler)
        self.sinks = list(sinks or ())
        self._default_sink: DataSink | None = None
        self._need_sinks()
        self.refill_frequency = refill_frequency
        self.max_batch_size = max_batch_size
        self.done = done
        self.active_batch: Batch | None = None
        self.unread: list[Any] = []
        #: Of the batch in flight, how many steps each system had when it came, (B, 1).
        self.steps_on_coming: torch.Tensor | None = None
        self._sink_failure: BaseException | None = None
        self._interrupt: BaseException | None = None
        self._homeless: list[Batch] = []

    def _need_sinks(self) -> None:
        """See to it that what a sampler gives has somewhere to go."""
        if self.sampler is not None and not self.sinks:
            self._default_sink = HostMemory(_UNLIMITED)
            self.sinks = [self._default_sink]

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
    def given_sinks(self) -> list[DataSink]:
        """The sinks that the user has given."""
        return [sink for sink in self.sinks if sink is not self._default_sink]

    @property
    def may_write(self) -> bool:
        """Whether a sink has room and, in this run, none has failed."""
        return self._sink_failure is None and not all(sink.is_full for sink in self.sinks)

    @property
    def takes_failures(self) -> bool:
        """Whether a system that fails leaves alone; otherwise that raises.

        It does if there are sinks, of this engine or of a later stage, that it can go to.
        """
        return self.inflight_mode or cast("BaseDynamics", self)._departures is not None

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
        with HeldInterrupts():
            self.active_batch, self._taken = batch, []
        return batch

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
        with HeldInterrupts() as ctrl_c:  # who has been written has to leave
            if refill:
                engine.show_last(left, end=False)
            joining, written = None, self._write(left)
            staying = np.setdiff1d(staying, leaving[:written])
            try:
                self._raise_interrupt()
                if refill and written == len(leaving) and self.write_rejected():
                    with ctrl_c.let_through():  # the sampler may take its time
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
        engine = cast("BaseDynamics", self)
        try:
            go_on_with(engine, batch, staying, joining)
        finally:
            if engine._batch is not None and engine._batch is not batch:
                self._note_in_flight(engine._batch, staying)

    def _note_in_flight(self, batch: Batch, staying: np.ndarray) -> None:
        """Note what is moved now, of which these were moved before."""
        self.active_batch, before = batch, self.steps_on_coming
        if before is not None:
            rows = torch.from_numpy(staying).to(before.device)
            self.steps_on_coming = torch.cat(
                [before.index_select(0, rows), batch["steps"][len(staying) :]]
            )

    def _write(self, batch: Batch) -> int:
        """Write systems into the first sinks that have room; return how many are written.

        What a sink has taken before it raised is written too. An interrupt is kept until whoever
        calls this has let those systems go, and calls :meth:`_raise_interrupt`.
        """
        done = 0
        for sink in self.sinks:
            fits = sink.fits(batch, done) if done < len(batch) else 0
            if fits <= 0:
                continue
            part = batch.index_select(slice(done, done + fits)) if fits < len(batch) else batch
            before = len(sink)
            try:
                sink.write(part)
            except Exception as error:
                logger.error("{!r} failed, and no system is let in any more: {}", sink, error)
                self._sink_failure = error
                return done + _grown(sink, before, part)
            except BaseException as error:
                self._interrupt = error
                return done + _grown(sink, before, part)
            done += len(part)
        return done

    def _raise_interrupt(self) -> None:
        """Raise what has interrupted a sink."""
        interrupt, self._interrupt = self._interrupt, None
        if interrupt is not None:
            raise interrupt

    def _reject(self, data: AtomicData, reason: str) -> None:
        """Write a system that is not moved, with the reason."""
        batch, engine = self._prepared([data]), cast(Any, self)
        logger.warning("system {} is left out: {}", int(batch["system_id"]), reason)
        batch["status"] = torch.full_like(batch["status"], engine.exit_status)
        batch["outcome"] = torch.full_like(batch["outcome"], int(Outcome.REJECTED))
        batch.host[0]["failure"] = reason
        self.leave_out(batch)

    def leave_out(self, batch: Batch) -> None:
        """Take a system that is not moved, to be written as it is.

        Raises
        ------
        StructureError
            No buffer of the pipeline takes it.
        """
        check = cast("BaseDynamics", self).check_coming
        if check is not None:
            check(batch)
        self._homeless.append(batch)

    @property
    def has_unwritten(self) -> bool:
        """Whether systems that are not moved wait to be written."""
        return bool(self._homeless)

    def write_rejected(self) -> bool:
        """Write what was passed over; return whether there was room for it.

        Such a system has ``Outcome.REJECTED`` and, in its ``host``, the reason as ``failure``. What
        could not even be read is noted in ``unread``.
        """
        with HeldInterrupts():
            for one in getattr(self.sampler, "take_rejected", tuple)():
                if one.data is not None:
                    self._reject(one.data, one.reason)
                else:
                    logger.warning("system {} is left out: {}", one.index, one.reason)
                    self.unread.append(one)
            while self._homeless and self._write(self._homeless[0]):
                self._homeless.pop(0)
        self._raise_interrupt()
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


def _grown(sink: DataSink, before: int, part: Batch) -> int:
    """Return how many of these systems a sink has taken, which held so many before."""
    return min(max(len(sink) - before, 0), len(part))
