"""The pairs of a batch on a device, kept current."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.data.joining import boundaries, ragged_rows
from nvdyn_ase.neighbors.canonical_device import LocalPairs, in_canonical_order_there
from nvdyn_ase.neighbors.pairs import DevicePairs, FlatPairs
from nvdyn_ase.neighbors.search import find_on_device
from nvdyn_ase.neighbors.skin import DeviceReference, Skin, duals
from nvdyn_ase.neighbors.standard import FINE, Geometry, reasons, standard

Now = tuple[Float[Tensor, "V 3"], Float[Tensor, "B 3 3"], Bool[Tensor, "B 3"]]


class DeviceList:
    """Keeps ``DevicePairs`` current; only the pairs of systems that left the skin are found anew.

    Parameters
    ----------
    ptr
        First atom of each system, and the end, (B + 1,), on the host.
    skin
        How far the pairs must and do reach.
    half
        Each pair once.
    backend
        How to search.
    device
        Where the batch is.

    Attributes
    ----------
    pairs, failures, rebuilds, reference, changed
        As in ``HostList``; ``pairs`` is another object after each rebuild.
    """

    def __init__(
        self, ptr: np.ndarray, skin: Skin, half: bool, backend: str, device: torch.device
    ) -> None:
        self.skin, self.half, self.backend, self.device = skin, half, backend, device
        self.failures: dict[int, str] = {}
        self.rebuilds = np.zeros(len(ptr) - 1, np.int64)
        self.reference = DeviceReference(ptr, device)
        self.changed = False
        self._problem = np.zeros(len(ptr) - 1, np.int64)
        self._seen: list[tuple[Tensor, int]] = []
        self._point(ptr)
        self._lay_out(LocalPairs.none(device), *np.zeros((2, len(ptr) - 1), np.int64))

    def _point(self, ptr: np.ndarray) -> None:
        """Keep the pointers on both sides, so that nothing need be sent in a steady state."""
        self.ptr, self._ptr = ptr.copy(), self._there(ptr)
        self._system = self._there(np.repeat(np.arange(len(ptr) - 1), np.diff(ptr)))

    def _there(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.copy()).to(self.device)

    def refresh(self, batch: Batch) -> None:
        """Make the pairs those of the batch."""
        fields = [batch[key] for key in ("positions", "cell", "pbc")]
        if not self._is_seen(fields):
            seen, self._seen = [(tensor, tensor._version) for tensor in fields], []
            positions, cell, pbc = (tensor.detach() for tensor in fields)
            self.refresh_from((positions.double(), cell.double(), pbc))
            self._seen = seen

    def _is_seen(self, fields: list[Tensor]) -> bool:
        """Say whether these very tensors, as they are, were those of the latest refresh."""
        return bool(self._seen) and all(
            tensor is old and tensor._version == version
            for tensor, (old, version) in zip(fields, self._seen, strict=True)
        )

    def refresh_from(self, now: Now) -> None:
        """Make the pairs those of a geometry on the device."""
        stale = self.reference.stale(*now, self._system, self._ptr, self.skin)
        rows = np.flatnonzero(_wait_for(stale))
        if len(rows):
            self._rebuild(rows, now)

    def _rebuild(self, rows: np.ndarray, now: Now) -> None:
        chosen, atoms = self._there(rows), self._there(ragged_rows(self.ptr, rows))
        positions, cell, pbc = now[0][atoms], now[1][chosen], now[2][chosen]
        ptr = boundaries(np.diff(self.ptr)[rows])
        part = Geometry(_wait_for(positions), _wait_for(cell), _wait_for(pbc), ptr)
        form = standard(part, self.skin.reach)
        found = find_on_device(self.backend, form, self.device)
        new, counts = in_canonical_order_there(
            found, form, (positions, cell), self.skin.reach, self.half
        )
        failed, before = form.problem != FINE, self.pairs.num_pairs
        # Whoever interrupts what follows finds these systems stale, and their pairs changed.
        self.reference.cell[chosen] = torch.nan
        if (~failed | (before[rows] > 0)).any():
            self.changed = True
            old = LocalPairs.of(self.pairs.flat(), self._ptr)
            starts, sizes = boundaries(before)[:-1], before.copy()
            starts[rows], sizes[rows] = len(old.i) + boundaries(counts)[:-1], counts
            self._lay_out(old.followed_by(new), starts, sizes)
        self._problem[rows] = form.problem
        self.failures = reasons(self._problem)
        self.rebuilds[rows[~failed]] += 1
        self.reference.take(chosen, atoms, now, self._there(duals(form, failed)))

    def _lay_out(self, found: LocalPairs, starts: np.ndarray, sizes: np.ndarray) -> None:
        """Make ``pairs``, of system b ``sizes[b]`` rows of ``found`` from ``starts[b]`` on."""
        edge_ptr, total = boundaries(sizes), int(sizes.sum())
        numbers = torch.arange(len(sizes), device=self.device)
        system = torch.repeat_interleave(numbers, self._there(sizes), output_size=total)
        rows = torch.arange(total, device=self.device)
        rows = rows + self._there(starts - edge_ptr[:-1])[system]
        base = self._ptr[system]
        i, j, shift = found.i[rows] + base, found.j[rows] + base, found.shift[rows]
        atoms = torch.arange(int(self.ptr[-1]) + 1, device=self.device)
        ptr = torch.searchsorted(i, atoms)
        flat = FlatPairs(i, j, shift, system, ptr, self._there(edge_ptr))
        self.pairs = DevicePairs(flat, sizes, self.skin.cutoff, self.skin.skin, self.half)

    def select(self, kept: np.ndarray, joining: Sequence[int] = ()) -> "DeviceList":
        """Return the list of some systems, in the order given.

        Behind them come new systems of so many atoms, whose pairs are not known.
        """
        none = np.zeros(len(joining), np.int64)

        def chosen(of_each: np.ndarray) -> np.ndarray:
            return np.concatenate([of_each[kept], none])

        part = DeviceList.__new__(DeviceList)
        part.skin, part.half, part.backend = self.skin, self.half, self.backend
        part.device, part._seen, part.changed = self.device, [], True
        sizes = np.concatenate([np.diff(self.ptr)[kept], np.asarray(joining, np.int64)])
        part._point(boundaries(sizes))
        atoms = self._there(ragged_rows(self.ptr, kept))
        part.reference = self.reference.select(self._there(kept), atoms, joining)
        part.rebuilds, part._problem = chosen(self.rebuilds), chosen(self._problem)
        part.failures = reasons(part._problem)
        old = LocalPairs.of(self.pairs.flat(), self._ptr)
        numbers = self.pairs.num_pairs
        part._lay_out(old, chosen(boundaries(numbers)[:-1]), chosen(numbers))
        return part


def _wait_for(tensor: Tensor) -> np.ndarray:
    """Read a tensor back from the device: the only place where the list waits in a steady state."""
    return tensor.cpu().numpy()
