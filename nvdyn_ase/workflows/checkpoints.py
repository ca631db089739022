"""Saving the structures that are being moved, so that a run that was killed goes on with them."""

import glob
import json
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import BaseDynamics
from nvdyn_ase.dynamics.checkpoint import read_checkpoint, write_checkpoint
from nvdyn_ase.workflows.supply import ids


def checkpoint_of_rank(output: Path, rank: int) -> Path:
    """Return what the checkpoint of one of several processes is called."""
    return output.with_name(f"{output.name}.rank{rank}.checkpoint.npz")


def checkpoints_of_ranks(output: Path) -> list[Path]:
    """Return the checkpoints of several processes that there are, whichever way they were many."""
    return sorted(output.parent.glob(f"{glob.escape(output.name)}.rank*.checkpoint.npz"))


class Checkpoints:
    """Writes what an engine is moving to a file, every so many steps.

    Parameters
    ----------
    path
        The file; it is replaced each time, as a whole.
    every
        Steps from one time to the next.
    before
        Called first: it makes sure that structures which are done are where they cannot be lost.
    run
        What has to be the same for a run to go on from the file, as JSON holds it.

    Attributes
    ----------
    also
        More files that structures are taken up from, as several processes wrote them. They are
        deleted when what was in them has been saved again.
    """

    def __init__(
        self,
        path: Path,
        every: int = 100,
        before: Callable[[], None] = lambda: None,
        run: Mapping[str, Any] | None = None,
    ) -> None:
        self.path, self.every, self.before = path, every, before
        self.run = json.loads(json.dumps(dict(run or {})))
        self.also: Sequence[Path] = ()
        self._next: int | None = None
        self._told = False

    def save_if_due(self, engine: BaseDynamics, batch: Batch) -> None:
        """Write the file if it is time."""
        if self._next is None:
            self._next = engine.step_count + (0 if self.also else self.every)
        if engine.step_count >= self._next:
            self._next = engine.step_count + self.every
            self.save(engine, batch)

    def save(self, engine: BaseDynamics, batch: Batch) -> None:
        """Write the file; systems that wait for their first forces will be read again.

        If it cannot be written, the one before stays, and the run goes on.
        """
        self.before()
        try:
            write_checkpoint(self.path, engine.saved(batch), {"run": self.run})
        except OSError as error:
            if not self._told:
                logger.warning("cannot write the checkpoint {}: {}", self.path, error)
            self._told = True
            return
        for path in self.also:
            if path != self.path:
                path.unlink(missing_ok=True)
        self.also = ()

    def read(self, done: Container[int]) -> dict[str, Batch]:
        """Return what the file holds of structures that are not done.

        It is empty if there is no file, or one of a run with other parameters.

        Raises
        ------
        CheckpointError
            It is no checkpoint, or damaged.
        """
        found: dict[str, Batch] = {}
        moving: set[int] = set()
        for path in dict.fromkeys((self.path, *self.also)):
            batches = self._read(path)
            # A structure that is in several files is on the same way in each.
            left = {i for batch in batches.values() for i in ids(batch) if i not in done} - moving
            moving |= left
            for name, batch in batches.items():
                rows = [row for row, index in enumerate(ids(batch)) if index in left]
                part = batch.index_select(np.array(rows, np.int64))
                found[name] = found[name].followed_by(part) if name in found else part
        return found

    def moving(self) -> set[int]:
        """Return the positions of all structures in the file, done or not."""
        return {index for batch in self._read(self.path).values() for index in ids(batch)}

    def _read(self, path: Path) -> dict[str, Batch]:
        if not path.exists():
            return {}
        batches, facts = read_checkpoint(path)
        return batches if facts.get("run") == self.run else {}

    def remove(self) -> None:
        """Delete the files: there is nothing left to go on with."""
        for path in (self.path, *self.also):
            path.unlink(missing_ok=True)
