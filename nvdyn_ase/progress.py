"""What people see of a stream of results: a bar while it runs, a table at the end."""

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from tqdm.auto import tqdm

from nvdyn_ase.atoms import Result
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import BaseDynamics, HookStageEnum


class Bar:
    """A progress bar over a stream of structures: how many are done, how fast, how long still.

    Parameters
    ----------
    structures
        The stream; the bar has an end if it has a length.
    progress
        True: shown if a person can see it, in a terminal or a notebook; ``"always"``; or False.
    expected
        Says how many structures there will be, as far as is known by then; by default the bar goes
        by the length of the stream.

    Raises
    ------
    ValueError
        ``progress`` is something else.
    """

    def __init__(
        self,
        structures: Iterable[Any],
        progress: bool | str,
        expected: Callable[[], int | None] | None = None,
    ) -> None:
        if progress not in (True, False, "always"):
            raise ValueError(f'progress must be True, False or "always", not {progress!r}')
        self._shown = progress == "always" or (progress and _somebody_looks())
        self._length = len(structures) if isinstance(structures, Sized) else None
        self._expected = expected or (lambda: self._length)
        self._bar: Any = None
        self._active = self._failed = 0

    def __enter__(self) -> None:
        """Show the bar."""
        if self._shown:
            self._bar = tqdm(total=self._expected(), unit=" structures", file=sys.stderr)

    def __exit__(self, *exception: object) -> None:
        """Leave the bar as it is."""
        if self._bar is not None:
            self._bar.close()

    def watch(self, engine: BaseDynamics) -> None:
        """Show how many systems an engine is moving."""
        if self._shown:
            engine.register_hook(_Active(self))

    def count(self, result: Result) -> None:
        """Count a structure that is done."""
        self._failed += result.outcome.failed
        if self._bar is not None:
            self.say()
            self._bar.total = self._expected()
            self._bar.update(1)

    def say(self, active: int | None = None) -> None:
        """Show the number of systems being moved, and of failures."""
        self._active = self._active if active is None else active
        if self._bar is not None:
            self._bar.set_postfix(active=self._active, failed=self._failed, refresh=False)


class _Active:
    """A hook that tells a bar how many systems there are; the host knows that."""

    stage = HookStageEnum.AFTER_STEP
    frequency = 10

    def __init__(self, bar: Bar) -> None:
        self._bar = bar

    def __call__(self, batch: Batch, dynamics: BaseDynamics) -> None:
        """Tell it."""
        self._bar.say(len(batch))


def _somebody_looks() -> bool:
    notebook = any(kind.__module__ == "tqdm.notebook" for kind in tqdm.__mro__)
    return notebook or (sys.stderr is not None and sys.stderr.isatty())


class Summary:
    """Counts results as they come, and says at the end how it went.

    Parameters
    ----------
    failures_shown
        So many failures are remembered with their reason; the others are counted.
    by_steps
        It is dynamics: a structure ends when it has done its steps.

    Attributes
    ----------
    failures_shown
        As given.
    converged, not_converged, failed
        Structures that ended so; in dynamics those that did their steps have not converged.
    steps, most_steps, evaluations
        Of all together; of the slowest; of all together.
    failures
        Index, outcome and reason of the first that failed.
    before
        Structures that an earlier run has done; they are not among the others.
    """

    def __init__(self, failures_shown: int = 20, by_steps: bool = False) -> None:
        self.converged = self.not_converged = self.failed = 0
        self.steps = self.most_steps = self.evaluations = self.before = 0
        self.failures: list[tuple[int, str, str]] = []
        self.failures_shown, self._by_steps = failures_shown, by_steps
        self._start = time.perf_counter()
        self._seconds: float | None = None

    def add(self, result: Result) -> Result:
        """Count a result, and return it."""
        self.steps += result.steps
        self.most_steps = max(self.most_steps, result.steps)
        self.evaluations += result.evaluations
        if result.outcome.failed:
            self.failed += 1
            if len(self.failures) < self.failures_shown:
                self.failures.append((result.index, result.outcome.word, result.reason))
        elif result.converged:
            self.converged += 1
        else:
            self.not_converged += 1
        return result

    def unreadable(self, index: int, problem: str) -> None:
        """Count a record of the input that is no structure."""
        self.failed += 1
        if len(self.failures) < self.failures_shown:
            self.failures.append((index, "unreadable", problem))

    def watch(self, results: Iterable[Result]) -> Iterator[Result]:
        """Count results on their way through, and the time that they take."""
        self._start = time.perf_counter()
        try:
            for result in results:
                yield self.add(result)
        finally:
            self._seconds = self.seconds

    @property
    def total(self) -> int:
        """Structures counted."""
        return self.converged + self.not_converged + self.failed

    @property
    def seconds(self) -> float:
        """Time since the start; it stands still once :meth:`watch` has ended."""
        return time.perf_counter() - self._start if self._seconds is None else self._seconds

    def __str__(self) -> str:
        """Return the table."""
        total, seconds = self.total, self.seconds
        mean = self.steps / total if total else 0.0
        ended = {"converged": self.converged, "not converged": self.not_converged}
        if self._by_steps:
            ended = {"steps done": self.converged + self.not_converged}
        lines = [
            f"structures       {total:8d}",
            *(f"  {name:15s}{count:8d}" for name, count in ended.items()),
            f"  failed         {self.failed:8d}",
            f"steps            {self.steps:8d}   mean {mean:.1f}, most {self.most_steps}",
            f"evaluations      {self.evaluations:8d}",
            f"time             {seconds:8.1f} s   {total / max(seconds, 1e-9):.1f} structures/s",
        ]
        if self.before:
            lines.insert(0, f"done before      {self.before:8d}")
        if self.failures:
            lines += ["", "failed:"]
            lines += [f"  {index:6d}  {kind}: {reason}" for index, kind, reason in self.failures]
        if self.failed > len(self.failures):
            lines.append(f"  ... and {self.failed - len(self.failures)} more")
        return "\n".join(lines)
