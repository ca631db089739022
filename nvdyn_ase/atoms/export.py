"""Systems and batches to ``ase.Atoms``: the way back."""

from collections.abc import Mapping
from typing import Any

import ase
import numpy as np
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms
from ase.data import atomic_masses

from nvdyn_ase.atoms.constraints import HostConstraint, copied, fixed_mask
from nvdyn_ase.atoms.descriptions import say_the_same, undescribed
from nvdyn_ase.atoms.electrons import changed_electrons
from nvdyn_ase.atoms.momenta import to_momenta
from nvdyn_ase.atoms.origin import ORIGIN, Origin
from nvdyn_ase.atoms.results import PROPERTIES, HostResults
from nvdyn_ase.data import FIELDS, AtomicData, Batch, Level
from nvdyn_ase.data.electrons import INFO
from nvdyn_ase.dynamics.constraints import Description

_NO_ORIGIN = Origin((), {}, {}, None, None, ())
_RESULTS = {kind.field for kind in PROPERTIES.values()}
_LEVELS = (Level.NODE, Level.SYSTEM)  # which an Atoms has room for

#: What an engine keeps of a system, and no Atoms has.
_BOOKKEEPING = {"fmax", "status", "system_id", "steps", "evaluations", "outcome"}


def to_atoms(data: AtomicData) -> ase.Atoms:
    """Convert a system to an ``ase.Atoms``; one that came from Atoms is given back as it was.

    Fields that were added since become arrays (node) and ``info`` (system) entries; energy, forces
    and stress become the results of a ``SinglePointCalculator``. Velocities that are all zero give
    no momenta where there were none, standard masses no masses.
    """
    levels = {key: level for key, level, _ in data.items() if level in _LEVELS}
    arrays = {key: tensor.detach().cpu().numpy() for key, _, tensor in data.items()}
    ptr = np.array([0, data.num_nodes])
    source = _Source(arrays, levels, data._defaults, ptr)
    return source.atoms(0, data.constraints, data.host)


def batch_to_atoms(batch: Batch) -> list[ase.Atoms]:
    """Convert every system of a batch to an ``ase.Atoms``; see :func:`to_atoms`."""
    source = _source_of(batch, sorted(set(batch.keys()) - _BOOKKEEPING))
    return [source.atoms(row, batch.constraints[row], batch.host[row]) for row in range(len(batch))]


def input_fields(batch: Batch) -> list[str]:
    """Return the fields that say what the systems are: neither results nor bookkeeping nor pairs.

    A field that nobody has read since it was deferred is none of them.
    """
    candidates = sorted(set(batch.keys()) - _RESULTS - _BOOKKEEPING)
    return [
        key for key in candidates if batch.level(key) in _LEVELS and batch.deferred(key) is None
    ]


def batch_to_inputs(batch: Batch) -> list[ase.Atoms]:
    """Convert every system as a calculator wants it: no momenta, constraints or results."""
    source = _source_of(batch, [key for key in input_fields(batch) if key != "velocities"])
    return [source.atoms(row, (), batch.host[row], bare=True) for row in range(len(batch))]


def _source_of(batch: Batch, keys: list[str]) -> "_Source":
    levels = {key: batch.level(key) for key in keys if batch.level(key) in _LEVELS}
    arrays = {key: batch[key].detach().cpu().numpy() for key in levels}
    return _Source(arrays, levels, batch.defaults, batch.host_ptr)


class _Source:
    """Fields on the host, from which single systems are cut."""

    def __init__(
        self,
        arrays: dict[str, np.ndarray],
        levels: Mapping[str, Level],
        defaults: Mapping[str, Any],
        ptr: np.ndarray,
    ) -> None:
        self._arrays, self._levels, self._defaults, self._ptr = arrays, levels, defaults, ptr
        self._results = HostResults(arrays, ptr, arrays["cell"]) if "energy" in arrays else None

    def atoms(
        self, row: int, constraints: tuple[Any, ...], host: dict[str, Any], bare: bool = False
    ) -> ase.Atoms:
        """Build one structure; a bare one has no momenta and no constraints."""
        here = slice(int(self._ptr[row]), int(self._ptr[row + 1]))
        fields = {
            key: self._arrays[key][here] if level is Level.NODE else self._arrays[key][row]
            for key, level in self._levels.items()
        }
        origin: Origin = host.get(ORIGIN, _NO_ORIGIN)
        atoms = ase.Atoms(cell=fields["cell"], pbc=fields["pbc"], celldisp=origin.celldisp)
        arrays = _declared_arrays(fields, origin) | self._own_arrays(fields, origin)
        arrays |= {name: array.copy() for name, array in origin.host_arrays.items()}
        if not bare:
            arrays |= _momenta(fields, origin)
        order = dict.fromkeys([*origin.arrays, *arrays])
        atoms.arrays = {name: arrays[name] for name in order if name in arrays}
        atoms.info = self._info(fields, host)
        if not bare:
            atoms.set_constraint(_constraints(atoms, fields.get("fixed"), constraints, origin))
        if self._results is not None:
            atoms.calc = SinglePointCalculator(atoms, **self._results.of_system(row))
        return atoms

    def _own_arrays(self, fields: dict[str, np.ndarray], origin: Origin) -> dict[str, np.ndarray]:
        names = {key: name for name, (key, _) in origin.fields.items()}
        arrays = {}
        for key, array in fields.items():
            if self._is_declared(key) or self._levels[key] is not Level.NODE:
                continue
            if key in names:
                arrays[names[key]] = _retyped(array, origin.fields[names[key]][1])
            elif not (origin.arrays and self._only_filled(key, array)):
                arrays[key] = array.copy()
        return arrays

    def _info(self, fields: dict[str, np.ndarray], host: dict[str, Any]) -> dict[str, Any]:
        info = dict(host.get(INFO, {}))
        info |= {key: value for key, value in host.items() if key not in (INFO, ORIGIN)}
        for key, value in fields.items():
            own = not self._is_declared(key) and self._levels[key] is Level.SYSTEM
            if own and not (ORIGIN in host and self._only_filled(key, value)):
                info[key] = value.item() if value.size == 1 else value.copy()
        return info | changed_electrons(fields, info, ORIGIN in host)

    def _is_declared(self, key: str) -> bool:
        """Say whether a field has its place in an Atoms or among the results of its calculator."""
        return key in FIELDS or (key in _RESULTS and self._results is not None)

    def _only_filled(self, key: str, rows: np.ndarray) -> bool:
        """Say whether a field is here only because other systems of the batch brought it."""
        return key in self._defaults and bool((rows == self._defaults[key]).all())


def _declared_arrays(fields: dict[str, np.ndarray], origin: Origin) -> dict[str, np.ndarray]:
    numbers = fields["atomic_numbers"]
    arrays = {
        "numbers": _retyped(numbers, _dtype(origin, "numbers", int)),
        "positions": _retyped(fields["positions"], _dtype(origin, "positions", float)),
    }
    masses = fields["atomic_masses"]
    standard = np.array_equal(masses, atomic_masses[numbers].astype(masses.dtype))
    if _had(origin, "masses") or not standard:
        arrays["masses"] = _retyped(masses, _dtype(origin, "masses", float))
    for name, dtype in (("tags", int), ("initial_charges", float)):
        if name in fields and (_had(origin, name) or fields[name].any()):
            arrays[name] = _retyped(fields[name], _dtype(origin, name, dtype))
    return arrays


def _had(origin: Origin, name: str) -> bool:
    """Say whether the Atoms had an array that is a declared field."""
    return name in origin.fields and origin.fields[name][0] in FIELDS


def _dtype(origin: Origin, name: str, usual: type) -> Any:
    return origin.fields[name][1] if _had(origin, name) else usual


def _retyped(values: np.ndarray, dtype: Any) -> np.ndarray:
    """Return a copy in the type that an array had, or as it is if it no longer fits."""
    with np.errstate(invalid="ignore", over="ignore"):
        converted = values.astype(dtype)
        fits = np.array_equal(converted.astype(values.dtype), values, equal_nan=True)
    return converted if fits else values.copy()


def _momenta(fields: dict[str, np.ndarray], origin: Origin) -> dict[str, np.ndarray]:
    momenta = to_momenta(fields["velocities"], fields["atomic_masses"], origin.momenta)
    return {} if momenta is None else {"momenta": momenta}


def _constraints(
    atoms: ase.Atoms, held: np.ndarray | None, constraints: tuple[Any, ...], origin: Origin
) -> list[Any]:
    """Return copies of ASE's constraint objects; new ones for what is held since then."""
    found: list[Any] = []
    described = [own for own in constraints if isinstance(own, Description)]
    known = fixed_mask(() if described else origin.constraints, len(atoms))
    if not described and (held is None or (known is not None and np.array_equal(held, known))):
        found += copied(origin.constraints)
    elif held is not None and held.any():
        found.append(FixAtoms(mask=held))
    if described and say_the_same(atoms, origin.constraints, described):
        found += copied(origin.constraints)
    elif described:
        found += [constraint for own in described for constraint in undescribed(own, atoms)]
    for constraint in constraints:
        if isinstance(constraint, HostConstraint):
            found += copied(constraint.constraints)
    return found
