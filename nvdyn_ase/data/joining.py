"""Laying systems end to end: the ragged arithmetic behind ``Batch``."""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data.atomic_data import AtomicData
from nvdyn_ase.data.fields import FIELDS, Fill, Level


class Part(NamedTuple):
    """What is laid end to end: the arguments of a ``Batch``, in their order."""

    fields: dict[str, tuple[Level, Tensor]]
    nodes: np.ndarray
    edges: np.ndarray
    constraints: list[tuple[Any, ...]]
    host: list[dict[str, Any]]
    device: torch.device
    defaults: dict[str, Fill]

    def rows(self, level: Level) -> int:
        """Return the number of rows at a level."""
        sizes = {Level.NODE: self.nodes, Level.EDGE: self.edges}
        if level is Level.BLOCK:
            return int(block_entries(self.nodes).sum())
        return int(sizes[level].sum()) if level in sizes else len(self.nodes)


def part_of(data: AtomicData) -> Part:
    """Return one system as a part."""
    fields = {key: (level, tensor) for key, level, tensor in data.items()}
    edges = next((len(tensor) for level, tensor in fields.values() if level is Level.EDGE), 0)
    sizes = np.array([data.num_nodes]), np.array([edges])
    return Part(fields, *sizes, [data.constraints], [data.host], data.device, data._defaults)


def joined(parts: list[Part], device: torch.device) -> Part:
    """Lay parts end to end.

    Raises
    ------
    ValueError
        A field without default that only some parts bring, or whose rows differ in level, shape or
        type.
    """
    levels: dict[str, Level] = {}
    defaults: dict[str, Fill] = {}
    for part in parts:
        defaults.update(part.defaults)
        for key, (level, _) in part.fields.items():
            if levels.setdefault(key, level) is not level:
                raise ValueError(f"{key!r} is {level}-level here and {levels[key]}-level there")
    fields = {}
    for key, level in levels.items():
        default = FIELDS[key].default if key in FIELDS else defaults.get(key)
        fields[key] = (level, _column(key, level, parts, default, device))
    return Part(
        fields,
        np.concatenate([part.nodes for part in parts]),
        np.concatenate([part.edges for part in parts]),
        [own for part in parts for own in part.constraints],
        [own for part in parts for own in part.host],
        device,
        defaults,
    )


def _column(
    key: str, level: Level, parts: list[Part], default: Fill | None, device: torch.device
) -> Tensor:
    """Lay one field end to end, with defaults where a part does not bring it."""
    like = next(part.fields[key][1] for part in parts if key in part.fields)
    pieces = []
    systems = atoms = 0
    for part in parts:
        if key in part.fields:
            piece = part.fields[key][1]
            if key == "status" and piece.ndim != like.ndim:  # (B,) and (B, 1) are both at home
                piece = piece.view(-1, *like.shape[1:])
            elif key == "edge_index":
                piece = piece + atoms
            pieces.append(piece if piece.device == device else piece.to(device))
        elif rows := part.rows(level):
            pieces.append(_default_rows(key, rows, like, default, systems).to(device))
        systems += len(part.nodes)
        atoms += int(part.nodes.sum()) if key == "edge_index" else 0
    _check_alike(key, pieces)
    return torch.cat(pieces)


def _default_rows(key: str, rows: int, like: Tensor, default: Fill | None, system: int) -> Tensor:
    if default is None:
        raise ValueError(
            f"system {system} has no {key!r}, and it has no default; add it to every system, "
            "or give a default when you add it"
        )
    return torch.full((rows, *like.shape[1:]), default, dtype=like.dtype, device=like.device)


def _check_alike(key: str, pieces: list[Tensor]) -> None:
    """Raise ValueError unless rows agree in shape, and in type up to the width of the floats."""
    shapes = {piece.shape[1:] for piece in pieces}
    if len(shapes) > 1:
        found = sorted(tuple(shape) for shape in shapes)
        raise ValueError(f"rows of {key!r} differ in shape from system to system: {found}")
    types = {piece.dtype for piece in pieces}
    if len(types) > 1 and not all(kind.is_floating_point for kind in types):
        raise ValueError(
            f"{key!r} differs in type from system to system: "
            f"{', '.join(sorted(map(str, types)))}; convert it to one of them"
        )


def pairs_per_system(pairs: np.ndarray, ptr: np.ndarray) -> np.ndarray:
    """Return the number of pairs of each system.

    Parameters
    ----------
    pairs
        (E, 2) atoms, counted over the batch.
    ptr
        (B + 1,) first atom of each system and the end.

    Raises
    ------
    ValueError
        A pair that is not within one system, systems out of order, or another shape.
    """
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"edge_index must be (E, 2), one row per pair, not {pairs.shape}")
    system = np.searchsorted(ptr, pairs, side="right") - 1
    within = (pairs >= 0).all() and (pairs < ptr[-1]).all() and (system[:, 0] == system[:, 1]).all()
    if not within or (np.diff(system[:, 0]) < 0).any():
        raise ValueError(
            "edge_index must hold pairs of atoms of the same system, system after system, counted "
            "over the batch; or give one tensor per system, each counted from its first atom"
        )
    return np.bincount(system[:, 0], minlength=len(ptr) - 1)


def boundaries(sizes: np.ndarray) -> np.ndarray:
    """Return the first row of each segment and the end, (B + 1,), from the sizes, (B,)."""
    ptr = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=ptr[1:])
    return ptr


def block_entries(nodes: np.ndarray) -> np.ndarray:
    """Return the entries of each system's matrix, (3n)², from the numbers of atoms, (B,)."""
    return (3 * nodes) ** 2


def ragged_rows(ptr: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Return the rows of the chosen segments, in order."""
    sizes = ptr[chosen + 1] - ptr[chosen]
    starts = np.repeat(ptr[chosen] - boundaries(sizes)[:-1], sizes)
    return starts + np.arange(len(starts))


def take(tensor: Tensor, rows: Tensor) -> Tensor:
    """Return the chosen rows of a tensor of any type."""
    # index_select is the faster of the two but does not know the wide unsigned types.
    unsigned = tensor.dtype in (torch.uint16, torch.uint32, torch.uint64)
    return tensor[rows] if unsigned else tensor.index_select(0, rows)
