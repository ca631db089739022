"""One progress bar for all ranks."""

import time

from nvdyn_ase.atoms import Result
from nvdyn_ase.progress import Bar
from nvdyn_ase.ranks.job import RankJob

#: A rank tells the others at most this often what it has done, s.
_EVERY = 0.5


class SharedBar(Bar):
    """A progress bar that counts what all ranks have done; only the first shows it.

    Parameters
    ----------
    job
        This rank.
    count
        How many structures there are for all.
    progress
        As :class:`nvdyn_ase.progress.Bar` takes it.
    """

    def __init__(self, job: RankJob, count: int, progress: bool | str) -> None:
        super().__init__(range(count), False if job.rank else progress)
        self._job = job
        self._untold = [0, 0]
        self._last = time.monotonic()

    def __exit__(self, *exception: object) -> None:
        """Do nothing: others may not be done."""

    def count(self, result: Result) -> None:
        """Count a structure that is done."""
        self._untold[0] += 1
        self._untold[1] += result.outcome.failed
        self.tell()

    def tell(self, at_once: bool = False) -> None:
        """Tell the others what is done here, and show what they have told, if it is time."""
        if not at_once and time.monotonic() < self._last + _EVERY:
            return
        self._last = time.monotonic()
        ended = self._job.add("ended", self._untold[0])
        failed = self._job.add("failures", self._untold[1])
        self._untold = [0, 0]
        if self._bar is not None:
            self._failed = failed
            self.say()
            self._bar.update(ended - self._bar.n)

    def close(self) -> None:
        """Leave the bar as it is."""
        self.tell(at_once=True)
        super().__exit__()
