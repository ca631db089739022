"""Which files the structures came from, so that a run goes on with the same ones."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

_MEGABYTE = 2**20
#: Files up to this size are hashed whole, which takes less than a second.
WHOLE_UP_TO = 256 * _MEGABYTE
_SAMPLES = 64


def identity(names: Sequence[str]) -> list[dict[str, Any]]:
    """Return what tells input files from others: their names, sizes and hashes, not their dates.

    Parameters
    ----------
    names
        The files, in their order, as they were named: ``NAME@START:STOP`` is a part of one.

    Returns
    -------
    list of dict
        For each, ``name`` without its folder, ``size`` in bytes, and ``sha256``: of the whole file
        up to 256 MB; of larger ones, of the first and the last megabyte and of 64 blocks between.

    Raises
    ------
    OSError
        A file cannot be read.
    """
    return [_identity(name) for name in names]


def _identity(name: str) -> dict[str, Any]:
    path = path_of(name)
    with path.open("rb") as file:
        size = path.stat().st_size
        return {"name": Path(name).name, "size": size, "sha256": _digest(file, size)}


def path_of(name: str) -> Path:
    """Return the file of a name that may have a selection behind an ``@``, as ``ase.io`` has it."""
    path = Path(name)
    if "@" in path.name and not path.exists():
        return path.with_name(path.name.rsplit("@", 1)[0])
    return path


def _digest(file: BinaryIO, size: int) -> str:
    digest = hashlib.sha256()
    if size <= WHOLE_UP_TO:
        blocks = [(0, size)]
    else:
        step = (size - 2 * _MEGABYTE) // _SAMPLES
        starts = [_MEGABYTE + step * sample for sample in range(_SAMPLES)]
        blocks = [(0, _MEGABYTE), *((start, 65536) for start in starts), (size - _MEGABYTE, size)]
    for start, length in blocks:
        file.seek(start)
        end = min(start + length, size)
        while start < end and (data := file.read(min(_MEGABYTE, end - start))):
            digest.update(data)
            start += len(data)
    return digest.hexdigest()


def changes(before: Sequence[Any], now: Sequence[Any]) -> list[str]:
    """Say what differs between the identities of the input of two runs; nothing if all agree."""
    if len(before) != len(now):
        return [f"it had {len(before)} input files, and there are {len(now)}"]
    found = []
    for old, new in zip(before, now, strict=True):
        if old["name"] != new["name"]:
            found.append(f"the input was {old['name']}, and is {new['name']}")
        elif old["size"] != new["size"]:
            found.append(f"{new['name']} had {old['size']} bytes, and has {new['size']}")
        elif old["sha256"] != new["sha256"]:
            found.append(f"{new['name']} has another content")
    return found
