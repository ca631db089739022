"""Saving the structures that are being moved, so that a run that was killed goes on with them."""

import json
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from loguru import logger

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import BaseDynamics
from nvdyn_ase.dynamics.checkpoint import read_checkpoint, write_checkpoint
from nvdyn_ase.workflows.supply import ids


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
        self._next: int | None = None
        self._told = False

    def save_if_due(self, engine: BaseDynamics, batch: Batch) -> None:
        """Write the file if it is time."""
        if self._next is None:
            self._next = engine.step_count + self.every
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

    def read(self, done: Container[int]) -> dict[str, Batch]:
        """Return what the file holds of structures that are not done.

        It is empty if there is no file, or one of a run with other parameters.

        Raises
        ------
        CheckpointError
            It is no checkpoint, or damaged.
        """
        if not self.path.exists():
            return {}
        batches, facts = read_checkpoint(self.path)
        if facts.get("run") != self.run:
            return {}
        left = {}
        for name, batch in batches.items():
            rows = [row for row, index in enumerate(ids(batch)) if index not in done]
            left[name] = batch.index_select(np.array(rows, np.int64))
        return left

    def remove(self) -> None:
        """Delete the file: there is nothing left to go on with."""
        self.path.unlink(missing_ok=True)
