"""One system: ``AtomicData``."""

from typing import TYPE_CHECKING, Any, Self

import numpy as np
import torch
from ase.data import atomic_masses as _ATOMIC_MASSES
from pydantic import BaseModel, ConfigDict, PrivateAttr, model_validator
from torch import Tensor

from nvdyn_ase.data.fields import FIELDS, Field, Fill, Level, canonical

if TYPE_CHECKING:
    import ase


class AtomicData(BaseModel):
    """One system: positions, elements, cell, and whatever else is known about it.

    Arrays and lists are taken as well as tensors. System-level values carry a leading one, as in a
    batch of one: ``cell`` is (1, 3, 3), ``energy`` (1, 1); (3, 3) and a number are accepted.

    Parameters
    ----------
    positions
        (V, 3), Å, finite.
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
    constraints
        Objects that follow the constraint protocol of ``nvdyn_ase.dynamics.constraints``, in order.
    host
        Whatever belongs to the system but not on the device (names, notes); given back unchanged.
    **fields
        Any other declared field: ``forces``, ``energy``, ``stress``, ``edge_index``, ...

    Raises
    ------
    ValueError
        A wrong shape, a position that is not finite, a cell that is singular along its periodic
        directions, or a field that is not declared.
    """

    model_config = ConfigDict(arbitrary_types_allowed=True, extra="forbid")

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
    initial_charges: Tensor | None = None
    energy: Tensor | None = None
    free_energy: Tensor | None = None
    stress: Tensor | None = None
    fmax: Tensor | None = None
    status: Tensor | None = None
    system_id: Tensor | None = None
    steps: Tensor | None = None
    evaluations: Tensor | None = None
    outcome: Tensor | None = None
    edge_index: Tensor | None = None
    unit_shifts: Tensor | None = None
    shifts: Tensor | None = None
    constraints: tuple[Any, ...] = ()
    host: dict[str, Any] = {}

    _user: dict[str, tuple[Level, Tensor]] = PrivateAttr(default_factory=dict)
    _defaults: dict[str, Fill] = PrivateAttr(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _normalise(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = {canonical(k): v for k, v in values.items() if v is not None}
        for key in ("positions", "atomic_numbers"):
            if key not in values:
                raise ValueError(f"{key} is missing")
        positions = _floating(values["positions"])
        if positions.ndim != 2 or positions.shape[1] != 3:
            raise ValueError(f"positions must be (V, 3), not {tuple(positions.shape)}")
        values["positions"] = positions
        numbers = torch.as_tensor(values["atomic_numbers"])
        values.setdefault("atomic_masses", _standard_masses(numbers))
        values.setdefault("velocities", torch.zeros_like(positions))
        values.setdefault("cell", torch.zeros(1, 3, 3))
        values.setdefault("pbc", torch.zeros(1, 3))
        rows = {Level.NODE: len(positions), Level.SYSTEM: 1, Level.EDGE: None}
        for key in values.keys() & FIELDS.keys():
            values[key] = _shaped(FIELDS[key], values[key], rows[FIELDS[key].level], positions)
        return values

    @model_validator(mode="after")
    def _physical(self) -> Self:
        if not bool(torch.isfinite(self.positions).all()):
            atom = int((~torch.isfinite(self.positions)).any(1).nonzero()[0])
            raise ValueError(f"the position of atom {atom} is not finite")
        if not bool(torch.isfinite(self.cell).all()):
            raise ValueError("the cell is not finite")
        vectors = self.cell[0][self.pbc[0]].cpu().double().numpy()
        if len(vectors) and np.linalg.matrix_rank(vectors, tol=1e-8) < len(vectors):
            raise ValueError(
                "the cell is singular along its periodic directions; "
                "give lattice vectors that are not parallel, or switch pbc off there"
            )
        return self

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

    @property
    def num_nodes(self) -> int:
        """Number of atoms."""
        return len(self.positions)

    @property
    def num_edges(self) -> int:
        """Number of pairs of atoms in ``edge_index``; 0 without one."""
        return 0 if self.edge_index is None else len(self.edge_index)

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
        declared = [(k, f.level, getattr(self, k)) for k, f in FIELDS.items()]
        own = [(k, level, tensor) for k, (level, tensor) in self._user.items()]
        return [item for item in declared if item[2] is not None] + own

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
        self._add(key, value, Level.NODE, self.num_nodes, default)

    def add_edge_property(self, key: str, value: Any, default: Fill | None = None) -> None:
        """Add a field of your own with one row per pair; see :meth:`add_node_property`."""
        self._add(key, value, Level.EDGE, self.num_edges, default)

    def add_system_property(self, key: str, value: Any, default: Fill | None = None) -> None:
        """Add a field of your own with one row; a row without the leading one is taken too.

        See :meth:`add_node_property`.
        """
        tensor = torch.as_tensor(value)
        if tensor.ndim == 0:
            tensor = tensor.reshape(1, 1)
        elif len(tensor) != 1:
            tensor = tensor[None]
        self._add(key, tensor, Level.SYSTEM, 1, default)

    def _add(self, key: str, value: Any, level: Level, rows: int, default: Fill | None) -> None:
        tensor = torch.as_tensor(value).to(self.device)
        if tensor.ndim == 0 or len(tensor) != rows:
            raise ValueError(f"{key!r} has shape {tuple(tensor.shape)}; {rows} {level} rows needed")
        if canonical(key) in FIELDS:
            field = FIELDS[canonical(key)]
            if field.level != level:
                raise ValueError(f"{key!r} is a declared field of level {field.level}, not {level}")
            setattr(self, field.name, _shaped(field, tensor, rows, self.positions))
        else:
            self._user[key] = (level, tensor)
            if default is not None:
                self._defaults[key] = default

    def to(
        self, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> "AtomicData":
        """Return a copy on another device and, for floating fields, in another type."""

        def move(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else None
            return tensor.to(device=device, dtype=kind)

        return self._mapped(move)

    def clone(self) -> "AtomicData":
        """Return a copy that shares no tensor."""
        return self._mapped(torch.clone)

    def _mapped(self, function: Any) -> "AtomicData":
        declared = {k: function(getattr(self, k)) for k in FIELDS if getattr(self, k) is not None}
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


def _floating(value: Any) -> Tensor:
    tensor = torch.as_tensor(value)
    return tensor if tensor.is_floating_point() else tensor.double()


def _standard_masses(numbers: Tensor) -> Tensor:
    if numbers.numel() and not 0 <= int(numbers.min()) <= int(numbers.max()) < len(_ATOMIC_MASSES):
        raise ValueError(f"atomic_numbers must be between 0 and {len(_ATOMIC_MASSES) - 1}")
    return torch.as_tensor(_ATOMIC_MASSES)[numbers.cpu().long()]


def _shaped(field: Field, value: Any, rows: int | None, positions: Tensor) -> Tensor:
    """Bring a value to its declared type and shape, or say what is wrong with it."""
    tensor = torch.as_tensor(value).to(
        device=positions.device, dtype=field.dtype or positions.dtype
    )
    target = (len(tensor) if rows is None else rows, *field.shape)
    if field.level is Level.SYSTEM:
        one = tensor.numel() == 1
        fits = tensor.numel() == int(np.prod(target))
        tensor = (
            tensor.expand(target).clone() if one else tensor.reshape(target) if fits else tensor
        )
    if tuple(tensor.shape) != target:
        raise ValueError(f"{field.name} must be {target}, not {tuple(tensor.shape)}")
    return tensor
