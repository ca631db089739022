"""What an engine has to do with hooks: who is registered, and when they are called."""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, cast

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.neighbors import NeighborListHook
from nvdyn_ase.dynamics.hooks.protocol import Hook, HookStageEnum
from nvdyn_ase.dynamics.hooks.registry import HookRegistry
from nvdyn_ase.neighbors import NeighborList

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class Hooked:
    """Calls hooks at the stages of a step.

    Parameters
    ----------
    hooks
        The first of them.
    """

    step_count: int
    _neighbors: NeighborList | None

    def __init__(self, hooks: Sequence[Hook] | None) -> None:
        self._registry = HookRegistry()
        for hook in hooks or ():
            self.register_hook(hook)

    @property
    def hooks(self) -> dict[HookStageEnum, list[Hook]]:
        """The hooks of each stage, in the order they were registered."""
        return self._registry.by_stage

    @property
    def current_hook_stage(self) -> HookStageEnum | None:
        """The stage whose hooks are being called; None between them."""
        return self._registry.current

    def register_hook(self, hook: Hook) -> None:
        """Register a hook; raise ValueError if its frequency is not an int of at least 1."""
        self._registry.add(hook)
        if isinstance(hook, NeighborListHook):
            self._neighbors = hook.neighbor_list

    def _anyone_at(self, *stages: HookStageEnum) -> bool:
        """Say whether hooks are called at one of these stages."""
        return any(self.hooks[stage] for stage in stages)

    def _fire(self, stage: HookStageEnum, batch: Batch) -> None:
        self._registry.fire(stage, batch, cast("BaseDynamics", self))

    def entered_hooks(self) -> AbstractContextManager[None]:
        """Enter every hook, for the length of a run."""
        return self._registry.entered()

    def begin_run(self, batch: Batch, hurried: bool = False) -> None:
        """Note that no hook has seen a step of this run.

        Parameters
        ----------
        batch
            What is moved in it.
        hurried
            The run ends after a number of steps that are counted for all systems together, so that
            none may wait for others.
        """
        self._registry.stepped = False

    def show_last(self, batch: Batch, end: bool) -> None:
        """Show the last state of systems that leave, or of a run that ends, to who records it."""
        count = self.step_count
        self.step_count -= self._registry.stepped  # as it was in the step that led to this state
        try:
            self._registry.record_last(batch, cast("BaseDynamics", self), end)
        finally:
            self.step_count = count
