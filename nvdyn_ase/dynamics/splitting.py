"""Forward passes in parts: where memory ends, and where a model fails on somebody."""

from typing import NamedTuple

import numpy as np
import torch
from loguru import logger

from nvdyn_ase.data import Batch, Level
from nvdyn_ase.dynamics.memory import MemoryMeter
from nvdyn_ase.models.base import BaseModelMixin, ModelOutputs
from nvdyn_ase.neighbors import NeighborList


class Splitting:
    """Evaluates a batch in as few parts as it takes.

    If a forward pass runs out of memory, it is done in two halves, and so on; the size at which
    that went well is remembered. If it raises anything else and systems may fail by themselves, the
    halves are tried until it is known on which ones the model fails; the others have what they
    would have without them.

    Parameters
    ----------
    meter
        Measures what forward passes take of a GPU's memory; None: nothing does.

    Attributes
    ----------
    max_atoms
        Atoms of one forward pass; None as long as memory has never ended.
    troubled
        Whether the model has failed on a system since this was last set to False.
    """

    def __init__(self, meter: MemoryMeter | None = None) -> None:
        self.meter = meter
        self.max_atoms: int | None = None
        self.troubled = False

    def __repr__(self) -> str:
        """Say how large a part may be."""
        return f"Splitting(max_atoms={self.max_atoms})"

    def forward(
        self,
        model: BaseModelMixin,
        batch: Batch,
        neighbors: NeighborList | None,
        takes_failures: bool,
    ) -> ModelOutputs:
        """Return what the model says of a batch, with NaN for systems that it fails on.

        Parameters
        ----------
        model
            The model.
        batch
            The systems, with current pairs.
        neighbors
            Whose pairs these are.
        takes_failures
            Whether systems may fail by themselves; otherwise the model's error is raised.
        """
        pieces: list[ModelOutputs | str] = []
        sizes: list[int] = []
        for first, last in self._cut(batch):
            part = _Part(model, batch, neighbors, first, last, takes_failures)
            self._evaluate(part, pieces, sizes)
        return _joined(pieces, sizes, batch, model)

    def _cut(self, batch: Batch) -> list[tuple[int, int]]:
        """Return the first and the last row, and one more, of parts that are small enough."""
        if self.max_atoms is None or batch.num_nodes <= self.max_atoms:
            return [(0, len(batch))]
        parts, first, filled = [], 0, 0
        for row, size in enumerate(batch.num_nodes_list):
            if row > first and filled + size > self.max_atoms:
                parts.append((first, row))
                first, filled = row, 0
            filled += size
        return [*parts, (first, len(batch))]

    def _evaluate(self, part: "_Part", pieces: list[ModelOutputs | str], sizes: list[int]) -> None:
        """Evaluate systems, and note in ``pieces`` what came of it, of how many in ``sizes``."""
        try:
            pieces.append(self._measured(part))
            sizes.append(part.last - part.first)
            return
        except (torch.cuda.OutOfMemoryError, MemoryError) as error:
            if part.is_single and not part.takes_failures:
                raise
            problem: Exception = error
            self._remember(sum(part.batch.num_nodes_list[part.first : part.last]))
        except Exception as error:
            if not part.takes_failures:
                raise
            problem = error
        # Only the words are kept: the error's trace holds the memory that the halves need.
        words = _words(problem, part.is_single)
        del problem
        if part.is_single:
            self.troubled = True
            pieces.append(words)
            sizes.append(1)
            return
        for half in part.halves():
            self._evaluate(half, pieces, sizes)

    def _measured(self, part: "_Part") -> ModelOutputs:
        batch = part.taken()
        if self.meter is None:
            return part.model(batch)
        with self.meter.watching(batch.device, batch.num_nodes):
            return part.model(batch)

    def _remember(self, atoms: int) -> None:
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        half = max(atoms // 2, 1)
        self.max_atoms = half if self.max_atoms is None else min(half, self.max_atoms)
        logger.warning(
            "{} atoms are more than the memory holds; going on with forward passes of at most {}",
            atoms,
            self.max_atoms,
        )


class _Part(NamedTuple):
    """Systems of a batch, from a first one to the one before a last one."""

    model: BaseModelMixin
    batch: Batch
    neighbors: NeighborList | None
    first: int
    last: int
    takes_failures: bool

    @property
    def is_single(self) -> bool:
        return self.last - self.first == 1

    def halves(self) -> tuple["_Part", "_Part"]:
        middle = (self.first + self.last) // 2
        return self._replace(last=middle), self._replace(first=middle)

    def taken(self) -> Batch:
        """Return these systems, with their pairs; the batch itself if that is all of them."""
        if self.first == 0 and self.last == len(self.batch):
            return self.batch
        part = self.batch.index_select(slice(self.first, self.last))
        if self.neighbors is not None:
            self.neighbors.share(self.batch, part, np.arange(self.first, self.last))
        return part


def _words(problem: Exception, is_single: bool) -> str:
    if isinstance(problem, (torch.cuda.OutOfMemoryError, MemoryError)) and is_single:
        return "it alone needs more memory than there is; take a smaller cell or a larger device"
    return f"{type(problem).__name__}: {problem}"


def _joined(
    pieces: list[ModelOutputs | str], sizes: list[int], batch: Batch, model: BaseModelMixin
) -> ModelOutputs:
    """Lay outputs end to end, with NaN where there are words instead."""
    if len(pieces) == 1 and not isinstance(pieces[0], str):
        return pieces[0]
    known = next((piece for piece in pieces if not isinstance(piece, str)), None)
    starts = np.cumsum([0, *sizes])
    if known is None:
        columns = _nothing(batch)
    else:
        columns = {key: _column(key, pieces, starts, batch, model) for key in known}
    outputs = ModelOutputs(columns)
    for k, piece in enumerate(pieces):
        if isinstance(piece, str):
            outputs.failures[int(starts[k])] = piece
        else:
            outputs.failures |= {int(starts[k]) + row: why for row, why in piece.failures.items()}
    return outputs


def _column(
    key: str,
    pieces: list[ModelOutputs | str],
    starts: np.ndarray,
    batch: Batch,
    model: BaseModelMixin,
) -> torch.Tensor:
    """Lay an output end to end."""
    of_atoms = model.model_card.level_of(key) is Level.NODE
    like = next(piece[key] for piece in pieces if not isinstance(piece, str))
    found = []
    for k, piece in enumerate(pieces):
        if not isinstance(piece, str):
            found.append(piece[key])
            continue
        rows = batch.num_nodes_list[starts[k]] if of_atoms else 1
        empty = float("nan") if like.is_floating_point() else 0
        found.append(like.new_full((rows, *like.shape[1:]), empty))
    return torch.cat(found)


def _nothing(batch: Batch) -> dict[str, torch.Tensor]:
    positions = batch["positions"]
    return {
        "energy": positions.new_full((len(batch), 1), float("nan")),
        "forces": torch.full_like(positions, float("nan")),
        "stress": positions.new_full((len(batch), 3, 3), float("nan")),
    }
