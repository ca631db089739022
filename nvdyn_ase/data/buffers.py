"""Batches of a fixed capacity: systems are put into them as long as they fit."""

from typing import TYPE_CHECKING, Any, NamedTuple, cast
from weakref import ref

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

if TYPE_CHECKING:
    from nvdyn_ase.data.batch import Batch


class Capacity(NamedTuple):
    """How many systems, atoms and pairs there is room for, or are."""

    systems: int
    nodes: int
    edges: int

    def __add__(self, other: "Capacity") -> "Capacity":  # type: ignore[override]
        """Return the sum of each."""
        return Capacity(*(a + b for a, b in zip(self, other, strict=True)))

    def __sub__(self, other: "Capacity") -> "Capacity":
        """Return the difference of each."""
        return Capacity(*(a - b for a, b in zip(self, other, strict=True)))

    def holds(self, other: "Capacity") -> bool:
        """Say whether there is room for as many."""
        return all(own >= need for own, need in zip(self, other, strict=True))

    @classmethod
    def of(cls, batch: "Batch") -> "Capacity":
        """Return what a batch takes."""
        return cls(len(batch), batch.num_nodes, batch.num_edges)

    def fitting(self, batch: "Batch", rows: np.ndarray, skip: bool = True) -> np.ndarray:
        """Return which of these systems fit, in their order.

        Parameters
        ----------
        batch, rows
            Some systems of a batch.
        skip
            Whether a system may be taken although one before it did not fit.
        """
        nodes, edges = batch.num_nodes_list, batch.num_edges_list
        room = self
        taken: list[int] = []
        for row in rows.tolist():
            need = Capacity(1, nodes[row], edges[row])
            if room.holds(need):
                room = room - need
                taken.append(row)
            elif not skip:
                break
        return np.array(taken, np.int64)


class Buffering:
    """What a batch can do as a buffer, or with one.

    A buffer has the fields of its template and, at first, no systems. It never holds more of them,
    of atoms or of pairs than it was made for; entries of matrices it has as many as its atoms have.
    """

    _limits: Capacity | None = None
    # Which systems the last ``put`` has copied from here, and where it took them from.
    _copied: Bool[Tensor, " B"] | None = None
    _source: "ref[Batch] | None" = None

    @classmethod
    def empty(
        cls,
        num_systems: int,
        num_nodes: int,
        num_edges: int,
        template: Any,
        device: torch.device | str | None = None,
    ) -> "Batch":
        """Return a buffer: a batch without systems that takes others up to a capacity.

        Parameters
        ----------
        num_systems, num_nodes, num_edges
            How many systems, atoms and pairs it takes, all of them together.
        template
            A batch, or a system, that has the fields which the buffer is to have.
        device
            Where to put it; where the template is by default.

        Raises
        ------
        ValueError
            A negative number.
        """
        from nvdyn_ase.data.batch import Batch

        limits = Capacity(num_systems, num_nodes, num_edges)
        if min(limits) < 0:
            raise ValueError(f"a buffer cannot have a capacity of {min(limits)}")
        whole = template if isinstance(template, Batch) else Batch.from_data_list([template])
        buffer = whole.index_select([]).to(whole.device if device is None else device)
        buffer._limits = limits
        return buffer

    @classmethod
    def empty_like(cls, batch: "Batch", device: torch.device | str | None = None) -> "Batch":
        """Return a buffer with the fields of a batch and room for exactly what that holds."""
        limits = batch._limits or Capacity.of(batch)
        return cls.empty(*limits, template=batch, device=device)

    @property
    def system_capacity(self) -> int:
        """How many systems there is room for, those included that are there."""
        return len(cast("Batch", self)) if self._limits is None else self._limits.systems

    @property
    def room(self) -> Capacity:
        """How many more systems, atoms and pairs a buffer takes; none for any other batch."""
        taken = Capacity.of(cast("Batch", self))
        return (self._limits or taken) - taken

    def put(
        self,
        src: "Batch",
        mask: Bool[Tensor, " B"] | None = None,
        *,
        copied_mask: Bool[Tensor, " B"] | None = None,
        dest_mask: Bool[Tensor, " n"] | None = None,
    ) -> Bool[Tensor, " B"]:
        """Copy systems behind those that are here, as long as they fit at every level.

        A system that does not fit is passed over, and stays in ``src``, as all others do.

        Parameters
        ----------
        src
            Where they come from.
        mask
            Which of its systems, (B,); all by default.
        copied_mask
            (B,), where to write what is returned; a new tensor by default.
        dest_mask
            Which of the systems that are here stay, one entry for each; all by default. The others
            are dropped first and make room.

        Returns
        -------
        Tensor
            (B,) bool, on the device of ``src``: the systems that were copied.

        Raises
        ------
        ValueError
            A mask of another length, a field without default that only one side has, or one of
            another type here and there; the field is named, and nothing is changed.
        """
        own = cast("Batch", self)
        copied = torch.zeros(len(src), dtype=torch.bool)
        if copied_mask is not None and copied_mask.shape != copied.shape:
            raise ValueError(f"copied_mask needs {len(src)} entries, one a system of the source")
        kept = own if dest_mask is None else own.index_select(_host(dest_mask, own))
        wanted = np.arange(len(src)) if mask is None else np.flatnonzero(_host(mask, src))
        room = (self._limits or Capacity.of(own)) - Capacity.of(kept)
        rows = room.fitting(src, wanted)
        copied[rows] = True
        if len(rows):
            part = src.index_select(rows)
            _check_types(kept, part)
            self._become(kept.followed_by(part))
        elif kept is not own:
            self._become(kept)
        src._copied, self._source = copied, ref(src)
        there = copied.to(src.device)
        return there if copied_mask is None else copied_mask.copy_(there)

    def trim(self, copied_mask: Bool[Tensor, " B"] | None = None) -> "Batch | None":
        """Return the systems that were not copied, as a batch; None if there are none.

        Parameters
        ----------
        copied_mask
            Which of the systems here were copied; by default what the last ``put`` took from here.
            Asked of a buffer, that is what is left of the batch it was last filled from.

        Raises
        ------
        ValueError
            A mask of another length, or none where nothing was put.
        """
        source = self._put_from() if copied_mask is None else cast("Batch", self)
        mask = source._copied if copied_mask is None else copied_mask
        rows = np.flatnonzero(~_host(cast(Tensor, mask), source))
        return source.index_select(rows) if len(rows) else None

    def defrag(self, copied_mask: Bool[Tensor, " B"] | None = None) -> "Batch":
        """Drop the systems that were copied, in place, and return what is left; see :meth:`trim`.

        Asked of a buffer, it is the batch that it was last filled from which is left.
        """
        source = self._put_from() if copied_mask is None else cast("Batch", self)
        mask = source._copied if copied_mask is None else copied_mask
        source._become(source.index_select(~_host(cast(Tensor, mask), source)))
        return source

    def zero(self) -> None:
        """Drop every system; fields and capacity stay."""
        self._become(cast("Batch", self).index_select([]))

    def _put_from(self) -> "Batch":
        """Return the batch that the last ``put`` with this one took systems from."""
        source = cast("Batch", self)
        if self._copied is None:
            source = cast("Batch", self._source and self._source())
        if source is None or source._copied is None:
            raise ValueError("nothing was put from here; say which systems were copied")
        return source

    def _become(self, other: "Batch") -> None:
        """Take the place of another batch, with the capacity that this one has."""
        limits = self._limits
        self.__dict__.clear()
        self.__dict__.update(other.__dict__)
        self._limits, self._copied, self._source = limits, None, None


def _host(mask: Tensor, batch: "Batch") -> np.ndarray:
    if mask.shape[:1] != (len(batch),) or mask.ndim != 1:
        raise ValueError(f"a mask of shape {tuple(mask.shape)} for {len(batch)} systems")
    return mask.detach().cpu().numpy().astype(bool)


def _check_types(buffer: "Batch", part: "Batch") -> None:
    for key, tensor in part:
        if key in buffer and buffer[key].dtype is not tensor.dtype:
            raise ValueError(
                f"{key!r} is {tensor.dtype} and the buffer holds {buffer[key].dtype}; to copy it "
                "would change it: make the buffer from a template of that type"
            )
