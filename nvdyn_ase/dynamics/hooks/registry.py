"""The hooks of one engine: by stage, entered and left around a run."""

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import Hook, HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class HookRegistry:
    """Hooks in the order they were registered, by stage.

    Attributes
    ----------
    by_stage
        A list of hooks for every stage.
    current
        The stage being called, or None.
    """

    def __init__(self) -> None:
        self.by_stage: dict[HookStageEnum, list[Hook]] = {stage: [] for stage in HookStageEnum}
        self.current: HookStageEnum | None = None

    def add(self, hook: Hook) -> None:
        """Register a hook at its stage or stages.

        Raises
        ------
        TypeError
            It is not callable or has no stage.
        ValueError
            Its frequency is not an int of at least 1.
        """
        stages = getattr(hook, "stages", None) or [getattr(hook, "stage", None)]
        if not callable(hook) or None in stages:
            raise TypeError(f"{hook!r} is not a hook: it needs stage, frequency and __call__")
        frequency = getattr(hook, "frequency", None)
        if not isinstance(frequency, int) or isinstance(frequency, bool) or frequency < 1:
            raise ValueError(f"{hook!r}: frequency must be an int of at least 1, not {frequency!r}")
        for stage in stages:
            self.by_stage[HookStageEnum(stage)].append(hook)

    def all(self) -> list[Hook]:
        """Return every hook once."""
        return list({id(h): h for hooks in self.by_stage.values() for h in hooks}.values())

    def fire(self, stage: HookStageEnum, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Call the hooks of a stage that are due."""
        hooks = self.by_stage[stage]
        if not hooks:
            return
        self.current = stage
        try:
            for hook in hooks:
                if dynamics.step_count % hook.frequency == 0:
                    hook(batch, dynamics)
        finally:
            self.current = None

    def record_last(self, batch: Batch, dynamics: "BaseDynamics", step: int) -> None:
        """Show a last state to the hooks that want every one, unless they have just seen it."""
        for hook in self.all():
            if getattr(hook, "records_last", False) and step % hook.frequency != 0:
                hook(batch, dynamics)

    def entered(self) -> ExitStack:
        """Enter every hook once; leaving the stack leaves or closes each, also on an error."""
        stack = ExitStack()
        with stack:
            for hook in self.all():
                self._enter(stack, hook)
            return stack.pop_all()

    @staticmethod
    def _enter(stack: ExitStack, hook: Any) -> None:
        if hasattr(hook, "__enter__"):
            stack.enter_context(hook)
        elif hasattr(hook, "close"):
            stack.callback(hook.close)
