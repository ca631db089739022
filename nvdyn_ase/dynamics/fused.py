"""Relax, then heat, then relax: engines one after the other, in one batch and one forward pass."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, Level, StructureError
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.compiling import Compiling
from nvdyn_ase.dynamics.counts import count
from nvdyn_ase.dynamics.evaluated import Evaluated
from nvdyn_ase.dynamics.frozen import ActiveMask
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum
from nvdyn_ase.dynamics.lifecycle import Rollback
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import Places
from nvdyn_ase.dynamics.parts import Parts
from nvdyn_ase.dynamics.stage_hooks import HooksOfStages
from nvdyn_ase.dynamics.stage_saving import SavingOfStages

# Systems that are done with their stage wait, frozen, until they hold this share of the atoms that
# move, or for so many steps: to put the parts together anew costs about as much as a step.
_MIGRATE, _PATIENCE = 0.05, 8


class FusedStage(SavingOfStages, HooksOfStages, Compiling):
    """Several engines, each of which moves the systems that the one before it is done with.

    All systems share the forward pass of a step; each is moved by the engine of the stage that its
    status names. It goes on to the next stage when it meets the criterion of its stage, or has
    used up the ``n_steps`` that the stage gives each system; from the last it leaves. It goes on by
    at most one stage a step, and in a stage whose criterion it meets on entering it makes no move.
    A stage but the last that has neither criterion nor ``n_steps`` is left at fmax <= 0.05 eV/Å.
    What a system does in a stage is what it would do in a run of that engine alone. A system that
    an engine cannot move leaves with ``Outcome.ERROR``, and its ``host`` says why.

    The field ``stage_steps``, (B, stages), says how many steps each system has spent in each.

    Parameters
    ----------
    sub_stages
        Pairs of a status and an engine.
    entry_status
        Status of systems that come in.
    exit_status
        Status of those that are done; the number of stages by default.
    compile_step
        Have ``torch.compile`` make the moves of the stages into a few kernels, from when the engine
        is entered as a context; see :meth:`compile`.
    compile_kwargs
        For ``torch.compile``.
    init_fn
        Called with every batch that a sampler delivers, before its systems are moved.
    **base
        Arguments of ``BaseDynamics``; ``n_steps`` is the most steps that a run does.

    Attributes
    ----------
    convergence_check_frequency
        Criteria are looked at every so many steps of a system.

    Raises
    ------
    TypeError
        Something that is no engine.
    ValueError
        No stage, a stage that is fused itself, two of the same status, one that is not below
        ``exit_status``, an ``entry_status`` that no stage has, engines with different models or
        devices, or a criterion for the whole.
    """

    def __init__(
        self,
        sub_stages: Sequence[tuple[int, BaseDynamics]],
        *,
        entry_status: int = 0,
        exit_status: int = -1,
        compile_step: bool = False,
        compile_kwargs: dict[str, Any] | None = None,
        init_fn: Callable[[Batch], None] | None = None,
        **base: Any,
    ) -> None:
        self.sub_stages, self.entry_status = list(sub_stages), entry_status
        exit_status = len(self.sub_stages) if exit_status == -1 else exit_status
        self.parts = Parts(self.sub_stages, entry_status, exit_status)
        if base.get("convergence_hook") is not None:
            raise ValueError("a fused run has no criterion but those of its stages")
        self.stages = self.parts.stages
        engines = [stage.engine for stage in self.stages]
        Compiling.__init__(self, compile_step, compile_kwargs)
        self.init_fn, self.convergence_check_frequency = init_fn, 1
        base.setdefault("device_type", engines[0].device_type)
        BaseDynamics.__init__(self, engines[0].model, exit_status=exit_status, **base)
        vars(self).update(
            __needs_keys__=frozenset().union(*(own.__needs_keys__ for own in engines)),
            __provides_keys__=frozenset().union(*(own.__provides_keys__ for own in engines)),
            _mutable_fields=tuple(dict.fromkeys(k for o in engines for k in o._mutable_fields)),
            _tries=any(own._tries for own in engines),
        )
        self.outputs = frozenset().union(*(own.outputs for own in engines))
        self._home = Places(np.empty(0, np.int64), 0)
        self._begins, self._hurried, self._waited = True, False, 0
        for stage in self.stages[:-1]:
            stage.migrate_by_default()

    def __repr__(self) -> str:
        """Say what the stages are."""
        return f"FusedStage({' + '.join(repr(engine) for _, engine in self.sub_stages)})"

    def __call__(self, batch: Batch) -> tuple[Batch, Int[Tensor, " n"] | None]:
        """Do one step; see :meth:`step`."""
        return self.step(batch)

    @property
    def step_count(self) -> int:
        """Steps done since the engine was made; those of the stages advance with it."""
        return self._step_count

    @step_count.setter
    def step_count(self, value: int) -> None:
        more = value - getattr(self, "_step_count", value)
        self._step_count = value
        for stage in self.stages:
            stage.engine.step_count += more

    @property
    def takes_failures(self) -> bool:
        """Whether a system that the method cannot move leaves alone: it does."""
        return True

    # ---------------------------------------------------------------- another batch

    def begin_run(self, batch: Batch, hurried: bool = False) -> None:
        """Begin with every system in the stage that its status says."""
        super().begin_run(batch, hurried)
        self._begins, self._hurried = True, hurried
        for stage in self.stages:
            stage.engine.check_parameters(batch, self._home)
            stage.engine.begin_run(batch, hurried)
        self._take_over_neighbor_list()
        self._leave_parts_that_are_over(batch)
        self._arrange(batch, _host(batch["status"]))

    def _leave_parts_that_are_over(self, batch: Batch) -> None:
        """Take who is done with a stage out of it, so that it can enter anew if it is to."""
        for stage in self.parts.occupied:
            if stage.was_taken_away:
                stage.clear()
                continue
            moves = np.flatnonzero(~stage.is_frozen().cpu().numpy())
            stage.keep(moves, batch, stage.rows[moves], self._home, self._arriving)
        self.parts.lay_out(batch)
        self.parts.take_everything()

    def adopt(self, batch: Batch) -> None:
        """Move this batch from now on, each system from the stage that its status says."""
        if batch is not self._batch:
            self.parts.clear()
        for stage in self.stages:
            stage.engine.whole = self
        super().adopt(batch)

    def _init_state(self, batch: Batch) -> None:
        """There is no state but that of the stages."""
        self.state = batch.like()
        self._home = self.places(batch)
        self.parts.lay_out(batch)
        if "stage_steps" not in batch or batch["stage_steps"].shape[1] != len(self.stages):
            self._begin_history(batch)

    def _begin_history(self, batch: Batch) -> None:
        none = torch.zeros(len(batch), len(self.stages), dtype=torch.int64, device=batch.device)
        batch.add_key("stage_steps", none, "system", overwrite=True, default=0)

    def fresh_state(self, batch: Batch, places: Places | None = None) -> Batch:
        """Return a new state: none, as stages make theirs when systems enter them."""
        self._begin_history(batch)
        return batch.like()

    def delivered(self, batch: Batch) -> Batch:
        """Return systems that the sampler has given, as the engine begins with them."""
        batch = super().delivered(batch)
        if self.init_fn is not None:
            self.init_fn(batch)
        return batch

    def refuse_generators(self) -> None:
        """Raise ValueError if random numbers are to come from a generator for each system."""
        for stage in self.stages:
            stage.engine.refuse_generators()

    def follow(self, batch: Batch, state: Batch, kept: np.ndarray | None) -> None:
        """Go on with another batch, of systems of the one before and others behind them."""
        before = self._batch
        super().follow(batch, state, kept)
        if kept is None or before is None:
            self.parts.clear()
            return
        self._home = self._places or self._home.part(before, kept)
        place = np.full(len(before), -1)
        place[kept] = np.arange(len(kept))
        for stage in self.stages:
            rows = place[stage.rows]
            stays = np.flatnonzero(rows >= 0)
            stage.keep(stays, batch, rows[stays], self._home, self._arriving)
        self.parts.lay_out(batch)

    def jump(self, batch: Batch, positions: Float[Tensor, "V 3"]) -> None:
        """Put atoms to other places without the methods taking that for a move of theirs."""
        for stage in self.parts.occupied:
            stage.engine.jump(stage.part, stage.of(positions, Level.NODE))
        self.parts.publish()

    def rejoin(self, batch: Batch, state: Batch, rows: np.ndarray) -> None:
        """Go on with all systems of a run, of which those in these rows were moved last."""
        super().follow(batch, state, None)
        self._home = Places.of(batch)
        for stage in self.parts.occupied:
            everyone = np.arange(len(stage))
            stage.keep(everyone, batch, rows[stage.rows], self._home, None)
        self.parts.lay_out(batch)
        self.parts.take_everything()

    def receive(self, batch: Batch, first: int) -> None:
        """Take in the systems from row ``first`` on, which wait for their first forces."""
        super().receive(batch, first)
        self._arrange(batch, _host(batch["status"]), np.arange(len(batch)) >= first)

    # ---------------------------------------------------------------- who is in which stage

    def arrange(self, batch: Batch, status: np.ndarray, current: bool = True) -> None:
        """Put systems into the part of their stage, if it is worth it.

        Parameters
        ----------
        batch
            The whole.
        status
            (B,), on the host.
        current
            Whether that is so on the device too; it may be a little older.
        """
        if self._begins:  # who was done at the start has gone on by one stage in this step
            return
        if self._arrange(batch, status, patient=not self._hurried):
            return
        for stage in self.parts.occupied:
            if current and (status[stage.rows] == stage.status).all():
                stage.engine.nobody_is_frozen(stage.part)

    def _arrange(
        self,
        batch: Batch,
        status: np.ndarray,
        who: np.ndarray | None = None,
        patient: bool = False,
    ) -> bool:
        """Put every system, or those of ``who``, (B,) bool, into its part; say if any went."""
        wanted = self.parts.wanted(status, self.exit_status)
        entering = (wanted >= 0) & (wanted != self.parts.present())
        entering = entering if who is None else entering & who
        if not entering.any():
            return False
        self._waited += 1
        if patient and self._waited < _PATIENCE and not self._are_enough(batch, entering, wanted):
            return False
        self._waited = 0
        refused = self.parts.move(wanted, entering, self._home, self._arriving)
        if refused:
            self.fail(batch, refused)
        if not self._begins and self.is_current(batch):
            self._test_stages(batch)  # who is done on entering makes no move
        return True

    @staticmethod
    def _are_enough(batch: Batch, entering: np.ndarray, wanted: np.ndarray) -> bool:
        sizes = np.asarray(batch.num_nodes_list)
        return bool(sizes[entering].sum() >= _MIGRATE * sizes[wanted >= 0].sum())

    # ---------------------------------------------------------------- one step

    def undoable(self, batch: Batch) -> list[tuple[Batch, Sequence[str]]]:
        """Return what a step changes, and of which fields copies have to be kept."""
        occupied = self.parts.occupied
        in_place = [stage.engine for stage in occupied if stage.engine._writes_in_place]
        held: list[tuple[Batch, Sequence[str]]]
        held = [(batch, [key for engine in in_place for key in engine._mutable_fields])]
        for stage in occupied:
            held += stage.engine.undoable(stage.part)
        return held

    def move_to_forces(self, batch: Batch) -> None:
        """Do ``pre_update`` of every stage with its systems."""
        self._begins = False
        for stage in self.parts.occupied:
            stage.engine._arrived = None
            try:
                stage.engine.move_to_forces(stage.part)
            except StructureError as error:
                if error.index is None:
                    raise
                raise StructureError(int(stage.rows[error.index]), error.problem) from error
        self.parts.publish()

    def move_with_forces(self, batch: Batch) -> None:
        """Do ``post_update`` of every stage with its systems."""
        for stage in self.parts.occupied:
            stage.engine.move_with_forces(stage.part)
        if self._anyone_at(HookStageEnum.AFTER_POST_UPDATE):
            self.parts.publish()  # otherwise when the step has been counted

    def masked_update(self, batch: Batch, mask: Bool[Tensor, " B"]) -> None:
        """Run pre and post update, without forces in between, on the masked systems alone."""
        self._take_up(batch)
        for stage in self.parts.occupied:
            stage.engine.masked_update(stage.part, stage.of(mask))
        self.parts.publish()

    def _count_steps(self, batch: Batch) -> None:
        for stage in self.parts.occupied:
            stage.count_steps()
        self.parts.publish()

    def needs(self, batch: Batch) -> frozenset[str]:
        """Return the fields that the model has to give for this batch, in whatever stages."""
        own = (stage.engine.may_need(batch) for stage in self.stages)
        return frozenset(self.__needs_keys__).union(*own)

    def _evaluate(self, batch: Batch) -> None:
        """Compute with its hooks, and let the parts know."""
        self._fire(HookStageEnum.BEFORE_COMPUTE, batch)
        occupied = self.parts.occupied
        active = [stage.engine.active(stage.part) for stage in occupied]
        results = frozenset(self.compute(batch))
        self.parts.absorb()
        for stage, who in zip(occupied, active, strict=True):
            count(stage.part, "evaluations", who)
            stage.evaluated(self.model, results)
        self.parts.publish()
        self._fire(HookStageEnum.AFTER_COMPUTE, batch)
        if "forces" in batch:
            self._fmax_source = batch["forces"]

    def _forces_have_come(self) -> None:
        super()._forces_have_come()
        for stage in self.parts.occupied:
            stage.engine._forces_have_come()

    def prime(self, batch: Batch) -> None:
        """Make forces current if they are needed and are not."""
        super().prime(batch)
        self.parts.look_again()

    def is_arranged(self, batch: Batch) -> bool:
        """Say that nothing was looked up of constraints but by the stages."""
        return True

    def _defer_fmax(self, batch: Batch) -> None:
        """Leave it to the stages to say what the largest force is."""
        self._fmax_source = batch["forces"]
        self.parts.absorb()

    def within_step(self, batch: Batch) -> Bool[Tensor, "B 1"] | None:
        """Return the systems that need another forward pass to end their step; None for nobody."""
        trying = None
        for stage in self.parts.occupied:
            own = stage.engine.within_step(stage.part)
            if own is None:
                continue
            if trying is None:
                trying = torch.zeros(len(batch), 1, dtype=torch.bool, device=batch.device)
            trying = stage.into(trying, own)
        return trying

    def step(self, batch: Batch) -> tuple[Batch, Int[Tensor, " n"] | None]:
        """Do one step.

        Returns
        -------
        batch
            The batch that was given, moved.
        graduated
            Indices of the systems that are done since this step, however they ended, or None.
        """
        self._take_up(batch)
        self.forget_constraints()
        before = batch["status"].view(-1) >= self.exit_status
        self.prime(batch)
        if self._begins:
            self.graduate(batch)
        elif len(batch):
            self._arrange(batch, _host(batch["status"]))
        with Rollback(self, batch):
            self.advance(batch)
        self.step_count += 1
        self.graduate(batch)
        self.explain(batch)
        left = (batch["status"].view(-1) >= self.exit_status) & ~before
        indices = left.nonzero().view(-1)
        return batch, indices if len(indices) else None

    def _take_up(self, batch: Batch) -> None:
        """Move this batch, and take up what was done to it between two steps."""
        new = batch is not self._batch
        self.adopt(batch)
        if new or any(stage.was_taken_away for stage in self.parts.occupied):
            self.begin_run(batch)
        else:
            self.parts.absorb()

    # ---------------------------------------------------------------- who is done

    def active(self, batch: Batch) -> ActiveMask | None:
        """Return who moves."""
        return ActiveMask(batch["status"].view(-1, 1) < self.exit_status, batch)

    def active_in(self, engine: BaseDynamics, batch: Batch) -> ActiveMask:
        """Return who of the whole batch is in the stage of an engine."""
        own = next(stage for stage in self.stages if stage.engine is engine)
        return ActiveMask(batch["status"].view(-1, 1) == own.status, batch)

    def graduate(self, batch: Batch) -> None:
        """Test the criteria of the stages; systems that are done get their next status."""
        self._test_stages(batch, at_start=not self._registry.stepped)

    def _test_stages(self, batch: Batch, at_start: bool = False) -> None:
        for stage in self.parts.occupied:
            newly = stage.test(self.convergence_check_frequency, at_start)
            if newly is not None and self._anyone_waits_for(stage) and bool(newly.any()):
                none = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
                self._announce_in(stage, batch, stage.into(none, newly))
        self.parts.tell_status(self.exit_status)

    def retire(self, batch: Batch, mask: Bool[Tensor, " B"], outcome: Outcome) -> None:
        """Freeze the masked systems that still move, and record how they ended."""
        super().retire(batch, mask, outcome)
        if batch is self._batch:
            for stage in self.parts.occupied:
                stage.engine.retire(stage.part, stage.of(mask.view(-1)), outcome)
            self.parts.note_status()

    def put_back(self, batch: Batch, mask: Bool[Tensor, " B"]) -> None:
        """Put systems that still move where they were before the step; the parts do that."""
        if batch is not self._batch or self.begun is None:
            return
        current = batch.evaluated
        known = current is not None and current.holds(batch, current.model)
        for stage in self.parts.occupied:
            stage.engine.put_back(stage.part, stage.of(mask.view(-1)))
        self.parts.publish()
        if known and current is not None:
            batch.evaluated = Evaluated.now(batch, current.model, current.results)

    def fail(self, batch: Batch, rows: Mapping[int, str], outcome: Outcome = Outcome.ERROR) -> None:
        """Retire the systems in these rows, each with the reason in its ``host``."""
        if batch is self._batch:
            self.parts.absorb()  # what the model says of them must not come after they are put back
        super().fail(batch, rows, outcome)

    def explain(self, batch: Batch) -> None:
        """Note in ``host`` why systems failed, where constraints or method know; it waits."""
        if batch is not self._batch:
            return
        for stage in self.parts.occupied:
            stage.engine.explain(stage.part)
            for row, known in zip(stage.rows.tolist(), stage.part.host, strict=True):
                if "failure" in known:
                    batch.host[row] = {"failure": known["failure"], **batch.host[row]}
        self.parts.assemble()

    def forget_constraints(self) -> None:
        """Look the constraints of the batch up again, because somebody may have changed them."""
        super().forget_constraints()
        for stage in self.parts.occupied:
            stage.part.constraints = [self.parts.whole.constraints[row] for row in stage.rows]
            stage.engine.forget_constraints()

    # ---------------------------------------------------------------- a run

    def _ends(self, limit: int | None) -> bool:
        last = self.stages[-1]
        return limit is not None or last.criterion is not None or last.engine.n_steps is not None

    def all_complete(self, batch: Batch, exit_status: int | None = None) -> bool:
        """Say whether every system is done; it waits for the device."""
        limit = self.exit_status if exit_status is None else exit_status
        return bool((batch["status"] >= limit).all())


def _host(status: Tensor) -> np.ndarray:
    return status.view(-1).cpu().numpy()
