"""Saying which cells optimizers move together with the atoms, and how: ASE's filters on a batch."""

from collections.abc import Sequence
from enum import IntEnum
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import FIELDS, Batch
from nvdyn_ase.dynamics.matrices import determinant


class CellFilter(IntEnum):
    """What an optimizer does with a cell: code in the field ``cell_filter`` of a batch.

    As in ``ase.filters``: nothing, ``UnitCellFilter``, ``FrechetCellFilter``, ``ExpCellFilter``,
    ``StrainFilter``.
    """

    NONE = 0
    UNIT_CELL = 1
    FRECHET = 2
    EXP = 3
    STRAIN = 4

    @property
    def num_rows(self) -> int:
        """Rows of three coordinates that the cell has."""
        return {CellFilter.NONE: 0, CellFilter.STRAIN: 2}.get(self, 3)


#: Fields of a batch that say how its cells move.
CELL_FIELDS = (
    *("cell_filter", "cell_mask", "orig_cell", "cell_factor"),
    *("hydrostatic_strain", "constant_volume", "scalar_pressure", "strain"),
)

#: A cell that shrinks to less than this share of its first volume, or turns inside out, is lost.
COLLAPSED = 1e-3


def filter_cells(
    batch: Batch,
    kind: str = "frechet",
    *,
    mask: Any = None,
    cell_factor: Any = None,
    hydrostatic_strain: Any = False,
    constant_volume: Any = False,
    scalar_pressure: Any = 0.0,
    systems: Sequence[int] | None = None,
) -> None:
    """Let optimizers move the cells of a batch too, from what they are now.

    E. B. Tadmor, G. S. Smith, N. Bernstein and E. Kaxiras, Phys. Rev. B 59, 235 (1999); see
    ``ase.filters`` for what each kind does. Numbers may be one per system.

    Parameters
    ----------
    batch
        The systems; it gets the fields that optimizers look at.
    kind
        ``"unit_cell"``, ``"frechet"``, ``"exp"``, ``"strain"`` or ``"none"``.
    mask
        Components of the strain that may change, (6,) in Voigt's order or (3, 3); all by default.
    cell_factor
        Factor of the cell's rows; ASE's for the kind by default.
    hydrostatic_strain, constant_volume
        Change the volume only, or all but the volume.
    scalar_pressure
        eV/Å³.
    systems
        Which of them; all by default.

    Raises
    ------
    ValueError
        No such kind, a mask of another shape, a system without three cell vectors, or a batch
        that is not float64.
    """
    try:
        code = CellFilter[kind.upper()]
    except KeyError:
        kinds = ", ".join(kind.name.lower() for kind in CellFilter)
        raise ValueError(f"no cell filter {kind!r}; there are {kinds}") from None
    rows = np.arange(len(batch)) if systems is None else np.asarray(systems, int)
    cells = batch["cell"].cpu().double()[rows]
    if batch["positions"].dtype is not torch.float64:
        raise ValueError("a cell moves in float64 only; make the batch with that type")
    flat = np.flatnonzero(np.linalg.det(cells.numpy()) == 0.0)
    if len(flat) and code is not CellFilter.NONE:
        raise ValueError(f"system {rows[flat[0]]} does not have three cell vectors to move")
    if cell_factor is None:
        sizes = np.asarray(batch.num_nodes_list, float)[rows]
        cell_factor = sizes if code in (CellFilter.UNIT_CELL, CellFilter.FRECHET) else 1.0
    values = {
        "cell_filter": int(code),
        "cell_mask": full_mask(mask),
        "orig_cell": cells,
        "cell_factor": cell_factor,
        "hydrostatic_strain": hydrostatic_strain,
        "constant_volume": constant_volume,
        "scalar_pressure": scalar_pressure,
        "strain": np.zeros(6),
    }
    for key, value in values.items():
        put_rows(batch, key, rows, value)


def put_rows(batch: Batch, key: str, rows: np.ndarray, value: Any) -> None:
    """Give some systems values of a declared field; the others keep theirs, or get the default.

    Parameters
    ----------
    batch
        The batch.
    key
        The field.
    rows
        Which systems.
    value
        One for all of them, or one each.

    Raises
    ------
    ValueError
        Another number of values.
    """
    field = FIELDS[key]
    shape = (len(batch), *field.shape)
    if key not in batch:
        dtype = batch["positions"].dtype if field.dtype is None else field.dtype
        assert field.default is not None
        batch[key] = torch.full(shape, field.default, dtype=dtype, device=batch.device)
    new = torch.as_tensor(value if isinstance(value, torch.Tensor) else np.asarray(value))
    new = new.to(batch[key])
    if field.shape == (1,) and new.numel() == len(rows):
        new = new.reshape(-1, 1)
    try:
        new = new.expand(len(rows), *field.shape)
    except RuntimeError:
        raise ValueError(
            f"{key}: shape {tuple(new.shape)} for {len(rows)} systems; give one value or one each"
        ) from None
    batch[key] = batch[key].index_copy(0, torch.from_numpy(rows).to(batch.device), new)


def collapsed(batch: Batch) -> Bool[Tensor, "B 1"]:
    """Return which systems lost the cell that optimizers move, now or when they failed."""
    ratio = determinant(batch["cell"]) / determinant(batch["orig_cell"])
    lost = (batch["cell_filter"] != int(CellFilter.NONE)) & ~(ratio.view(-1, 1) > COLLAPSED)
    return lost | batch["cell_lost"] if "cell_lost" in batch else lost


def full_mask(mask: Any) -> np.ndarray:
    """Return a mask of strains, (3, 3), from None, (6,) in Voigt's order, or (3, 3)."""
    values = np.ones(6) if mask is None else np.asarray(mask, float)
    if values.shape == (6,):
        xx, yy, zz, yz, xz, xy = values
        values = np.array([[xx, xy, xz], [xy, yy, yz], [xz, yz, zz]])
    if values.shape != (3, 3):
        raise ValueError(f"a mask of strains has shape (6,) or (3, 3), not {values.shape}")
    return values


def voigt(matrices: Float[Tensor, "S 3 3"]) -> Float[Tensor, "S 6"]:
    """Return xx, yy, zz, yz, xz, xy."""
    return matrices.reshape(-1, 9).index_select(1, _components(matrices.device))


@lru_cache
def _components(device: torch.device) -> Tensor:
    return torch.tensor([0, 4, 8, 5, 2, 1], device=device)
