"""What a run of several stages goes on from after it was cut off."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.parameters import Places
from nvdyn_ase.dynamics.parts import Parts
from nvdyn_ase.dynamics.saving import Saving
from nvdyn_ase.dynamics.stage import Stage

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class SavingOfStages(Saving):
    """Gives what a checkpoint holds of the stages, and takes it back."""

    stages: Sequence[Stage]
    parts: Parts
    _home: Places

    def saved(self, batch: Batch) -> dict[str, Batch]:
        """Return what a run goes on from: the systems, and of each stage what is in it."""
        self.parts.assemble()
        rows = self._with_forces(batch)
        found = {"batch": batch.index_select(rows)}
        for stage in self.parts.occupied:
            here = np.flatnonzero(np.isin(stage.rows, rows))
            found[f"stage{stage.number}"] = stage.saved(here)
        return found

    def _restore_state(self, batch: Batch, saved: Mapping[str, Batch]) -> None:
        self.parts.clear()
        engine = cast("BaseDynamics", self)
        engine.follow(batch, batch.like(), None)
        self._home = engine.places(batch)
        place = {index: row for row, index in enumerate(batch["system_id"].view(-1).tolist())}
        for stage in self.stages:
            state = saved.get(f"stage{stage.number}")
            if state is not None and len(state):
                own = state["system_id"].view(-1).tolist()
                rows = np.array([place[index] for index in own])
                stage.restore(batch, rows, state.to(batch.device), self._home)
        self.parts.lay_out(batch)
