"""What a run goes on from after it was cut off: the systems, and what the method knows of them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, cast

import numpy as np
import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.evaluated import RESULTS, Evaluated

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class Saving:
    """Gives what a checkpoint holds, and takes it back."""

    state: Batch
    _arriving: torch.Tensor | None

    def saved(self, batch: Batch) -> dict[str, Batch]:
        """Return what a run goes on from, by name: the systems, and the state of the method.

        Systems that wait for their first forces are left out. Each part has the ``system_id`` of
        its systems.
        """
        rows = self._with_forces(batch)
        state = self.state.index_select(rows)
        state["system_id"] = batch["system_id"].view(-1, 1)[rows]
        return {"batch": batch.index_select(rows), "state": state}

    def _with_forces(self, batch: Batch) -> np.ndarray:
        if self._arriving is None:
            return np.arange(len(batch))
        return np.flatnonzero(~self._arriving.view(-1).cpu().numpy())

    def restore(self, batch: Batch, saved: Mapping[str, Batch]) -> None:
        """Go on with systems as they were when they were saved.

        Parameters
        ----------
        batch
            The same systems in the same order, with the fields that were saved.
        saved
            What :meth:`saved` returned.
        """
        engine = cast("BaseDynamics", self)
        self._restore_state(batch, saved)
        batch.evaluated = Evaluated.now(batch, engine.model, {*RESULTS} & {*batch.keys()})
        engine.active_batch, engine.steps_on_coming = batch, torch.zeros_like(batch["steps"])

    def _restore_state(self, batch: Batch, saved: Mapping[str, Batch]) -> None:
        state = saved["state"].to(batch.device)
        del state["system_id"]
        cast("BaseDynamics", self).follow(batch, state, None)
