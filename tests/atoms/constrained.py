"""Structures with constraints, and a calculator that is as rough as can be, for many tests."""

import ase
import numpy as np
from ase.build import bulk, fcc111, molecule
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


def free_molecule() -> ase.Atoms:
    """Return a molecule without a cell."""
    return molecule("C2H6")


def boxed_molecule() -> ase.Atoms:
    """Return a molecule that crosses the boundary of its box."""
    atoms = molecule("CH3CH2OH", cell=[8.0, 9.0, 10.0], pbc=True)
    atoms.positions += (7.9, 0.2, 9.5)
    atoms.wrap()
    return atoms


def slab() -> ase.Atoms:
    """Return a slab whose third cell vector is missing."""
    atoms = fcc111("Cu", (2, 2, 2))
    return atoms


def triclinic() -> ase.Atoms:
    """Return a crystal in a cell that is far from reduced."""
    atoms = bulk("Cu") * (2, 2, 2)
    twisted = np.array([[1, 0, 0], [1, 1, 0], [-1, 2, 1]]) @ atoms.cell.array
    atoms.set_cell(twisted, scale_atoms=False)
    return atoms


STRUCTURES = {
    "a free molecule": free_molecule,
    "a molecule in a box": boxed_molecule,
    "a slab": slab,
    "a triclinic crystal": triclinic,
}


def some(atoms: ase.Atoms, rng: np.random.Generator, count: int) -> list[int]:
    """Return some atoms, in any order, some of them counted from the end."""
    chosen = rng.permutation(len(atoms))[:count]
    return [int(i) - len(atoms) * int(rng.integers(2)) for i in chosen]


def mask(rng: np.random.Generator) -> list[bool]:
    """Return at least one axis."""
    return [bool(b) for b in np.eye(3, dtype=bool)[rng.integers(3)] | (rng.random(3) < 0.4)]


def two(atoms: ase.Atoms, rng: np.random.Generator) -> list[int]:
    """Return two atoms."""
    return [int(i) for i in rng.permutation(len(atoms))[:2]]


def bonds(atoms: ase.Atoms, rng: np.random.Generator) -> list[list[int]]:
    """Return bonds that share atoms, or none."""
    chosen = [int(i) for i in rng.permutation(len(atoms))[:5]]
    a, b, c, d, e = chosen
    return [[a, b], [c, d], [b, c]] if rng.integers(2) else [[a, -len(atoms) + b], [d, e]]


#: A constraint of each kind, for a structure and a source of random numbers.
MAKERS = {
    "FixAtoms": lambda a, rng: FixAtoms(some(a, rng, 3)),
    "FixCartesian": lambda a, rng: FixCartesian(some(a, rng, 3), mask(rng)),
    "FixScaled": lambda a, rng: FixScaled(some(a, rng, 3), mask(rng)),
    "FixedLine": lambda a, rng: FixedLine(some(a, rng, 3), rng.normal(size=3)),
    "FixedPlane": lambda a, rng: FixedPlane(some(a, rng, 3), rng.normal(size=3)),
    "FixedMode": lambda a, rng: FixedMode(rng.normal(size=(len(a), 3))),
    "FixCom": lambda a, rng: FixCom(),
    "FixSubsetCom": lambda a, rng: FixSubsetCom(some(a, rng, 3)),
    "FixBondLengths": lambda a, rng: FixBondLengths(bonds(a, rng)),
    "Hookean": lambda a, rng: Hookean(*two(a, rng), k=3.0, rt=float(rng.uniform(0.5, 1.5))),
    "Hookean, a point": lambda a, rng: Hookean(
        two(a, rng)[0], rng.uniform(-5, 15, size=3), k=2.0, rt=0.5
    ),
    "Hookean, a plane": lambda a, rng: Hookean(
        two(a, rng)[0], [float(x) for x in rng.normal(size=4)], k=2.0
    ),
    "ExternalForce": lambda a, rng: ExternalForce(*two(a, rng), 0.7),
}


def symmetric(seed: int = 0) -> ase.Atoms:
    """Return a layered crystal that keeps its symmetry, out of equilibrium."""
    z = 0.22 + 0.01 * (seed % 3)
    scaled = [(0, 0, 0), (0.5, 0.5, z), (0.5, 0.5, -z)]
    size = [2.8, 2.8, 7.0] if seed % 2 else [2.7, 2.9, 7.0]
    atoms = ase.Atoms("AuCu2", scaled_positions=scaled, cell=size, pbc=True)
    atoms *= (1, 1, 1 + seed % 2)
    atoms.set_constraint(FixSymmetry(atoms))
    return atoms


def constrained(kind: str, seed: int) -> ase.Atoms:
    """Return a structure with one constraint of a kind."""
    rng = np.random.default_rng(seed)
    builders = list(STRUCTURES.values())
    atoms = builders[seed % len(builders)]()
    atoms.rattle(0.03, seed=seed)
    atoms.set_constraint(MAKERS[kind](atoms, rng))
    return atoms


def mixed_up(seed: int, most: int = 5) -> ase.Atoms:
    """Return a structure with some constraints, in any order."""
    rng = np.random.default_rng(seed)
    builders = list(STRUCTURES.values())
    atoms = builders[int(rng.integers(len(builders)))]()
    atoms.rattle(0.03, seed=seed)
    kinds = rng.choice(list(MAKERS), size=int(rng.integers(1, most + 1)))
    atoms.set_constraint([MAKERS[str(kind)](atoms, rng) for kind in kinds])
    return atoms
