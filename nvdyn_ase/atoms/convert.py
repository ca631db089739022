"""``ase.Atoms`` to systems and batches, and back, with nothing lost."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ase
import numpy as np
import torch
from ase.data import atomic_masses
from pydantic import ValidationError
from torch import Tensor

from nvdyn_ase.atoms.constraints import HostConstraint, copied, fixed_mask
from nvdyn_ase.atoms.descriptions import descriptions
from nvdyn_ase.atoms.learning import bonds
from nvdyn_ase.atoms.momenta import to_velocities
from nvdyn_ase.atoms.origin import ORIGIN, Origin, declared_name, field_key, fits_tensor
from nvdyn_ase.data import FIELDS, AtomicData, Batch, Level, StructureError
from nvdyn_ase.data.electrons import ELECTRONS, INFO, electrons
from nvdyn_ase.data.fields import Fill


class Reading(NamedTuple):
    """What was read from one Atoms: arrays as they stand there, neither copied nor checked."""

    declared: dict[str, np.ndarray]
    own: dict[str, np.ndarray]
    host: dict[str, Any]
    constraints: tuple[Any, ...]


def read(atoms: ase.Atoms, copy_constraints: bool = True) -> Reading:
    """Sort what an Atoms holds into declared fields, fields of its own, and the host's part.

    Raises
    ------
    ValueError
        It is no Atoms or has no atoms, an array has another length, or constraints that cannot be.
    """
    if not isinstance(atoms, ase.Atoms):
        raise ValueError(f"an ase.Atoms is needed, not {type(atoms).__name__}")
    if not len(atoms):
        raise ValueError("the structure has no atoms")
    declared: dict[str, np.ndarray] = {"cell": atoms.cell.array, "pbc": atoms.pbc}
    declared |= electrons(atoms.info)
    own: dict[str, np.ndarray] = {}
    fields: dict[str, tuple[str, np.dtype[Any]]] = {}
    host_arrays: dict[str, np.ndarray] = {}
    momenta = None
    for name, array in atoms.arrays.items():
        if not isinstance(array, np.ndarray) or array.shape[:1] != (len(atoms),):
            raise ValueError(
                f"{name!r} is no array or has shape {np.shape(array)}; it needs a row for each "
                f"of the {len(atoms)} atoms"
            )
        key = declared_name(name, array)
        if key == "velocities":
            momenta = array.copy()
            array = to_velocities(momenta, atoms.get_masses())
        if key is not None:
            declared[key] = array
        elif fits_tensor(array):
            key = field_key(name, array.shape[1:], array.dtype)
            own[key] = array
        else:
            host_arrays[name] = array.copy()
            continue
        fields[name] = (key, atoms.arrays[name].dtype)
    hosted, kept = _sorted_constraints(atoms, declared, copy_constraints)
    displacement = atoms.get_celldisp()
    celldisp = displacement if displacement.any() or displacement.shape != (3, 1) else None
    origin = Origin(tuple(atoms.arrays), fields, host_arrays, momenta, celldisp, kept)
    return Reading(declared, own, {INFO: dict(atoms.info), ORIGIN: origin}, hosted)


def _sorted_constraints(
    atoms: ase.Atoms, declared: dict[str, np.ndarray], copy_constraints: bool
) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """Return constraints for the engine, and those objects that it does not have.

    They are to be given back.
    """
    if not atoms.constraints:
        return (), ()
    fixed = fixed_mask(atoms.constraints, len(atoms))
    described = descriptions(atoms) if fixed is None else ()
    if described is None:
        return (HostConstraint(atoms, copy_constraints),), ()
    if fixed is not None:
        declared["fixed"] = fixed
    if not copy_constraints:
        return described, tuple(atoms.constraints)
    kept = copied(atoms.constraints)
    for own, constraint in bonds(described, kept):
        constraint.bondlengths = own.lengths.copy()
    return described, tuple(kept)


def from_atoms(
    atoms: ase.Atoms,
    *,
    index: int | None = None,
    dtype: torch.dtype = torch.float64,
    copy_constraints: bool = True,
) -> AtomicData:
    """Convert an ``ase.Atoms`` to a system; :func:`to_atoms` gives it back as it was.

    Numeric arrays with a row per atom become node fields under the name that
    :func:`nvdyn_ase.atoms.field_key` gives; ``info`` and arrays of other types stay on the host.
    ``info["charge"]`` and ``info["spin"]``, if they are numbers, are ``total_charge`` and
    ``spin_multiplicity`` too. Momenta become velocities.

    If all constraints are ``FixAtoms`` they become the field ``fixed``; otherwise what each of them
    says rides along in ``constraints``, in their order, if all are of kinds that the engine knows,
    and if not, all of them do as one :class:`HostConstraint`.

    Parameters
    ----------
    atoms
        The structure; nothing of it is shared or changed. ``info`` is copied as ASE does, one level
        deep.
    index
        Its position in the user's input: the ``system_id``, and named in errors.
    dtype
        Type of the declared floating fields.
    copy_constraints
        Let the engine work on copies of the constraints. Without, it calls the user's own objects,
        if it calls any, and these keep what they learn, as in ASE.

    Raises
    ------
    StructureError
        No atoms, positions that are not finite, a cell that is singular along its periodic
        directions, an atomic number that does not exist, a constraint on an atom that is not there.
    """
    try:
        found = read(atoms, copy_constraints)
        fields: dict[str, Any] = {}
        for key, array in found.declared.items():
            fields[key] = as_tensor(array, FIELDS[key].dtype or dtype)
        if index is not None:
            fields["system_id"] = index
        data = AtomicData(**fields, constraints=found.constraints, host=found.host)
        for key, array in found.own.items():
            data.add_node_property(key, as_tensor(array), default=0)
    except ValidationError as error:
        problem = error.errors()[0]["msg"].removeprefix("Value error, ")
        raise StructureError(index, problem) from None
    except (ValueError, TypeError, IndexError) as error:
        raise StructureError(index, str(error)) from error
    return data


def as_tensor(array: np.ndarray, dtype: torch.dtype | None = None) -> Tensor:
    """Return a copy of an array; integers and complex numbers of any width in the widest."""
    wide = {"i": np.int64, "u": np.int64, "c": np.complex128}.get(array.dtype.kind)
    native = array.astype(wide or array.dtype.newbyteorder("="), order="C", copy=True)
    return torch.from_numpy(native).to(dtype)


def batch_from_atoms(
    structures: Sequence[ase.Atoms],
    *,
    indices: Sequence[int] | None = None,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    copy_constraints: bool = True,
    readings: Sequence[Reading | None] | None = None,
) -> Batch:
    """Convert many ``ase.Atoms`` to a batch, fast: the same as joining :func:`from_atoms` of each.

    Parameters
    ----------
    structures
        The structures.
    indices
        Their positions in the user's input: the ``system_id``, and named in errors; 0, 1, 2, ... by
        default.
    dtype, copy_constraints
        See :func:`from_atoms`.
    device
        Where to put the batch.
    readings
        What :func:`read` has returned for some of them with this ``copy_constraints``, and None for
        others: nobody has changed those structures since.

    Raises
    ------
    StructureError
        The first structure that cannot be used; see :func:`from_atoms` and :func:`partition`.
    ValueError
        No structures.
    """
    structures = list(structures)
    ids = list(range(len(structures))) if indices is None else [int(i) for i in indices]
    if len(ids) != len(structures):
        raise ValueError(f"{len(ids)} indices for {len(structures)} structures")
    if not structures:
        raise ValueError("a batch needs at least one structure; the list is empty")
    for row in _suspects(structures):
        from_atoms(structures[row], index=ids[row])  # raises, if there is something wrong with it
    found = []
    known = [None] * len(structures) if readings is None else readings
    for index, atoms, reading in zip(ids, structures, known, strict=True):
        try:
            found.append(read(atoms, copy_constraints) if reading is None else reading)
        except (ValueError, TypeError, IndexError) as problem:
            raise StructureError(index, str(problem)) from problem
    sizes = [len(atoms) for atoms in structures]
    fields = _declared_columns(found, sizes, dtype)
    fields["system_id"] = (Level.SYSTEM, torch.tensor(ids).view(-1, 1))
    defaults: dict[str, Fill] = {}
    for key in dict.fromkeys(key for reading in found for key in reading.own):
        fields[key] = (Level.NODE, _own_column(key, found, sizes))
        defaults[key] = 0
    constraints = [reading.constraints for reading in found]
    host = [reading.host for reading in found]
    batch = Batch(fields, sizes, None, constraints, host, "cpu", defaults)
    return batch if torch.device(device).type == "cpu" else batch.to(device)


def _declared_columns(
    readings: list[Reading], sizes: list[int], dtype: torch.dtype
) -> dict[str, tuple[Level, Tensor]]:
    columns = {}
    keys = [key for reading in readings for key in reading.declared]
    for key in dict.fromkeys([*keys, "velocities", "atomic_masses"]):
        found = (reading.declared.get(key) for reading in readings)
        pieces = [
            absent(key, readings[row].declared["atomic_numbers"]) if piece is None else piece
            for row, piece in enumerate(found)
        ]
        join = np.concatenate if FIELDS[key].level is Level.NODE else np.stack
        whole = join(pieces)
        whole = whole.astype(whole.dtype.newbyteorder("="), copy=False)
        tensor = torch.from_numpy(whole).to(FIELDS[key].dtype or dtype)
        columns[key] = (FIELDS[key].level, tensor)
    return columns


def absent(key: str, numbers: np.ndarray) -> np.ndarray:
    """Return the rows of a declared field for a structure that does not have it."""
    if key == "atomic_masses":
        return atomic_masses[numbers]
    if key in ELECTRONS:
        return np.array([FIELDS[key].default])
    return np.zeros((len(numbers), *FIELDS[key].shape))


def _own_column(key: str, readings: list[Reading], sizes: list[int]) -> Tensor:
    tensors = [as_tensor(r.own[key]) if key in r.own else None for r in readings]
    like = next(tensor for tensor in tensors if tensor is not None)
    return torch.cat(
        [
            like.new_zeros((size, *like.shape[1:])) if tensor is None else tensor
            for tensor, size in zip(tensors, sizes, strict=True)
        ]
    )


def validate(atoms: Any, index: int | None = None) -> StructureError | None:
    """Return what is wrong with a structure, or None; see :func:`from_atoms`."""
    try:
        from_atoms(atoms, index=index)
    except StructureError as error:
        return error
    return None


def partition(
    structures: Sequence[Any], indices: Sequence[int] | None = None
) -> tuple[list[int], list[StructureError]]:
    """Tell usable structures from others.

    Parameters
    ----------
    structures
        Anything; what is not an ``ase.Atoms`` is among the others.
    indices
        Positions in the user's input, for the errors; 0, 1, 2, ... by default.

    Returns
    -------
    tuple
        Rows of the structures that :func:`batch_from_atoms` takes, and one error for each other.
    """
    ids = range(len(structures)) if indices is None else indices
    errors = {row: validate(structures[row], ids[row]) for row in _suspects(structures)}
    found = [error for error in errors.values() if error is not None]
    return [row for row in range(len(structures)) if errors.get(row) is None], found


def _suspects(structures: Sequence[Any]) -> list[int]:
    """Return the rows of the structures that deserve a close look, cheaply; often none."""
    try:
        positions = np.concatenate([atoms.arrays["positions"] for atoms in structures])
        numbers = np.concatenate([atoms.arrays["numbers"] for atoms in structures])
        cells = np.stack([atoms.cell.array for atoms in structures])
        pbc = np.stack([atoms.pbc for atoms in structures])
        sizes = np.array([len(atoms) for atoms in structures])
    except (AttributeError, KeyError, ValueError, TypeError):
        return list(range(len(structures)))  # something among them is no proper Atoms
    bad_atoms = ~np.isfinite(positions).all(1) | (numbers < 0) | (numbers >= len(atomic_masses))
    bad = (sizes == 0) | ~np.isfinite(cells).all((1, 2))
    bad[np.repeat(np.arange(len(sizes)), sizes)[bad_atoms]] = True
    vectors = np.where(pbc[:, :, None] & ~bad[:, None, None], cells, 0.0)
    rank = (np.linalg.svd(vectors, compute_uv=False) > 1e-8).sum(1)
    bad |= rank < pbc.sum(1)
    bad |= [bool(atoms.constraints) and not _holdable(atoms) for atoms in structures]
    return np.flatnonzero(bad).tolist()


def _holdable(atoms: ase.Atoms) -> bool:
    try:
        if fixed_mask(atoms.constraints, len(atoms)) is None:
            descriptions(atoms)
    except ValueError:
        return False
    return True
