"""Relax, then heat, then relax: engines one after the other, in one batch and one forward pass."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import FIELDS, Batch, Level
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.evaluated import RESULTS, Evaluated
from nvdyn_ase.dynamics.frozen import ActiveMask
from nvdyn_ase.dynamics.hooks.neighbors import NeighborListHook
from nvdyn_ase.dynamics.hooks.protocol import Hook, HookStageEnum
from nvdyn_ase.dynamics.lifecycle import Rollback, open_batch
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import Places
from nvdyn_ase.dynamics.stage import Stage

# Systems that are done with their stage wait, frozen, until they hold this share of the atoms that
# move, or for so many steps: to put the parts together anew costs about as much as a step.
_MIGRATE, _PATIENCE = 0.05, 8


class FusedStage(BaseDynamics):
    """Several engines, each of which moves the systems that the one before it is done with.

    All systems share the forward pass of a step; each is moved by the engine of the stage that its
    status names. It goes on to the next stage when it meets the criterion of its stage, or has
    used up the ``n_steps`` that the stage gives each system; from the last it leaves. It goes on by
    at most one stage a step, and in a stage whose criterion it meets on entering it makes no move.
    A stage but the last that has neither criterion nor ``n_steps`` is left at fmax <= 0.05 eV/Å.
    What a system does in a stage is what it would do in a run of that engine alone.

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
        Arguments of ``BaseDynamics``; ``n_steps`` is the length of a run in steps of the batch.

    Attributes
    ----------
    convergence_check_frequency
        Criteria are looked at every so many steps.

    Raises
    ------
    TypeError
        Something that is no engine.
    ValueError
        No stage, two of the same status, or engines with different models or devices.
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
        engines = _checked(sub_stages)
        self.stages = [Stage(int(code), own, k) for k, (code, own) in enumerate(sub_stages)]
        self.compile_step, self.compile_kwargs = compile_step, dict(compile_kwargs or {})
        self.init_fn, self.convergence_check_frequency = init_fn, 1
        super().__init__(engines[0].model, **base)
        self.sub_stages = list(sub_stages)
        self.entry_status = entry_status
        self.exit_status = len(engines) if exit_status == -1 else exit_status
        vars(self).update(
            __needs_keys__=frozenset().union(*(own.__needs_keys__ for own in engines)),
            __provides_keys__=frozenset().union(*(own.__provides_keys__ for own in engines)),
            _mutable_fields=tuple(dict.fromkeys(k for o in engines for k in o._mutable_fields)),
            _tries=any(own._tries for own in engines),
        )
        self.outputs = frozenset().union(*(own.outputs for own in engines))
        self._waited = 0
        self._given: dict[str, tuple[Tensor, int]] = {}
        self._home = Places(np.empty(0, np.int64), 0)
        self._first_arriving: int | None = None
        for stage in self.stages:
            stage.engine.whole = self
            if any(isinstance(hook, NeighborListHook) for hook in stage.engine._registry.all()):
                self._neighbors = stage.engine._neighbors
        for stage in self.stages[:-1]:
            stage.migrate_by_default()

    def __repr__(self) -> str:
        """Say what the stages are."""
        return f"FusedStage({' + '.join(repr(engine) for _, engine in self.sub_stages)})"

    __call__ = BaseDynamics.step

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

    # ---------------------------------------------------------------- hooks

    def register_fused_hook(self, hook: Hook) -> None:
        """Register a hook for the steps of the whole batch; the same as ``register_hook``."""
        self.register_hook(hook)

    def _fire(self, stage: HookStageEnum, batch: Batch) -> None:
        """Call the hooks of the fused engine and of all stages, with the whole batch."""
        if not self._anyone_at(stage):
            return
        self._registry.fire(stage, batch, self)
        for own in self.stages:
            part = own.batch if len(own) else None
            own.engine._registry.fire(stage, batch, own.engine, part)
        self._absorb(batch)
        self._publish(batch)

    def _anyone_at(self, stage: HookStageEnum) -> bool:
        registries = [self._registry, *(own.engine._registry for own in self.stages)]
        for registry in registries:
            registry.stepped |= stage is HookStageEnum.AFTER_STEP
        return any(registry.by_stage[stage] for registry in registries)

    @contextmanager
    def entered_hooks(self) -> Iterator[None]:
        """Enter every hook, for the length of a run."""
        with ExitStack() as stack:
            stack.enter_context(super().entered_hooks())
            for stage in self.stages:
                stack.enter_context(stage.engine.entered_hooks())
            yield

    def begin_run(self) -> None:
        """Note that no hook has seen a step of this run."""
        super().begin_run()
        for stage in self.stages:
            stage.engine.begin_run()

    def show_last(self, batch: Batch, end: bool) -> None:
        """Show the last state of systems that leave, or of a run that ends, to who records it."""
        super().show_last(batch, end)
        for stage in self.stages:
            stage.engine.show_last(batch, end)

    # ---------------------------------------------------------------- who is in which stage

    def adopt(self, batch: Batch) -> None:
        """Move this batch from now on, each system from the stage that its status says."""
        new = batch is not self._batch
        super().adopt(batch)
        if new:
            self._home = Places(np.arange(len(batch)), len(batch))
        if new or self._waited < 0:
            self.arrange(batch, _host(batch["status"]), at_once=True)

    def _init_state(self, batch: Batch) -> None:
        """There is no state but that of the stages."""
        self.state = batch.like()
        if "stage_steps" not in batch:
            shape = len(batch), len(self.stages)
            batch["stage_steps"] = torch.zeros(shape, dtype=torch.int64, device=batch.device)

    def fresh_state(self, batch: Batch, places: Places | None = None) -> Batch:
        """Return a new state: none, as stages make theirs when systems enter them."""
        shape = len(batch), len(self.stages)
        batch["stage_steps"] = torch.zeros(shape, dtype=torch.int64, device=batch.device)
        return batch.like()

    def nobody_is_frozen(self, batch: Batch) -> None:
        """Take no notice: systems go from stage to stage."""

    def follow(self, batch: Batch, state: Batch, kept: np.ndarray | None) -> None:
        """Go on with another batch, of systems of the one before and others behind them."""
        super().follow(batch, state, kept)
        self._given, self._first_arriving = {}, None
        if kept is None:
            for stage in self.stages:
                stage.clear()
            return
        known = np.arange(len(batch))
        if self.inflight_mode:
            self._home = self._places_in_the_stream(batch) or Places(known, len(batch))
        else:
            known[: len(kept)] = self._home.rows[kept]
            self._home = Places(known, self._home.total)
        place = dict(zip(kept.tolist(), range(len(kept)), strict=True))
        for stage in self.stages:
            here = [k for k, row in enumerate(stage.rows.tolist()) if row in place]
            rows = np.array([place[stage.rows[k]] for k in here], np.int64)
            stage.keep(np.array(here, np.int64), batch, rows, self._home)
        self._lay_out(batch)

    def receive(self, batch: Batch, first: int) -> None:
        """Take in the systems from row ``first`` on, which wait for their first forces."""
        super().receive(batch, first)
        self._first_arriving = first
        if self.init_fn is not None and not self.inflight_mode:
            self.init_fn(batch)
        self.arrange(batch, _host(batch["status"]), at_once=True)

    def _prepared(self, batch: Batch) -> Batch:
        batch = super()._prepared(batch)
        if self.init_fn is not None:
            self.init_fn(batch)
        return batch

    def arrange(
        self, batch: Batch, status: np.ndarray, current: bool = True, at_once: bool = False
    ) -> None:
        """Put every system into the part of its stage.

        Parameters
        ----------
        batch
            The whole.
        status
            (B,), on the host.
        current
            Whether that is so on the device too; it may be a little older.
        at_once
            Do not wait until it is worth it.
        """
        present = np.full(len(batch), -1)
        wanted = np.full(len(batch), -1)
        for stage in self.stages:
            present[stage.rows] = stage.number
            wanted[status == stage.status] = stage.number
        entering = (wanted >= 0) & (wanted != present)
        if entering.any():
            self._waited += 1
            if at_once or self._is_worth_it(batch, entering, wanted == present):
                self._rearrange(batch, wanted, entering)
                return
        for stage in self._occupied():
            if current and (wanted[stage.rows] == stage.number).all():
                stage.engine.nobody_is_frozen(stage.part)

    def _rearrange(self, batch: Batch, wanted: np.ndarray, entering: np.ndarray) -> None:
        """Let systems leave the parts they are in, and enter those they belong to."""
        self._waited = 0
        self._settle_history(batch)
        arriving = np.zeros(len(batch), bool)
        if self._first_arriving is not None:
            arriving[self._first_arriving :] = True
        moved = []
        self._assemble_everything(batch)
        for stage in self.stages:
            here = np.flatnonzero(wanted[stage.rows] == stage.number)
            if len(here) < len(stage):
                stage.keep(here, batch, stage.rows[here], self._home)
                moved.append(stage)
        for stage in self.stages:
            rows = np.flatnonzero(entering & (wanted == stage.number))
            if len(rows):
                stage.enter(batch, rows, arriving, self._home)
                self._note_evaluated(batch, stage)
                moved.append(stage)
        self._lay_out(batch)
        if self.is_current(batch):
            for stage in moved:
                if len(stage):
                    stage.test(is_due=True)  # who is done on entering makes no move
            self._tell_status(batch)

    def _is_worth_it(self, batch: Batch, entering: np.ndarray, staying: np.ndarray) -> bool:
        sizes = np.asarray(batch.num_nodes_list)
        enough = sizes[entering].sum() >= _MIGRATE * sizes[entering | staying].sum()
        return bool(enough or self._waited >= _PATIENCE)

    # ---------------------------------------------------------------- the whole and its parts

    def _occupied(self) -> list[Stage]:
        return [stage for stage in self.stages if len(stage)]

    def _lay_out(self, batch: Batch) -> None:
        """Note in what order the rows of the parts, and of no part, make up the whole."""
        occupied = self._occupied()
        rows = np.concatenate([np.empty(0, np.int64), *(stage.rows for stage in occupied)])
        rest = np.setdiff1d(np.arange(len(batch)), rows)
        order = np.concatenate([rows, rest])
        ptr = batch.host_ptr
        sizes = np.diff(ptr)
        first = np.concatenate([[0], np.cumsum(sizes[order])])[:-1]
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        atoms = np.repeat(first[place] - ptr[:-1], sizes) + np.arange(ptr[-1])
        nodes = np.repeat(ptr[rest] - np.cumsum(sizes[rest]) + sizes[rest], sizes[rest])
        nodes = nodes + np.arange(len(nodes))

        def there(index: np.ndarray) -> Tensor:
            return torch.from_numpy(np.ascontiguousarray(index)).to(batch.device)

        self._order = {Level.SYSTEM: there(place), Level.NODE: there(atoms)}
        self._rest = {Level.SYSTEM: there(rest), Level.NODE: there(nodes)}
        self._agree(batch)

    def _agree(self, batch: Batch) -> None:
        """Note that the whole and its parts say the same."""
        keys = batch.keys()
        settled = [key for key in keys if batch.deferred(key) is None]
        self._given = {key: (batch[key], batch[key]._version) for key in settled}
        for stage in self._occupied():
            for key in settled:
                if key in stage.part and key not in ("fmax", "status", "outcome"):
                    stage.told(key)

    def _publish(self, batch: Batch) -> None:
        """Have the whole say what the parts say, when it is asked."""
        changed = dict.fromkeys(key for stage in self._occupied() for key in stage.changed())
        for key in changed:
            self._defer(batch, key)

    def _defer(self, batch: Batch, key: str) -> None:
        part = next(stage.part for stage in self._occupied() if key in stage.part)
        level = part.level(key)
        if level not in (Level.SYSTEM, Level.NODE):
            return
        held = batch.deferred(key)
        if isinstance(held, _Assembly):
            return  # nobody has asked since the last time
        known = _field(batch, key)
        if key in part.defaults:
            batch.defaults.setdefault(key, part.defaults[key])
        batch.defer(key, _Assembly(self, batch, key, level, known), level)

    def _assembled(self, batch: Batch, key: str, level: Level, known: Tensor | None) -> Tensor:
        """Return a field of the whole; what is in no part keeps the values that are known."""
        occupied = self._occupied()
        if len(occupied) == 1 and occupied[0].is_whole:
            return occupied[0].told(key)
        like = next(stage.part[key] for stage in occupied if key in stage.part)
        default = FIELDS[key].default if key in FIELDS else batch.defaults.get(key)
        filling = 0 if default is None else default
        if known is None:
            known = like.new_full((batch.num_rows(level), *like.shape[1:]), filling)
        pieces = []
        for stage in occupied:
            if key not in stage.part:
                rows = stage.part.num_rows(level)
                stage.part.add_key(key, like.new_full((rows, *like.shape[1:]), filling), level)
            pieces.append(stage.told(key))
        pieces.append(known.index_select(0, self._rest[level]))
        return torch.cat(pieces).index_select(0, self._order[level])

    def _assemble_everything(self, batch: Batch) -> None:
        self._publish(batch)
        keys = batch.keys()
        for key in keys:
            if isinstance(batch.deferred(key), _Assembly):
                batch[key]

    def _absorb(self, batch: Batch) -> None:
        """Have the parts say what others have written into the whole."""
        keys = batch.keys()
        for key in keys:
            if batch.deferred(key) is not None or batch.level(key) is Level.EDGE:
                continue
            tensor = batch[key]
            given = self._given.get(key)
            if given is not None and given[0] is tensor and given[1] == tensor._version:
                continue
            self._given[key] = tensor, tensor._version
            if key == "status":
                self._absorb_status(batch)
            elif key not in ("outcome", "fmax"):
                for stage in self._occupied():
                    stage.take(batch, key)

    def _absorb_status(self, batch: Batch) -> None:
        """Freeze in its part who is in another stage now, or has left."""
        status = batch["status"].view(-1)
        for stage in self._occupied():
            elsewhere = status.index_select(0, stage._index[Level.SYSTEM]) != stage.status
            stage.freeze(elsewhere, Outcome.CONVERGED)

    def _tell_status(self, batch: Batch) -> Bool[Tensor, " B"]:
        """Give systems that are done with a stage their next status; return who has left."""
        status, outcome = batch["status"], batch["outcome"]
        flat = status.view(-1)
        leaving = torch.zeros_like(flat, dtype=torch.bool)
        for stage in self._occupied():
            part, index = stage.part, stage._index[Level.SYSTEM]
            ended = part["outcome"].view(-1)
            here = flat.index_select(0, index) == stage.status
            done = here & (part["status"].view(-1) >= stage.engine.exit_status)
            last = stage is self.stages[-1]
            leaves = done if last else done & (ended >= int(Outcome.NAN))
            following = self.exit_status if last else self.stages[stage.number + 1].status
            code = self._code(self.exit_status, flat)
            new = torch.where(leaves, code, self._code(following, flat))
            new = torch.where(done, new, flat.index_select(0, index))
            flat = flat.index_copy(0, index, new)
            ends = torch.where(leaves, ended, outcome.view(-1).index_select(0, index))
            outcome = outcome.view(-1).index_copy(0, index, ends).view(-1, 1)
            leaving = leaving.index_copy(0, index, leaves)
        batch["status"], batch["outcome"] = flat.view(status.shape), outcome
        self._given["status"] = batch["status"], batch["status"]._version
        return leaving

    def _note_evaluated(self, batch: Batch, stage: Stage) -> None:
        current = batch.evaluated
        if current is not None and current.holds(batch, current.model):
            stage.evaluated(current.model, current.results)

    def _settle_history(self, batch: Batch) -> None:
        for stage in self._occupied():
            stage.history()

    # ---------------------------------------------------------------- one step

    def undoable(self, batch: Batch) -> list[tuple[Batch, Sequence[str]]]:
        """Return what a step changes, and of which fields copies have to be kept."""
        held: list[tuple[Batch, Sequence[str]]] = [(batch, ())]
        for stage in self._occupied():
            held += stage.engine.undoable(stage.part)
        return held

    def advance(self, batch: Batch) -> None:
        """Do the phases of one step, up to and with AFTER_STEP."""
        moment, occupied = HookStageEnum, self._occupied()
        self._fire(moment.BEFORE_STEP, batch)
        self._fire(moment.BEFORE_PRE_UPDATE, batch)
        if self._anyone_at(moment.BEFORE_STEP) or self._anyone_at(moment.BEFORE_PRE_UPDATE):
            self.prime(batch)  # they may have moved atoms
        for stage in occupied:
            engine, part = stage.engine, stage.part
            if type(engine).pre_update is not BaseDynamics.pre_update:
                engine._update(engine.begin_step, part)
                failing = engine.failing(part)
                if failing is not None:
                    engine.retire(part, failing.view(-1), Outcome.ERROR)
        self._publish(batch)
        self._fire(moment.AFTER_PRE_UPDATE, batch)
        self._evaluate(batch)
        self._fire(moment.BEFORE_POST_UPDATE, batch)
        for stage in occupied:
            engine, part = stage.engine, stage.part
            if type(engine).post_update is not BaseDynamics.post_update:
                engine._update(engine.post_update, part)
        self._publish(batch)
        self._fire(moment.AFTER_POST_UPDATE, batch)
        for stage in occupied:
            stage.engine._count_steps(stage.part)
            stage.engine._arriving = None
        self._arriving, self._first_arriving = None, None
        self._publish(batch)
        self._fire(moment.AFTER_STEP, batch)

    def needs(self, batch: Batch) -> frozenset[str]:
        """Return the fields that the model has to give for this batch."""
        own = (stage.engine.needs(stage.part) for stage in self._occupied())
        return frozenset(self.__needs_keys__).union(*own)

    def _evaluate(self, batch: Batch) -> None:
        """Compute with its hooks, and let the parts know."""
        self._fire(HookStageEnum.BEFORE_COMPUTE, batch)
        results = frozenset(self.compute(batch))
        self._absorb(batch)
        for stage in self._occupied():
            stage.count_evaluations()
        self._publish(batch)
        self._defer_fmax(batch)
        for stage in self._occupied():
            stage.evaluated(self.model, results)
        self._fire(HookStageEnum.AFTER_COMPUTE, batch)
        for stage in self._occupied():
            stage.evaluated(self.model, results)

    def prime(self, batch: Batch) -> None:
        """Make forces current if they are needed and are not."""
        super().prime(batch)
        if self._arriving is None:
            for stage in self._occupied():
                stage.engine._arriving = None

    def largest_force(self, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the largest norm among the forces that the engine of each system sees."""
        known = super().largest_force(batch)
        for stage in self._occupied():
            index = stage._index[Level.SYSTEM]
            if "fmax" in stage.part:
                known = known.index_copy(0, index, stage.part["fmax"].to(known))
        return known

    def within_step(self, batch: Batch) -> Bool[Tensor, "B 1"] | None:
        """Return the systems that need another forward pass to end their step; None for nobody."""
        trying = None
        for stage in self._occupied():
            own = stage.engine.within_step(stage.part)
            if own is None:
                continue
            if trying is None:
                trying = torch.zeros(len(batch), 1, dtype=torch.bool, device=batch.device)
            trying = trying.index_copy(0, stage._index[Level.SYSTEM], own)
        return trying

    def graduate(self, batch: Batch) -> None:
        """Test the criteria of the stages; systems that are done get their next status."""
        due = self.step_count % self.convergence_check_frequency == 0 or not self._registry.stepped
        for stage in self._occupied():
            newly = stage.test(due)
            if newly is not None:
                self._announce_stage(batch, stage, newly)
        leaving = self._tell_status(batch)
        self.newly_converged = leaving

    def _announce_stage(self, batch: Batch, stage: Stage, newly: Bool[Tensor, " n"]) -> None:
        moment = HookStageEnum.ON_CONVERGE
        if not self._anyone_at(moment) or not bool(newly.any()):
            return
        whole = torch.zeros(len(batch), dtype=torch.bool, device=batch.device)
        whole = whole.index_copy(0, stage._index[Level.SYSTEM], newly)
        self.newly_converged = stage.engine.newly_converged = whole
        self._registry.fire(moment, batch, self)
        stage.engine._registry.fire(moment, batch, stage.engine, stage.part)
        self._absorb(batch)

    def retire(self, batch: Batch, mask: Bool[Tensor, " B"], outcome: Outcome) -> None:
        """Freeze the masked systems that still move, and record how they ended."""
        super().retire(batch, mask, outcome)
        if batch is self._batch:
            for stage in self._occupied():
                stage.freeze(mask.view(-1).index_select(0, stage._index[Level.SYSTEM]), outcome)
            self._given["status"] = batch["status"], batch["status"]._version

    def explain(self, batch: Batch) -> None:
        """Note in ``host`` why systems failed, where constraints or method know; it waits."""
        super().explain(batch)
        if batch is not self._batch:
            return
        self._settle_history(batch)
        self._publish(batch)
        for stage in self._occupied():
            stage.engine.explain(stage.part)
            for row, known in zip(stage.rows.tolist(), stage.part.host, strict=True):
                batch.host[row] = known | batch.host[row]

    def step(self, batch: Batch) -> tuple[Batch, Int[Tensor, " n"] | None]:
        """Do one step.

        Returns
        -------
        batch
            The batch that was given, moved.
        graduated
            Indices of the systems that are done since this step, however they ended, or None.
        """
        self.adopt(batch)
        self.forget_constraints()
        self.prime(batch)
        self._absorb(batch)
        if not self._registry.stepped:
            self.graduate(batch)
        self.arrange(batch, _host(batch["status"]), at_once=True)
        before = batch["status"].view(-1) >= self.exit_status
        with Rollback(self, batch):
            self.advance(batch)
        self.step_count += 1
        self.graduate(batch)
        self.explain(batch)
        indices = ((batch["status"].view(-1) >= self.exit_status) & ~before).nonzero().view(-1)
        return batch, indices if len(indices) else None

    def forget_constraints(self) -> None:
        """Look the constraints of the batch up again, because somebody may have changed them."""
        super().forget_constraints()
        for stage in self._occupied():
            stage.engine.forget_constraints()

    def active(self, batch: Batch) -> ActiveMask | None:
        """Return who moves."""
        return ActiveMask(batch["status"].view(-1, 1) < self.exit_status, batch)

    # ---------------------------------------------------------------- checkpoints

    def saved(self, batch: Batch) -> dict[str, Batch]:
        """Return what a run goes on from: the systems, and of each stage what is in it."""
        self._settle_history(batch)
        self._publish(batch)
        rows = self._with_forces(batch)
        parts = {"batch": batch.index_select(rows)}
        for stage in self._occupied():
            here = np.flatnonzero(np.isin(stage.rows, rows))
            parts[f"stage{stage.number}"] = stage.saved(here)
        return parts

    def restore(self, batch: Batch, saved: Mapping[str, Batch]) -> None:
        """Go on with systems as they were when they were saved."""
        open_batch(batch, self.entry_status)
        self.follow(batch, batch.like(), None)
        places = Places(np.arange(len(batch)), len(batch))
        self._home = self._places_in_the_stream(batch) or places
        batch.evaluated = Evaluated.now(batch, self.model, {*RESULTS} & {*batch.keys()})
        place = {index: row for row, index in enumerate(_host(batch["system_id"]).tolist())}
        for stage in self.stages:
            part = saved.get(f"stage{stage.number}")
            if part is None or not len(part):
                continue
            part = part.to(batch.device)
            rows = np.array([place[index] for index in _host(part["system_id"]).tolist()])
            stage.restore(batch, rows, part, self._home)
            self._note_evaluated(batch, stage)
        self._lay_out(batch)
        self._waited = 0

    # ---------------------------------------------------------------- a run

    def _ends(self, limit: int | None) -> bool:
        last = self.stages[-1]
        return limit is not None or last.criterion is not None or last.engine.n_steps is not None

    def all_complete(self, batch: Batch, exit_status: int | None = None) -> bool:
        """Say whether every system is done; it waits for the device."""
        limit = self.exit_status if exit_status is None else exit_status
        return bool((batch["status"] >= limit).all())

    # ---------------------------------------------------------------- compiling

    def compile(self, **kwargs: Any) -> Self:
        """Have ``torch.compile`` make the moves of every stage into few kernels; return self.

        Parameters
        ----------
        **kwargs
            For ``torch.compile``, over those of ``compile_kwargs``.
        """
        options = {"dynamic": True, **self.compile_kwargs, **kwargs}
        for stage in self.stages:
            engine: Any = stage.engine
            for name in ("pre_update", "post_update"):
                if getattr(type(engine), name) is not getattr(BaseDynamics, name):
                    setattr(engine, name, torch.compile(getattr(engine, name), **options))
        self.compile_step = True
        return self

    def __enter__(self) -> Self:
        """Use a stream of its own on CUDA, shared by the stages; compile if that is wanted."""
        super().__enter__()
        for stage in self.stages:
            stage.engine.stream = self.stream
        return self.compile() if self.compile_step else self


class _Assembly:
    """A field of the whole, put together from the parts when somebody reads it."""

    def __init__(
        self, fused: FusedStage, batch: Batch, key: str, level: Level, known: Tensor | None
    ) -> None:
        self.fused, self.batch, self.key, self.level, self.known = fused, batch, key, level, known

    def __call__(self) -> Tensor:
        """Return the field, as the parts have it now."""
        tensor = self.fused._assembled(self.batch, self.key, self.level, self.known)
        self.fused._given[self.key] = tensor, tensor._version
        return tensor


def joined(first: BaseDynamics, second: Any) -> FusedStage:
    """Return two engines, or what they are made of, as stages one after the other.

    Raises
    ------
    TypeError
        One of them is no engine.
    """
    if not isinstance(second, BaseDynamics):
        raise TypeError(
            f"an engine can be followed by an engine, not by {type(second).__name__}; "
            "for a pipeline over ranks use |"
        )
    parts = [first, second]
    engines = [own for part in parts for own in _engines(part)]
    fused = [part for part in parts if isinstance(part, FusedStage)]
    options: dict[str, Any] = {
        "compile_step": any(part.compile_step for part in fused),
        "compile_kwargs": {key: v for part in fused for key, v in part.compile_kwargs.items()},
        "init_fn": next((part.init_fn for part in fused if part.init_fn is not None), None),
        "sampler": next((part.sampler for part in parts if part.sampler is not None), None),
        "sinks": [sink for part in parts for sink in part.sinks],
        "hooks": [hook for part in fused for hook in part._registry.all()],
        "n_steps": next((part.n_steps for part in fused if part.n_steps is not None), None),
    }
    return FusedStage(list(enumerate(engines)), **options)


def _engines(part: BaseDynamics) -> list[BaseDynamics]:
    return [own for _, own in part.sub_stages] if isinstance(part, FusedStage) else [part]


def _checked(sub_stages: Iterable[tuple[int, BaseDynamics]]) -> list[BaseDynamics]:
    pairs = list(sub_stages)
    if not pairs:
        raise ValueError("FusedStage needs at least one stage")
    for _, engine in pairs:
        if not isinstance(engine, BaseDynamics):
            raise TypeError(f"a stage is an engine, not {type(engine).__name__}")
    engines = [engine for _, engine in pairs]
    if len({code for code, _ in pairs}) < len(pairs):
        raise ValueError("two stages have the same status")
    if len({id(engine) for engine in engines}) < len(engines):
        raise ValueError("an engine can be one stage only; make another one")
    if any(engine.model is not engines[0].model for engine in engines):
        raise ValueError("the stages of a fused run share one forward pass: give all one model")
    if len({str(engine.device) for engine in engines}) > 1:
        raise ValueError("the stages of a fused run share one device")
    return engines


def _field(batch: Batch, key: str) -> Tensor | None:
    if key not in batch:
        return None
    return batch[key]


def _host(status: Tensor) -> np.ndarray:
    return status.view(-1).cpu().numpy()
