"""A sink on disk, in zarr's format."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.data import Batch, Level
from nvdyn_ase.dynamics.sinks.data_sink import DataSink, chosen_systems
from nvdyn_ase.dynamics.sinks.stored_fields import LEVELS, StoredField, rows_of, together

_MARK, _VERSION = "nvdyn_ase", 1
_CONFIG: dict[str, Any] = {"chunk_bytes": 2**18, "compressors": "auto"}
_POINTERS = {Level.NODE: "ptr/node", Level.EDGE: "ptr/edge"}


class ZarrData(DataSink):
    """Appends systems to a zarr store; what has been written survives the process.

    In the store, ``fields/NAME`` is an array with the rows of all systems end to end, as in a
    batch, and ``ptr/node`` and ``ptr/edge`` say where each system begins. The attributes of the
    root say how many rows count at each level and which fields have them, and are replaced last: a
    write that fails, on a disk that is full or because the process is killed, leaves everything
    that was there as it was, and can be repeated. Any other reader of zarr can use the arrays up to
    these counts. A write costs some milliseconds for each field, however few the systems are.

    Tensors come back bit for bit, of every type and level. What is no tensor, ``constraints`` and
    ``host``, is not written. One process may write at a time.

    Parameters
    ----------
    store
        A path of a directory, or a store object of zarr. If it has systems, more are added.
    capacity
        How many systems it holds.
    config
        ``chunk_bytes``: size of a chunk before compression, 256 kB by default; each write replaces
        the last chunk of each field. ``compressors``: as in ``zarr.create_array``.

    Raises
    ------
    ImportError
        zarr is not installed.
    ValueError
        The store holds something else; an unknown key in ``config``; a capacity below 1.
    """

    def __init__(
        self, store: Any, capacity: int = 1_000_000, config: Mapping[str, Any] | None = None
    ) -> None:
        if capacity < 1:
            raise ValueError(f"capacity must be at least 1, not {capacity}")
        if unknown := sorted((config or {}).keys() - _CONFIG.keys()):
            raise ValueError(f"config has {', '.join(unknown)}; known are {', '.join(_CONFIG)}")
        self.store = str(store) if isinstance(store, Path) else store
        self.capacity = capacity
        self.config = config
        self._options = {**_CONFIG, **(config or {})}
        self._root = _opened(self.store)
        self._arrays: dict[str, Any] = {}
        self._state = _state_of(self._root)
        if _MARK not in self._root.attrs:
            self._commit(self._state)

    def __repr__(self) -> str:
        """Say where it is, and how full."""
        return f"ZarrData({self.store!s}, {len(self)} of {self.capacity} systems)"

    def __len__(self) -> int:
        """Return the number of systems held."""
        return self._state.rows[Level.SYSTEM]

    # ---------------------------------------------------------------- writing

    def write(self, batch: Batch, mask: Bool[Tensor, " B"] | None = None) -> None:
        """Append the systems of a batch, or the masked ones.

        Pairs that a neighbour list looks after are left out.

        Raises
        ------
        ValueError
            The mask does not have one entry per system, or fields do not go together with those of
            the systems that are here.
        RuntimeError
            They do not fit. In both cases nothing is taken.
        OSError
            They could not be written; what was there still is.
        """
        part = chosen_systems(batch, mask)
        if not len(part):
            return
        self.check_room(part)
        before = self._state
        fields = together(before.fields, before.rows, part, mixing_floats=False)
        part = part.cpu()
        count, lengths = rows_of(part), (part.num_nodes_list, part.num_edges_list)
        after = _State({level: before.rows[level] + count[level] for level in LEVELS}, fields)
        try:
            for key, field in fields.items():
                self._append(key, field, part, after)
            for level, sizes in zip(_POINTERS, lengths, strict=True):
                self._append_pointers(level, after, before.rows[level] + np.cumsum(sizes))
            self._commit(after)
        except BaseException:
            self._arrays.clear()  # nobody knows what they are like now
            raise

    def _append(self, key: str, field: StoredField, part: Batch, after: "_State") -> None:
        """Write the rows of a part, or defaults, behind those that are there."""
        begin, end = self._state.rows[field.level], after.rows[field.level]
        if 0 in field.shape:  # there are no bits
            return
        array = self._array(key, field, end)
        if begin == end:
            return
        if key in part:
            rows = part[key].reshape(-1, *field.shape)
            if key == "edge_index":  # counted over the store
                rows = rows + self._state.rows[Level.NODE]
        else:
            # Also where they are the fill value: a write that failed may have left others.
            fill = 0 if field.default is None else field.default
            rows = torch.full((end - begin, *field.shape), fill, dtype=field.dtype)
        array[begin:end] = _plain(rows)

    def _array(self, key: str, field: StoredField, rows: int) -> Any:
        """Return the array of a field, with at least so many rows."""
        if key in self._state.fields:
            return self._known(_path(key), rows)
        fill = torch.full((1,), field.default or 0, dtype=field.dtype)
        return self._create(_path(key), (rows, *field.shape), _plain(fill))

    def _append_pointers(self, level: Level, after: "_State", ends: np.ndarray) -> None:
        first, last = len(self) + 1, after.rows[Level.SYSTEM] + 1
        name = _POINTERS[level]
        if len(self):
            array = self._known(name, last)
        else:
            array = self._create(name, (last,), np.zeros(1, np.int64))
        array[first:last] = ends

    def _known(self, name: str, rows: int) -> Any:
        """Return an array that is there, with at least so many rows."""
        if name not in self._arrays:
            self._arrays[name] = self._root[name]
        array = self._arrays[name]
        if array.shape[0] < rows:  # whole chunks, so that this is rare
            chunk = array.chunks[0]
            array.resize((-(-rows // chunk) * chunk, *array.shape[1:]))
        return array

    def _create(self, name: str, shape: tuple[int, ...], fill: np.ndarray) -> Any:
        """Create an array, in place of what a write that failed may have left."""
        width = fill.itemsize * int(np.prod(shape[1:]))
        chunk = max(1, self._options["chunk_bytes"] // max(width, 1))
        return self._root.create_array(
            name,
            shape=shape,
            dtype=fill.dtype,
            chunks=(chunk, *(max(1, size) for size in shape[1:])),
            fill_value=fill[0],
            compressors=self._options["compressors"],
            # A chunk of -0 equals one of 0, and would be left out.
            config={"write_empty_chunks": True},
            overwrite=True,
        )

    def _commit(self, state: "_State") -> None:
        """Make what has been written count."""
        self._root.update_attributes({_MARK: state.as_attributes()})
        self._state = state

    # ---------------------------------------------------------------- reading

    def read(self) -> Batch:
        """Return everything that is in the store now; RuntimeError if there is nothing."""
        state, fields = self._look_again(), {}
        systems = state.rows[Level.SYSTEM]
        if not systems:
            raise RuntimeError("the sink is empty")
        for key, field in state.fields.items():
            fields[key] = field.level, self._rows(key, field, state.rows[field.level])
        pointers = (self._root[name][: systems + 1] for name in _POINTERS.values())
        nodes, edges = (np.diff(ptr) for ptr in pointers)
        defaults = {key: f.default for key, f in state.fields.items() if f.default is not None}
        return Batch(fields, nodes, edges, defaults=defaults)

    def system_ids(self) -> set[int]:
        """Return the ``system_id`` of everything; nothing else is read."""
        state = self._look_again()
        if not state.rows[Level.SYSTEM]:
            return set()
        field = state.fields["system_id"]
        return set(self._rows("system_id", field, state.rows[field.level]).view(-1).tolist())

    def _look_again(self) -> "_State":
        """Return what is in the store now, which another process may have written to."""
        self._root, self._arrays = _opened(self.store), {}
        self._state = _state_of(self._root)
        return self._state

    def _rows(self, key: str, field: StoredField, rows: int) -> Tensor:
        shape = (rows, *field.shape)
        if not rows or 0 in field.shape:
            return torch.empty(shape, dtype=field.dtype)
        tensor = torch.from_numpy(np.ascontiguousarray(self._root[_path(key)][:rows]))
        return tensor.view(field.dtype).reshape(shape)

    def zero(self) -> None:
        """Forget everything, in the store too."""
        self._commit(_State(dict.fromkeys(LEVELS, 0), {}))
        self._arrays.clear()
        for name in ("fields", "ptr"):
            if name in self._root:
                del self._root[name]


class _State:
    """How many rows count at each level, and the fields that have them."""

    def __init__(self, rows: dict[Level, int], fields: dict[str, StoredField]) -> None:
        self.rows, self.fields = rows, fields

    def as_attributes(self) -> dict[str, Any]:
        return {
            "version": _VERSION,
            "rows": {str(level): count for level, count in self.rows.items()},
            "fields": {
                key: [str(field.level), str(field.dtype), list(field.shape), _text(field.default)]
                for key, field in self.fields.items()
            },
        }


def _opened(store: Any) -> Any:
    try:
        import zarr
    except ImportError:
        raise ImportError(
            "ZarrData needs zarr, which is not installed: pip install 'nvdyn_ase[zarr]'"
        ) from None
    if isinstance(store, str) and _is_foreign(Path(store)):
        raise ValueError(f"{store} holds something else; give another path")
    return zarr.open_group(store, mode="a", zarr_format=3)


def _is_foreign(path: Path) -> bool:
    """Say whether there is something that zarr has not made."""
    if path.is_dir():
        return any(path.iterdir()) and not (path / "zarr.json").exists()
    return path.exists()


def _state_of(root: Any) -> _State:
    """Return what counts in a store; one without anything is empty."""
    attributes = root.attrs.asdict().get(_MARK)
    if attributes is None:
        if any(True for _ in root.members()):
            raise ValueError(f"{root.store_path} holds something else; give another store")
        return _State(dict.fromkeys(LEVELS, 0), {})
    if attributes["version"] != _VERSION:
        raise ValueError(f"the store has format {attributes['version']}, not {_VERSION}")
    fields = {
        key: StoredField(Level(level), _dtype(dtype), tuple(shape), _default(default))
        for key, (level, dtype, shape, default) in attributes["fields"].items()
    }
    return _State({level: attributes["rows"][level] for level in LEVELS}, fields)


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name.removeprefix("torch."))
    assert isinstance(dtype, torch.dtype)
    return dtype


def _text(default: Any) -> str:
    """Return a default as text: JSON knows no infinity, and not whether 1 is a float."""
    return repr(default.item() if isinstance(default, np.generic) else default)


def _default(text: str) -> float | int | bool | None:
    """Return a default from its text."""
    words = {"None": None, "True": True, "False": False}
    if text in words:
        return words[text]
    return int(text) if text.lstrip("-").isdigit() else float(text)


def _path(key: str) -> str:
    """Return where the array of a field is; any text may be the name of a field."""
    return "fields/" + quote(key, safe="").replace(".", "%2E")


def _plain(tensor: Tensor) -> np.ndarray:
    """Return a tensor as an array; a type that numpy does not know, by its bits."""
    if tensor.dtype is torch.bfloat16:
        tensor = tensor.contiguous().view(torch.uint16)
    return tensor.detach().contiguous().numpy()
