"""Energies, forces and stresses of a batch in the shape that ASE's calculators give them."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from ase.stress import full_3x3_to_voigt_6_stress

from nvdyn_ase.data import Batch


class Property(NamedTuple):
    """One of ASE's properties: the field it comes from and the shape ASE wants for a system."""

    field: str
    per_atom: bool
    voigt: bool
    shape: tuple[int, ...]


#: ASE's names of what a batch may hold. Energies eV, forces eV/Å, stress eV/Å³ (Voigt: xx, yy, zz,
#: yz, xz, xy).
PROPERTIES: dict[str, Property] = {
    "energy": Property("energy", False, False, ()),
    "free_energy": Property("free_energy", False, False, ()),
    "forces": Property("forces", True, False, (3,)),
    "stress": Property("stress", False, True, (6,)),
    "energies": Property("atomic_energies", True, False, ()),
    "stresses": Property("atomic_stresses", True, True, (6,)),
    "dipole": Property("dipole", False, False, (3,)),
    "magmom": Property("magmom", False, False, ()),
    "charges": Property("charges", True, False, ()),
    "magmoms": Property("magmoms", True, False, ()),
}


class HostResults:
    """The results of a batch on the host, cut into ASE's results per system.

    Parameters
    ----------
    arrays
        Fields by name, as numpy arrays.
    ptr
        First atom of each system and the end, (B + 1,).
    cells
        (B, 3, 3), Å. A system without three cell vectors has no stress.
    properties
        ASE's names of what is wanted; all that are there by default.
    """

    def __init__(
        self,
        arrays: Mapping[str, np.ndarray],
        ptr: np.ndarray,
        cells: np.ndarray,
        properties: Iterable[str] | None = None,
    ) -> None:
        names = list(PROPERTIES if properties is None else properties)
        self._ptr = ptr.tolist()
        self._energies: dict[str, list[float]] = {}
        self._values: dict[str, np.ndarray] = {}
        # Of everything but energies and forces, NaN says that a system does not have it.
        self._absent: dict[str, np.ndarray] = {}
        has_vector: np.ndarray = (cells != 0).any(axis=2)
        flat = ~has_vector.all(axis=1)
        for name in names:
            kind = PROPERTIES[name]
            if kind.field not in arrays:
                continue
            values = np.asarray(arrays[kind.field], float)
            if name in ("energy", "free_energy"):
                self._energies[name] = values.reshape(-1).tolist()
                continue
            self._values[name] = full_3x3_to_voigt_6_stress(values) if kind.voigt else values
            if name != "forces":
                self._absent[name] = self._unknown(values, kind.per_atom) | (kind.voigt & flat)
        # Where nothing else is said the forces belong to the energy.
        if "energy" in self._energies and "free_energy" in names:
            self._energies.setdefault("free_energy", self._energies["energy"])

    def _unknown(self, values: np.ndarray, per_atom: bool) -> np.ndarray:
        """Return which systems have NaN throughout, (B,) bool."""
        unknown: np.ndarray = np.isnan(values).all(axis=tuple(range(1, values.ndim)))
        starts = np.asarray(self._ptr[:-1], int)
        return np.logical_and.reduceat(unknown, starts) if per_atom else unknown

    @classmethod
    def of_batch(
        cls, batch: Batch, cells: np.ndarray, properties: Iterable[str] | None = None
    ) -> "HostResults":
        """Fetch the results of a batch; ``cells`` (B, 3, 3) are on the host already."""
        arrays = {
            kind.field: batch[kind.field].detach().cpu().numpy()
            for kind in PROPERTIES.values()
            if kind.field in batch
        }
        return cls(arrays, batch.host_ptr, cells, properties)

    def of_system(self, row: int) -> dict[str, Any]:
        """Return ``calc.results`` of a system, in arrays of its own."""
        results: dict[str, Any] = {name: values[row] for name, values in self._energies.items()}
        first, last = self._ptr[row], self._ptr[row + 1]
        for name, values in self._values.items():
            if name in self._absent and self._absent[name][row]:
                continue
            if PROPERTIES[name].per_atom:
                results[name] = values[first:last].copy()
            elif PROPERTIES[name].shape:
                results[name] = values[row].copy()
            else:
                results[name] = float(values[row].item())
        return results
