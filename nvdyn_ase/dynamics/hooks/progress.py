"""A progress bar."""

from typing import TYPE_CHECKING, Any, Self

from tqdm.auto import tqdm

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class ProgressHook:
    """Shows the steps done and the systems that still move.

    Parameters
    ----------
    total
        Steps expected, for the end of the bar; None if not known.
    frequency
        Brought up to date every so many steps; each time it waits for the device.
    """

    stage = HookStageEnum.AFTER_STEP
    records_last = "run"

    def __init__(self, total: int | None = None, frequency: int = 10) -> None:
        self.total = total
        self.frequency = frequency
        self._bar: Any = None
        self._start: int | None = None

    def __repr__(self) -> str:
        """Say how often it looks."""
        return f"ProgressHook(total={self.total}, frequency={self.frequency})"

    def __enter__(self) -> Self:
        """Show the bar."""
        self._bar = tqdm(total=self.total, unit="step")
        self._start = None
        return self

    def __exit__(self, *exception: object) -> None:
        """Leave the bar as it is."""
        self._bar.close()
        self._bar = None

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Bring the bar up to date; there is none outside of a run."""
        if self._bar is None:
            return
        if self._start is None:
            self._start = dynamics.step_count
        active = dynamics.active(batch)
        moving = len(batch) if active is None else int(active.system.sum())
        self._bar.set_postfix(moving=moving, refresh=False)
        self._bar.update(dynamics.step_count + 1 - self._start - self._bar.n)
