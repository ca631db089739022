"""Many systems as one: ``Batch``, ragged fields laid end to end, never padded."""

from collections.abc import Callable, Iterator, Sequence
from copy import copy
from functools import cached_property
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nvdyn_ase.data.atomic_data import AtomicData
from nvdyn_ase.data.fields import FIELDS, Fill, Level, canonical
from nvdyn_ase.data.joining import Part, boundaries, joined, ragged_rows, take

Index = int | slice | Sequence[int] | np.ndarray | Tensor


class Batch:
    """Systems laid end to end, with a declared level for every field.

    Reading and writing a field never waits for the device: the sizes of the systems are known on
    the host and change only when another batch is made.

    Build one with :meth:`from_data_list`. ``batch[key]`` and ``batch.key`` read a field,
    ``batch[key] = tensor`` replaces it; an undeclared key becomes a system field, other levels need
    :meth:`add_key`. ``batch[i]`` is an :class:`AtomicData`; a slice, list, int tensor or bool mask
    gives a batch.

    Parameters
    ----------
    fields
        The tensors by name, with their levels.
    num_nodes, num_edges
        Rows of each system, on the host.
    constraints, host
        Per system, what does not live on the device.
    device
        Where the tensors are.
    defaults
        Of fields that the table does not declare, the value that fills the rows of systems which
        do not bring them.

    Attributes
    ----------
    neighbors
        The neighbour list of the present geometry, put there by a ``NeighborList``; None otherwise.
    evaluated
        What the present energy and forces were computed from, put there by an engine.
    """

    def __init__(
        self,
        fields: dict[str, tuple[Level, Tensor]],
        num_nodes: Sequence[int] | np.ndarray,
        num_edges: Sequence[int] | np.ndarray | None = None,
        constraints: Sequence[tuple[Any, ...]] | None = None,
        host: Sequence[dict[str, Any]] | None = None,
        device: torch.device | str = "cpu",
        defaults: dict[str, Fill] | None = None,
    ) -> None:
        self._nodes = np.asarray(num_nodes, dtype=np.int64)
        count = len(self._nodes)
        self._edges = np.zeros(count, np.int64) if num_edges is None else np.asarray(num_edges)
        self.constraints = [()] * count if constraints is None else list(constraints)
        self.host: list[dict[str, Any]] = [{} for _ in range(count)] if host is None else list(host)
        self.device = torch.device(device)
        self.defaults = dict(defaults or {})
        self.neighbors: Any = None
        self.evaluated: Any = None
        self._fields: dict[str, Tensor] = {}
        self._levels: dict[str, Level] = {}
        self._deferred: dict[str, Callable[[], Tensor]] = {}
        for key, (level, tensor) in fields.items():
            self._levels[key] = Level(level)
            self[key] = tensor

    # ---------------------------------------------------------------- making one

    @classmethod
    def from_data_list(
        cls, data: Sequence[AtomicData], device: torch.device | str | None = None
    ) -> "Batch":
        """Lay systems end to end.

        Parameters
        ----------
        data
            The systems. A declared field that only some bring is filled with its default.
        device
            Where to put the batch; where the first system is by default.

        Raises
        ------
        ValueError
            No system, or a field without a default that only some systems bring.
        """
        data = list(data)
        if not data:
            raise ValueError("a batch needs at least one system; the list is empty")
        batch = cls(*joined([Part.of_data(system) for system in data], data[0].device))
        return batch if device is None else batch.to(device)

    def like(
        self, node: dict[str, Tensor] | None = None, system: dict[str, Tensor] | None = None
    ) -> "Batch":
        """Return a batch of the same systems with other fields, as the state of an engine is.

        Parameters
        ----------
        node, system
            The fields by name, at each level.
        """
        fields = {key: (Level.NODE, tensor) for key, tensor in (node or {}).items()}
        fields |= {key: (Level.SYSTEM, tensor) for key, tensor in (system or {}).items()}
        return Batch(fields, self._nodes, device=self.device)

    # ---------------------------------------------------------------- sizes, all on the host

    @property
    def num_graphs(self) -> int:
        """Number of systems, B."""
        return len(self._nodes)

    batch_size = num_graphs

    def __len__(self) -> int:
        """Return the number of systems."""
        return len(self._nodes)

    @cached_property
    def num_nodes(self) -> int:
        """Number of atoms, V."""
        return int(self._nodes.sum())

    @cached_property
    def num_nodes_list(self) -> list[int]:
        """Atoms of each system."""
        return self._nodes.tolist()

    @cached_property
    def max_num_nodes(self) -> int:
        """Atoms of the largest system; 0 for an empty batch."""
        return int(self._nodes.max(initial=0))

    @property
    def num_edges(self) -> int:
        """Number of pairs, E."""
        return int(self._edges.sum())

    @property
    def num_edges_list(self) -> list[int]:
        """Pairs of each system."""
        return self._edges.tolist()

    @cached_property
    def host_ptr(self) -> np.ndarray:
        """First atom of each system and the end, (B + 1,), on the host."""
        return boundaries(self._nodes)

    @property
    def host_edge_ptr(self) -> np.ndarray:
        """First pair of each system and the end, (B + 1,), on the host."""
        return boundaries(self._edges)

    @cached_property
    def ptr(self) -> Int[Tensor, " B1"]:
        """First atom of each system and the end, (B + 1,), on the device."""
        return self._on_device(self.host_ptr)

    @cached_property
    def ptr3(self) -> Int[Tensor, " B1"]:
        """As ``ptr``, counted in components of a (V, 3) field."""
        return self._on_device(3 * self.host_ptr)

    @property
    def edge_ptr(self) -> Int[Tensor, " B1"]:
        """First pair of each system and the end, (B + 1,), on the device."""
        return self._on_device(self.host_edge_ptr)

    @cached_property
    def num_nodes_per_graph(self) -> Int[Tensor, " B"]:
        """Atoms of each system, on the device."""
        return self._on_device(self._nodes)

    @property
    def num_edges_per_graph(self) -> Int[Tensor, " B"]:
        """Pairs of each system, on the device."""
        return self._on_device(self._edges)

    @cached_property
    def batch(self) -> Int[Tensor, " V"]:
        """System of each atom, (V,), on the device."""
        return self._on_device(np.repeat(np.arange(len(self._nodes)), self._nodes))

    def _on_device(self, array: np.ndarray) -> Tensor:
        return torch.as_tensor(array).to(self.device, non_blocking=True)

    # ---------------------------------------------------------------- fields

    def __getitem__(self, key: Any) -> Any:
        """Read a field (str), a system (int) or a part of the batch (anything else)."""
        if isinstance(key, str):
            return self._field(canonical(key))
        if isinstance(key, (int, np.integer)) and not isinstance(key, bool):
            return self.get_data(int(key))
        return self.index_select(key)

    def _field(self, key: str) -> Tensor:
        if key in self._deferred:
            self._fields[key] = self._deferred.pop(key)()
        try:
            return self._fields[key]
        except KeyError:
            raise KeyError(f"no field {key!r}; there are {sorted(self.keys())}") from None

    def __setitem__(self, key: str, tensor: Tensor) -> None:
        """Replace a field, or add one: a declared one at its level, any other one per system."""
        key = canonical(key)
        level = self._levels.get(key) or (FIELDS[key].level if key in FIELDS else Level.SYSTEM)
        if level is not Level.EDGE:
            rows = self.num_nodes if level is Level.NODE else len(self._nodes)
            if tensor.ndim == 0 or tensor.shape[0] != rows:
                hint = "" if key in FIELDS else "; other levels need add_key(key, values, level)"
                raise ValueError(
                    f"{key!r} is a {level} field and needs {rows} rows, not shape "
                    f"{tuple(tensor.shape)}{hint}"
                )
        if key in FIELDS and key != "status" and tensor.ndim == 1 and FIELDS[key].shape == (1,):
            tensor = tensor.view(-1, 1)
        self._deferred.pop(key, None)
        self._levels[key] = level
        self._fields[key] = tensor

    def __delitem__(self, key: str) -> None:
        """Forget a field."""
        key = canonical(key)
        if key not in self:
            raise KeyError(f"no field {key!r}; there are {sorted(self.keys())}")
        self._fields.pop(key, None)
        self._deferred.pop(key, None)
        del self._levels[key]

    def __contains__(self, key: object) -> bool:
        """Say whether the field is there."""
        key = canonical(str(key))
        return key in self._fields or key in self._deferred

    def __getattr__(self, key: str) -> Any:
        """Read a field as an attribute."""
        if key.startswith("_"):
            raise AttributeError(key)
        try:
            return self._field(canonical(key))
        except KeyError as error:
            raise AttributeError(str(error)) from None

    def __setattr__(self, key: str, value: Any) -> None:
        """Write a field as an attribute."""
        if isinstance(value, Tensor) and not key.startswith("_") and not hasattr(type(self), key):
            self[key] = value
        else:
            object.__setattr__(self, key, value)

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        """Iterate over (key, tensor)."""
        return iter([(key, self._field(key)) for key in self.keys()])

    def __repr__(self) -> str:
        """Say the sizes and the fields."""
        return f"Batch({len(self)} systems, {self.num_nodes} atoms, {', '.join(self.keys())})"

    def keys(self) -> list[str]:
        """Return the names of the fields."""
        return [*self._fields, *self._deferred]

    def level(self, key: str) -> Level:
        """Return what a row of the field belongs to."""
        return self._levels[canonical(key)]

    def add_key(
        self,
        key: str,
        values: Tensor | Sequence[Tensor],
        level: str = "node",
        overwrite: bool = False,
        default: Fill | None = None,
    ) -> None:
        """Add a field at a level.

        Parameters
        ----------
        key
            Its name.
        values
            One tensor whole, or one per system. Per-system tensors of level ``system`` are rows.
        level
            ``"node"``, ``"edge"`` or ``"system"``.
        overwrite
            Replace a field of that name.
        default
            What fills the rows of systems that join the batch without this field; without it they
            cannot join. A field of the table has its own.

        Raises
        ------
        ValueError
            The field is there already, is declared at another level, or has the wrong size.
        """
        key, kind = canonical(key), Level(level)
        if key in self and not overwrite:
            raise ValueError(f"{key!r} is there already; pass overwrite=True to replace it")
        if key in FIELDS and FIELDS[key].level is not kind:
            raise ValueError(f"{key!r} is declared as a {FIELDS[key].level} field, not {kind}")
        if not isinstance(values, Tensor):
            values = self._whole(key, list(values), kind)
        if kind is Level.EDGE and key != "edge_index" and len(values) != self.num_edges:
            raise ValueError(f"{key!r} needs {self.num_edges} rows, one per pair")
        self._levels[key] = kind
        self[key] = values.to(self.device)
        if default is not None:
            self.defaults[key] = default

    def _whole(self, key: str, values: list[Tensor], level: Level) -> Tensor:
        if len(values) != len(self):
            raise ValueError(f"{key!r}: {len(values)} tensors for {len(self)} systems")
        if level is Level.SYSTEM:
            return torch.stack([v[0] if v.ndim > 1 and len(v) == 1 else v for v in values])
        if level is Level.NODE and [len(v) for v in values] != self.num_nodes_list:
            raise ValueError(f"{key!r}: one row per atom is needed in each system")
        return torch.cat(values)

    def defer(self, key: str, function: Callable[[], Tensor], level: str = "system") -> None:
        """Give a field that is computed when it is first read.

        Parameters
        ----------
        key
            Its name.
        function
            Called once, without arguments, if anyone reads the field.
        level
            Level of the field.
        """
        self._fields.pop(key, None)
        self._levels[key] = Level(level)
        self._deferred[key] = function

    def deferred(self, key: str) -> Callable[[], Tensor] | None:
        """Return the function of a field that nobody has read since it was deferred, else None."""
        return self._deferred.get(key)

    def set_edges(
        self,
        fields: dict[str, Tensor | Callable[[], Tensor]],
        num_edges: Sequence[int] | np.ndarray,
    ) -> None:
        """Replace all pairs: ``edge_index`` and what goes with it.

        Parameters
        ----------
        fields
            Edge fields by name, or functions that make them when they are first read. Edge fields
            that are not given are dropped, as they belong to the pairs that were.
        num_edges
            Pairs of each system.
        """
        for key in [k for k, level in self._levels.items() if level is Level.EDGE]:
            del self[key]
        self._edges = np.asarray(num_edges, dtype=np.int64)
        for key, value in fields.items():
            if callable(value) and not isinstance(value, Tensor):
                self.defer(key, value, Level.EDGE)
            else:
                self._levels[key] = Level.EDGE
                self._fields[key] = value

    # ---------------------------------------------------------------- parts and wholes

    def index_select(self, index: Index) -> "Batch":
        """Return the chosen systems, in the order given, as a batch of their own; may be empty.

        Pairs that nobody has read yet are left behind: whoever deferred them can make them again.
        """
        chosen = self._system_rows(index)
        if "edge_index" in self._deferred:
            bare = copy(self)
            bare._fields, bare._levels = dict(self._fields), dict(self._levels)
            bare._deferred = dict(self._deferred)
            bare.set_edges({}, np.zeros(len(self), np.int64))
            return bare.index_select(chosen)
        rows = {
            Level.SYSTEM: chosen,
            Level.NODE: ragged_rows(self.host_ptr, chosen),
            Level.EDGE: ragged_rows(self.host_edge_ptr, chosen),
        }
        picks = {level: self._on_device(r) for level, r in rows.items()}
        fields = {
            key: (self._levels[key], take(tensor, picks[self._levels[key]])) for key, tensor in self
        }
        nodes, edges = self._nodes[chosen], self._edges[chosen]
        if "edge_index" in fields:
            moved = np.repeat(boundaries(nodes)[:-1] - self.host_ptr[chosen], edges)
            level, pairs = fields["edge_index"]
            fields["edge_index"] = (level, pairs + self._on_device(moved)[:, None])
        constraints = [self.constraints[i] for i in chosen]
        host = [self.host[i] for i in chosen]
        return Batch(fields, nodes, edges, constraints, host, self.device, self.defaults)

    def _system_rows(self, index: Index) -> np.ndarray:
        if isinstance(index, slice):
            return np.arange(len(self))[index]
        rows = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        if rows.dtype == bool:
            if rows.shape != (len(self),):
                raise IndexError(f"mask of shape {rows.shape} for {len(self)} systems")
            return np.flatnonzero(rows)
        rows = np.atleast_1d(rows).astype(np.int64)
        if rows.size and not (-len(self) <= rows.min() and rows.max() < len(self)):
            raise IndexError(f"system index out of range for {len(self)} systems")
        return rows % max(len(self), 1)

    def get_data(self, index: int) -> AtomicData:
        """Return one system; raise IndexError if there is none of that number."""
        part = self.index_select([index])
        declared: dict[str, Any] = {k: t for k, t in part if k in FIELDS}
        data = AtomicData.model_construct(
            **declared, constraints=part.constraints[0], host=part.host[0]
        )
        data._user = {k: (part._levels[k], t) for k, t in part if k not in FIELDS}
        data._defaults = {k: v for k, v in self.defaults.items() if k in data._user}
        return data

    def to_data_list(self) -> list[AtomicData]:
        """Return every system by itself."""
        return [self.get_data(i) for i in range(len(self))]

    def append(self, other: "Batch") -> None:
        """Put the systems of another batch behind these, in place.

        Fields that only one side has are filled with their declared default.

        Raises
        ------
        ValueError
            Such a field has no default; it is named.
        """
        whole = Batch(*joined([self._part(), other._part()], self.device))
        self.__dict__.clear()
        self.__dict__.update(whole.__dict__)

    def _part(self) -> Part:
        fields = {key: (self._levels[key], tensor) for key, tensor in self}
        rest = self.constraints, self.host, self.defaults
        return Part(fields, self._nodes, self._edges, *rest)

    def append_data(self, data: Sequence[AtomicData]) -> None:
        """Put systems behind these, in place."""
        if data:
            self.append(Batch.from_data_list(data, self.device))

    # ---------------------------------------------------------------- copies

    def _mapped(self, function: Callable[[Tensor], Tensor], device: torch.device) -> "Batch":
        fields = {key: (self._levels[key], function(tensor)) for key, tensor in self}
        host = [dict(h) for h in self.host]
        return Batch(
            fields, self._nodes, self._edges, self.constraints, host, device, self.defaults
        )

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Batch":
        """Return a copy on another device and, for floating fields, in another type."""

        def move(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else None
            return tensor.to(device=device, dtype=kind, non_blocking=True)

        return self._mapped(move, self.device if device is None else torch.device(device))

    def cpu(self) -> "Batch":
        """Return a copy on the CPU."""
        return self._mapped(lambda tensor: tensor.cpu(), torch.device("cpu"))

    def cuda(self) -> "Batch":
        """Return a copy on the current CUDA device."""
        return self.to(torch.device("cuda", torch.cuda.current_device()))

    def clone(self) -> "Batch":
        """Return a copy that shares no tensor."""
        return self._mapped(torch.clone, self.device)

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked host memory, from which copies to a GPU do not wait."""
        return self._mapped(lambda tensor: tensor.pin_memory(), self.device)

    def model_dump(self) -> dict[str, Any]:
        """Return every field by name, and the sizes under ``num_nodes`` and ``num_edges``."""
        return dict(self) | {"num_nodes": self.num_nodes_list, "num_edges": self.num_edges_list}
