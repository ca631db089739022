"""A neighbour list that the user sets up instead of the engine."""

from typing import TYPE_CHECKING

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum
from nvdyn_ase.models.base import NeighborConfig
from nvdyn_ase.neighbors import NeighborList

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class NeighborListHook:
    """Keeps the pairs of a batch current, with a cutoff and skin of your own.

    An engine keeps the pairs that its model needs by itself; registering this hook takes that over.

    Parameters
    ----------
    config
        The pairs wanted.
    backend
        ``"auto"`` or the name of a backend of ``nvdyn_ase.neighbors``.
    """

    stage = HookStageEnum.BEFORE_COMPUTE
    frequency = 1

    def __init__(self, config: NeighborConfig, backend: str = "auto") -> None:
        self.config = config
        self.backend = backend
        self.neighbor_list = NeighborList(**dict(config), backend=backend)

    def __repr__(self) -> str:
        """Say the cutoff and skin."""
        return f"NeighborListHook(cutoff={self.config.cutoff}, skin={self.config.skin})"

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Make the pairs of the batch current."""
        self.neighbor_list.update(batch)
