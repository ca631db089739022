"""ASE's filters as fields of a batch: what an engine has to know of them, and back."""

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
import torch
from ase.filters import ExpCellFilter, Filter, FrechetCellFilter, StrainFilter, UnitCellFilter

from nvdyn_ase.data import Batch, StructureError
from nvdyn_ase.dynamics.cell_filters import CellFilter, full_mask, put_rows

_KINDS = {
    Filter: CellFilter.NONE,
    UnitCellFilter: CellFilter.UNIT_CELL,
    FrechetCellFilter: CellFilter.FRECHET,
    ExpCellFilter: CellFilter.EXP,
    StrainFilter: CellFilter.STRAIN,
}


def filtered(item: Any) -> ase.Atoms:
    """Return the Atoms itself, or that behind a filter."""
    return item.atoms if isinstance(item, Filter) else item


def why_not(item: Any) -> str | None:
    """Say why an engine cannot move a thing, which has to be an Atoms or a filter of ASE's."""
    if isinstance(item, ase.Atoms):
        return None
    if type(item) not in _KINDS:
        kind = type(item).__name__
        return f"a {kind} is neither an Atoms nor one of ASE's filters; it is moved alone only"
    if not isinstance(item.atoms, ase.Atoms):
        return f"it is a filter on a {type(item.atoms).__name__}, not on an Atoms"
    if type(item) is Filter:
        atoms = np.arange(len(item.atoms))[item.index]
        if not len(atoms):
            return "it is a Filter that shows no atoms"
        return None if (np.diff(atoms) > 0).all() else "its indices do not ascend; sort them"
    if item.atoms.cell.rank != 3:
        return "it is a filter of a cell that does not have three cell vectors"
    if getattr(item, "include_ideal_gas", False):
        return "it is a StrainFilter with include_ideal_gas, which is moved alone only"
    return None


class Filters:
    """The filters among some Atoms, and what they say of themselves.

    Parameters
    ----------
    items
        Atoms and filters, in the order of a batch.
    """

    def __init__(self, items: Sequence[Any]) -> None:
        self._filters = {row: item for row, item in enumerate(items) if isinstance(item, Filter)}
        self._cells = {row: f for row, f in self._filters.items() if type(f) is not Filter}
        self._rows = np.array(list(self._cells), np.int64)
        self._known: dict[str, np.ndarray] = {}
        self._hidden = np.zeros(sum(len(filtered(item)) for item in items), bool)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._filters)

    def put(self, batch: Batch) -> None:
        """Give a batch the fields that say what the filters do.

        Raises
        ------
        StructureError
            A mask that is none.
        """
        self._known = self._read()
        for key, values in self._known.items():
            put_rows(batch, key, self._rows, values)
        self._hide(batch)

    def _hide(self, batch: Batch) -> bool:
        """Mark the atoms that filters do not show, and say whether those are others now."""
        hidden = np.zeros(batch.num_nodes, bool)
        for row, item in self._filters.items():
            if type(item) is Filter:
                own = hidden[batch.host_ptr[row] : batch.host_ptr[row + 1]]
                own[:] = True
                own[item.index] = False
        changed = not np.array_equal(hidden, self._hidden)
        if changed:
            self._hidden = hidden
            batch["hidden"] = torch.from_numpy(hidden).to(batch.device)
        return changed

    def take_up(self, batch: Batch) -> bool:
        """Put into a batch what the user changed on the filters, and say whether there is any."""
        now = self._read()
        changed = [key for key in now if not np.array_equal(now[key], self._known[key])]
        for key in changed:
            put_rows(batch, key, self._rows, now[key])
        self._known = now
        return self._hide(batch) or bool(changed)

    def write(self, batch: Batch, stress: np.ndarray | None) -> None:
        """Write what the filters tell of a batch into them.

        Parameters
        ----------
        batch
            The systems; strain filters get their strains.
        stress
            Of each filter that is no strain filter, in order, (D, 6); None to leave it alone.
        """
        cells: list[Any] = list(self._cells.values())
        others = [item for item in cells if not isinstance(item, StrainFilter)]
        if stress is not None:
            for item, own in zip(others, stress, strict=True):
                item.stress = own.copy()
        if len(others) == len(cells):
            return
        strains = batch["strain"].cpu().numpy()
        for row, item in self._cells.items():
            if isinstance(item, StrainFilter):
                item.strain[:] = strains[row]
        self._known = self._read()

    def origin(self, batch: Batch) -> dict[str, np.ndarray]:
        """Return what coordinates of cells count from, which a restart has to know."""
        if not self._cells:
            return {}
        return {key: batch[key].cpu().numpy()[self._rows] for key in ("orig_cell", "strain")}

    def restore(self, origin: dict[str, np.ndarray]) -> None:
        """Give the user's filters what :meth:`origin` has returned for such filters before."""
        cells: list[Any] = list(self._cells.values()) if origin else []
        for place, item in enumerate(cells):
            if isinstance(item, StrainFilter):
                item.origcell[:] = origin["orig_cell"][place]
                item.strain[:] = origin["strain"][place]
            else:
                item.orig_cell = origin["orig_cell"][place]

    def _read(self) -> dict[str, np.ndarray]:
        found = [_fields(row, item) for row, item in self._cells.items()]
        return (
            {key: np.stack([fields[key] for fields in found]) for key in found[0]} if found else {}
        )


def _fields(row: int, item: Any) -> dict[str, np.ndarray]:
    """Return the fields of one filter."""
    kind = _KINDS[type(item)]
    strained = kind is CellFilter.STRAIN
    try:
        mask = full_mask(item.mask)
    except ValueError as error:
        raise StructureError(row, str(error)) from None
    factor = item.exp_cell_factor if kind is CellFilter.FRECHET else getattr(item, "cell_factor", 1)
    origin = item.origcell if strained else item.orig_cell
    values = {
        "cell_filter": int(kind),
        "cell_mask": mask,
        "orig_cell": np.array(origin[:], float),
        "cell_factor": float(factor),
        "hydrostatic_strain": bool(getattr(item, "hydrostatic_strain", False)),
        "constant_volume": bool(getattr(item, "constant_volume", False)),
        "scalar_pressure": float(getattr(item, "scalar_pressure", 0.0)),
        "strain": np.array(item.strain if strained else np.zeros(6), float),
    }
    return {key: np.asarray(value) for key, value in values.items()}
