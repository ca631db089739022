"""Where the time of a step goes."""

import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

_STAGES: tuple[HookStageEnum, ...] = tuple(HookStageEnum)[: HookStageEnum.ON_CONVERGE]
# What an engine does between a stage and the next, beside the hooks of both.
_WORK = {
    HookStageEnum.BEFORE_STEP: "hooks",
    HookStageEnum.BEFORE_PRE_UPDATE: "pre_update",
    HookStageEnum.AFTER_PRE_UPDATE: "hooks",
    HookStageEnum.BEFORE_COMPUTE: "pairs, model",
    HookStageEnum.AFTER_COMPUTE: "hooks",
    HookStageEnum.BEFORE_POST_UPDATE: "post_update",
    HookStageEnum.AFTER_POST_UPDATE: "counting",
    HookStageEnum.AFTER_STEP: "convergence, who leaves",
}


@dataclass
class StageTime:
    """Time from a stage to the next.

    Parameters
    ----------
    calls
        How often that was timed.
    host
        In all, s, on the clock of the host.
    device
        In all, s, on that of the GPU; 0 on a CPU.
    """

    calls: int = 0
    host: float = 0.0
    device: float = 0.0


class _Mark:
    """A moment of a step; on a GPU also on its clock, behind the work that was sent before."""

    def __init__(self, step: int, stage: HookStageEnum, device: torch.device) -> None:
        self.step, self.stage, self.time = step, stage, time.perf_counter()
        self.event: torch.cuda.Event | None = None
        if device.type == "cuda":
            self.event = torch.cuda.Event(enable_timing=True)
            self.event.record(torch.cuda.current_stream(device))

    def leads_to(self, other: "_Mark") -> bool:
        """Say whether nothing but one stretch of a step, or the gap to the next, is between."""
        if other.step == self.step:
            return other.stage > self.stage
        is_gap = (self.stage, other.stage) == (_STAGES[-1], _STAGES[0])
        return is_gap and other.step == self.step + 1

    def has_come(self) -> bool:
        return self.event is None or self.event.query()


class ProfilerHook:
    """Times what an engine does from stage to stage, without waiting for the device.

    Hooks that are registered before it count in the stretch that ends at their stage, those after
    it in the one that begins there. The evaluation with which a run begins counts too.

    Parameters
    ----------
    frequency
        Every so many steps are timed; the gap between two steps only if it is 1.
    """

    stage = HookStageEnum.BEFORE_STEP
    stages = _STAGES

    def __init__(self, frequency: int = 1) -> None:
        self.frequency = frequency
        self._marks: deque[_Mark] = deque()
        self._times = {stage: StageTime() for stage in _STAGES}

    def __repr__(self) -> str:
        """Say how often it looks."""
        return f"ProfilerHook(frequency={self.frequency})"

    def __enter__(self) -> Self:
        """Begin behind whatever happened since the last run."""
        self._add_up(wait=True)
        self._marks.clear()
        return self

    def __exit__(self, *exception: object) -> None:
        """Keep what there is; it is waited for when it is read."""

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Note the time."""
        stage = dynamics.current_hook_stage
        if stage is not None:
            self._marks.append(_Mark(dynamics.step_count, stage, batch.device))
            self._add_up(wait=False)

    def _add_up(self, wait: bool) -> None:
        """Add what lies between marks that the device has passed, and forget all but the last."""
        if wait and self._marks and self._marks[-1].event is not None:
            self._marks[-1].event.synchronize()
        while len(self._marks) > 1 and self._marks[1].has_come():
            first, second = self._marks.popleft(), self._marks[0]
            if not first.leads_to(second):
                continue
            total = self._times[first.stage]
            total.calls += 1
            total.host += second.time - first.time
            if first.event is not None and second.event is not None:
                total.device += first.event.elapsed_time(second.event) / 1000.0

    @property
    def times(self) -> dict[HookStageEnum, StageTime]:
        """Time from each stage to the next; reading it waits for the device."""
        self._add_up(wait=True)
        return self._times

    def table(self) -> str:
        """Return a table of the times; it waits for the device."""
        times = self.times
        on_device = any(each.device for each in times.values())
        titles = f"{'from':<20}{'work':<25}{'calls':>8}{'host ms':>12}"
        lines = [titles + (f"{'device ms':>12}" if on_device else "") + f"{'share':>8}"]
        spent = {stage: each.device if on_device else each.host for stage, each in times.items()}
        whole = sum(spent.values()) or 1.0
        for stage, each in times.items():
            calls = max(each.calls, 1)
            line = f"{stage.name:<20}{_WORK[stage]:<25}{each.calls:>8}"
            line += f"{1000.0 * each.host / calls:>12.4f}"
            line += f"{1000.0 * each.device / calls:>12.4f}" if on_device else ""
            lines.append(f"{line}{spent[stage] / whole:>8.1%}")
        return "\n".join(lines)
