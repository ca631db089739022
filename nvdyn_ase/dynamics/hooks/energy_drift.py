"""Systems whose energy drifts."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from jaxtyping import Float
from loguru import logger
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.blow_up import DRIFTED, blow_up_reason, retire_exploded
from nvdyn_ase.dynamics.hooks.membership import Membership
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.dynamics.readback import Readback

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

_ACTIONS = ("warn", "raise", "retire")


class EnergyDriftMonitorHook:
    """Watches the energy that a method should conserve, of each system against its own start.

    That is the engine's ``conserved_energy`` or, if it has none, potential and kinetic energy. A
    system starts at the first due step of a run that it takes part in. Nothing waits for the
    device: on a GPU, warnings and errors come a few steps late, but none is left out.

    Parameters
    ----------
    threshold
        Largest difference from the start, eV per atom.
    action
        ``"warn"``: a line in the log, once in a run for each system. ``"raise"``: RuntimeError.
        ``"retire"``: the system is frozen as ``Outcome.EXPLODED``, and the others go on.
    frequency
        Tested every so many steps.

    Raises
    ------
    ValueError
        A threshold that is not above zero, or another action.
    """

    stage = HookStageEnum.AFTER_STEP
    stages = (HookStageEnum.BEFORE_STEP, HookStageEnum.AFTER_STEP)
    of_one_engine = True

    def __init__(self, threshold: float, action: str = "warn", frequency: int = 1) -> None:
        if not threshold > 0.0:
            raise ValueError(f"threshold is {threshold}; a limit must be above zero")
        if action not in _ACTIONS:
            raise ValueError(f"action must be one of {', '.join(_ACTIONS)}, not {action!r}")
        self.threshold, self.action, self.frequency = threshold, action, frequency
        self._readback = Readback()
        self._forget()

    def _forget(self) -> None:
        self._membership = Membership()
        self._rows: dict[int, int] = {}
        self._start: Float[Tensor, "B 1"] | None = None
        self._told: set[int] = set()

    def __repr__(self) -> str:
        """Say the limit."""
        return (
            f"EnergyDriftMonitorHook({self.threshold}, {self.action!r}, frequency={self.frequency})"
        )

    def __enter__(self) -> Self:
        """Let every system start anew."""
        self._forget()
        return self

    def __exit__(self, kind: type | None, *exception: Any) -> None:
        """Wait for what the device has found, and tell it unless something else was raised."""
        found = self._readback.rest()
        if kind is None:
            self._tell(found)

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Note where systems start, or test how far they are from there."""
        if dynamics.current_hook_stage is HookStageEnum.BEFORE_STEP:
            ids = self._membership.changed(batch)
            if ids is not None:
                self._begin(ids, _energy(batch, dynamics))
        elif self._start is not None:
            energy, arriving = _energy(batch, dynamics), dynamics.arriving(batch)
            if arriving is not None:  # before this step there was no energy to start from
                self._start = torch.where(arriving, energy, self._start)
            self._test(batch, dynamics, energy - self._start)

    def _begin(self, ids: list[int], energy: Float[Tensor, "B 1"]) -> None:
        """Follow the systems that the batch has now; those that are new start here."""
        rows = np.array([self._rows.get(one, -1) for one in ids], np.int64)
        if self._start is None or (rows < 0).all():
            self._start = energy
        else:
            picks = torch.from_numpy(rows).to(energy.device)
            old = self._start.index_select(0, picks.clamp(min=0))
            self._start = torch.where(picks.view(-1, 1) < 0, energy, old)
        self._rows = {one: row for row, one in enumerate(ids)}

    def _test(
        self, batch: Batch, dynamics: "BaseDynamics", difference: Float[Tensor, "B 1"]
    ) -> None:
        drift = difference.abs() / batch.num_nodes_per_graph.clamp(min=1).view(-1, 1)
        if self.action == "retire":
            retire_exploded(batch, dynamics, drift, self.threshold, DRIFTED)
            return
        moving = dynamics.moving(batch)
        beyond = torch.where(drift > self.threshold, drift, 0.0)
        if moving is not None:
            beyond = torch.where(moving.system, beyond, 0.0)
        ids = batch["system_id"].view(-1, 1).to(beyond)
        self._tell(self._readback.send(torch.cat([ids, beyond], 1)))

    def _tell(self, found: list[np.ndarray]) -> None:
        for table in found:
            for system, drift in table[table[:, 1] > 0.0].tolist():
                if system in self._told:
                    continue
                self._told.add(system)
                reason = blow_up_reason((DRIFTED, drift, self.threshold))
                if self.action == "raise":
                    raise RuntimeError(f"system {int(system)}: {reason}")
                logger.warning("system {}: {}", int(system), reason)


def _energy(batch: Batch, dynamics: Any) -> Float[Tensor, "B 1"]:
    """Return what should be conserved, eV."""
    if hasattr(dynamics, "conserved_energy"):
        return dynamics.conserved_energy(batch).detach()
    return dynamics.energy(batch).detach() + kinetic_energy(batch, batch["velocities"])
