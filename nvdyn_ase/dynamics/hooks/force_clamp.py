"""Forces that are limited."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class MaxForceClampHook:
    """Shortens the force on an atom to a limit and keeps its direction, as for bad starts.

    ``forces`` and ``fmax`` are then what the method moves by, and so what the results report. A
    force that is no number or infinite is left for ``NaNDetectorHook`` to find. Nothing waits for
    the device.

    Parameters
    ----------
    max_force
        Longest force on an atom, eV/Å.
    frequency
        Done every so many steps.

    Raises
    ------
    ValueError
        A limit that is not above zero.
    """

    stage = HookStageEnum.AFTER_COMPUTE
    of_one_engine = True

    def __init__(self, max_force: float, frequency: int = 1) -> None:
        if not max_force > 0.0:
            raise ValueError(f"max_force is {max_force}; a limit must be above zero")
        self.max_force = max_force
        self.frequency = frequency

    def __repr__(self) -> str:
        """Say the limit."""
        return f"MaxForceClampHook({self.max_force}, frequency={self.frequency})"

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Shorten the forces that are too long."""
        batch["forces"] = clamped(batch["forces"], self.max_force)


def clamped(rows: Float[Tensor, "V 3"], longest: float) -> Float[Tensor, "V 3"]:
    """Return rows, those whose norm is above ``longest`` shortened to it.

    A row is first divided by its largest component, so that no square overflows.
    """
    largest = rows.abs().amax(1, keepdim=True)
    directions = rows / largest
    squares = directions * directions
    norms = (squares[:, 0:1] + squares[:, 1:2] + squares[:, 2:3]).sqrt()
    return torch.where(largest * norms > longest, directions * (longest / norms), rows)
