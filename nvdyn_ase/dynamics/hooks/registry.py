"""The hooks of one engine: by stage, entered and left around a run."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
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
    stepped
        Whether the hooks have seen the end of a step in the present run.
    """

    def __init__(self) -> None:
        self.by_stage: dict[HookStageEnum, list[Hook]] = {stage: [] for stage in HookStageEnum}
        self.current: HookStageEnum | None = None
        self.stepped = False
        self._stack: ExitStack | None = None

    def add(self, hook: Hook) -> None:
        """Register a hook at its stage or stages; in the middle of a run it is entered now.

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
        known = any(hook is other for other in self.all())
        for stage in stages:
            self.by_stage[HookStageEnum(stage)].append(hook)
        if self._stack is not None and not known:
            self._enter(self._stack, hook)

    def all(self) -> list[Hook]:
        """Return every hook once."""
        return list({id(h): h for hooks in self.by_stage.values() for h in hooks}.values())

    def fire(
        self,
        stage: HookStageEnum,
        batch: Batch,
        dynamics: "BaseDynamics",
        parts: "tuple[Batch, ...] | None" = None,
        after_each: Callable[[], None] | None = None,
    ) -> None:
        """Call the hooks of a stage that are due; a hook may register and remove others.

        Parameters
        ----------
        stage
            Of the step.
        batch
            What is moved.
        dynamics
            Who moves it.
        parts
            Where the engine is one of several that share the batch, the systems of its own, or
            nothing if there are none: a hook that is ``of_one_engine`` is shown these.
        after_each
            Called after every hook.
        """
        self.stepped |= stage is HookStageEnum.AFTER_STEP
        hooks = self.by_stage[stage]
        if not hooks:
            return
        self.current = stage
        try:
            for hook in tuple(hooks):
                if dynamics.step_count % hook.frequency:
                    continue
                alone = parts is not None and getattr(hook, "of_one_engine", False)
                for shown in parts if alone and parts is not None else (batch,):
                    hook(shown, dynamics)
                    if after_each is not None:
                        after_each()
        finally:
            self.current = None

    def record_last(self, batch: Batch, dynamics: "BaseDynamics", end: bool) -> None:
        """Show a last state to the hooks that want it, unless they have just seen it.

        Parameters
        ----------
        batch
            Systems in their last state.
        dynamics
            The engine, at the step that led there.
        end
            Whether the run ends; otherwise systems leave it.
        """
        step = dynamics.step_count
        for hook in self.all():
            wanted = getattr(hook, "records_last", False)
            seen = self.stepped and step % hook.frequency == 0
            if wanted and (end or wanted != "run") and not seen:
                hook(batch, dynamics)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Enter every hook once, and leave or close each, also on an error."""
        with ExitStack() as stack:
            for hook in self.all():
                self._enter(stack, hook)
            self._stack = stack
            try:
                yield
            finally:
                self._stack = None

    @staticmethod
    def _enter(stack: ExitStack, hook: Any) -> None:
        if hasattr(hook, "__enter__"):
            stack.enter_context(hook)
        elif hasattr(hook, "close"):
            stack.callback(hook.close)
