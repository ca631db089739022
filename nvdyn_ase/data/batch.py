"""Many systems as one: ``Batch``, ragged fields laid end to end, never padded."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, SupportsIndex

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data.atomic_data import AtomicData
from nvdyn_ase.data.buffers import Buffering, Capacity
from nvdyn_ase.data.fields import FIELDS, Fill, Level, canonical
from nvdyn_ase.data.indexing import Index, is_one_system, system_rows
from nvdyn_ase.data.joining import (
    Part,
    boundaries,
    joined,
    pairs_per_system,
    part_of,
    ragged_rows,
    take,
)
from nvdyn_ase.data.messages import Messaging
from nvdyn_ase.data.pickling import Packed, packed, unpacked
from nvdyn_ase.data.sizes import Sizes
from nvdyn_ase.data.values import as_tensor, check_default, of_many_systems


class Batch(Sizes, Buffering, Messaging):
    """Systems laid end to end, with a declared level for every field.

    Reading and writing a field never waits for the device: the sizes of the systems are known on
    the host and change only when another batch is made.

    Build one with :meth:`from_data_list`. ``batch[key]`` and ``batch.key`` read a field,
    ``batch[key] = tensor`` replaces it; an undeclared key becomes a system field, other levels need
    :meth:`add_key`. ``batch[i]`` is an :class:`AtomicData`; a slice, list, int tensor or bool mask
    gives a batch. Copies, also those made by ``copy`` and ``pickle``, compute the fields that are
    deferred and leave ``neighbors`` and ``evaluated`` behind.

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
        # None in the place of a field that is deferred: a half step that is compiled is compiled
        # again if there are more or fewer.
        self._fields: dict[str, Tensor | None] = {}
        self._levels: dict[str, Level] = {}
        self._deferred: dict[str, Callable[[], Tensor]] = {}
        nodes = np.asarray(num_nodes, dtype=np.int64)
        edges = np.zeros_like(nodes) if num_edges is None else np.asarray(num_edges, dtype=np.int64)
        super().__init__(nodes, edges, device)
        count = len(nodes)
        self.constraints = [()] * count if constraints is None else list(constraints)
        self.host = [dict(own) for own in ([{}] * count if host is None else host)]
        if not count == len(edges) == len(self.constraints) == len(self.host):
            raise ValueError(f"num_edges, constraints and host need {count} entries, one a system")
        self.defaults = dict(defaults or {})
        self.neighbors: Any = None
        self.evaluated: Any = None
        for key, (level, tensor) in fields.items():
            key = canonical(key)
            self._put(key, _checked_level(key, Level(level)), tensor)

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
            No system, a field without a default that only some systems bring, or rows that differ
            in shape or type.
        TypeError
            Something that is not an ``AtomicData``.
        """
        data = list(data)
        if not data:
            raise ValueError("a batch needs at least one system; the list is empty")
        for row, system in enumerate(data):
            if not isinstance(system, AtomicData):
                kind = type(system).__name__
                raise TypeError(
                    f"system {row} is {kind}, not AtomicData; see AtomicData.from_atoms"
                )
        batch = cls(*joined([part_of(system) for system in data], data[0].device))
        return batch if device is None else batch.to(device)

    def like(
        self,
        node: dict[str, Tensor] | None = None,
        system: dict[str, Tensor] | None = None,
        block: dict[str, Tensor] | None = None,
    ) -> "Batch":
        """Return a batch of the same systems with other fields, as the state of an engine is.

        Parameters
        ----------
        node, system, block
            The fields by name, at each level.
        """
        fields = {key: (Level.NODE, tensor) for key, tensor in (node or {}).items()}
        fields |= {key: (Level.SYSTEM, tensor) for key, tensor in (system or {}).items()}
        fields |= {key: (Level.BLOCK, tensor) for key, tensor in (block or {}).items()}
        return Batch(fields, self._nodes, device=self.device)

    # ---------------------------------------------------------------- fields

    def __getitem__(self, key: Any) -> Any:
        """Read a field (str), a system (int) or a part of the batch (anything else)."""
        if isinstance(key, str):
            return self._field(canonical(key))
        return self.get_data(key) if is_one_system(key) else self.index_select(key)

    def _field(self, key: str) -> Tensor:
        if key in self._deferred:
            function = self._deferred.pop(key)
            try:
                self._put(key, self._levels[key], function())
            except BaseException:
                self._deferred[key] = function
                raise
        tensor = self._fields.get(key)
        if tensor is None:
            raise self._missing(key)
        return tensor

    def _missing(self, key: str) -> KeyError:
        return KeyError(f"no field {key!r}; there are {sorted(self.keys())}")

    def __setitem__(self, key: str, tensor: Any) -> None:
        """Replace a field, or add one: a declared one at its level, any other one per system.

        What is no tensor becomes one. The pairs themselves, ``edge_index``, can be replaced by as
        many; :meth:`add_key` takes others.
        """
        key = canonical(key)
        if not isinstance(tensor, Tensor):
            tensor = as_tensor(key, tensor).to(self.device)
        old = self._fields.get(key)
        if old is not None and tensor.shape == old.shape and tensor.dtype is old.dtype:
            self._fields[key] = tensor  # an engine does this many times a step
            return
        self._put(key, self._levels.get(key) or _level(key), tensor)

    def _put(self, key: str, level: Level, tensor: Tensor) -> None:
        """Take a field in, if it has the shape and type that it must have."""
        rows, field = self.num_rows(level), FIELDS.get(key)
        if tensor.ndim == 0 or tensor.shape[0] != rows:
            hint = "" if field else "; other levels need add_key(key, values, level)"
            raise ValueError(
                f"{key!r} is {level}-level and needs {rows} rows, not shape "
                f"{tuple(tensor.shape)}{hint}"
            )
        tensor = tensor if field is None else of_many_systems(field, tensor)
        self._deferred.pop(key, None)
        self._levels[key] = level
        self._fields[key] = tensor

    def __delitem__(self, key: str) -> None:
        """Forget a field."""
        key = canonical(key)
        if key not in self:
            raise self._missing(key)
        for store in (self._fields, self._deferred, self._levels, self.defaults):
            store.pop(key, None)

    def __contains__(self, key: object) -> bool:
        """Say whether the field is there."""
        key = canonical(str(key))
        return key in self._fields

    def __getattr__(self, key: str) -> Any:
        """Read a field as an attribute."""
        if key.startswith("_") or key not in self:
            raise AttributeError(f"a batch has no attribute and no field {key!r}")
        return self._field(canonical(key))

    def __setattr__(self, key: str, value: Any) -> None:
        """Write a field as an attribute; a tensor under any other name becomes a field too."""
        if key.startswith("_"):
            object.__setattr__(self, key, value)
        elif hasattr(type(self), key):
            raise AttributeError(f"{key!r} is given by the systems of the batch and cannot be set")
        elif (
            isinstance(value, Tensor) or canonical(key) in FIELDS or canonical(key) in self._levels
        ):
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
        return list(self._fields)

    def level(self, key: str) -> Level:
        """Return what a row of the field belongs to."""
        key = canonical(key)
        if key not in self._levels:
            raise self._missing(key)
        return self._levels[key]

    def add_key(
        self,
        key: str,
        values: Any,
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
            One tensor or array whole, or a list of one per system. Of level ``system`` those are
            rows, with a leading one or without. ``edge_index`` replaces all pairs and drops what
            else was known of them: it is counted over the batch if it is whole, from the first atom
            of each system if there is one per system, and looked at on the host.
        level
            ``"node"``, ``"edge"``, ``"system"`` or ``"block"``.
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
        _checked_level(key, kind)
        if isinstance(values, (list, tuple)):
            values = self._whole(key, [as_tensor(key, value) for value in values], kind)
        values = as_tensor(key, values).to(self.device)
        check_default(key, default, values)
        if key == "edge_index":
            counts = pairs_per_system(values.cpu().numpy(), self.host_ptr)
            self.set_edges({key: values}, counts)
        else:
            self._put(key, kind, values)
        if default is not None:
            self.defaults[key] = default

    def _whole(self, key: str, values: list[Tensor], level: Level) -> Tensor:
        """Lay one tensor per system end to end."""
        if len(values) != len(self):
            raise ValueError(f"{key!r}: {len(values)} tensors for {len(self)} systems")
        if not values:
            raise ValueError(f"{key!r}: an empty batch needs one tensor whole, to know its type")
        if level is Level.SYSTEM:
            return torch.stack([v[0] if v.ndim > 1 and len(v) == 1 else v for v in values])
        if key == "edge_index":
            starts = self.host_ptr[:-1].tolist()
            return torch.cat([value + start for value, start in zip(values, starts, strict=True)])
        per, needed = "atom", self.num_nodes_list
        if level is Level.EDGE:
            per, needed = "pair", self.num_edges_list
        if level is Level.BLOCK:
            per, needed = "entry of a matrix", np.diff(self.host_block_ptr).tolist()
        if [len(value) for value in values] != needed:
            raise ValueError(f"{key!r}: one row per {per} is needed in each system")
        return torch.cat(values)

    def defer(self, key: str, function: Callable[[], Tensor], level: str | None = None) -> None:
        """Give a field that is computed when it is first read.

        Parameters
        ----------
        key
            Its name.
        function
            Called once, without arguments, if anyone reads the field or copies the batch.
        level
            Level of the field; as in ``batch[key] = tensor`` by default.
        """
        key = canonical(key)
        kind = Level(level) if level else self._levels.get(key) or _level(key)
        self._levels[key] = _checked_level(key, kind)
        self._fields[key], self._deferred[key] = None, function

    def deferred(self, key: str) -> Callable[[], Tensor] | None:
        """Return the function of a field that nobody has read since it was deferred, else None."""
        return self._deferred.get(canonical(key))

    def unread(self) -> list[str]:
        """Return the names of the fields that nobody has read since they were deferred."""
        return list(self._deferred)

    def changed_since(self, held: Mapping[str, tuple[Tensor, int]]) -> list[str]:
        """Return the other fields that are not the tensors in ``held``, at the versions there."""
        none = (None, 0)
        return [
            key
            for key, tensor in self._fields.items()
            if tensor is not None
            and (held.get(key, none)[0] is not tensor or held[key][1] != tensor._version)
        ]

    def set_edges(
        self,
        fields: Mapping[str, Tensor | Callable[[], Tensor]],
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
        if len(num_edges) != len(self):
            raise ValueError(f"{len(num_edges)} numbers of pairs for {len(self)} systems")
        for key in self._edge_keys():
            del self[key]
        self._edges = np.asarray(num_edges, dtype=np.int64)
        for key, value in fields.items():
            if isinstance(value, Tensor):
                self._put(key, Level.EDGE, value)
            else:
                self.defer(key, value, Level.EDGE)

    def _edge_keys(self) -> list[str]:
        return [key for key, level in self._levels.items() if level is Level.EDGE]

    # ---------------------------------------------------------------- parts and wholes

    def index_select(self, index: Index) -> "Batch":
        """Return the chosen systems, in the order given, as a batch of their own; may be empty.

        Pairs that nobody has read yet are left behind: whoever deferred them can make them again.

        Raises
        ------
        IndexError
            There is no such system, or a mask has another length.
        TypeError
            The index is neither a slice nor whole numbers nor bools.
        """
        chosen = system_rows(index, len(self))
        whole, every_edge = self._without_unread_pairs()
        pointers = self._pointers(boundaries(every_edge))
        picks = {
            level: self._on_device(ragged_rows(pointers[level], chosen))
            for level in {self._levels[key] for key in whole}
        }
        fields = {}
        for key, tensor in whole.items():
            level = self._levels[key]
            fields[key] = (level, take(tensor, picks[level]))
        nodes, edges = self._nodes[chosen], every_edge[chosen]
        if "edge_index" in fields:
            moved = np.repeat(boundaries(nodes)[:-1] - self.host_ptr[chosen], edges)
            level, pairs = fields["edge_index"]
            fields["edge_index"] = (level, pairs + self._on_device(moved)[:, None])
        constraints = [self.constraints[i] for i in chosen]
        host = [self.host[i] for i in chosen]
        return Batch(fields, nodes, edges, constraints, host, self.device, self.defaults)

    def _without_unread_pairs(self) -> tuple[dict[str, Tensor], np.ndarray]:
        """Return the fields and each system's pairs, without pairs that nobody has read."""
        pairs = self._edge_keys()
        if not pairs or any(self._fields.get(key) is not None for key in pairs):
            return {key: self._field(key) for key in self.keys()}, self._edges
        fields = {key: self._field(key) for key in self.keys() if key not in pairs}
        return fields, np.zeros_like(self._edges)

    def get_data(self, index: SupportsIndex) -> AtomicData:
        """Return one system; raise IndexError if there is none of that number."""
        row = system_rows(index, len(self))[0]
        fields, edges = self._without_unread_pairs()
        return self._system(int(row), fields, self._pointers(boundaries(edges)))

    def to_data_list(self) -> list[AtomicData]:
        """Return every system by itself; see :meth:`index_select`."""
        fields, edges = self._without_unread_pairs()
        pointers = self._pointers(boundaries(edges))
        return [self._system(row, fields, pointers) for row in range(len(self))]

    def _pointers(self, edge_ptr: np.ndarray) -> dict[Level, np.ndarray]:
        """Return the first row of each system and the end, (B + 1,), at each level."""
        return {
            Level.SYSTEM: np.arange(len(self) + 1),
            Level.NODE: self.host_ptr,
            Level.EDGE: edge_ptr,
            Level.BLOCK: self.host_block_ptr,
        }

    def _system(
        self, row: int, fields: dict[str, Tensor], pointers: dict[Level, np.ndarray]
    ) -> AtomicData:
        first = int(self.host_ptr[row])
        rows = {level: slice(*ptr[row : row + 2].tolist()) for level, ptr in pointers.items()}
        own = {key: tensor[rows[self._levels[key]]].clone() for key, tensor in fields.items()}
        if "edge_index" in own:
            own["edge_index"] -= first
        declared: dict[str, Any] = {key: own.pop(key) for key in FIELDS if key in own}
        data = AtomicData.model_construct(
            **declared, constraints=self.constraints[row], host=dict(self.host[row])
        )
        data._user = {key: (self._levels[key], tensor) for key, tensor in own.items()}
        data._defaults = {key: value for key, value in self.defaults.items() if key in own}
        return data

    def append(self, *others: "Batch") -> None:
        """Put the systems of another batch, or of several, behind these, in place.

        Fields that only some have are filled with their declared default.

        Raises
        ------
        ValueError
            Such a field has no default; it is named.
        """
        self._become(self.followed_by(*others))

    def followed_by(self, *others: "Batch") -> "Batch":
        """Return these systems and behind them those of others; see :meth:`append`."""
        parts = [self._part(), *(other._part() for other in others)]
        return Batch(*joined(parts, self.device))

    def _part(self) -> Part:
        fields = {key: (self._levels[key], tensor) for key, tensor in self}
        rest = self.constraints, self.host, self.device, self.defaults
        return Part(fields, self._nodes, self._edges, *rest)

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle by the arguments, with every field computed."""
        part = self._part()
        fields = packed(part.fields)
        return _restored, (type(self), fields, part._replace(fields={}), self._limits)

    def append_data(self, data: Sequence[AtomicData]) -> None:
        """Put systems behind these, in place; see :meth:`append`."""
        data = list(data)
        if data:
            self.append(Batch.from_data_list(data, self.device))

    # ---------------------------------------------------------------- copies

    def _mapped(self, function: Callable[[Tensor], Tensor], device: torch.device) -> "Batch":
        part = self._part()
        fields = {key: (level, function(tensor)) for key, (level, tensor) in part.fields.items()}
        copy = Batch(*part._replace(fields=fields, device=device))
        copy._limits = self._limits
        return copy

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "Batch":
        """Return a copy on another device and, for floating fields, in another type.

        Tensors that are so already are shared with the copy. A copy to a GPU does not wait.
        """
        target = self.device if device is None else torch.device(device)
        waits = target.type == "cpu"  # whoever reads host memory would not wait for what arrives

        def move(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else None
            return tensor.to(device=target, dtype=kind, non_blocking=not waits)

        return self._mapped(move, target)

    def cpu(self) -> "Batch":
        """Return a copy on the CPU."""
        return self.to("cpu")

    def cuda(self) -> "Batch":
        """Return a copy on the current CUDA device."""
        return self.to(torch.device("cuda", torch.cuda.current_device()))

    def clone(self) -> "Batch":
        """Return a copy that shares no tensor."""
        return self._mapped(torch.clone, self.device)

    def pin_memory(self) -> "Batch":
        """Return a copy in page-locked host memory, from which copies to a GPU do not wait.

        Where there is no GPU it is a copy like any other.
        """
        if not torch.cuda.is_available():
            return self.cpu().clone()
        return self._mapped(lambda tensor: tensor.cpu().pin_memory(), torch.device("cpu"))

    def model_dump(self) -> dict[str, Any]:
        """Return every field by name, and the sizes under ``num_nodes`` and ``num_edges``."""
        return dict(self) | {"num_nodes": self.num_nodes_list, "num_edges": self.num_edges_list}


def _restored(
    kind: type[Batch], fields: Packed, part: Part, limits: Capacity | None = None
) -> Batch:
    batch = kind(*part._replace(fields=unpacked(fields)))
    batch._limits = limits
    return batch


def _level(key: str) -> Level:
    """Return the level of a field that nobody has given one."""
    return FIELDS[key].level if key in FIELDS else Level.SYSTEM


def _checked_level(key: str, level: Level) -> Level:
    """Return a level, or raise ValueError if another one is declared."""
    if key in FIELDS and FIELDS[key].level is not level:
        raise ValueError(f"{key!r} is declared {FIELDS[key].level}-level, not {level}-level")
    return level
