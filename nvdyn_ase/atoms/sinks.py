"""Sinks that write the systems of batches to files as ``ase.Atoms``."""

import sys
from itertools import count
from pathlib import Path
from typing import Any, Self

import ase
import torch
from ase.stress import voigt_6_to_full_3x3_stress
from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.atoms.convert import batch_from_atoms
from nvdyn_ase.atoms.export import batch_to_atoms
from nvdyn_ase.atoms.results import PROPERTIES
from nvdyn_ase.data import FIELDS, Batch, Level
from nvdyn_ase.dynamics.sinks import DataSink
from nvdyn_ase.dynamics.sinks.data_sink import chosen_systems
from nvdyn_ase.files import DatabaseFile, ExtxyzFile, StructureFile, TrajectoryFile

#: What an engine knows of a system, and an Atoms has no place for: it is written beside it.
_MARKS = ("system_id", "status", "steps", "evaluations", "outcome", "fmax")


class FileSink(DataSink):
    """What the sinks that write ``ase.Atoms`` have in common.

    A system is written as :func:`nvdyn_ase.atoms.to_atoms` gives it, with energy, forces and
    stress, constraints and ``info``; what the format has no place for is kept in
    ``info["nvdyn_ase"]``. ``system_id``, ``status``, ``steps``, ``evaluations``, ``outcome`` and
    ``fmax`` are written beside it under these names.

    A file that is there is gone on with. What was written survives the death of the process, also
    in the middle of a system: what is half there is dropped when the file is opened again.

    :meth:`read` gives a batch as ``from_atoms`` makes it, with the results and the fields above.
    Fields per system that a user added are in ``info`` then.

    Parameters
    ----------
    path
        The file; it is made at once.
    capacity
        How many systems it takes; without end by default.

    Raises
    ------
    nvdyn_ase.files.DamagedFileError
        There is a file of another kind, or a damaged one. It is left as it is.
    """

    _kind: type[StructureFile]

    def __init__(self, path: str | Path, capacity: int = sys.maxsize) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        self.path, self.capacity = path, capacity
        self._file = self._kind(path)
        self._file.recover()

    def __repr__(self) -> str:
        """Say where, and how full it is."""
        room = "" if self.capacity == sys.maxsize else f" of {self.capacity}"
        return f"{type(self).__name__}({str(self.path)!r}, {len(self)}{room} systems)"

    def __len__(self) -> int:
        """Return the number of systems in the file."""
        return self._file.records()

    def __enter__(self) -> Self:
        """Return itself; :meth:`close` follows."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file."""
        self.close()

    def write(self, batch: Batch, mask: Bool[Tensor, " B"] | None = None) -> None:
        """Add the systems of a batch, or the masked ones, to the file.

        Raises
        ------
        ValueError
            The mask does not have one entry per system.
        RuntimeError
            They do not fit; nothing is written.
        OSError
            The disk is full, or similar. The systems before are in the file.
        """
        part = chosen_systems(batch, mask)
        self.check_room(part)
        part = part.cpu()
        columns = {key: part[key].view(-1).tolist() for key in _MARKS if key in part}
        for row, atoms in enumerate(batch_to_atoms(part)):
            self._file.add(atoms, {key: column[row] for key, column in columns.items()})
        self._file.commit()

    def read(self) -> Batch:
        """Return everything, and keep it; RuntimeError if there is nothing."""
        if not len(self):
            raise RuntimeError("the sink is empty")
        structures, marks = [], []
        for atoms, own in self._file.read():
            marks.append({key: _mark(key, atoms, own) for key in _MARKS})
            structures.append(atoms)
        batch = batch_from_atoms(structures)
        for key in _MARKS:
            _add_column(batch, key, [own[key] for own in marks])
        _add_results(batch, structures)
        return batch

    def system_ids(self) -> set[int]:
        """Return the ``system_id`` of everything that has one; empty if nothing has."""
        marks = (_mark("system_id", atoms, own) for atoms, own in self._file.read())
        return {number for number in marks if number is not None}

    def zero(self) -> None:
        """Empty the file."""
        self._file.close()
        for path in self._kind.belongings(Path(self.path)):
            path.unlink(missing_ok=True)
        self._file = self._kind(self.path)
        self._file.recover()

    def close(self) -> None:
        """Have everything on the disk, and let go of the file."""
        self._file.close()


class TrajectorySink(FileSink):
    """Writes systems to a ``.traj`` file, every number as it is; see :class:`FileSink`."""

    _kind = TrajectoryFile


class ExtxyzSink(FileSink):
    """Writes systems to an extended xyz file, which other programs read; see :class:`FileSink`.

    ``ase.io`` writes columns with eight decimals: positions, momenta, forces, charges and masses
    are rounded by up to 5e-9. Energy, cell, stress and other numbers of ``info`` are exact.
    """

    _kind = ExtxyzFile


class DatabaseSink(FileSink):
    """Writes systems to an ``ase.db`` in SQLite, every number as it is; see :class:`FileSink`.

    What is written beside a system can be searched for, as ``db.select(outcome=1)``; only ``fmax``
    is among the data of the row. Each call of :meth:`write` is a transaction. The sink belongs to
    the thread that writes.
    """

    _kind = DatabaseFile


# -------------------------------------------------------------------- back to a batch


def _mark(key: str, atoms: ase.Atoms, marks: dict[str, Any]) -> Any:
    """Return what was written beside a system, taking it out of ``info`` where it is there."""
    return marks[key] if key in marks else atoms.info.pop(key, None)


def _add_column(batch: Batch, key: str, values: list[Any]) -> None:
    fallback = FIELDS[key].default
    if key == "system_id":
        numbers = count(max([-1, *(value for value in values if value is not None)]) + 1)
        values = [next(numbers) if value is None else value for value in values]
    elif all(value is None for value in values):
        return
    filled = [fallback if value is None else value for value in values]
    batch[key] = torch.tensor(filled, dtype=FIELDS[key].dtype or torch.float64).view(-1, 1)


def _add_results(batch: Batch, structures: list[ase.Atoms]) -> None:
    """Give a batch what the calculators of its structures have; NaN where one has nothing."""
    for name, kind in PROPERTIES.items():
        found = [{} if a.calc is None else a.calc.results for a in structures]
        if not any(name in results for results in found):
            continue
        shape = (3, 3) if kind.voigt else kind.shape
        rows = [
            torch.as_tensor(_full(results[name], kind.voigt), dtype=torch.float64)
            if name in results
            else torch.full((len(atoms), *shape) if kind.per_atom else shape, float("nan")).double()
            for results, atoms in zip(found, structures, strict=True)
        ]
        if kind.per_atom:
            batch.add_key(kind.field, torch.cat(rows), level=Level.NODE)
        else:
            batch[kind.field] = torch.stack(rows).view(len(batch), *(shape or (1,)))


def _full(values: Any, voigt: bool) -> Any:
    return voigt_6_to_full_3x3_stress(values) if voigt else values
