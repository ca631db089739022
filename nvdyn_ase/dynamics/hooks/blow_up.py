"""Systems that fly apart."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from ase.units import kB
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.frozen import ActiveMask
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.rows import largest_norm

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

# What a row of the field ``blow_up`` begins with; value and limit follow.
HOT, FAR, DRIFTED = 1.0, 2.0, 3.0


class BlowUpHook:
    """Freezes a system that is too hot, or of which an atom moves too far in a step.

    Its outcome is ``Outcome.EXPLODED``, with the limit and the value in its reason; the others go
    on. A system that would move too far stays as it was before that step. Nothing waits for the
    device.

    Parameters
    ----------
    temperature
        Limit, K, over the degrees of freedom that constraints leave, all if one cannot say; None
        for no limit. The temperature of few atoms swings: leave it room.
    displacement
        Limit of the way of an atom in one step, Å; None for no limit.
    frequency
        Tested every so many steps.

    Raises
    ------
    ValueError
        A limit that is not above zero.
    """

    stage = HookStageEnum.AFTER_STEP
    of_one_engine = True  # it looks at the engine's state

    def __init__(
        self,
        temperature: float | None = 20_000.0,
        displacement: float | None = 1.0,
        frequency: int = 1,
    ) -> None:
        for name, limit in (("temperature", temperature), ("displacement", displacement)):
            if limit is not None and not limit > 0.0:
                raise ValueError(f"{name} is {limit}; a limit must be above zero")
        self.temperature, self.displacement, self.frequency = temperature, displacement, frequency
        self._before: list[tuple[Batch, str, Tensor]] = []

    @property
    def stages(self) -> Sequence[HookStageEnum]:
        """When in a step: around the move, and at its end."""
        moves = (HookStageEnum.BEFORE_PRE_UPDATE, HookStageEnum.AFTER_PRE_UPDATE)
        return (*(moves if self.displacement is not None else ()), HookStageEnum.AFTER_STEP)

    def __repr__(self) -> str:
        """Say the limits."""
        limits = f"temperature={self.temperature}, displacement={self.displacement}"
        return f"BlowUpHook({limits}, frequency={self.frequency})"

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Note what is to be moved, or retire the systems that are beyond a limit."""
        stage = dynamics.current_hook_stage
        if stage is HookStageEnum.BEFORE_PRE_UPDATE:
            self._note(batch, dynamics)
        elif stage is HookStageEnum.AFTER_PRE_UPDATE:
            self._test_way(batch, dynamics)
        elif self.temperature is not None and "velocities" in dynamics._mutable_fields:
            constraints = dynamics.constraints(batch)
            dof = constraints.degrees_of_freedom(batch, needed=False).clamp(min=1.0)
            value = 2.0 / kB * kinetic_energy(batch, batch["velocities"]) / dof
            retire_exploded(batch, dynamics, value, self.temperature, HOT)

    def _note(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        fields = [(batch, key) for key in dynamics._mutable_fields if key in batch]
        fields += [(dynamics.state, key) for key, _ in dynamics.state]
        in_place = dynamics._writes_in_place
        self._before = [
            (holder, key, holder[key].clone() if in_place else holder[key])
            for holder, key in fields
        ]

    def _test_way(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        assert self.displacement is not None
        before, self._before = self._before, []
        old = next(tensor for _, key, tensor in before if key == "positions")
        way = largest_norm(batch["positions"] - old, batch.ptr)
        leaving = retire_exploded(batch, dynamics, way, self.displacement, FAR)
        staying = ActiveMask(~leaving, batch)
        for holder, key, tensor in before:
            holder[key] = staying.merge(holder, key, holder[key], tensor)


def retire_exploded(
    batch: Batch,
    dynamics: "BaseDynamics",
    value: Float[Tensor, "B 1"],
    limit: float,
    code: float,
) -> Bool[Tensor, "B 1"]:
    """Freeze systems whose value is beyond a limit, note it, and return who they are.

    Parameters
    ----------
    batch, dynamics
        The systems, and who moves them.
    value, limit
        In the unit of what is limited.
    code
        What that is: ``HOT``, ``FAR`` or ``DRIFTED``.
    """
    moving = dynamics.moving(batch)
    leaving = value > limit if moving is None else (value > limit) & moving.system
    note = torch.cat([torch.full_like(value, code), value, torch.full_like(value, limit)], 1)
    known = batch["blow_up"] if "blow_up" in batch else torch.zeros_like(note)
    batch["blow_up"] = torch.where(leaving, note, known)
    dynamics.retire(batch, leaving.view(-1), Outcome.EXPLODED)
    return leaving


def blow_up_reason(note: Sequence[float]) -> str:
    """Return what a row of the field ``blow_up`` says, and what to do about it."""
    code, value, limit = note
    hook = "BlowUpHook"
    if code == HOT:
        what = f"its temperature reached {value:.3g} K, and the limit is {limit:g} K"
    elif code == FAR:
        what = f"an atom would have moved {value:.3g} Å in one step, and the limit is {limit:g} Å"
    else:
        what = f"its energy drifted by {value:.3g} eV per atom, and the limit is {limit:g} eV"
        hook = "EnergyDriftMonitorHook"
    return f"{what}; take a smaller time step, relax it first, or give {hook} another limit"
