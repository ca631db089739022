"""Atoms that are brought back into the cell."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum
from nvdyn_ase.dynamics.matrices import applied, inverse

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

# As in ASE: how far below zero a scaled coordinate may be, so that atoms at 0 do not hop.
_EPS = 1e-7


class WrapPeriodicHook:
    """Moves atoms by lattice vectors into the cell, along its periodic directions, as ASE's wrap.

    It is done before forces are computed, so that it costs no evaluation. The pairs of a system in
    which an atom crossed a face are searched anew; ``frequency`` makes that rarer. Pairs of your
    own keep pointing at the same images. Optimizers remember where atoms were: what they keep, in
    ``state["last_coordinates"]``, moves along. Constraints that compare an atom with where it was
    see it jump, so leave atoms with bonds of fixed length or springs unwrapped.

    Parameters
    ----------
    frequency
        Done every so many steps.
    """

    stage = HookStageEnum.BEFORE_COMPUTE

    def __init__(self, frequency: int = 1) -> None:
        self.frequency = frequency

    def __repr__(self) -> str:
        """Say how often."""
        return f"WrapPeriodicHook(frequency={self.frequency})"

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Bring back the atoms of systems that move."""
        cells = cells_away(batch)
        active = dynamics.active(batch)
        if active is not None:
            cells = torch.where(active.node, cells, 0.0)
        away = applied(cells, batch["cell"].index_select(0, batch.batch))
        left = (cells != 0.0).any(1, keepdim=True)
        dynamics.jump(batch, torch.where(left, batch["positions"] - away, batch["positions"]))
        if batch.neighbors is None and "edge_index" in batch:
            _keep_images(batch, cells)


def cells_away(batch: Batch) -> Float[Tensor, "V 3"]:
    """Return how many cell vectors each atom is away from the cell; 0 where it is not periodic.

    Scaled coordinates are those of the whole cell. A missing vector is normal to the others, as in
    ASE: it is no part of theirs in the dual basis, which is that of the Gram matrix.
    """
    cell = batch["cell"]
    missing = torch.diag_embed((cell == 0.0).all(2).to(cell))
    dual = inverse(cell @ cell.transpose(1, 2) + missing).matrix @ cell
    scaled = applied(batch["positions"], dual.transpose(1, 2).index_select(0, batch.batch))
    wrapped = batch["pbc"].index_select(0, batch.batch) & scaled.isfinite()
    return torch.where(wrapped, torch.floor(scaled + _EPS), 0.0)


def _keep_images(batch: Batch, cells: Float[Tensor, "V 3"]) -> None:
    """Let pairs that no neighbour list looks after go to the images they went to."""
    i, j = batch["edge_index"].unbind(1)
    more = cells.index_select(0, j) - cells.index_select(0, i)
    if "unit_shifts" in batch:
        batch["unit_shifts"] = batch["unit_shifts"] + more.long()
    if "shifts" in batch:
        cell = batch["cell"].index_select(0, batch.batch.index_select(0, i))
        batch["shifts"] = batch["shifts"] + applied(more, cell)
