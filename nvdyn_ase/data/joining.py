"""Laying systems end to end: the ragged arithmetic behind ``Batch``."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data.atomic_data import AtomicData
from nvdyn_ase.data.fields import FIELDS, Fill, Level


class Part:
    """What is laid end to end: fields with levels, and the sizes of the systems."""

    def __init__(
        self,
        fields: dict[str, tuple[Level, Tensor]],
        nodes: np.ndarray,
        edges: np.ndarray,
        constraints: list[Any],
        host: list[Any],
        defaults: dict[str, Fill],
    ) -> None:
        self.fields, self.nodes, self.edges = fields, nodes, edges
        self.constraints, self.host, self.defaults = constraints, host, defaults

    @classmethod
    def of_data(cls, data: AtomicData) -> "Part":
        """Take one system."""
        fields = {key: (level, tensor) for key, level, tensor in data.items()}
        sizes = np.array([data.num_nodes]), np.array([data.num_edges])
        return cls(fields, *sizes, [data.constraints], [data.host], data._defaults)

    def rows(self, level: Level) -> int:
        """Return the number of rows at a level."""
        sizes = {Level.NODE: self.nodes.sum(), Level.EDGE: self.edges.sum()}
        return int(sizes.get(level, len(self.nodes)))


def joined(parts: list[Part], device: torch.device) -> tuple[Any, ...]:
    """Lay parts end to end and return the arguments of a ``Batch``.

    Raises
    ------
    ValueError
        A field without default that only some parts bring, or whose rows differ in level or shape.
    """
    nodes = np.concatenate([part.nodes for part in parts])
    edges = np.concatenate([part.edges for part in parts])
    offsets = boundaries(np.array([part.nodes.sum() for part in parts]))
    levels: dict[str, Level] = {}
    for part in parts:
        for key, (level, _) in part.fields.items():
            if levels.setdefault(key, level) is not level:
                raise ValueError(f"{key!r} is a {level} field here and a {levels[key]} field there")
    defaults = {key: value for part in parts for key, value in part.defaults.items()}
    fields = {}
    for key, level in levels.items():
        shift = offsets if key == "edge_index" else None
        default = FIELDS[key].default if key in FIELDS else defaults.get(key)
        fields[key] = (level, _column(key, level, parts, shift, default, device))
    constraints = [c for part in parts for c in part.constraints]
    host = [h for part in parts for h in part.host]
    return fields, nodes, edges, constraints, host, device, defaults


def _column(
    key: str,
    level: Level,
    parts: list[Part],
    shift: np.ndarray | None,
    default: Fill | None,
    device: torch.device,
) -> Tensor:
    """Lay one field end to end, with defaults where a part does not bring it."""
    like = next(part.fields[key][1] for part in parts if key in part.fields)
    pieces = []
    for number, part in enumerate(parts):
        if key in part.fields:
            piece = part.fields[key][1].to(device)
            if piece.ndim != like.ndim and key == "status":  # (B,) and (B, 1) are both at home
                piece = piece.view(-1, *like.shape[1:])
            pieces.append(piece if shift is None else piece + int(shift[number]))
        elif part.rows(level) or level is not Level.EDGE:
            pieces.append(_default_rows(key, part.rows(level), like, default, device))
    if any(piece.shape[1:] != like.shape[1:] for piece in pieces):
        shapes = sorted({tuple(piece.shape[1:]) for piece in pieces})
        raise ValueError(f"rows of {key!r} differ in shape from system to system: {shapes}")
    return torch.cat(pieces)


def _default_rows(
    key: str, rows: int, like: Tensor, default: Fill | None, device: torch.device
) -> Tensor:
    if default is None and rows:
        raise ValueError(
            f"some systems have no {key!r} and it has no default; add it to all of them, "
            "or give a default when you add it"
        )
    return torch.full((rows, *like.shape[1:]), default or 0, dtype=like.dtype, device=device)


def boundaries(sizes: np.ndarray) -> np.ndarray:
    """Return the first row of each segment and the end, (B + 1,), from the sizes, (B,)."""
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)


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
