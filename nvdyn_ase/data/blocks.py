"""Matrices of many systems: ragged, never padded, and worked on in groups of one size."""

from collections.abc import Sequence
from itertools import groupby
from math import prod

import torch
from jaxtyping import Bool, Shaped
from torch import Tensor


class Blocks:
    """Systems in groups of one size, so that the matrices of each group are one tensor.

    Fields are taken apart into one part per group, and put together again. The parts of systems
    that stand side by side are views; only groups that are scattered over the batch are copied.
    Nothing waits for the device. Parts are (G, d, d), (G, d) or (G, ...), for G systems of a size.

    Parameters
    ----------
    num_nodes
        Atoms, or rows of three coordinates, of each system.

    Attributes
    ----------
    sizes
        Coordinates of a system, d, of each group, three times its rows; in the order in which the
        groups first come.
    """

    def __init__(self, num_nodes: Sequence[int]) -> None:
        runs = [(3 * size, len(list(same))) for size, same in groupby(num_nodes)] or [(0, 0)]
        self.sizes = list(dict.fromkeys(size for size, _ in runs))
        self._runs = [(self.sizes.index(size), size, count) for size, count in runs]

    def __len__(self) -> int:
        """Return the number of groups."""
        return len(self.sizes)

    def __repr__(self) -> str:
        """Say how many systems there are of each size."""
        counts = dict.fromkeys(self.sizes, 0)
        for _, size, count in self._runs:
            counts[size] += count
        return f"Blocks({', '.join(f'{n} of {d}' for d, n in counts.items())} coordinates)"

    # ---------------------------------------------------------------- taking apart

    def matrices(self, field: Shaped[Tensor, " N"]) -> list[Shaped[Tensor, "_ _ _"]]:
        """Return a field of level ``block`` by groups."""
        return self._split(field, 2)

    def vectors(self, rows: Shaped[Tensor, "R 3"]) -> list[Shaped[Tensor, "_ _"]]:
        """Return a field with three coordinates per row by groups."""
        return self._split(rows, 1)

    def systems(self, field: Shaped[Tensor, "B ..."]) -> list[Shaped[Tensor, "_ ..."]]:
        """Return a field of level ``system`` by groups."""
        return self._grouped(field.split([count for _, _, count in self._runs]))

    def _split(self, field: Tensor, power: int) -> list[Tensor]:
        shapes = [(count, *[size] * power) for _, size, count in self._runs]
        runs = field.reshape(-1).split([prod(shape) for shape in shapes])
        return self._grouped([run.view(shape) for run, shape in zip(runs, shapes, strict=True)])

    def _grouped(self, runs: Sequence[Tensor]) -> list[Tensor]:
        groups: list[list[Tensor]] = [[] for _ in self.sizes]
        for (group, _, _), run in zip(self._runs, runs, strict=True):
            groups[group].append(run)
        return [parts[0] if len(parts) == 1 else torch.cat(parts) for parts in groups]

    # ---------------------------------------------------------------- putting together

    def joined_matrices(self, parts: Sequence[Shaped[Tensor, "_ _ _"]]) -> Shaped[Tensor, " N"]:
        """Return the field that these are the groups of."""
        return self._join(parts)

    def joined_vectors(self, parts: Sequence[Shaped[Tensor, "_ _"]]) -> Shaped[Tensor, "R 3"]:
        """Return the field that these are the groups of."""
        return self._join(parts).view(-1, 3)

    def joined_systems(self, parts: Sequence[Shaped[Tensor, "_ ..."]]) -> Shaped[Tensor, "B ..."]:
        """Return the field that these are the groups of."""
        return self._join(parts).view(-1, *parts[0].shape[1:])

    def _join(self, parts: Sequence[Tensor]) -> Tensor:
        if len(self._runs) == 1:
            return parts[0].reshape(-1)
        begun = [0] * len(parts)
        runs = []
        for group, _, count in self._runs:
            runs.append(parts[group].narrow(0, begun[group], count).reshape(-1))
            begun[group] += count
        return torch.cat(runs)

    def spread(self, mask: Bool[Tensor, "B 1"]) -> Bool[Tensor, "N 1"]:
        """Return a mask of systems for the entries of their matrices."""
        groups = zip(self.systems(mask), self.sizes, strict=True)
        parts = [part.unsqueeze(2).expand(-1, size, size) for part, size in groups]
        return self.joined_matrices(parts).view(-1, 1)
