"""The rows that an optimizer moves: atoms, and the cell where a filter lets it move."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_max
from nvdyn_ase.data.sizes import Sizes
from nvdyn_ase.dynamics.cell_filters import CELL_FIELDS, CellFilter
from nvdyn_ase.dynamics.cells import DeformedCells, StrainedCells
from nvdyn_ase.dynamics.matrices import applied, inverse

# What rows follow from. The strain is where they are.
_READ = ("hidden", *(key for key in CELL_FIELDS if key != "strain"))
_ROWS_OF_CELL = np.array([kind.num_rows for kind in CellFilter])


def largest_norm(rows: Float[Tensor, "R 3"], ptr: Int[Tensor, " B1"]) -> Float[Tensor, "B 1"]:
    """Return the largest norm among the rows of each system, whose boundaries are ``ptr``.

    It is zero for a system without rows. The three squares are added one by one: the bits of a
    reduction over the last dimension could depend on how many rows there are.
    """
    squares = rows * rows
    norms = squares[:, 0] + squares[:, 1] + squares[:, 2]
    return segment_max(norms, ptr, least=0.0).sqrt().view(-1, 1)


def shortened(
    step: Float[Tensor, "R 3"],
    longest: Float[Tensor, "B 1"],
    maxstep: Float[Tensor, "B 1"],
    system: Int[Tensor, " R"],
) -> Float[Tensor, "R 3"]:
    """Return the step, scaled down as a whole where a row would move further than ``maxstep``, Å.

    Parameters
    ----------
    step, longest, maxstep
        Å; ``longest`` is its largest norm.
    system
        System of each row.
    """
    scale = torch.where(longest >= maxstep, maxstep / longest, 1.0)
    return scale[system] * step


class Rows(Sizes):
    """Which rows of three numbers an optimizer sees of each system, and where they come from.

    Those of a system are its atoms, but for the ones in the field ``hidden``, and behind them those
    of its cell. Of a system under a strain filter they are the strain alone. Where :class:`Batch`
    counts atoms, ``num_nodes``, ``ptr``, ``ptr3`` and ``batch`` count rows here.

    Parameters
    ----------
    batch
        The systems. Which atoms and cells move is looked up once, here, on the host.

    Attributes
    ----------
    kinds
        The codes in ``cell_filter``, (B,), on the host.
    are_atoms
        The rows are the atoms of the batch, no more and no less.
    deformed, strained
        The cells that move; None where there are none.
    """

    def __init__(self, batch: Batch) -> None:
        self._source = self._sources(batch)
        kinds = self.kinds = _on_host(batch, "cell_filter", len(batch))
        seen = (_on_host(batch, "hidden", batch.num_nodes) == 0) & np.repeat(
            kinds != CellFilter.STRAIN, batch.num_nodes_list
        )
        system = np.repeat(np.arange(len(batch)), batch.num_nodes_list)
        of_cell = _ROWS_OF_CELL[kinds]
        counts = np.bincount(system[seen], minlength=len(batch)) + of_cell
        super().__init__(counts, np.zeros_like(counts), batch.device)
        is_strained = kinds == CellFilter.STRAIN
        is_deformed = (kinds != CellFilter.NONE) & ~is_strained
        self.deformed = DeformedCells(batch, kinds) if is_deformed.any() else None
        self.strained = StrainedCells(batch, kinds) if is_strained.any() else None
        self.are_atoms = bool(seen.all()) and not self.has_cells
        if self.are_atoms:
            return
        sources = [system[seen]]
        sources += [np.repeat(np.flatnonzero(m), of_cell[m]) for m in (is_deformed, is_strained)]
        self._index(sources)
        self._seen = None if seen.all() else self._on_device(np.flatnonzero(seen))

    def _index(self, sources: Sequence[np.ndarray]) -> None:
        """Note where each row comes from, from the systems of the rows that each source has."""
        order = np.argsort(np.concatenate(sources), kind="stable")
        places = np.argsort(order, kind="stable")
        self._order = self._on_device(order)
        parts = np.split(places, np.cumsum([len(source) for source in sources])[:-1])
        self._places = [self._on_device(part.copy()) for part in parts]

    @staticmethod
    def _sources(batch: Batch) -> dict[str, tuple[Tensor, int]]:
        keys = [key for key in _READ if key in batch]
        return {key: (batch[key], batch[key]._version) for key in keys}

    def are_of(self, batch: Batch) -> bool:
        """Say whether they are still those of the batch, as far as the host can tell."""
        now, before = self._sources(batch), self._source
        return now.keys() == before.keys() and all(
            now[key][0] is before[key][0] and now[key][1] == before[key][1] for key in now
        )

    @property
    def has_cells(self) -> bool:
        """Whether the cell of some system moves."""
        return self.deformed is not None or self.strained is not None

    def joined(
        self,
        atoms: Float[Tensor, "V 3"],
        deformed: Float[Tensor, "D 3 3"] | None = None,
        strained: Float[Tensor, "S 6"] | None = None,
    ) -> Float[Tensor, "R 3"]:
        """Return the rows, from what there is for all atoms and for the cells that move."""
        if self.are_atoms:
            return atoms
        parts = [atoms if self._seen is None else atoms.index_select(0, self._seen)]
        parts += [part.reshape(-1, 3) for part in (deformed, strained) if part is not None]
        return torch.cat(parts).index_select(0, self._order)

    def of_atoms(
        self, rows: Float[Tensor, "R 3"], unseen: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Return the rows of atoms; an atom that has none gets that of ``unseen``."""
        if self.are_atoms:
            return rows
        own = rows.index_select(0, self._places[0])
        return own if self._seen is None else unseen.index_copy(0, self._seen, own)

    def following(
        self, batch: Batch, old: Float[Tensor, "B 3 3"], new: Float[Tensor, "B 3 3"]
    ) -> Float[Tensor, "V 3"]:
        """Return the positions after cells went from old to new and took their atoms along."""
        matrices = (inverse(old).matrix @ new).index_select(0, batch.batch)
        positions = batch["positions"]
        taken = applied(positions, matrices)
        for cells in (self.deformed, self.strained):
            if cells is not None:
                positions = torch.where(cells.atoms, taken, positions)
        return positions

    def of_deformed(self, rows: Float[Tensor, "R 3"]) -> Float[Tensor, "D 3 3"]:
        """Return the rows of cells that are deformed."""
        return rows.index_select(0, self._places[1]).view(-1, 3, 3)

    def of_strained(self, rows: Float[Tensor, "R 3"]) -> Float[Tensor, "S 6"]:
        """Return the rows of cells that are strained."""
        return rows.index_select(0, self._places[2]).view(-1, 6)


def _on_host(batch: Batch, key: str, count: int) -> np.ndarray:
    """Return an optional field with a number in each row; it waits for the device."""
    if key not in batch:
        return np.zeros(count, np.int64)
    return batch[key].view(-1).cpu().numpy()
