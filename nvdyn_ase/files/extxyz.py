"""Extended xyz files."""

import copy
import io
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO, Self

import ase
import ase.io
import numpy as np
from ase.calculators.calculator import all_properties
from ase.constraints import FixAtoms
from ase.io.extxyz import read_xyz

from nvdyn_ase.files.extras import KEY, Extras, plain, restore, results_of
from nvdyn_ase.files.extxyz_comment import entries
from nvdyn_ase.files.frames import frames
from nvdyn_ase.files.structure_file import INDEX, DamagedFileError, StructureFile, owners
from nvdyn_ase.replacing import replacing


class ExtxyzFile(StructureFile):
    """An extended xyz file: text, which other programs read too.

    ``ase.io`` writes columns, that is positions, forces, momenta and arrays, with eight decimals,
    so that they are rounded by up to 5e-9; numbers in the comment line, as energy, cell and stress,
    are exact. See :class:`StructureFile`.
    """

    form = "extxyz"

    def recover(self) -> list[dict[str, Any]]:
        """Open the file without a half-written last frame; see :class:`StructureFile`."""
        self.path.touch()
        self._file: BinaryIO = self.path.open("r+b", buffering=0)
        self._spans: list[tuple[int, int]] = []
        self._newest: dict[int, int] = {}
        found, end = [], 0
        with self.path.open("rb") as file:
            for number, frame in enumerate(frames(file)):
                if frame.problem and not frame.is_cut:
                    self._refuse(number)
                if frame.is_cut or not frame.text.endswith(b"\n"):
                    break
                marks = _marks(frame.text)
                self._count(marks, frame.start, frame.end)
                found.append(marks)
                end = frame.end
        self._end = end
        self._file.truncate(end)
        return found

    def _refuse(self, number: int) -> None:
        self._file.close()
        raise DamagedFileError(
            f"{self.path} is damaged at its structure {number}; repair it, or move it away"
        )

    def _count(self, marks: Mapping[str, Any], start: int, end: int) -> None:
        if INDEX in marks:
            self._newest[marks[INDEX]] = len(self._spans)
        self._spans.append((start, end))

    def indices(self) -> set[int]:
        """Return the ``INDEX`` of every record that has one."""
        return set(self._newest)

    def records(self) -> int:
        """Return the number of records."""
        return len(self._spans)

    def add(self, atoms: ase.Atoms, marks: Mapping[str, Any]) -> None:
        """Write a frame; see :class:`StructureFile`."""
        data = as_text(atoms, marks)
        start = self._end
        try:
            self._file.seek(start)
            rest = memoryview(data)
            while rest:
                rest = rest[self._file.write(rest) :]
        except BaseException:
            self._file.truncate(start)
            raise
        self._end = start + len(data)
        self._count(marks, start, self._end)

    def flush(self) -> None:
        """Have everything on the disk."""
        os.fsync(self._file.fileno())

    def settle(self) -> None:
        """Drop the frames that others have taken the place of; order the rest by their index."""
        if len(self._newest) in (0, len(self._spans)):
            return
        self.take_over([])

    def take_over(self, others: Sequence[Self]) -> None:
        """Copy the frames of other files, byte by byte; see :class:`StructureFile`."""
        with replacing(self.path) as new:
            for index, owner in owners([self, *others]).items():
                start, end = owner._spans[owner._newest[index]]
                owner._file.seek(start)
                new.write(owner._file.read(end - start))
        self._file.close()
        self.recover()

    def close(self) -> None:
        """Have everything on the disk, and let go of the file."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def read(self) -> Iterator[tuple[ase.Atoms, dict[str, Any]]]:
        """Iterate over the structures; the marks are in ``info``."""
        with self.path.open("rb") as file:
            for frame in frames(file):
                atoms = from_text(frame.text)
                for name, array in atoms.arrays.items():
                    if array.dtype == object:
                        atoms.arrays[name] = array.astype(str)
                yield atoms, restore(atoms)


def from_text(text: bytes) -> ase.Atoms:
    """Return the structure of a frame, as ``ase.io`` reads it."""
    file = io.StringIO(text.decode(), newline=None)
    found: ase.Atoms = next(read_xyz(file, index=0, properties_parser=entries))
    return found


# Marks come first in the comment, so that nothing else can be taken for them.
_FIRST = re.compile(rf"Properties=\S+ {INDEX}=(\d+)(?: (\w+_outcome)=(\w+))?".encode())


def _marks(text: bytes) -> dict[str, Any]:
    comment = text[text.index(b"\n") + 1 :]
    found = _FIRST.search(comment[: comment.index(b"\n")])
    if found is None:
        return {}
    marks: dict[str, Any] = {INDEX: int(found[1])}
    if found[2]:
        marks[found[2].decode()] = found[3].decode()
    return marks


# -------------------------------------------------------------------- writing

_NAME = re.compile(r"[A-Za-z_]\w*", re.ASCII)
_RESULTS = frozenset(all_properties)
_NOT_INFO = _RESULTS | {"Lattice", "Properties", "pbc", "virial", "uid", "UID", KEY}
_NOT_COLUMNS = _RESULTS | {"pos", "species", "symbols", "Z", "charge", "move_mask"}
# A text that is read as itself: it begins like a word, and is not one that stands for a number.
_SAFE = re.compile(r"[A-Za-z][\w :;.,()<>/+*-]*", re.ASCII)
_UNSAFE = re.compile(r"(nan|inf|infinity|t|f|true|false|_json)\b", re.IGNORECASE)


def as_text(atoms: ase.Atoms, marks: Mapping[str, Any]) -> bytes:
    """Return the frame of a structure, with marks first in its comment."""
    extras = Extras("extxyz")
    fitted = copy.copy(atoms)
    fitted.arrays = extras.take_arrays(atoms.arrays, _is_column)
    fitted.arrays["positions"] = np.asarray(atoms.positions, float)
    texts = {key: _quoted(value) for key, value in atoms.info.items() if _is_info_name(key)}
    own = extras.take_info(atoms.info, marks, lambda key, value: texts.get(key) is not None)
    are_exact = _is_one_mask(atoms.constraints)
    fitted.constraints = extras.take_constraints(atoms.constraints, are_exact)
    extras.take_displacement(atoms)
    fitted.info = {key: _quoted(value) for key, value in marks.items()}
    fitted.info |= {key: texts[key] for key in own}
    if (rest := extras.text()) is not None:
        fitted.info[KEY] = _quoted(rest)
    fitted.calc = _Results(results_of(atoms))
    out = io.StringIO()
    ase.io.write(out, fitted, format="extxyz")
    return out.getvalue().encode()


class _Results:
    """As much of a calculator as is needed to write its results."""

    def __init__(self, results: dict[str, Any]) -> None:
        self.results = results


def _is_column(name: str, array: np.ndarray) -> bool:
    """Say whether an array can be columns of numbers, or one of words."""
    if name in ("numbers", "positions"):
        return True
    if name in _NOT_COLUMNS or not _NAME.fullmatch(name):
        return False
    if array.ndim != 1 and (array.ndim != 2 or array.shape[1] < 2):
        return False
    if array.dtype.kind == "U":
        return array.ndim == 1 and all(
            len(word.split()) == 1 and word.isprintable() for word in array
        )
    if array.dtype.kind == "i":  # it is read as int32
        return bool((abs(array.astype(float)) < 2**31).all())
    return array.dtype.kind == "b" or array.dtype == np.float64


def _is_one_mask(constraints: list[Any]) -> bool:
    """Say whether constraints are read as they are from a column that says what may move."""
    if len(constraints) != 1 or type(constraints[0]) is not FixAtoms:
        return False
    index = np.asarray(constraints[0].index)
    return bool(len(index) and index[0] >= 0 and (np.diff(index) > 0).all())


def _is_info_name(key: Any) -> bool:
    return isinstance(key, str) and key not in _NOT_INFO and _NAME.fullmatch(key) is not None


def _quoted(value: Any) -> Any:
    """Return what ase.io writes so that it is read as the value, or None if there is nothing."""
    if isinstance(value, (bool, float, np.bool_, np.integer, np.floating)):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if _is_safe_text(value) or _is_vector(value):
        return value
    try:
        value = plain(value, arrays=False)
        np.array(value)  # the reader does this, and lists of lists of several lengths are too much
    except (TypeError, ValueError):
        return None
    return f"_JSON {json.dumps(value)}".replace("\\", "\\\\")


def _is_safe_text(value: Any) -> bool:
    if not isinstance(value, str) or value != value.strip():
        return False
    return _SAFE.fullmatch(value) is not None and not _UNSAFE.match(value)


def _is_vector(value: Any) -> bool:
    vector = isinstance(value, np.ndarray) and value.ndim == 1 and len(value) > 1
    return vector and value.dtype.kind in "bif"
