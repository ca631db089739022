"""Taking up what the user did to Atoms since a batch was made from them or written into them."""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any

import ase
import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.atoms.comparing import Comparison
from nvdyn_ase.atoms.convert import from_atoms
from nvdyn_ase.atoms.electrons import ELECTRONS
from nvdyn_ase.atoms.origin import ORIGIN
from nvdyn_ase.atoms.writing import check_sizes
from nvdyn_ase.data import FIELDS, AtomicData, Batch, Level
from nvdyn_ase.data.joining import ragged_rows


class Changes(Sequence[int]):
    """The systems that :func:`read_back` took something up from.

    Parameters
    ----------
    rows
        Their rows, ascending.
    constraints
        Whether constraints of one of them were replaced: whoever prepared the constraints of the
        batch has to do so again, and what depends on them, as ``fmax``, is out of date.
    """

    def __init__(self, rows: list[int], constraints: bool) -> None:
        self.rows, self.constraints = rows, constraints

    def __getitem__(self, index: Any) -> Any:
        """Return a row."""
        return self.rows[index]

    def __len__(self) -> int:
        """Return the number of systems."""
        return len(self.rows)

    def __repr__(self) -> str:
        """List the rows."""
        return f"Changes({self.rows}, constraints={self.constraints})"


def read_back(
    atoms: Sequence[ase.Atoms], batch: Batch, *, copy_constraints: bool = False
) -> Changes:
    """Put what the user changed on the Atoms into the batch.

    Noticed are positions, elements, cell, pbc, momenta, masses, initial charges and magnetic
    moments, and constraints that were added, removed or replaced. Of a system in which any of these
    differs, everything is read again. Only fields that then differ become new tensors, so that
    energy and forces stay valid if, say, momenta were changed.

    A system whose positions are not finite, in the batch and still, is left as it is.

    Parameters
    ----------
    atoms
        The user's objects, in the order of the batch, as they were last written.
    batch
        The systems, changed in place.
    copy_constraints
        See :func:`nvdyn_ase.atoms.from_atoms`.

    Returns
    -------
    Changes
        The rows that changed; its length is zero if nothing did.

    Raises
    ------
    ValueError
        Not one Atoms per system.
    StructureError
        A structure has another number of atoms now, or cannot be used any more.
    """
    check_sizes(batch, atoms)
    comparison = Comparison(atoms, batch)
    moved = comparison.geometry()
    rows = [row for row in range(len(atoms)) if moved[row] or comparison.extras(row)]
    rows = [row for row in rows if not comparison.is_lost(row)]
    if not rows:
        return Changes([], False)
    constraints = any(not comparison.same_constraints(row) for row in rows)
    dtype = batch["positions"].dtype
    systems = []
    for row in rows:
        data = from_atoms(atoms[row], index=row, dtype=dtype, copy_constraints=copy_constraints)
        comparison.keep(row, data, constraints=copy_constraints)
        systems.append(data)
    _take_up(batch, rows, systems)
    return Changes(rows, constraints)


def _take_up(batch: Batch, rows: list[int], systems: list[AtomicData]) -> None:
    """Replace rows of the batch by what the systems say."""
    chosen = np.array(rows)
    places = {
        Level.SYSTEM: torch.as_tensor(chosen).to(batch.device),
        Level.NODE: torch.as_tensor(ragged_rows(batch.host_ptr, chosen)).to(batch.device),
    }
    found = [{key: tensor for key, _, tensor in data.items()} for data in systems]
    for key, level, default in _fields(batch, rows, systems):
        sizes = [data.num_nodes if level is Level.NODE else 1 for data in systems]
        new = _joined([own.get(key) for own in found], sizes, default, batch, key)
        _replace(batch, key, level, default, new, places[level])
    constraints = list(batch.constraints)
    for row, data in zip(rows, systems, strict=True):
        constraints[row] = data.constraints
        batch.host[row] = {**batch.host[row], **data.host}
    batch.constraints = constraints


def _fields(
    batch: Batch, rows: list[int], systems: list[AtomicData]
) -> Iterator[tuple[str, Level, Any]]:
    """Yield the fields that come from Atoms, before or now, with level and default."""
    found: dict[str, tuple[Level, Any]] = {}
    for data in systems:
        for key, level, _ in data.items():
            default = FIELDS[key].default if key in FIELDS else data._defaults.get(key)
            found[key] = (level, default)
    for row in rows:
        origin = batch.host[row].get(ORIGIN)
        known = [] if origin is None else [key for key, _ in origin.fields.values()]
        for key in (*known, "fixed", *ELECTRONS):
            if key in batch:
                default = FIELDS[key].default if key in FIELDS else batch.defaults.get(key)
                found.setdefault(key, (batch.level(key), default))
    del found["system_id"]
    for key, (level, default) in found.items():
        yield key, level, default


def _joined(
    tensors: list[Tensor | None], sizes: list[int], default: Any, batch: Batch, key: str
) -> Tensor:
    """Lay the new rows of a field end to end, with defaults where there are none."""
    present = [tensor for tensor in tensors if tensor is not None]
    like = batch[key] if key in batch else present[0]
    # An array of the user's may be of a wider type now than those the field was made of.
    dtype = reduce(torch.promote_types, [tensor.dtype for tensor in present], like.dtype)
    return torch.cat(
        [
            like.new_full((size, *like.shape[1:]), default, dtype=dtype)
            if tensor is None
            else tensor.to(like.device, dtype)
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
    ).to(batch.device)


def _replace(
    batch: Batch, key: str, level: Level, default: Any, new: Tensor, places: Tensor
) -> None:
    """Make a new tensor of a field, unless the rows are the same."""
    if key not in batch:
        count = batch.num_nodes if level is Level.NODE else len(batch)
        blank = new.new_full((count, *new.shape[1:]), default)
        batch.add_key(key, blank.index_copy(0, places, new), level, default=default)
        return
    old = batch[key]
    if not _is_same(key, old.index_select(0, places), new):
        batch[key] = old.to(new.dtype).index_copy(0, places, new)


def _is_same(key: str, old: Tensor, new: Tensor) -> bool:
    """Say whether values are equal; of the user's arrays, to the sign of zero."""
    if not torch.equal(old, new):
        return False
    if key in FIELDS or not (new.is_floating_point() or new.is_complex()):
        return True
    old, new = (torch.view_as_real(t) if t.is_complex() else t for t in (old, new))
    return torch.equal(old.signbit(), new.signbit())
