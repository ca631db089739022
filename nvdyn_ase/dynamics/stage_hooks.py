"""The hooks of a fused run: those of the whole, and those of its stages."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, cast

from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooked import Hooked
from nvdyn_ase.dynamics.hooks.neighbors import NeighborListHook
from nvdyn_ase.dynamics.hooks.protocol import Hook, HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics
    from nvdyn_ase.dynamics.parts import Parts
    from nvdyn_ase.dynamics.stage import Stage


class HooksOfStages(Hooked):
    """Calls hooks of the whole and of every stage, also of one where there is no system.

    All are shown the whole batch, but for those that are ``of_one_engine``, which are shown the
    systems that are in the stage of theirs.
    """

    stages: "Sequence[Stage]"
    parts: "Parts"

    def register_fused_hook(self, hook: Hook) -> None:
        """Register a hook for the steps of the whole batch; the same as ``register_hook``."""
        self.register_hook(hook)

    def _anyone_at(self, *stages: HookStageEnum) -> bool:
        engines = (self, *(stage.engine for stage in self.stages))
        return any(engine.hooks[moment] for engine in engines for moment in stages)

    def _fire(self, stage: HookStageEnum, batch: Batch) -> None:
        self._fire_whole(stage, batch)
        for own in self.stages:
            self._fire_stage(own, stage, batch)

    def _fire_whole(self, moment: HookStageEnum, batch: Batch) -> None:
        engine = cast("BaseDynamics", self)
        self._registry.fire(moment, batch, engine, after_each=self._take_up_changes)

    def _fire_stage(self, own: "Stage", moment: HookStageEnum, batch: Batch) -> None:
        part, engine = (own.part,) if len(own) else (), own.engine
        engine._registry.fire(moment, batch, engine, part, self._take_up_changes)

    def _take_up_changes(self) -> None:
        self.parts.absorb()
        self.parts.look_again()
        self.parts.publish()

    def _anyone_waits_for(self, stage: "Stage") -> bool:
        """Say whether anyone wants to know who meets the criterion of a stage."""
        moment = HookStageEnum.ON_CONVERGE
        return bool(self.hooks[moment] or stage.engine.hooks[moment])

    def _announce_in(self, stage: "Stage", batch: Batch, newly: Bool[Tensor, " B"]) -> None:
        """Call the hooks of ON_CONVERGE for who meets the criterion of a stage."""
        cast("BaseDynamics", self).newly_converged = stage.engine.newly_converged = newly
        self._fire_whole(HookStageEnum.ON_CONVERGE, batch)
        self._fire_stage(stage, HookStageEnum.ON_CONVERGE, batch)

    @contextmanager
    def entered_hooks(self) -> Iterator[None]:
        """Enter every hook, for the length of a run."""
        with ExitStack() as stack:
            stack.enter_context(super().entered_hooks())
            for stage in self.stages:
                stack.enter_context(stage.engine.entered_hooks())
            yield

    def show_last(self, batch: Batch, end: bool) -> None:
        """Show the last state of systems that leave, or of a run that ends, to who records it."""
        super().show_last(batch, end)
        for stage in self.stages:
            stage.engine.show_last(batch, end)

    def _take_over_neighbor_list(self) -> None:
        """Find pairs as the user has set it up for one of the stages."""
        for stage in self.stages:
            if any(isinstance(hook, NeighborListHook) for hook in stage.engine._registry.all()):
                self._neighbors = stage.engine._neighbors
