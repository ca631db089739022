"""The pairs of a batch on the CPU, kept current in place."""

from collections.abc import Sequence

import numpy as np
import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.neighbors.canonical import in_canonical_order
from nvdyn_ase.neighbors.pairs import Pairs
from nvdyn_ase.neighbors.search import find_on_host
from nvdyn_ase.neighbors.skin import HostReference, Skin, duals
from nvdyn_ase.neighbors.standard import FINE, Geometry, part_of, reasons, standard


class HostList:
    """Keeps ``Pairs`` current; systems are rebuilt where they stand.

    Parameters
    ----------
    ptr
        First atom of each system, and the end, (B + 1,).
    skin
        How far the pairs must and do reach.
    half
        Each pair once.
    backend
        How to search.

    Attributes
    ----------
    pairs
        The pairs.
    failures
        Why systems have no pairs, by row.
    rebuilds
        (B,) int64, how often each system was built.
    reference
        The geometry that the pairs were found in.
    changed
        Whether any pairs became others since this was last set to False.
    """

    def __init__(self, ptr: np.ndarray, skin: Skin, half: bool, backend: str) -> None:
        self.ptr, self.skin, self.half, self.backend = ptr.copy(), skin, half, backend
        self.pairs = Pairs(self.ptr, skin.cutoff, skin.skin, half)
        self.device = torch.device("cpu")
        self.failures: dict[int, str] = {}
        self.rebuilds = np.zeros(len(ptr) - 1, np.int64)
        self.reference = HostReference(ptr)
        self.changed = False
        self._problem = np.zeros(len(ptr) - 1, np.int64)

    def refresh(self, batch: Batch) -> None:
        """Make the pairs those of the batch."""
        positions, cell = batch["positions"].detach(), batch["cell"].detach()
        self.refresh_from(
            Geometry(
                positions.double().contiguous().numpy(),
                cell.double().contiguous().numpy(),
                batch["pbc"].contiguous().numpy(),
                self.ptr,
            )
        )

    def refresh_from(self, now: Geometry) -> None:
        """Make the pairs those of a geometry."""
        rows = self.reference.stale(now, self.skin)
        if len(rows):
            self._rebuild(rows, now)

    def _rebuild(self, rows: np.ndarray, now: Geometry) -> None:
        part, reach = part_of(now, rows), self.skin.reach
        form = standard(part, reach)
        found = find_on_host(self.backend, form)
        ordered = in_canonical_order(found, form, part, reach, self.half)
        failed = form.problem != FINE
        # Whoever interrupts what follows finds these systems stale, and their pairs changed.
        self.reference.cell[rows] = np.nan
        self.changed |= bool((~failed | (self.pairs.num_pairs[rows] > 0)).any())
        self.pairs.replace(rows, ordered)
        self._problem[rows] = form.problem
        self.failures = reasons(self._problem)
        self.rebuilds[rows[~failed]] += 1
        self.reference.take(rows, now, duals(form, failed))

    def select(self, kept: np.ndarray, joining: Sequence[int] = ()) -> "HostList":
        """Return the list of some systems, in the order given, with arrays of its own.

        Behind them come new systems of so many atoms, whose pairs are not known.
        """
        part = HostList.__new__(HostList)
        part.skin, part.half, part.backend = self.skin, self.half, self.backend
        part.device, part.changed = self.device, True
        part.pairs = self.pairs.select(kept, joining)
        part.ptr = part.pairs.ptr
        part.reference = self.reference.select(kept, self.ptr, joining)
        none = np.zeros(len(joining), np.int64)
        part.rebuilds = np.concatenate([self.rebuilds[kept], none])
        part._problem = np.concatenate([self._problem[kept], none])
        part.failures = reasons(part._problem)
        return part
