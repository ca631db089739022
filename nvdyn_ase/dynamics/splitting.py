"""Forward passes in parts: where memory ends, and where a model fails on somebody."""

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
    that went well is remembered. If it raises anything else, the halves are tried by themselves
    until it is known on which systems the model fails; the others have what they would have without
    them.

    Attributes
    ----------
    max_atoms
        Atoms of one forward pass; None as long as memory has never ended.
    troubled
        Whether the model has failed on a system since this was last set to False.
    meter
        What forward passes have taken of a GPU's memory.
    """

    def __init__(self) -> None:
        self.max_atoms: int | None = None
        self.troubled = False
        self.meter = MemoryMeter()

    def __repr__(self) -> str:
        """Say how large a part may be."""
        return f"Splitting(max_atoms={self.max_atoms})"

    def forward(
        self, model: BaseModelMixin, batch: Batch, neighbors: NeighborList | None
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
        """
        pieces: list[ModelOutputs | str] = []
        sizes: list[int] = []
        for first, last in self._cut(np.asarray(batch.num_nodes_list)):
            self._evaluate(model, batch, neighbors, first, last, pieces, sizes)
        return _joined(pieces, sizes, batch, model)

    def _cut(self, atoms: np.ndarray) -> list[tuple[int, int]]:
        """Return the first and the last row, and one more, of parts that are small enough."""
        if self.max_atoms is None or atoms.sum() <= self.max_atoms:
            return [(0, len(atoms))]
        parts, first, filled = [], 0, 0
        for row, size in enumerate(atoms.tolist()):
            if row > first and filled + size > self.max_atoms:
                parts.append((first, row))
                first, filled = row, 0
            filled += size
        return [*parts, (first, len(atoms))]

    def _evaluate(
        self,
        model: BaseModelMixin,
        batch: Batch,
        neighbors: NeighborList | None,
        first: int,
        last: int,
        pieces: list[ModelOutputs | str],
        sizes: list[int],
    ) -> None:
        """Evaluate systems, and note in ``pieces`` what came of it, of how many in ``sizes``."""
        try:
            part = _part(batch, neighbors, first, last)
            with self.meter.watching(batch.device, part.num_nodes):
                pieces.append(model(part))
            sizes.append(last - first)
            return
        except (torch.cuda.OutOfMemoryError, MemoryError) as error:
            problem: Exception = error
            self._remember(sum(batch.num_nodes_list[first:last]))
        except Exception as error:
            problem = error
        # Only the words are kept: the error's trace holds the memory that the halves need.
        words = _words(problem, last - first)
        del problem
        if last - first == 1:
            self.troubled = True
            pieces.append(words)
            sizes.append(1)
            return
        middle = (first + last) // 2
        for half in ((first, middle), (middle, last)):
            self._evaluate(model, batch, neighbors, *half, pieces, sizes)

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


def _words(problem: Exception, systems: int) -> str:
    if isinstance(problem, (torch.cuda.OutOfMemoryError, MemoryError)) and systems == 1:
        return "it alone needs more memory than there is; take a smaller cell or a larger device"
    return f"{type(problem).__name__}: {problem}"


def _part(batch: Batch, neighbors: NeighborList | None, first: int, last: int) -> Batch:
    """Return systems of a batch, with their pairs; the batch itself if that is all of them."""
    if first == 0 and last == len(batch):
        return batch
    part = batch.index_select(slice(first, last))
    if neighbors is not None:
        neighbors.share(batch, part, np.arange(first, last))
    return part


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
