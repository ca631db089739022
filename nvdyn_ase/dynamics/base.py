"""The engine: one step, driven the same way by everything that moves a batch."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from loguru import logger
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.communication import BufferConfig, CommMode, Communicating
from nvdyn_ase.dynamics.convergence import ConvergenceCriterion, ConvergenceHook
from nvdyn_ase.dynamics.frozen import ActiveMask, masked
from nvdyn_ase.dynamics.hooked import Hooked
from nvdyn_ase.dynamics.hooks.protocol import Hook, HookStageEnum
from nvdyn_ase.dynamics.inflight import InflightBatching
from nvdyn_ase.dynamics.lifecycle import Rollback, close_run, only_run_of, open_batch
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import Places
from nvdyn_ase.dynamics.run import Run
from nvdyn_ase.dynamics.saving import Saving
from nvdyn_ase.dynamics.sinks import DataSink
from nvdyn_ase.dynamics.together import rows_behind
from nvdyn_ase.dynamics.who_moves import WhoMoves
from nvdyn_ase.models.base import BaseModelMixin, ModelCard

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.fused import FusedStage
    from nvdyn_ase.dynamics.pipeline import DistributedPipeline

__all__ = [
    "BaseDynamics",
    "BufferConfig",
    "CommMode",
    "ConvergenceCriterion",
    "ConvergenceHook",
    "Hook",
    "HookStageEnum",
]


class BaseDynamics(InflightBatching, Communicating, Saving, WhoMoves):
    """Moves every system of a batch, one forward pass of the model a step.

    A method is a subclass with :meth:`pre_update` (before the forces) and :meth:`post_update`
    (after them). It needs to know nothing of systems that are done or of batches that change: what
    it does to a system that is frozen is undone here. It names the fields it changes in
    ``_mutable_fields`` and the parameters that may differ between systems in ``_per_system``; if it
    replaces tensors and never writes into them, ``_writes_in_place = False`` saves copies. A method
    whose steps may take several forward passes says so with ``_tries = True`` and
    :meth:`within_step`. One that retires systems says in ``_reasons`` why, for those who read it.

    Parameters
    ----------
    model
        A batched model.
    hooks
        Called at the stages of a step.
    convergence_hook
        When a system is done, or a dict of the arguments of ``ConvergenceHook``; None: no test.
    n_steps
        Length of a run; with a sampler, of each system's.
    exit_status
        Systems with at least this status are frozen.
    sampler, sinks, refill_frequency, active_batch, max_batch_size, done
        For systems that come and go; see :class:`InflightBatching`.
    device_type
        ``"cpu"`` or ``"cuda"``; where the model is by default.
    debug_mode
        Write detailed debug lines.
    prior_rank, next_rank, comm_mode, buffer_config
        For stages of a pipeline; see :class:`Communicating`.

    Attributes
    ----------
    step_count
        Steps done since the engine was made.
    state
        The method's own fields, a batch of the same systems; empty before the first step.
    newly_converged
        (B,) bool, which systems met the criterion in this step for the first time.
    outputs
        Fields asked of the model beyond those that the method needs; none by default.

    Raises
    ------
    TypeError
        The model is not a batched model.
    """

    __provides_keys__: ClassVar[Iterable[str]] = frozenset()
    _mutable_fields: ClassVar[tuple[str, ...]] = ("positions", "velocities")
    _writes_in_place: ClassVar[bool] = True
    _tries: ClassVar[bool] = False
    _reasons: ClassVar[Mapping[Outcome, str]] = MappingProxyType({})
    _bookkeeping: Mapping[str, Callable[..., Tensor]] = MappingProxyType({})

    entry_status = 0
    _in_run = False

    def __init__(
        self,
        model: BaseModelMixin,
        hooks: Sequence[Hook] | None = None,
        convergence_hook: ConvergenceHook | dict[str, Any] | None = None,
        n_steps: int | None = None,
        exit_status: int = 1,
        *,
        sampler: Any = None,
        sinks: Sequence[DataSink] | None = None,
        refill_frequency: int = 1,
        active_batch: Batch | None = None,
        max_batch_size: int = 100,
        done: bool = False,
        device_type: str | None = None,
        debug_mode: bool = False,
        prior_rank: int | None = -1,
        next_rank: int | None = -1,
        comm_mode: CommMode | str = "async_recv",
        buffer_config: BufferConfig | dict[str, int] | None = None,
    ) -> None:
        if not isinstance(model, BaseModelMixin):
            raise TypeError(
                f"{type(model).__name__} is not a batched model; wrap it with "
                "nvdyn_ase.models.as_model, or derive it from BaseModelMixin"
            )
        if isinstance(convergence_hook, dict):
            convergence_hook = ConvergenceHook(**convergence_hook)
        WhoMoves.__init__(self, model, convergence_hook, exit_status)
        InflightBatching.__init__(self, sampler, sinks, refill_frequency, max_batch_size, done)
        Communicating.__init__(self, prior_rank, next_rank, comm_mode, buffer_config)
        self.active_batch = active_batch
        self.n_steps = n_steps
        self.device_type = device_type
        self.debug_mode = debug_mode
        self.step_count = 0
        self.state = Batch({}, ())
        self._bookkeeping = dict(type(self)._bookkeeping)
        Hooked.__init__(self, hooks)

    def __repr__(self) -> str:
        """Say what it moves, with what model, and until when."""
        parts = [type(self.model).__name__]
        parts += [f"{name}={getattr(self, name)!r}" for name in self._per_system]
        if self.convergence_hook is not None:
            parts.append(repr(self.convergence_hook))
        if self.n_steps is not None:
            parts.append(f"n_steps={self.n_steps}")
        return f"{type(self).__name__}({', '.join(parts)})"

    # ---------------------------------------------------------------- what a method writes

    def pre_update(self, batch: Batch) -> None:
        """Move the batch before the forces are computed."""

    def post_update(self, batch: Batch) -> None:
        """Move the batch after the forces are computed."""

    def within_step(self, batch: Batch) -> Bool[Tensor, "B 1"] | None:
        """Return the systems that need another forward pass to end their step; None for nobody."""
        return None

    def failing(self, batch: Batch) -> Bool[Tensor, "B 1"] | None:
        """Return the systems that the method cannot move on, after :meth:`pre_update`; or None.

        They leave with ``Outcome.ERROR``, and ``_reasons`` says why.
        """
        return None

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        """Return the state of ``n`` systems that the method has not moved yet.

        ``template_batch`` holds these systems. Use ``template_batch.like(node=..., system=...)``.
        """
        return template_batch.like()

    def _init_state(self, batch: Batch) -> None:
        """Give every system of the batch a new state."""
        state = self._make_new_state(len(batch), batch)
        for name in self._per_system:
            if name not in state:
                self._put_parameter(state, name, getattr(self, name), batch)
        self._begin_schedules(state, batch)
        for key, make in self._bookkeeping.items():
            state[key] = make(len(batch), batch.device)
        self.state = state

    def register_bookkeeping_key(self, key: str, init_fn: Callable[..., Tensor]) -> None:
        """Add a field ``(n, 1) = init_fn(n, device)`` to the state, for every system that comes.

        Called on the class, as ``Engine.register_bookkeeping_key(Engine, key, init_fn)``, it
        applies to engines made later.
        """
        self._bookkeeping = {**self._bookkeeping, key: init_fn}

    # ---------------------------------------------------------------- what it is

    def made_of(self) -> list["BaseDynamics"]:
        """Return the engines that move when this one does: itself, and any stages it has."""
        return [self]

    @property
    def model_card(self) -> ModelCard:
        """What the model is and needs."""
        return self.model.model_card

    @property
    def model_is_conservative(self) -> bool:
        """Whether the model's forces are the gradient of its energy."""
        return self.model.model_card.conservative

    @property
    def device(self) -> torch.device:
        """Where the engine works; RuntimeError if there is no such device."""
        if self.device_type is None:
            return self.model.device
        if self.device_type == "cuda" and not torch.cuda.is_available():
            raise RuntimeError("device_type='cuda', and no CUDA device is available")
        try:
            return torch.device(self.device_type)
        except RuntimeError as error:
            raise RuntimeError(f"device_type={self.device_type!r}: {error}") from None

    # ---------------------------------------------------------------- one step

    def advance(self, batch: Batch) -> None:
        """Do the phases of one step, up to and with AFTER_STEP."""
        stage, self._arrived = HookStageEnum, None
        self._fire(stage.BEFORE_STEP, batch)
        self._fire(stage.BEFORE_PRE_UPDATE, batch)
        if self._anyone_at(stage.BEFORE_STEP, stage.BEFORE_PRE_UPDATE):
            self.prime(batch)  # they may have moved atoms
        self.move_to_forces(batch)
        self._fire(stage.AFTER_PRE_UPDATE, batch)
        self._evaluate(batch)
        self._fire(stage.BEFORE_POST_UPDATE, batch)
        self.move_with_forces(batch)
        self._fire(stage.AFTER_POST_UPDATE, batch)
        self._count_steps(batch)
        self._fire(stage.AFTER_STEP, batch)
        self._forces_have_come()

    def move_to_forces(self, batch: Batch) -> None:
        """Do ``pre_update`` with those that move, and retire who cannot be moved on."""
        if type(self).pre_update is BaseDynamics.pre_update:
            return
        self._update(self.begin_step, batch)
        failing = self.failing(batch)
        if failing is not None:
            self.retire(batch, failing.view(-1), Outcome.ERROR)

    def move_with_forces(self, batch: Batch) -> None:
        """Do ``post_update`` with those that move."""
        if type(self).post_update is not BaseDynamics.post_update:
            self._update(self.post_update, batch)
        if self.convergence_hook is None or not self.constraints(batch).act_on_host:
            return
        if "fmax" in batch:
            _ = batch["fmax"]  # a constraint that fails at it does so while the step can be undone
        self._fail_raised(batch)

    def begin_step(self, batch: Batch) -> None:
        """Do ``pre_update`` with the values that schedules have for this step."""
        self.follow_schedules(batch)
        self.pre_update(batch)

    def _update(self, update: Callable[[Batch], None], batch: Batch) -> None:
        active, fields = self.moving(batch), self._mutable_fields
        if active is None:
            update(batch)
            self._fail_raised(batch)
            return
        if self._arriving is not None:
            # The method has seen forces of theirs that are none, and may have retired them for it.
            fields = (*fields, "status", "outcome")
        constraints = self.constraints(batch)
        before = constraints.note_failures()
        masked(update, batch, self.state, fields, active, self._writes_in_place)
        constraints.only_failures_of(active.system, before)
        self._fail_raised(batch)

    def masked_update(self, batch: Batch, mask: Bool[Tensor, " B"]) -> None:
        """Run pre and post update, without forces in between, on the masked systems alone."""
        self.adopt(batch)
        active, fields = ActiveMask(mask.view(-1, 1), batch), self._mutable_fields
        constraints = self.constraints(batch)
        before = constraints.note_failures()
        for update in (self.begin_step, self.post_update):
            masked(update, batch, self.state, fields, active, self._writes_in_place)
        constraints.only_failures_of(active.system, before)
        raised = {row: why for row, why in constraints.take_raised().items() if mask[row]}
        self.end_raised(batch, raised)

    def step(self, batch: Batch) -> tuple[Batch, Int[Tensor, " n"] | None]:
        """Do one step.

        Returns
        -------
        batch
            The batch that was given, moved.
        converged
            Indices of the systems that meet the criterion now, or None. Finding them waits for the
            device; :meth:`run` does not.
        """
        self.adopt(batch)
        self.forget_constraints()  # the user may have edited them
        self.prime(batch)
        with Rollback(self, batch):
            self.advance(batch)
        mask = self._test(batch)
        self._retire_unheld(batch)
        self.explain(batch)
        indices = None
        if mask is not None and self.convergence_hook is not None:
            before = torch.zeros_like(mask) if self._met is None else self._met
            self._met = mask | before
            self._announce(batch, mask & ~before)
            self.convergence_hook(batch, self)
            indices = mask.nonzero().view(-1)
        self.step_count += 1
        return batch, indices if indices is not None and len(indices) else None

    # ---------------------------------------------------------------- a run

    def follow(self, batch: Batch, state: Batch, kept: np.ndarray | None) -> None:
        """Go on with another batch and the state that belongs to it.

        Parameters
        ----------
        batch, state
            What is moved from now on.
        kept
            Which systems of the batch before these are, up to those behind them that are new; None
            if that cannot be said.
        """
        more = 0 if kept is None else len(batch) - len(kept)
        self._arriving = None if kept is None else rows_behind(self._arriving, kept, more)
        self._batch, self.state = batch, state
        self._constraints = self._mask = self._met = self._looked_at = self._arrived = None
        if self.inflight_mode:
            self._places = self.places_in_the_stream(batch)
        if self._neighbors is None:
            return
        if kept is None:
            self._neighbors.reference = None  # the pairs at hand are of other systems
        else:
            self._neighbors.select(kept, batch.num_nodes_list[len(kept) :])

    def rejoin(self, batch: Batch, state: Batch, rows: np.ndarray) -> None:
        """Go on with all systems of a run, of which those in these rows were moved last."""
        self.follow(batch, state, None)

    def fresh_state(self, batch: Batch, places: Places | None = None) -> Batch:
        """Return a new state for systems that are about to join those being moved.

        Parameters
        ----------
        batch
            The systems.
        places
            Which values of parameters that were given one by one are theirs; by default those at
            their places in what the sampler gives.

        Raises
        ------
        StructureError
            The method cannot move one of them; ``index`` is its row.
        """
        twin = copy(self)
        twin._neighbors = None
        twin.follow(batch, batch.like(), None)
        if places is not None:
            twin._places = places
        twin._init_state(batch)
        return twin.state

    def begin_anew(self, batch: Batch, rows: np.ndarray) -> None:
        """Forget what the method knows of some systems that failed and were changed since."""

    def jump(self, batch: Batch, positions: Float[Tensor, "V 3"]) -> None:
        """Put atoms to other places without the method taking that for a move of its own.

        It moves along what the method remembers, in ``state["last_coordinates"]``, of where it was.
        """
        if self.whole is not None and batch is self.whole._batch:
            self.whole.jump(batch, positions)
            return
        before = self.coordinates(batch) if "last_coordinates" in self.state else None
        batch["positions"] = positions
        if before is not None:
            moved = self.coordinates(batch) - before
            self.state["last_coordinates"] = self.state["last_coordinates"] + moved

    def align_states(self, states: Sequence[Batch]) -> None:
        """Make states of this engine fit one behind the other, where the shape of fields grows."""

    def arrange(self, batch: Batch, status: np.ndarray, current: bool = True) -> None:
        """Take up what the host has learned of the status, (B,), and whether it is current."""

    def undoable(self, batch: Batch) -> list[tuple[Batch, Sequence[str]]]:
        """Return what a step changes, and of which fields copies have to be kept."""
        fields = self._mutable_fields if self._writes_in_place else ()
        state = self.state.keys() if self._writes_in_place else ()
        return [(batch, fields), (self.state, state)]

    def adopt(self, batch: Batch) -> None:
        """Move this batch from now on; a batch that is new to the engine gets a new state."""
        open_batch(batch, self.entry_status)
        if batch is self._batch:
            return
        self.whole = self._places = None
        try:
            self.follow(batch, batch.like(), None)
            self._init_state(batch)
        except BaseException:
            self._batch = None  # it is new to the engine still
            raise

    def run(self, batch: Batch | None = None, n_steps: int | None = None) -> Batch | None:
        """Move a batch until every system is done or the steps are used up.

        Parameters
        ----------
        batch
            The systems; they are moved in place. With a sampler it gives the first ones by default.
        n_steps
            Length of this run, with a sampler that of each system's; the attribute of that name by
            default.

        Returns
        -------
        Batch
            The batch that was given, every system in its place. With a sampler None, once all
            systems have gone to the sinks; if those are full, what did not find room.

        Raises
        ------
        ValueError
            No batch and no sampler, or nothing that would end the run.
        SinkError
            A sink failed; the error holds what could not be written.
        RuntimeError
            The engine is in a run already.
        """
        limit = self.n_steps if n_steps is None else n_steps
        if batch is None and not self.inflight_mode:
            raise ValueError("run needs a batch, or a sampler that gives one")
        if not self._ends(limit):
            raise ValueError("nothing ends this run: give n_steps or a convergence_hook")
        with only_run_of(self):
            if self.inflight_mode:
                started = self.first_systems(batch)
                return self.what_is_left(None if started is None else self._moved(started, limit))
            assert batch is not None
            batch = self._moved(batch, limit)
            close_run(batch, self.exit_status)
            return batch

    def _moved(self, batch: Batch, limit: int | None) -> Batch:
        """Move a batch to the end of a run."""
        if self.debug_mode:
            rank = self.global_rank
            logger.debug("rank {}: {!r} runs {!r}, n_steps={}", rank, self, batch, limit)
        with self.entered_hooks():
            steps = Run(self, batch, limit)
            try:
                while not steps.settle():
                    steps.advance()
            finally:
                batch = steps.close()
        return batch

    def _ends(self, limit: int | None) -> bool:
        """Say whether a run of so many steps, or without a limit, ends at some time."""
        return limit is not None or self.convergence_hook is not None

    # ---------------------------------------------------------------- one after the other

    def __add__(self, other: "BaseDynamics") -> "FusedStage":
        """Return what moves systems with this engine and, when it is done with them, with another.

        Raises
        ------
        TypeError
            The other is no engine.
        ValueError
            It has another model or device.
        """
        from nvdyn_ase.dynamics.composing import joined

        return joined(self, other)

    def __or__(self, other: Any) -> "DistributedPipeline":
        """Return a pipeline in which another rank moves on what this engine is done with.

        Raises
        ------
        TypeError
            The other is neither an engine nor a pipeline.
        """
        from nvdyn_ase.dynamics.pipeline import DistributedPipeline

        return DistributedPipeline.joined(self, other)

    # ---------------------------------------------------------------- a stream of its own

    def __enter__(self) -> Self:
        """Use a stream of its own on CUDA; nothing on the CPU."""
        self.stream = None
        if self.device.type == "cuda":
            self.stream = torch.cuda.Stream(self.device)
            self._stream_context = torch.cuda.stream(self.stream)
            self._stream_context.__enter__()
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the stream."""
        if self.stream is not None:
            self._stream_context.__exit__(*exception)
            torch.cuda.current_stream(self.device).wait_stream(self.stream)
            self.stream = None


def __getattr__(name: str) -> Any:
    """Let the other public names of ``nvdyn_ase.dynamics`` be found here too."""
    from nvdyn_ase import dynamics

    if name in getattr(dynamics, "__all__", ()):
        return getattr(dynamics, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
