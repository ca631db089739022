"""ASE's constraints in a batch: fixed atoms as a field, all others through their own methods."""

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ase
import numpy as np
from ase.cell import Cell
from ase.constraints import FixAtoms
from ase.stress import full_3x3_to_voigt_6_stress, voigt_6_to_full_3x3_stress


class HostConstraint:
    """All constraints of one ``ase.Atoms``, applied on the host as ``ase.Atoms`` applies them.

    Follows the protocol of ``nvdyn_ase.dynamics.constraints``. ASE's own methods are called, in the
    user's order, on Atoms that are put where the batch says meanwhile. Arrays are float64:
    positions, forces, momenta (n, 3), cell (3, 3) rows lattice vectors, stress (3, 3); ASE units.

    Parameters
    ----------
    atoms
        The structure with its constraints. It is left as it is found.
    copy_constraints
        Work on copies of the constraints and of the Atoms. Without, the user's own objects are
        called and keep what they learn (``FixInternals``, ``FixBondLengths``), as they do in ASE;
        a constraint that holds on to its Atoms finds there what it would find in ASE.

    Attributes
    ----------
    constraints
        The ASE objects that are called.
    has_potential
        Some constraint adds to the energy (``Hookean``, ``ExternalForce``).
    adjusts_cell, adjusts_stress
        Some constraint has a say in these.
    acting
        The one that was called last, which is to blame if a method raises.
    """

    def __init__(self, atoms: ase.Atoms, copy_constraints: bool = True) -> None:
        self._atoms = atoms
        self.constraints: list[Any] = list(atoms.constraints)
        self._are_copies = copy_constraints
        self._given: _GivenForces | None = None
        self._at: tuple[np.ndarray, np.ndarray] | None = None
        self._momenta: np.ndarray | None = None
        if copy_constraints:
            bare = copy.copy(atoms)
            bare.set_constraint()
            self._atoms = bare.copy()
            # A constraint that holds on to its Atoms, or to the cell, gets the private one instead.
            memo = {
                id(atoms): self._atoms,
                id(atoms.cell): self._atoms.cell,
                id(atoms.pbc): self._atoms.pbc,
                id(atoms.positions): self._atoms.positions,
            }
            self.constraints = copy.deepcopy(self.constraints, memo)
            self._atoms.set_constraint(self.constraints)
        self.acting: Any = None
        self.has_potential = self._any_has("adjust_potential_energy")
        self.adjusts_cell = self._any_has("adjust_cell")
        self.adjusts_stress = self._any_has("adjust_stress")

    def __repr__(self) -> str:
        """List the constraints."""
        return f"HostConstraint({', '.join(type(c).__name__ for c in self.constraints)})"

    def _any_has(self, method: str) -> bool:
        return any(hasattr(c, method) for c in self.constraints)

    def _in_turn(self) -> Iterator[Any]:
        for constraint in self.constraints:
            self.acting = constraint
            yield constraint

    def __getstate__(self) -> dict[str, Any]:
        """Travel with copies: the user's Atoms and their calculator stay where they are."""
        return vars(self if self._are_copies else HostConstraint(self._atoms))

    def place(self, positions: np.ndarray, cell: np.ndarray, momenta: np.ndarray) -> None:
        """Take note of where the system is, and of its momenta, (n, 3)."""
        self._at, self._momenta = (positions, cell), momenta

    @contextmanager
    def _placed(self, positions: np.ndarray, cell: np.ndarray) -> Iterator[ase.Atoms]:
        """Put the Atoms there, and back."""
        atoms, momenta = self._atoms, self._momenta
        before = atoms.positions.copy(), atoms.cell.array.copy(), atoms.arrays.get("momenta")
        calculator = atoms.calc
        if self._given is not None:
            self._given.calculator, atoms.calc = calculator, self._given
        try:
            # In place: constraints may hold on to these very arrays.
            atoms.positions[:] = positions
            atoms.cell[:] = cell
            if momenta is not None and (before[2] is not None or momenta.any()):
                atoms.arrays["momenta"] = momenta.copy()
            yield atoms
        finally:
            atoms.positions[:], atoms.cell[:] = before[:2]
            atoms.arrays.pop("momenta", None)
            if before[2] is not None:
                atoms.arrays["momenta"] = before[2]
            if self._given is not None:
                atoms.calc = calculator

    def adjust_positions(self, old: np.ndarray, new: np.ndarray, cell: np.ndarray) -> np.ndarray:
        """Return where a move from old to new may end, as ``Atoms.set_positions`` does."""
        new = np.array(new, float)
        with self._placed(old, cell) as atoms:
            for constraint in self._in_turn():
                constraint.adjust_positions(atoms, new)
        return new

    def adjust_forces(
        self, positions: np.ndarray, cell: np.ndarray, forces: np.ndarray, md: bool
    ) -> np.ndarray:
        """Return what ``Atoms.get_forces(md=md)`` returns where the calculator says ``forces``."""
        forces = np.array(forces, float)
        self._given = _GivenForces(positions, cell, forces)
        with self._placed(positions, cell) as atoms:
            for constraint in self._in_turn():
                if md and hasattr(constraint, "redistribute_forces_md"):
                    constraint.redistribute_forces_md(atoms, forces)
                if not md or hasattr(constraint, "adjust_potential_energy"):
                    constraint.adjust_forces(atoms, forces)
        return forces

    def adjust_momenta(
        self, positions: np.ndarray, cell: np.ndarray, momenta: np.ndarray
    ) -> np.ndarray:
        """Return the momenta that ``Atoms.set_momenta`` would store.

        The mirror constraints want to know the forces; they must have been adjusted at these
        positions before.
        """
        momenta = np.array(momenta, float)
        with self._placed(positions, cell) as atoms:
            for constraint in self._in_turn():
                if hasattr(constraint, "adjust_momenta"):
                    constraint.adjust_momenta(atoms, momenta)
        return momenta

    def adjust_stress(
        self, positions: np.ndarray, cell: np.ndarray, stress: np.ndarray
    ) -> np.ndarray:
        """Return what ``Atoms.get_stress(voigt=False)`` returns for the calculator's stress."""
        voigt = full_3x3_to_voigt_6_stress(np.array(stress, float))
        with self._placed(positions, cell) as atoms:
            for constraint in self._in_turn():
                if hasattr(constraint, "adjust_stress"):
                    constraint.adjust_stress(atoms, voigt)
        return voigt_6_to_full_3x3_stress(voigt)

    def adjust_potential_energy(self, positions: np.ndarray, cell: np.ndarray) -> float:
        """Return what the constraints add to the energy, eV."""
        with self._placed(positions, cell) as atoms:
            return sum(
                (
                    float(constraint.adjust_potential_energy(atoms))
                    for constraint in self._in_turn()
                    if hasattr(constraint, "adjust_potential_energy")
                ),
                start=0.0,
            )

    def adjust_cell(
        self, old_cell: np.ndarray, new_cell: np.ndarray, positions: np.ndarray
    ) -> np.ndarray:
        """Return the cell that ``Atoms.set_cell`` would store on the way from old to new."""
        cell = Cell.new(new_cell)
        with self._placed(positions, old_cell) as atoms:
            for constraint in self._in_turn():
                if hasattr(constraint, "adjust_cell"):
                    constraint.adjust_cell(atoms, cell)
        return cell.array

    def adjust_noise(self, noise: np.ndarray) -> np.ndarray:
        """Return random forces as ``ase.md.Langevin`` has the constraints redistribute them."""
        noise = np.array(noise, float)
        here = (self._atoms.positions.copy(), self._atoms.cell.array.copy())
        with self._placed(*(self._at or here)) as atoms:
            for constraint in self._in_turn():
                if hasattr(constraint, "redistribute_forces_md"):
                    constraint.redistribute_forces_md(atoms, noise, rand=True)
        return noise

    def removed_dof(self) -> int:
        """Return the degrees of freedom that the constraints take away, as ASE counts them."""
        return sum(c.get_removed_dof(self._atoms) for c in self._in_turn())


class _GivenForces:
    """Answers a constraint that asks its Atoms for forces, as the mirror constraints do.

    What else it asks for, the calculator that the Atoms have is to answer.
    """

    def __init__(self, positions: np.ndarray, cell: np.ndarray, forces: np.ndarray) -> None:
        self._where = positions.copy(), cell.copy()
        self._forces = forces.copy()
        self.calculator: Any = None

    def get_forces(self, atoms: ase.Atoms) -> np.ndarray:
        where = atoms.positions, atoms.cell.array
        if all(np.array_equal(a, b) for a, b in zip(where, self._where, strict=True)):
            return self._forces.copy()
        if self.calculator is None:
            raise RuntimeError("a constraint asks for forces at positions where none are known")
        return self.calculator.get_forces(atoms)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "set_atoms" or self.__dict__.get("calculator") is None:
            raise AttributeError(name)
        return getattr(self.calculator, name)


def fixed_mask(constraints: Sequence[Any], num_atoms: int) -> np.ndarray | None:
    """Return the atoms that are held, if holding atoms is all that the constraints do.

    Parameters
    ----------
    constraints
        ASE's constraint objects.
    num_atoms
        Number of atoms, n.

    Returns
    -------
    ndarray or None
        (n,) bool; None if some constraint is of another kind, or if two of them hold the same atom,
        which ASE counts twice among the removed degrees of freedom.

    Raises
    ------
    ValueError
        A constraint names an atom that is not there.
    """
    if any(type(c) is not FixAtoms for c in constraints):
        return None
    mask = np.zeros(num_atoms, bool)
    count = 0
    for constraint in constraints:
        index = constraint.index
        if not isinstance(index, np.ndarray):
            return None
        try:
            mask[index] = True
        except IndexError:
            raise ValueError(
                f"FixAtoms names atom {max(index, key=abs)}, but there are {num_atoms} atoms"
            ) from None
        count += len(index)
    return mask if np.count_nonzero(mask) == count else None


def copied(constraints: Sequence[Any]) -> list[Any]:
    """Return copies of ASE's constraint objects."""
    if any(type(c) is not FixAtoms for c in constraints):
        return copy.deepcopy(list(constraints))
    copies = []
    for constraint in constraints:  # the common kind, ten times faster than deepcopy
        twin = copy.copy(constraint)
        twin.index = constraint.index.copy()
        copies.append(twin)
    return copies
