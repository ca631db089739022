"""Structures that many tests use."""

import ase
import numpy as np
from ase.build import add_adsorbate, bulk, fcc111, molecule
from ase.constraints import FixAtoms

ARGON = {"sigma": 3.405, "epsilon": 0.010324, "rc": 2.5 * 3.405}


def argon(seed: int, repeat: int = 2, rattle: float = 0.1) -> ase.Atoms:
    """Return a rattled periodic cell of fcc argon: 32 atoms, unless repeated otherwise."""
    atoms = bulk("Ar", "fcc", a=5.26, cubic=True) * repeat
    atoms.rattle(rattle, seed=seed)
    return atoms


def copper_slab(seed: int, adsorbate: str | None = "O") -> ase.Atoms:
    """Return a rattled Cu(111) slab with an adsorbate, its lower half held."""
    atoms = fcc111("Cu", (2, 2, 4), vacuum=6.0)
    if adsorbate:
        add_adsorbate(atoms, adsorbate, 1.3, "fcc")
    atoms.rattle(0.05, seed=seed)
    middle = atoms.positions[:, 2].mean()
    atoms.set_constraint(FixAtoms(mask=atoms.positions[:, 2] < middle))
    return atoms


def alloy_slab(seed: int) -> ase.Atoms:
    """Return a rattled slab of copper with gold and nickel in it, its lower half held."""
    atoms = copper_slab(seed, adsorbate=None)
    atoms.symbols[[1, 6, 11, 12]] = ["Au", "Ni", "Au", "Ni"]
    return atoms


def mixed(count: int, seed: int = 0) -> list[ase.Atoms]:
    """Return structures that EMT knows, of many sizes, cells and boundary conditions."""
    rng = np.random.default_rng(seed)
    makers = (
        lambda: bulk("Cu") * (2, 2, 1),
        lambda: bulk("Au", cubic=True),
        lambda: copper_slab(int(rng.integers(1000))),
        lambda: molecule("CO"),
        lambda: bulk("Ni", cubic=True) * (1, 2, 2),
        lambda: fcc111("Pt", (1, 1, 3), vacuum=5.0, periodic=True),
        lambda: molecule("C2H6"),
    )
    structures = []
    for index in range(count):
        atoms = makers[index % len(makers)]()
        atoms.rattle(0.08, seed=int(rng.integers(10_000)))
        structures.append(atoms)
    return structures


def with_velocities(atoms: ase.Atoms, seed: int, temperature: float = 300.0) -> ase.Atoms:
    """Give an Atoms velocities of about this temperature, K."""
    rng = np.random.default_rng(seed)
    spread = np.sqrt(atoms.get_masses() * temperature * 8.617e-5)[:, None]
    atoms.set_momenta(rng.normal(size=(len(atoms), 3)) * spread)
    return atoms
