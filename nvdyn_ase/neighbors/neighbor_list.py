"""Who is near whom, for every system of a batch: ``NeighborList``."""

import math
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.data.fields import Level
from nvdyn_ase.neighbors.device_list import DeviceList
from nvdyn_ase.neighbors.host_list import HostList
from nvdyn_ase.neighbors.pairs import DevicePairs, Pairs
from nvdyn_ase.neighbors.search import check_backend
from nvdyn_ase.neighbors.skin import Skin
from nvdyn_ase.neighbors.standard import Geometry


class NeighborList:
    """Keeps the pairs of a batch current, and rebuilds only what has left the skin.

    Pair (i, j, S) is the vector ``positions[j] - positions[i] + S @ cell``, for the positions as
    they are, inside the cell or not. Pairs are in canonical order: by system, i, j and S. So a sum
    over them in this order, to which a pair beyond the cutoff adds nothing, has the same bits
    whenever the pairs were found, whoever else is in the batch, and whatever found them.

    A system whose pairs cannot be found has none, and the reason is in ``failures``; the others do
    not notice. That is so if its positions or cell are not finite, if the cell is singular along
    its periodic directions, if an atom is more than 1e9 Å or 2**20 cells away, if it has more than
    10,000 pairs per atom (and a million in all), or more than 2**28. Pairs are counted both ways.

    Parameters
    ----------
    cutoff
        Every pair up to this distance is in the list, Å.
    half_list
        Each pair once: with i < j or, for the images of an atom, the first component of S that is
        not zero positive. Else both ways.
    skin
        Pairs up to ``cutoff + skin`` are found, Å, so that they can be used again while atoms move
        by less than half of it, beyond the deformation of the cell; the rule is in
        ``nvdyn_ase.neighbors.skin``. Zero: they are found again whenever anything moves.
    backend
        ``"auto"`` takes the fastest; ``"grid"`` is compiled by numba and works on the CPU,
        ``"vesin"`` too, ``"images"`` is torch on any device, ``"nvalchemi"`` is NVIDIA's, for GPUs.

    Attributes
    ----------
    failures
        Why systems of the batch of the latest update have no pairs, by row.

    Raises
    ------
    ValueError
        A cutoff that is not positive, a skin that is negative, one that is not finite, or an
        unknown backend.
    ImportError
        The backend is not installed.
    """

    #: Where pairs are kept in slots; everywhere else they are flat.
    _slots_on = "cpu"

    def __init__(
        self, cutoff: float, half_list: bool = False, skin: float = 0.0, backend: str = "auto"
    ) -> None:
        if not (0 < cutoff < math.inf):
            raise ValueError(f"cutoff must be a positive length in Å, not {cutoff}")
        if not (0 <= skin < math.inf):
            raise ValueError(
                f"skin must be a length in Å, not {skin}; 0 finds the pairs anew in each step"
            )
        check_backend(backend)
        self.cutoff, self.half_list, self.skin, self.backend = cutoff, half_list, skin, backend
        self._list: HostList | DeviceList | None = None
        self._owner: np.ndarray | None = None
        self._restored: dict[str, np.ndarray] | None = None
        self._shifts_of: tuple[Tensor, int] | None = None

    def __repr__(self) -> str:
        """Say what it finds."""
        return (
            f"NeighborList(cutoff={self.cutoff}, half_list={self.half_list}, skin={self.skin}, "
            f"backend={self.backend!r})"
        )

    @property
    def failures(self) -> dict[int, str]:
        """Why systems of the batch of the latest update have no pairs, by row."""
        return {} if self._list is None else self._list.failures

    @property
    def rebuilds(self) -> np.ndarray:
        """How often each system of the batch was built, (B,) int64."""
        return np.empty(0, np.int64) if self._list is None else self._list.rebuilds

    def update(self, batch: Batch) -> Pairs | DevicePairs:
        """Make the pairs current for the positions, cell and pbc of a batch.

        They are put in ``batch.neighbors``. The fields ``edge_index``, ``unit_shifts`` and
        ``shifts`` are replaced if any pair is another than before, and made when they are read.

        Parameters
        ----------
        batch
            The systems.

        Returns
        -------
        Pairs or DevicePairs
            ``Pairs`` on the CPU; the same object as before if the batch is the same.
        """
        kept = self._list_for(batch)
        kept.refresh(batch)
        pairs = kept.pairs
        if kept.changed or batch.neighbors is not pairs or "edge_index" not in batch:
            batch.neighbors = pairs
            self._put_edges(batch, pairs)
            kept.changed = False
        elif self._shifts_are_old(batch):
            self._defer_shifts(batch, pairs)
        return pairs

    def select(self, kept: np.ndarray, joining: Sequence[int] = ()) -> None:
        """Say that the next batch has only these systems of the present one, and new ones.

        Parameters
        ----------
        kept
            Their rows, in the order of the next batch. Their pairs are kept as long as they have
            not left the skin.
        joining
            Atoms of each system that comes behind them; their pairs will be found.
        """
        if self._list is not None:
            kept = np.asarray(kept)
            rows = np.flatnonzero(kept) if kept.dtype == bool else kept
            self._list = self._list.select(rows, joining)
            self._owner = None

    def share(self, batch: Batch, part: Batch, rows: np.ndarray) -> None:
        """Give a part of the batch its pairs; they are not kept current.

        Parameters
        ----------
        batch
            The batch of the latest update.
        part
            Systems of it.
        rows
            Which.
        """
        assert self._list is not None
        pairs = self._list.select(rows).pairs
        part.neighbors = pairs
        self._put_edges(part, pairs)
        self._shifts_of = None

    # ---------------------------------------------------------------- checkpoints

    @property
    def reference(self) -> dict[str, np.ndarray] | None:
        """The geometry that the pairs were found in, as arrays to keep in a checkpoint.

        Given to another list, its first update finds the pairs in that geometry, and so the list
        will be rebuilt when this one would be. None before the first update.
        """
        if self._list is None:
            return None
        then = self._list.reference
        arrays = {"positions": then.positions, "cell": then.cell, "pbc": then.pbc}
        held = {key: torch.as_tensor(array).cpu().numpy().copy() for key, array in arrays.items()}
        return held | {"ptr": self._list.ptr.copy()}

    @reference.setter
    def reference(self, arrays: dict[str, np.ndarray] | None) -> None:
        self._list, self._restored = None, arrays

    # ---------------------------------------------------------------- which list it is

    def _list_for(self, batch: Batch) -> HostList | DeviceList:
        """Return the list of this batch: the present one if the sizes are the same."""
        ptr, present = batch.host_ptr, self._list
        if self._owner is ptr and present is not None:
            return present
        known = present is not None and present.device == batch.device
        if present is None or not known or not np.array_equal(present.ptr, ptr):
            present = self._new_list(batch)
        elif self._owner is not None:
            # The other batch keeps its pairs: those of this one may be rebuilt where they stand.
            present = present.select(np.arange(len(batch)))
        self._list, self._owner, self._shifts_of = present, ptr, None
        return present

    def _new_list(self, batch: Batch) -> HostList | DeviceList:
        ptr, skin = batch.host_ptr, Skin(self.cutoff, self.skin)
        settings = ptr, skin, self.half_list, self.backend
        fresh: HostList | DeviceList
        if batch.device.type == self._slots_on:
            fresh = HostList(*settings)
        else:
            fresh = DeviceList(*settings, batch.device)
        held, self._restored = self._restored, None
        if held is not None and np.array_equal(held["ptr"], ptr):
            _find_in(fresh, held)
        return fresh

    # ---------------------------------------------------------------- edge fields

    def _put_edges(self, batch: Batch, pairs: Pairs | DevicePairs) -> None:
        def edge_index() -> Tensor:
            flat = pairs.flat()
            return torch.stack([flat.i, flat.j], dim=1)

        fields: dict[str, Tensor | Callable[[], Tensor]] = {
            "edge_index": edge_index,
            "unit_shifts": lambda: pairs.flat().shift,
        }
        batch.set_edges(fields, pairs.num_pairs)
        self._shifts_of = None
        self._defer_shifts(batch, pairs)

    def _defer_shifts(self, batch: Batch, pairs: Pairs | DevicePairs) -> None:
        """Give the shifts in Å, of the cell at the time when they are read."""
        there = weakref.ref(batch)  # a batch that held itself would hold its memory for a while

        def shifts() -> Tensor:
            owner, flat = there(), pairs.flat()
            assert owner is not None  # it is reading
            cell = owner["cell"]
            self._shifts_of = cell, cell._version
            return (flat.shift[:, :, None].to(cell.dtype) * cell[flat.system]).sum(1)

        batch.defer("shifts", shifts, Level.EDGE)

    def _shifts_are_old(self, batch: Batch) -> bool:
        """Say whether the shifts were read when the cell was another."""
        if self._shifts_of is None:
            return False
        cell, version = self._shifts_of
        return batch["cell"] is not cell or cell._version != version


def _find_in(fresh: HostList | DeviceList, held: dict[str, np.ndarray]) -> None:
    """Find the pairs in a geometry that was kept in a checkpoint."""
    arrays = held["positions"], held["cell"], held["pbc"]
    if isinstance(fresh, HostList):
        fresh.refresh_from(Geometry(*arrays, fresh.ptr))
    else:
        positions, cell, pbc = (torch.from_numpy(array).to(fresh.device) for array in arrays)
        fresh.refresh_from((positions, cell, pbc))
