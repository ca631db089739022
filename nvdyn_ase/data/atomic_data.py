"""One system: ``AtomicData``."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from ase.data import atomic_masses
from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator
from torch import Tensor

from nvdyn_ase.data.fields import FIELDS, Fill, Level, canonical
from nvdyn_ase.data.pickling import packed, unpacked
from nvdyn_ase.data.values import as_tensor, check_default, of_one_system

if TYPE_CHECKING:
    import ase

_MASSES = torch.tensor(atomic_masses, dtype=torch.float64)
_LEVELS = [(key, field.level) for key, field in FIELDS.items()]

# Cell vectors whose smallest singular value, Å, is below this do not span what they should.
_SINGULAR = 1e-8


class AtomicData(BaseModel):
    """One system: positions, elements, cell, and whatever else is known about it.

    Arrays, lists and numbers are taken as well as tensors; they are copied, tensors are not.
    System-level values carry a leading one, as in a batch of one: ``cell`` is (1, 3, 3), ``energy``
    (1, 1); (3, 3) and a number are accepted, when a field is assigned later too.

    Parameters
    ----------
    positions
        (V, 3), Å, finite. Every floating field that is declared gets their type.
    atomic_numbers
        (V,).
    atomic_masses
        (V,), amu; the standard masses of the elements by default.
    velocities
        (V, 3), Å per ASE time unit; zero by default.
    cell
        Lattice vectors as rows, Å; zero by default. Any handedness; vectors along non-periodic
        directions may be zero.
    pbc
        Periodic along each lattice vector; False by default.
    total_charge, spin_multiplicity
        Of the whole system: e, and 2 S + 1, 1 for a singlet; for models that ask for them.
    constraints
        Objects that follow the constraint protocol of ``nvdyn_ase.dynamics.constraints``, in order.
    host
        Whatever belongs to the system but not on the device (names, notes); given back unchanged.
    **fields
        Any other declared field: ``forces``, ``energy``, ``stress``, ``edge_index``, ...

    Raises
    ------
    ValueError
        A wrong shape or type, a position that is not finite, a cell that is singular along its
        periodic directions, pairs of atoms that are not there, or a field that is not declared.
    """

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", hide_input_in_errors=True
    )

    positions: Tensor
    atomic_numbers: Tensor
    atomic_masses: Tensor
    velocities: Tensor
    cell: Tensor
    pbc: Tensor
    forces: Tensor | None = None
    atomic_energies: Tensor | None = None
    atomic_stresses: Tensor | None = None
    fixed: Tensor | None = None
    tags: Tensor | None = None
    hidden: Tensor | None = None
    initial_charges: Tensor | None = None
    total_charge: Tensor | None = None
    spin_multiplicity: Tensor | None = None
    orig_cell: Tensor | None = None
    cell_filter: Tensor | None = None
    cell_mask: Tensor | None = None
    cell_factor: Tensor | None = None
    hydrostatic_strain: Tensor | None = None
    constant_volume: Tensor | None = None
    scalar_pressure: Tensor | None = None
    cell_lost: Tensor | None = None
    strain: Tensor | None = None
    energy: Tensor | None = None
    free_energy: Tensor | None = None
    stress: Tensor | None = None
    fmax: Tensor | None = None
    status: Tensor | None = None
    system_id: Tensor | None = None
    steps: Tensor | None = None
    evaluations: Tensor | None = None
    outcome: Tensor | None = None
    blow_up: Tensor | None = None
    edge_index: Tensor | None = None
    unit_shifts: Tensor | None = None
    shifts: Tensor | None = None
    constraints: tuple[Any, ...] = ()
    host: dict[str, Any] = {}

    _user: dict[str, tuple[Level, Tensor]] = PrivateAttr(default_factory=dict)
    _defaults: dict[str, Fill] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        given = {key: value for key, value in given.items() if value is not None}
        values = {canonical(key): value for key, value in given.items()}
        if len(values) < len(given):
            raise ValueError("a field is given twice, by its name and by an alias")
        if unknown := sorted(values.keys() - cls.model_fields.keys()):
            raise ValueError(
                f"no field is called {', '.join(unknown)}; add fields of your own to the system "
                "with add_node_property, add_edge_property or add_system_property"
            )
        for key in ("positions", "atomic_numbers"):
            if key not in values:
                raise ValueError(f"{key} is missing")
        positions = as_tensor("positions", values.pop("positions"))
        dtype = positions.dtype if positions.is_floating_point() else torch.float64
        rows = {Level.NODE: positions.shape[0] if positions.ndim else 0, Level.SYSTEM: 1}
        values = {"positions": positions, "cell": np.zeros((3, 3)), "pbc": False, **values}
        for key, field in FIELDS.items():
            if key in values:
                size, value = rows.get(field.level), values[key]
                values[key] = of_one_system(field, value, size, dtype, positions.device)
        if "velocities" not in values:
            values["velocities"] = torch.zeros_like(values["positions"])
        if "atomic_masses" not in values:
            masses = _standard_masses(values["atomic_numbers"])
            values["atomic_masses"] = masses.to(positions.device, dtype)
        return values

    @model_validator(mode="after")
    def _physical(self) -> Self:
        if not torch.isfinite(self.positions).all():
            atom = int((~torch.isfinite(self.positions)).any(1).nonzero()[0])
            raise ValueError(
                f"the position of atom {atom} is not finite; give it three numbers, or leave the "
                "structure out"
            )
        if not torch.isfinite(self.cell).all():
            raise ValueError("the cell is not finite; vectors that do not exist are zero")
        vectors = self.cell[0][self.pbc[0]].cpu().double().numpy()
        if len(vectors) and np.linalg.svd(vectors, compute_uv=False)[-1] <= _SINGULAR:
            raise ValueError(
                "the cell is singular along its periodic directions; "
                "give lattice vectors that are not parallel, or switch pbc off there"
            )
        self._check_pairs()
        return self

    def _check_pairs(self) -> None:
        lengths = {k: len(t) for k, level, t in self.items() if level is Level.EDGE}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"pairs of atoms need a row in each edge field, not {lengths}")
        pairs = self.edge_index
        if pairs is not None and ((pairs < 0) | (pairs >= self.num_nodes)).any():
            raise ValueError(f"edge_index must be between 0 and {self.num_nodes - 1}, its atoms")

    def __setattr__(self, key: str, value: Any) -> None:
        """Replace a field, brought to its declared type and shape, or a property of your own."""
        key = canonical(key)
        if key in FIELDS and value is not None:
            rows = self._rows(key, FIELDS[key].level)
            value = of_one_system(FIELDS[key], value, rows, self.dtype, self.device)
        elif not key.startswith("_") and key in self._user:
            self._add(key, as_tensor(key, value), self._user[key][0], None)
            return
        super().__setattr__(key, value)

    def _rows(self, key: str, level: Level) -> int | None:
        """Return the rows that a field needs; None for the only field with pairs."""
        if level is Level.EDGE:
            others = (len(t) for k, kind, t in self.items() if kind is level and k != key)
            return next(others, None)
        rows = {Level.NODE: self.num_nodes, Level.BLOCK: (3 * self.num_nodes) ** 2}
        return rows.get(level, 1)

    def __getattr__(self, key: str) -> Any:
        """User properties and aliases read as attributes."""
        if not key.startswith("_"):
            user = self._user
            if key in user:
                return user[key][1]
            if canonical(key) != key:
                return getattr(self, canonical(key))
        return super().__getattr__(key)  # type: ignore[misc]

    def __repr__(self) -> str:
        """Say the size and the fields beyond the obligatory ones."""
        return f"AtomicData({self.num_nodes} atoms, {', '.join(k for k, _, _ in self.items())})"

    __str__ = __repr__

    # As a model it would compare tensors and ask for their truth: a system equals itself alone.
    __eq__ = object.__eq__
    __hash__ = object.__hash__

    @property
    def num_nodes(self) -> int:
        """Number of atoms."""
        return len(self.positions)

    @property
    def num_edges(self) -> int:
        """Number of pairs of atoms; 0 without a field that has them."""
        return next((len(t) for _, level, t in self.items() if level is Level.EDGE), 0)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.positions.device

    @property
    def dtype(self) -> torch.dtype:
        """Floating type of the positions."""
        return self.positions.dtype

    def items(self) -> list[tuple[str, Level, Tensor]]:
        """Every field that is there: its key, level and tensor, user properties last."""
        values = self.__dict__
        found = [(key, level, values[key]) for key, level in _LEVELS if values.get(key) is not None]
        return found + [(key, level, tensor) for key, (level, tensor) in self._user.items()]

    def add_node_property(self, key: str, value: Any, default: Fill | None = None) -> None:
        """Add a field of your own with one row per atom.

        Parameters
        ----------
        key
            Its name.
        value
            One row per atom.
        default
            What fills the rows of systems that do not bring the field, in a batch with this one;
            without it such a batch cannot be made.
        """
        self._add(key, as_tensor(key, value), Level.NODE, default)

    def add_edge_property(self, key: str, value: Any, default: Fill | None = None) -> None:
        """Add a field of your own with one row per pair; see :meth:`add_node_property`."""
        self._add(key, as_tensor(key, value), Level.EDGE, default)

    def add_system_property(self, key: str, value: Any, default: Fill | None = None) -> None:
        """Add a field of your own with one row; a row without the leading one is taken too.

        A single number becomes (1, 1). See :meth:`add_node_property`.
        """
        tensor = as_tensor(key, value)
        if tensor.ndim == 0:
            tensor = tensor.reshape(1, 1)
        elif len(tensor) != 1:
            tensor = tensor[None]
        self._add(key, tensor, Level.SYSTEM, default)

    def _add(self, key: str, tensor: Tensor, level: Level, default: Fill | None) -> None:
        key = canonical(key)
        if key in FIELDS:
            if FIELDS[key].level is not level:
                declared = FIELDS[key].level
                raise ValueError(f"{key!r} is declared {declared}-level, not {level}-level")
            setattr(self, key, tensor)
            return
        rows = self.num_edges if level is Level.EDGE else self._rows(key, level)
        if tensor.ndim == 0 or len(tensor) != rows:
            raise ValueError(
                f"{key!r} is {level}-level and needs {rows} rows, not shape {tuple(tensor.shape)}"
            )
        check_default(key, default, tensor)
        if default is not None:
            self._defaults[key] = default
        self._user[key] = (level, tensor.to(self.device))

    def __getstate__(self) -> dict[str, Any]:
        """Pickle as any model, and fields of any type."""
        state = super().__getstate__()
        state["__pydantic_private__"]["_user"] = packed(self._user)
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Undo :meth:`__getstate__`."""
        private = state["__pydantic_private__"]
        private = {**private, "_user": unpacked(private["_user"])}
        super().__setstate__({**state, "__pydantic_private__": private})

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "AtomicData":
        """Return a copy on another device and, for floating fields, in another type.

        Tensors that are so already are shared with the copy.
        """

        def move(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else None
            return tensor.to(device=device, dtype=kind)

        return self._mapped(move)

    def clone(self) -> "AtomicData":
        """Return a copy that shares no tensor."""
        return self._mapped(torch.clone)

    def _mapped(self, function: Any) -> "AtomicData":
        declared: dict[str, Any] = {k: function(t) for k, _, t in self.items() if k in FIELDS}
        copy = AtomicData.model_construct(
            **declared, constraints=self.constraints, host=dict(self.host)
        )
        copy._user = {k: (level, function(t)) for k, (level, t) in self._user.items()}
        copy._defaults = dict(self._defaults)
        return copy

    @classmethod
    def from_atoms(cls, atoms: "ase.Atoms", **options: Any) -> "AtomicData":
        """Convert an ``ase.Atoms``; see ``nvdyn_ase.atoms.from_atoms``."""
        from nvdyn_ase.atoms import from_atoms

        return from_atoms(atoms, **options)

    def to_atoms(self) -> "ase.Atoms":
        """Convert to an ``ase.Atoms``; see ``nvdyn_ase.atoms.to_atoms``."""
        from nvdyn_ase.atoms import to_atoms

        return to_atoms(self)


def _standard_masses(numbers: Tensor) -> Tensor:
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(_MASSES):
        raise ValueError(f"atomic_numbers must be between 0 and {len(_MASSES) - 1}")
    return _MASSES[numbers.cpu()]
