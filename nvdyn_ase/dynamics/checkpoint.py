"""A checkpoint: batches and facts in one file, from which a run goes on bit for bit.

The file is a numpy archive (``.npz``) with a JSON header and the bytes of every tensor. Reading it
never runs code that it holds: there is no pickle in it and none is taken, where ``torch.load``,
also with ``weights_only=True``, interprets one and does not know all types of tensors. Each part
carries a checksum, so that a damaged file is noticed.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data import Batch, Level
from nvdyn_ase.replacing import replacing

_FORMAT = "nvdyn_ase checkpoint 1"
_HEADER = "header"


class CheckpointError(Exception):
    """A file that is no checkpoint, or no longer a whole one; it says what to do."""


def write_checkpoint(
    path: str | Path, batches: Mapping[str, Batch], facts: Mapping[str, Any]
) -> None:
    """Write batches and facts; the file is complete, or the one that was there before.

    Parameters
    ----------
    path
        The file.
    batches
        By name. Kept are sizes, fields of all levels and types bit for bit, and their defaults;
        deferred fields are computed, except pairs that nobody has read. ``constraints`` and
        ``host`` are objects, and come from the input again.
    facts
        What else there is to know, by name: anything that JSON holds.

    Raises
    ------
    TypeError
        A fact that JSON does not hold.
    OSError
        The file cannot be written, or the disk is full.
    """
    parts: dict[str, np.ndarray] = {}
    described = {name: _described(name, batch, parts) for name, batch in batches.items()}
    header = {"format": _FORMAT, "batches": described, "facts": dict(facts)}
    text = np.frombuffer(json.dumps(header).encode(), np.uint8)
    with replacing(path) as file:
        np.savez(file, allow_pickle=False, **{_HEADER: text}, **parts)


def _described(name: str, batch: Batch, parts: dict[str, np.ndarray]) -> dict[str, Any]:
    """Say what a batch consists of, and add the bytes of its fields to the parts."""
    batch = batch.index_select(slice(None)).cpu()  # without pairs that nobody has read
    fields = {}
    for key, tensor in batch:
        part = f"tensor{len(parts)}"
        parts[part] = _bytes(tensor)
        fields[key] = {
            "part": part,
            "level": batch.level(key).value,
            "dtype": str(tensor.dtype).removeprefix("torch."),
            "shape": list(tensor.shape),
        }
    return {
        "num_nodes": batch.num_nodes_list,
        "num_edges": batch.num_edges_list,
        "fields": fields,
        "defaults": batch.defaults,
    }


def _bytes(tensor: Tensor) -> np.ndarray:
    flat = tensor.detach().contiguous().view(-1)
    if not flat.numel():  # there is nothing to view as bytes
        return np.zeros(0, np.uint8)
    return flat.view(torch.uint8).numpy()


def read_checkpoint(
    path: str | Path, device: torch.device | str | None = None
) -> tuple[dict[str, Batch], dict[str, Any]]:
    """Read what :func:`write_checkpoint` wrote, without running anything that the file holds.

    Parameters
    ----------
    path
        The file.
    device
        Where to put the batches; the CPU by default.

    Returns
    -------
    tuple
        The batches by name, and the facts.

    Raises
    ------
    CheckpointError
        There is no such file, it is of another kind, or it is damaged.
    """
    try:
        header, parts = _contents(path)
        if header["format"] != _FORMAT:
            raise CheckpointError(
                f"{path} is of the format {header['format']!r}, not {_FORMAT!r}; it was written by "
                "another version of nvdyn_ase: read it with that one, or delete it to start afresh"
            )
        batches = {name: _batch(own, parts) for name, own in header["batches"].items()}
        facts = dict(header["facts"])
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}; start without one") from None
    except CheckpointError:
        raise
    except Exception as error:  # what comes of wrong bytes is of many types
        raise CheckpointError(
            f"{path} is not a checkpoint, or not a whole one ({type(error).__name__}: {error}); "
            "delete it to start afresh, or give another"
        ) from error
    return {name: batch.to(device or "cpu") for name, batch in batches.items()}, facts


def _contents(path: str | Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the header, and the bytes of every part."""
    with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
        parts = {name: archive[name] for name in archive.files}
    return json.loads(parts.pop(_HEADER).tobytes()), parts


def _batch(described: dict[str, Any], parts: dict[str, np.ndarray]) -> Batch:
    fields = {
        key: (Level(own["level"]), _tensor(own, parts[own["part"]]))
        for key, own in described["fields"].items()
    }
    sizes = described["num_nodes"], described["num_edges"]
    return Batch(fields, *sizes, defaults=described["defaults"])


def _tensor(described: dict[str, Any], raw: np.ndarray) -> Tensor:
    dtype = getattr(torch, described["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{described['dtype']!r} is no type of a tensor")
    if not len(raw):
        return torch.empty(described["shape"], dtype=dtype)
    return torch.from_numpy(raw).view(dtype).view(described["shape"])
