"""ASE's constraint objects as the plain descriptions that a batch of constraints is made of."""

import dataclasses
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import ase
import numpy as np
from ase.constraints import (
    ExternalForce,
    FixAtoms,
    FixBondLengths,
    FixCartesian,
    FixCom,
    FixedLine,
    FixedMode,
    FixedPlane,
    FixScaled,
    FixSubsetCom,
    FixSymmetry,
    Hookean,
)
from ase.geometry import find_mic, minkowski_reduce

from nvdyn_ase.dynamics import constraints as native
from nvdyn_ase.dynamics.constraints import Description


class _UnknownError(Exception):
    """There is no description: the constraint goes its own way, on the host."""


class Surroundings:
    """What a constraint needs to know of its Atoms.

    Parameters
    ----------
    atoms
        The structure. It is not touched.
    """

    def __init__(self, atoms: ase.Atoms) -> None:
        self.atoms = atoms
        self.size = len(atoms)

    @cached_property
    def missing(self) -> int:
        """How many cell vectors are missing."""
        return 3 - int(self.atoms.cell.rank)

    @cached_property
    def reduction(self) -> np.ndarray | None:
        """The reduced cell as combinations of cell vectors; None without periodic directions."""
        periodic = self.atoms.cell.any(1) & self.atoms.pbc
        if not periodic.any():
            return None
        reduction: np.ndarray = minkowski_reduce(self.atoms.cell.complete(), periodic)[1]
        return reduction

    def distances(self, pairs: np.ndarray) -> np.ndarray:
        """Return the distances of pairs of atoms, the images being the nearest."""
        positions = self.atoms.positions
        vectors = positions[pairs[:, 1]] - positions[pairs[:, 0]]
        distances: np.ndarray = find_mic(vectors, self.atoms.cell, self.atoms.pbc)[1]
        return distances

    def index(self, constraint: Any, index: Any) -> np.ndarray:
        """Return atoms, (m,), each once, as numbers that are not negative.

        Raises
        ------
        ValueError
            An atom is not there.
        """
        index = self.counted(constraint, np.atleast_1d(np.asarray(index)))
        if index.ndim != 1 or len(np.unique(index)) < len(index):
            raise _UnknownError
        return index

    def counted(self, constraint: Any, index: np.ndarray) -> np.ndarray:
        """Return atoms as numbers that are not negative."""
        if index.dtype.kind not in "iu" and index.size:
            raise _UnknownError
        outside = (index < -self.size) | (index >= self.size)
        if outside.any():
            raise ValueError(
                f"{type(constraint).__name__} names atom {index[outside][0]}, but there are "
                f"{self.size} atoms"
            )
        return np.where(index < 0, index + self.size, index).astype(np.int64)


def _fix_atoms(constraint: FixAtoms, around: Surroundings) -> Description:
    index = around.index(constraint, constraint.index)
    return native.Cartesian(index, np.ones((len(index), 3), bool))


def _fix_cartesian(constraint: FixCartesian, around: Surroundings) -> Description:
    index = around.index(constraint, constraint.index)
    return native.Cartesian(index, _per_atom(constraint.mask, index, bool))


def _fix_scaled(constraint: FixScaled, around: Surroundings) -> Description:
    if around.missing == 2:  # ASE has its own ideas of what stands in for two vectors
        raise _UnknownError
    index = around.index(constraint, constraint.index)
    return native.Scaled(index, _per_atom(constraint.mask, index, bool))


def _fixed_line(constraint: FixedLine, around: Surroundings) -> Description:
    index = around.index(constraint, constraint.index)
    return native.Line(index, _per_atom(constraint.dir, index, float))


def _fixed_plane(constraint: FixedPlane, around: Surroundings) -> Description:
    index = around.index(constraint, constraint.index)
    return native.Plane(index, _per_atom(constraint.dir, index, float))


def _per_atom(values: Any, index: np.ndarray, dtype: type) -> np.ndarray:
    values = np.asarray(values)
    if values.shape != (3,):
        raise _UnknownError
    return np.tile(values.astype(dtype), (len(index), 1))


def _fixed_mode(constraint: FixedMode, around: Surroundings) -> Description:
    mode = np.array(constraint.mode, float)
    if mode.shape != (3 * around.size,):
        raise _UnknownError
    return native.Mode(mode.reshape(-1, 3))


def _fix_com(constraint: FixCom, around: Surroundings) -> Description:
    if constraint.index != slice(None):
        raise _UnknownError
    return native.CentreOfMass(None)


def _fix_subset_com(constraint: FixSubsetCom, around: Surroundings) -> Description:
    index = around.index(constraint, constraint.index)
    if not len(index):
        raise _UnknownError
    return native.CentreOfMass(index)


def _external_force(constraint: ExternalForce, around: Surroundings) -> Description:
    pair = around.index(constraint, constraint.indices)
    return native.ExternalForce(pair, float(constraint.external_force))


def _hookean(constraint: Hookean, around: Surroundings) -> Description:
    stiffness = float(constraint.spring)
    if constraint._type == "plane":
        plane = np.array(constraint.plane, float)
        if not plane[:3].any():
            raise _UnknownError
        return native.Wall(around.index(constraint, constraint.index), plane, stiffness)
    if constraint.threshold is None:
        raise _UnknownError
    spring = stiffness, float(constraint.threshold), around.reduction
    if constraint._type == "point":
        index, point = around.index(constraint, constraint.index), np.array(constraint.origin)
        return native.Tether(index, point.astype(float), *spring)
    return native.Spring(around.index(constraint, constraint.indices), *spring)


def _fix_bond_lengths(constraint: FixBondLengths, around: Surroundings) -> Description:
    pairs = np.asarray(constraint.pairs)
    if pairs.ndim != 2 or pairs.shape[1] != 2 or constraint.maxiter != FixBondLengths.maxiter:
        raise _UnknownError
    pairs = around.counted(constraint, pairs)
    if not len(pairs) or (pairs[:, 0] == pairs[:, 1]).any():
        raise _UnknownError
    known = constraint.bondlengths
    lengths = around.distances(pairs) if known is None else np.array(known, float)
    if lengths.shape != (len(pairs),):
        raise _UnknownError
    return native.BondLengths(pairs, lengths, float(constraint.tolerance), around.reduction)


def _fix_symmetry(constraint: FixSymmetry, around: Surroundings) -> Description:
    rotations, maps = np.array(constraint.rotations), np.array(constraint.symm_map)
    order = np.arange(around.size)
    if around.missing or maps.shape != (len(rotations), around.size) or not len(rotations):
        raise _UnknownError
    if (np.sort(maps, axis=1) != order).any():
        raise _UnknownError
    flags = bool(constraint.do_adjust_positions), bool(constraint.do_adjust_cell)
    return native.Symmetry(rotations, maps.astype(np.int64), *flags)


# Exact types: a subclass may do anything.
_DESCRIBING: dict[type, Callable[[Any, Surroundings], Description]] = {
    FixAtoms: _fix_atoms,
    FixCartesian: _fix_cartesian,
    FixScaled: _fix_scaled,
    FixedLine: _fixed_line,
    FixedPlane: _fixed_plane,
    FixedMode: _fixed_mode,
    FixCom: _fix_com,
    FixSubsetCom: _fix_subset_com,
    ExternalForce: _external_force,
    Hookean: _hookean,
    FixBondLengths: _fix_bond_lengths,
    FixSymmetry: _fix_symmetry,
}


_PER_ATOM = (native.Cartesian, native.Scaled, native.Line, native.Plane)


def descriptions(
    atoms: ase.Atoms, constraints: Sequence[Any] | None = None
) -> tuple[Description, ...] | None:
    """Return what the constraints of an Atoms say, in their order.

    Neighbours in the order that hold different atoms in the same way are one.

    Parameters
    ----------
    atoms
        The structure, where bonds of fixed length that do not know their lengths yet have them.
    constraints
        Instead of its own.

    Returns
    -------
    tuple of Description or None
        None if one of them is of a kind, or says something, for which there is no description: then
        all of them have to act by their own methods.

    Raises
    ------
    ValueError
        A constraint names an atom that is not there.
    """
    around = Surroundings(atoms)
    found: list[Description] = []
    for constraint in atoms.constraints if constraints is None else constraints:
        describe = _DESCRIBING.get(type(constraint))
        if describe is None or any(map(callable, vars(constraint).values())):
            return None
        try:
            _put_behind(found, describe(constraint, around))
        except (_UnknownError, TypeError, AttributeError):
            return None
    return tuple(found)


def _put_behind(found: list[Description], new: Description) -> None:
    """Add a description, to the last one if it is of a kind with numbers for each atom."""
    last = found[-1] if found else None
    if type(last) not in _PER_ATOM or type(last) is not type(new) or _overlap(last, new):
        found.append(new)
        return
    parts = zip(_fields(last), _fields(new), strict=True)
    found[-1] = type(new)(*(np.concatenate(pair) for pair in parts))


def _overlap(a: Any, b: Any) -> bool:
    return bool(np.isin(a.index, b.index).any())


def _fields(description: Any) -> list[Any]:
    return [getattr(description, field.name) for field in dataclasses.fields(description)]


def say_the_same(
    atoms: ase.Atoms, constraints: Sequence[Any], before: Sequence[Description]
) -> bool:
    """Say whether constraint objects are still described by what was found before.

    Lengths of bonds that an object does not know are those that were found before.
    """
    try:
        now = descriptions(atoms, constraints)
    except ValueError:
        return False
    if now is None or len(now) != len(before):
        return False
    unknown = {
        place
        for place, own in enumerate(c for c in constraints if type(c) is FixBondLengths)
        if own.bondlengths is None
    }
    bonds = 0
    for a, b in zip(now, before, strict=True):
        passed_over = {"reduction"}
        if isinstance(a, native.BondLengths):
            passed_over |= {"lengths"} if bonds in unknown else set()
            bonds += 1
        if type(a) is not type(b) or not _are_equal(a, b, passed_over):
            return False
    return True


def _are_equal(a: Any, b: Any, passed_over: set[str]) -> bool:
    names = [field.name for field in dataclasses.fields(a) if field.name not in passed_over]
    return all(np.array_equal(getattr(a, name), getattr(b, name)) for name in names)


def undescribed(own: Any, atoms: ase.Atoms) -> list[Any]:
    """Return ASE's objects for a description that no object has come with."""
    make = _MAKING[type(own)]
    found: list[Any] = make(own, atoms)
    return found


def _cartesian(own: native.Cartesian, atoms: ase.Atoms) -> list[Any]:
    return [FixCartesian(i, mask) for i, mask in zip(own.index, own.mask, strict=True)]


def _scaled(own: native.Scaled, atoms: ase.Atoms) -> list[Any]:
    return [FixScaled(i, mask) for i, mask in zip(own.index, own.mask, strict=True)]


def _line(own: native.Line, atoms: ase.Atoms) -> list[Any]:
    return [
        _directed(FixedLine, i, along) for i, along in zip(own.index, own.direction, strict=True)
    ]


def _plane(own: native.Plane, atoms: ase.Atoms) -> list[Any]:
    return [
        _directed(FixedPlane, i, along) for i, along in zip(own.index, own.direction, strict=True)
    ]


def _directed(kind: type, index: np.integer, direction: np.ndarray) -> Any:
    constraint = kind(index, direction)
    constraint.dir = direction.copy()  # to normalise it again may change the last bit
    return constraint


def _mode(own: native.Mode, atoms: ase.Atoms) -> list[Any]:
    constraint = FixedMode(own.mode)
    constraint.mode = own.mode.reshape(-1).copy()
    return [constraint]


def _centre_of_mass(own: native.CentreOfMass, atoms: ase.Atoms) -> list[Any]:
    return [FixCom() if own.index is None else FixSubsetCom(own.index)]


def _pulled(own: native.ExternalForce, atoms: ase.Atoms) -> list[Any]:
    return [ExternalForce(int(own.pair[0]), int(own.pair[1]), own.force)]


def _spring(own: native.Spring, atoms: ase.Atoms) -> list[Any]:
    return [Hookean(int(own.pair[0]), int(own.pair[1]), own.stiffness, own.threshold)]


def _tether(own: native.Tether, atoms: ase.Atoms) -> list[Any]:
    return [Hookean(int(own.index[0]), own.point, own.stiffness, own.threshold)]


def _wall(own: native.Wall, atoms: ase.Atoms) -> list[Any]:
    return [Hookean(int(own.index[0]), own.plane, own.stiffness)]


def _bond_lengths(own: native.BondLengths, atoms: ase.Atoms) -> list[Any]:
    return [FixBondLengths(own.pairs, own.tolerance, own.lengths.copy())]


def _symmetry(own: native.Symmetry, atoms: ase.Atoms) -> list[Any]:
    constraint = FixSymmetry.__new__(FixSymmetry)  # to make one anew would move atoms
    constraint.atoms, constraint.symprec, constraint.verbose = atoms.copy(), 0.01, False
    constraint.rotations, constraint.symm_map = own.rotations.copy(), list(own.maps.copy())
    constraint.translations = np.zeros((len(own.rotations), 3))
    constraint.do_adjust_positions, constraint.do_adjust_cell = own.of_positions, own.of_cell
    return [constraint]


_MAKING: dict[type, Callable[[Any, ase.Atoms], list[Any]]] = {
    native.Cartesian: _cartesian,
    native.Scaled: _scaled,
    native.Line: _line,
    native.Plane: _plane,
    native.Mode: _mode,
    native.CentreOfMass: _centre_of_mass,
    native.ExternalForce: _pulled,
    native.Spring: _spring,
    native.Tether: _tether,
    native.Wall: _wall,
    native.BondLengths: _bond_lengths,
    native.Symmetry: _symmetry,
}
