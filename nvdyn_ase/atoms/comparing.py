"""The user's Atoms beside the batch that was made from them."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import ase
import numpy as np
import torch
from ase.io.jsonio import encode

from nvdyn_ase.atoms.constraints import HostConstraint
from nvdyn_ase.atoms.descriptions import say_the_same
from nvdyn_ase.atoms.momenta import to_momenta
from nvdyn_ase.atoms.origin import ORIGIN, Origin
from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.dynamics.constraints import Description

# Arrays that an Atoms may have, and whose change ASE's calculators or dynamics would notice.
_OPTIONAL = ("masses", "initial_charges", "initial_magmoms")


class Comparison:
    """Finds what differs between Atoms and the systems of a batch, on the host.

    Parameters
    ----------
    atoms
        The user's objects, in the order of the batch, as they were last written.
    batch
        The systems.
    """

    def __init__(self, atoms: Sequence[ase.Atoms], batch: Batch) -> None:
        self._atoms, self._batch = atoms, batch
        self._ptr = batch.host_ptr.tolist()
        self._arrays: dict[str, np.ndarray] = {}

    def _host(self, key: str) -> np.ndarray:
        """Return a field on the host; it is fetched once."""
        if key not in self._arrays:
            self._arrays[key] = self._batch[key].detach().cpu().numpy()
        return self._arrays[key]

    def _own(self, key: str, row: int) -> np.ndarray:
        return self._host(key)[self._ptr[row] : self._ptr[row + 1]]

    def geometry(self) -> np.ndarray:
        """Return where positions, elements, cell or pbc differ, (B,) bool."""
        atoms = self._atoms
        changed = np.zeros(len(atoms), bool)
        if not len(atoms):
            return changed
        for key, name in (("positions", "positions"), ("atomic_numbers", "numbers")):
            now = np.concatenate([system.arrays[name] for system in atoms])
            differs = _differs(now, self._host(key))
            if differs is not None:
                atoms_differ = np.logical_or.reduce(differs.reshape(len(now), -1), axis=1)
                changed |= np.logical_or.reduceat(atoms_differ, self._ptr[:-1])
        cells = np.stack([system.cell.array for system in atoms])
        pbc = np.stack([system.pbc for system in atoms])
        for key, now in (("cell", cells), ("pbc", pbc)):
            differs = _differs(now, self._host(key))
            if differs is not None:
                changed |= np.logical_or.reduce(differs.reshape(len(atoms), -1), axis=1)
        return changed

    def extras(self, row: int) -> bool:
        """Say whether momenta, one of the optional arrays or the constraints differ."""
        return not (
            self.same_momenta(row) and self._same_optional(row) and self.same_constraints(row)
        )

    def _origin(self, row: int) -> Origin | None:
        return self._batch.host[row].get(ORIGIN)

    @cached_property
    def _products(self) -> np.ndarray:
        """Masses times velocities of all atoms, (V, 3)."""
        masses = self._host("atomic_masses").astype(float, copy=False)
        return masses[:, None] * self._host("velocities")

    def same_momenta(self, row: int) -> bool:
        """Say whether the momenta are what was written last."""
        now, origin = self._atoms[row].arrays.get("momenta"), self._origin(row)
        before = None if origin is None else origin.momenta
        product = self._products[self._ptr[row] : self._ptr[row + 1]]
        if now is None:
            return not (product.any() or (before is not None and before.any()))
        if now.shape == product.shape and (now == product).all():
            return True
        velocities, masses = self._own("velocities", row), self._own("atomic_masses", row)
        written = to_momenta(velocities, masses, before)
        if written is None:
            return not now.any()
        return np.array_equal(now, written, equal_nan=True)

    def _same_optional(self, row: int) -> bool:
        arrays, origin = self._atoms[row].arrays, self._origin(row)
        fields = {} if origin is None else origin.fields
        for name in _OPTIONAL:
            if name not in arrays and name not in fields:
                continue
            if name not in arrays or name not in fields:
                return False
            key, dtype = fields[name]
            now, before = arrays[name], self._own(key, row)
            if now.dtype != dtype or now.shape != before.shape:
                return False
            if _differs(now, before) is not None:
                return False
        return True

    def same_constraints(self, row: int) -> bool:
        """Say whether the constraints are the same objects, or say the same of themselves."""
        now, origin = self._atoms[row].constraints, self._origin(row)
        before = [] if origin is None else list(origin.constraints)
        for own in self._batch.constraints[row]:
            before += own.constraints if isinstance(own, HostConstraint) else []
        if len(now) != len(before) or not all(map(_is_equal_constraint, now, before)):
            return False
        described = [c for c in self._batch.constraints[row] if isinstance(c, Description)]
        # What is the same object may say something else by now.
        return not described or say_the_same(self._atoms[row], now, described)

    def is_lost(self, row: int) -> bool:
        """Say whether the positions are not finite, here and there."""
        there = np.isfinite(self._atoms[row].arrays["positions"]).all()
        return not (there or np.isfinite(self._own("positions", row)).all())

    def keep(self, row: int, data: AtomicData, constraints: bool) -> None:
        """Put into a system that was read again what is to stay as it was.

        Parameters
        ----------
        row
            Which system.
        data
            The system as it was read.
        constraints
            Keep the constraint objects of the batch, with what they have learned.
        """
        origin, host = self._origin(row), data.host
        same_masses = np.array_equal(self._own("atomic_masses", row), data.atomic_masses.numpy())
        if self.same_momenta(row) and same_masses:
            # Those that follow from ASE's momenta differ by an ulp.
            data.velocities = torch.as_tensor(self._own("velocities", row).copy())
        if not self.same_constraints(row):
            return
        if "fixed" in self._batch:
            data.fixed = torch.as_tensor(self._own("fixed", row).copy())
        if constraints and origin is not None:
            data.constraints = self._batch.constraints[row]
            host[ORIGIN] = host[ORIGIN]._replace(constraints=origin.constraints)


def _differs(now: np.ndarray, before: np.ndarray) -> np.ndarray | None:
    """Return where values differ, in the type of the batch; None if they do nowhere."""
    now = now.astype(before.dtype, copy=False)
    if np.array_equal(now, before):
        return None
    differs: np.ndarray = (now != before) & ~((now != now) & (before != before))
    return differs if differs.any() else None


def _is_equal_constraint(a: Any, b: Any) -> bool:
    if a is b:
        return True
    try:
        return type(a) is type(b) and encode(a.todict()) == encode(b.todict())
    except (AttributeError, TypeError, ValueError):
        return False
