"""ASE's trajectory files."""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, Self

import ase
import numpy as np
from ase.io import ulm
from ase.io.jsonio import encode
from ase.io.trajectory import TrajectoryReader, TrajectoryWriter

from nvdyn_ase.files.extras import KEY, Extras, restore, results_of
from nvdyn_ase.files.structure_file import INDEX, DamagedFileError, StructureFile, owners
from nvdyn_ase.files.ulm_items import Mended, find_items, write_table
from nvdyn_ase.replacing import replacing

_TAG = "ASE-Trajectory"
#: Arrays that have a place beside numbers and positions, and the kinds of numbers they are read as.
_KINDS = {"masses": "f", "momenta": "f", "tags": "i"} | dict.fromkeys(
    ("initial_magmoms", "initial_charges"), "f"
)


class TrajectoryFile(StructureFile):
    """A ``.traj`` file, which keeps every number as it is. See :class:`StructureFile`."""

    form = "traj"

    def recover(self) -> list[dict[str, Any]]:
        """Open the file without what is behind its last whole item; see :class:`StructureFile`."""
        self.path.touch()
        size = self.path.stat().st_size
        with self.path.open("rb") as file:
            items = find_items(file, size)
        if items is None:
            raise DamagedFileError(f"{self.path} is not a trajectory of ASE; move it away")
        if not items.is_whole:
            write_table(self.path, items)
        self._writer: TrajectoryWriter | None = None
        found = [_marks(item.get("info")) for item in self._items()]
        self._newest = {own[INDEX]: place for place, own in enumerate(found) if INDEX in own}
        self._written = len(found)
        return found

    def _items(self) -> Iterator[Any]:
        if not self.path.stat().st_size:
            return
        with ulm.Reader(self.path) as reader:
            if reader.get_tag() != _TAG:
                raise DamagedFileError(f"{self.path} is not a trajectory of ASE; move it away")
            for place in range(len(reader)):
                yield reader[place]

    def indices(self) -> set[int]:
        """Return the ``INDEX`` of every record that has one."""
        return set(self._newest)

    def records(self) -> int:
        """Return the number of records."""
        return self._written

    def add(self, atoms: ase.Atoms, marks: Mapping[str, Any]) -> None:
        """Write an item; see :class:`StructureFile`."""
        start = self.path.stat().st_size
        try:
            if self._writer is None:
                self._writer = TrajectoryWriter(self.path, "a")
            self._writer.write(fitted(atoms, marks))
        except BaseException:
            self._forget(start)
            raise
        if INDEX in marks:
            self._newest[marks[INDEX]] = self._written
        self._written += 1

    def _forget(self, start: int) -> None:
        """Give up a half-written item: the writer would put parts of it into the next one."""
        try:
            if self._writer is not None:
                self._writer.backend.fd.close()
        except OSError:  # it has bytes that do not go to the disk
            pass
        os.truncate(self.path, start)
        self.recover()

    def flush(self) -> None:
        """Have everything on the disk."""
        if self._writer is not None:
            os.fsync(self._writer.backend.fd.fileno())

    def settle(self) -> None:
        """Drop the items that others have taken the place of; order the rest by their index."""
        if len(self._newest) in (0, self._written):
            return
        self.take_over([])

    def take_over(self, others: Sequence[Self]) -> None:
        """Write the items of other files again; see :class:`StructureFile`."""
        files = [self, *others]
        for file in files:
            file.close()
        owned = owners(files)
        with ExitStack() as stack, replacing(self.path) as new:
            readers = {
                file: stack.enter_context(TrajectoryReader(file.path))
                for file in dict.fromkeys(owned.values())
            }
            writer = TrajectoryWriter(new)
            for index, owner in owned.items():
                writer.write(readers[owner][owner._newest[index]])
        self.recover()

    def close(self) -> None:
        """Have everything on the disk, and let go of the file."""
        if self._writer is not None:
            self.flush()
            self._writer.close()
            self._writer = None

    def read(self) -> Iterator[tuple[ase.Atoms, dict[str, Any]]]:
        """Iterate over the structures; the marks are in ``info``."""
        if not self.path.stat().st_size:
            return
        with TrajectoryReader(self.path) as reader:
            for atoms in reader:
                yield atoms, restore(atoms)


def whole_items(path: Path, file: BinaryIO, size: int) -> tuple[TrajectoryReader | None, bool]:
    """Return a reader of what is whole in the first so many bytes of a file, and whether all is.

    There is no reader where nothing is whole.

    Raises
    ------
    DamagedFileError
        It is not a trajectory.
    """
    items = find_items(file, size)
    if items is None:
        raise DamagedFileError(f"{path} is not a trajectory of ASE")
    if not items.offsets:
        return None, items.is_whole
    return TrajectoryReader(file if items.is_whole else Mended(file, items, size)), items.is_whole


def _marks(info: Any) -> dict[str, Any]:
    info = info or {}
    return {key: value for key, value in info.items() if key == INDEX or _is_outcome(key)}


def _is_outcome(key: Any) -> bool:
    return isinstance(key, str) and key.endswith("_outcome")


def fitted(atoms: ase.Atoms, marks: Mapping[str, Any]) -> ase.Atoms:
    """Return what ASE writes so that nothing is lost, with marks first in its ``info``."""
    extras = Extras("traj")
    twin = copy.copy(atoms)
    twin.arrays = extras.take_arrays(atoms.arrays, _has_place)
    twin.info = dict(marks) | extras.take_info(atoms.info, marks, _is_entry)
    twin.constraints = extras.take_constraints(atoms.constraints)
    extras.take_displacement(atoms)
    if (rest := extras.text()) is not None:
        twin.info[KEY] = rest
    results = results_of(atoms)
    twin.calc = None if not results else _Results(atoms.calc, results)
    return twin


class _Results:
    """As much of a calculator as is needed to write its results."""

    def __init__(self, calc: Any, results: dict[str, Any]) -> None:
        self.name = getattr(calc, "name", None) or type(calc).__name__.lower()
        self._results = results
        self._calc = calc

    def todict(self) -> dict[str, Any]:
        """Return the parameters."""
        try:
            parameters: dict[str, Any] = self._calc.todict()
            encode(parameters)
        except Exception:  # a calculator may not tell its parameters; its results count
            return {}
        return parameters

    def get_property(self, name: str, atoms: ase.Atoms, allow_calculation: bool = False) -> Any:
        """Return a result, or None."""
        value = self._results.get(name)
        return np.asarray(value) if name in ("stress", "dipole") and value is not None else value


def _has_place(name: str, array: np.ndarray) -> bool:
    if name in ("numbers", "positions"):
        return True
    return array.dtype.kind in _KINDS.get(name, "") and array.dtype.isnative


def _is_entry(key: Any, value: Any) -> bool:
    """Say whether ASE gives an entry back as it is, up to lists and arrays."""
    if not isinstance(key, str) or key == KEY or key.lstrip("+-").isdigit() or key.endswith("."):
        return False
    try:
        encode(value)
    except Exception:
        return False
    return True
