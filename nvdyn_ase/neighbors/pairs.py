"""The pairs of a batch: in slots on the host, flat on any device."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.neighbors.canonical import Ordered
from nvdyn_ase.neighbors.slots import Slots, flatten, move_slots, place


@dataclass(frozen=True, eq=False)
class FlatPairs:
    """All pairs of a batch end to end, in canonical order: by system, i, j and shift.

    Pair e is the vector ``positions[j[e]] - positions[i[e]] + shift[e] @ cell[system[e]]``.

    Parameters
    ----------
    i, j
        (E,) int64, atoms, counted over the batch.
    shift
        (E, 3) int64, multiples of the cell vectors, relative to the positions as they are.
    system
        (E,) int64.
    ptr
        (V + 1,) int64, first pair of each atom i, and the end.
    edge_ptr
        (B + 1,) int64, first pair of each system, and the end.
    """

    i: Int[Tensor, " E"]
    j: Int[Tensor, " E"]
    shift: Int[Tensor, "E 3"]
    system: Int[Tensor, " E"]
    ptr: Int[Tensor, " V1"]
    edge_ptr: Int[Tensor, " B1"]

    @cached_property
    def transpose(self) -> Int[Tensor, " E"]:
        """Pairs sorted by j, in canonical order for each j, (E,).

        What belongs to j is summed in a fixed order and without atomics by
        ``segment_sum(values[transpose], transpose_ptr)``.
        """
        return torch.argsort(self.j, stable=True)

    @cached_property
    def transpose_ptr(self) -> Int[Tensor, " V1"]:
        """First entry of each atom j in ``transpose``, and the end, (V + 1,)."""
        atoms = torch.arange(len(self.ptr), device=self.ptr.device)
        return torch.searchsorted(self.j[self.transpose], atoms)


class Pairs:
    """Pairs of a batch on the host, in slots of fixed place per system.

    A system is rebuilt where it stands: its slot has room to spare, and the others do not move.
    The pairs of atom a (counted over the batch, in system b) are rows ``start[a]`` to
    ``stop[a] - 1`` of ``neighbor`` and ``image``; the vector of pair p is
    ``positions[ptr[b] + neighbor[p]] - positions[a] + S @ cell[b]`` with
    ``S = images[image_start[b] + image[p]]``.
    The arrays may be replaced when a slot grows; take them from here for each use.

    Parameters
    ----------
    ptr
        First atom of each system, and the end, (B + 1,).
    cutoff, skin
        Every pair up to ``cutoff`` is here, pairs up to ``cutoff + skin`` may be, Å.
    half
        Each pair once: with i < j, or i = j and the first component of the shift that is not zero
        positive.

    Attributes
    ----------
    start, stop
        (V,) int64.
    neighbor
        (C,) int32, the other atom, counted within its system.
    image
        (C,) int32, the row of ``images``, counted within the system.
    image_start
        (B,) int64, first row of a system in ``images``.
    images
        (M, 3) int64, shifts; rows that are not in use are zero.
    num_pairs
        (B,) int64.
    slot, image_slot
        (B + 1,) int64, where the room of each system begins in ``neighbor`` and in ``images``.
    num_images
        (B,) int64, rows of ``images`` in use.
    """

    def __init__(self, ptr: np.ndarray, cutoff: float, skin: float, half: bool) -> None:
        systems = len(ptr) - 1
        self.ptr = ptr
        self.cutoff, self.skin, self.half = cutoff, skin, half
        self.num_pairs = np.zeros(systems, np.int64)
        self.num_images = np.zeros(systems, np.int64)
        self._flat: FlatPairs | None = None
        self._allocate(np.zeros(systems, np.int64), np.zeros(systems, np.int64))

    def _allocate(self, room: np.ndarray, image_room: np.ndarray) -> None:
        self.slot, self.image_slot = boundaries(room), boundaries(image_room)
        first = np.repeat(self.slot[:-1], np.diff(self.ptr))
        self.start, self.stop = first, first.copy()
        self.neighbor = np.zeros(self.slot[-1], np.int32)
        self.image = np.zeros(self.slot[-1], np.int32)
        self.images = np.zeros((self.image_slot[-1], 3), np.int64)

    @property
    def image_start(self) -> np.ndarray:
        """First row of each system in ``images``, (B,) int64."""
        return self.image_slot[:-1]

    def __repr__(self) -> str:
        """Say how many pairs of how many systems there are."""
        return _described(self)

    def flat(self) -> FlatPairs:
        """Return all pairs as torch tensors; made once, and again after a rebuild."""
        if self._flat is None:
            self._flat = self._flattened()
        return self._flat

    def _flattened(self) -> FlatPairs:
        total = int(self.num_pairs.sum())
        i, j, system = (np.empty(total, np.int64) for _ in range(3))
        shift, ptr = np.empty((total, 3), np.int64), np.empty(len(self.start) + 1, np.int64)
        flatten(self.ptr, self.image_start, self._arrays(), (i, j, shift, system, ptr))
        arrays = i, j, shift, system, ptr, boundaries(self.num_pairs)
        return FlatPairs(*(torch.from_numpy(array) for array in arrays))

    def replace(self, rows: np.ndarray, ordered: Ordered) -> None:
        """Replace the pairs of some systems where they stand.

        Parameters
        ----------
        rows
            Which systems.
        ordered
            Their pairs.
        """
        pairs, images = self.num_pairs.copy(), self.num_images.copy()
        pairs[rows], images[rows] = ordered.num_pairs, ordered.num_images
        self._make_room(pairs, images)
        old = self.num_images
        place(rows, self.ptr, self.slot, self.image_slot, old, ordered, self._arrays())
        self.num_pairs, self.num_images, self._flat = pairs, images, None

    def select(self, kept: np.ndarray, joining: Sequence[int] = ()) -> "Pairs":
        """Return the pairs of some systems, in the order given, in arrays of their own.

        Behind them come systems of so many atoms, without pairs.
        """
        none = np.zeros(len(joining), np.int64)

        def chosen(of_each: np.ndarray) -> np.ndarray:
            return np.concatenate([of_each[kept], none])

        sizes = np.concatenate([np.diff(self.ptr)[kept], np.asarray(joining, np.int64)])
        part = Pairs(boundaries(sizes), self.cutoff, self.skin, self.half)
        part.num_pairs, part.num_images = chosen(self.num_pairs), chosen(self.num_images)
        part._allocate(chosen(np.diff(self.slot)), chosen(np.diff(self.image_slot)))
        self._move(kept, part)
        return part

    def _make_room(self, pairs: np.ndarray, images: np.ndarray) -> None:
        """Make slots larger that do not have room for so many pairs or images; contents stay.

        They get an eighth more than that, because the number will change with the next rebuild.
        """
        room, image_room = np.diff(self.slot), np.diff(self.image_slot)
        if (pairs <= room).all() and (images <= image_room).all():
            return
        grown = np.where(pairs > room, pairs + pairs // 8 + 8, room)
        image_grown = np.where(images > image_room, images + images // 8 + 2, image_room)
        larger = Pairs.__new__(Pairs)
        larger.__dict__.update(self.__dict__)
        larger._allocate(grown, image_grown)
        self._move(np.arange(len(room)), larger)
        self.__dict__.update(larger.__dict__)

    def _move(self, rows: np.ndarray, to: "Pairs") -> None:
        slots = self.slot, to.slot, self.image_slot, to.image_slot
        move_slots(rows, self.ptr, to.ptr, *slots, self.num_images, self._arrays(), to._arrays())

    def _arrays(self) -> Slots:
        return Slots(self.start, self.stop, self.neighbor, self.image, self.images)


class DevicePairs:
    """Pairs of a batch that is not on the CPU: flat only.

    Parameters
    ----------
    flat
        The pairs.
    num_pairs
        (B,) int64, on the host.
    cutoff, skin, half
        As in :class:`Pairs`.
    """

    def __init__(
        self, flat: FlatPairs, num_pairs: np.ndarray, cutoff: float, skin: float, half: bool
    ) -> None:
        self._flat, self.num_pairs = flat, num_pairs
        self.cutoff, self.skin, self.half = cutoff, skin, half

    def __repr__(self) -> str:
        """Say how many pairs of how many systems there are."""
        return _described(self)

    def flat(self) -> FlatPairs:
        """Return all pairs, on the device of the batch."""
        return self._flat


def _described(pairs: Pairs | DevicePairs) -> str:
    numbers = pairs.num_pairs
    kind = "half" if pairs.half else "full"
    return (
        f"{type(pairs).__name__}({numbers.sum()} pairs, {kind}, {len(numbers)} systems, "
        f"cutoff={pairs.cutoff}, skin={pairs.skin})"
    )
