"""Solid argon as plain arrays, the same in every interpreter, and its energy summed pair by pair.

Only numpy is needed, so that a worker can build it where ase is not installed. Units are ASE's: Å,
eV, amu, and for time Å·sqrt(amu/eV).
"""

from dataclasses import dataclass

import numpy as np

LATTICE_CONSTANT = 5.26
ATOMIC_NUMBER = 18
MASS = 39.948
SIGMA = 3.405
EPSILON = 0.010324
CUTOFF = 2.5 * SIGMA
BOLTZMANN = 8.617330337217213e-05
FEMTOSECOND = 0.09822694788464063
TIME_STEP = 5 * FEMTOSECOND

# What ASE's LennardJones takes off every pair, so that the energy is continuous at the cutoff.
ENERGY_AT_CUTOFF = 4 * EPSILON * (2.5**-12 - 2.5**-6)

BASIS = np.array([[0, 0, 0], [0, 0.5, 0.5], [0.5, 0, 0.5], [0.5, 0.5, 0]])


@dataclass(frozen=True)
class Systems:
    """Cubic periodic boxes of argon, all of one size.

    Attributes
    ----------
    positions, velocities
        (systems, atoms, 3).
    edge
        Length of a box.
    """

    positions: np.ndarray
    velocities: np.ndarray
    edge: float

    def __len__(self) -> int:
        """Return the number of systems."""
        return len(self.positions)

    @property
    def num_atoms(self) -> int:
        """Atoms in each system."""
        return self.positions.shape[1]

    @property
    def kinetic_energy(self) -> np.ndarray:
        """Kinetic energy of each system."""
        return 0.5 * MASS * (self.velocities**2).sum(axis=(1, 2))

    @property
    def temperature(self) -> float:
        """Mean temperature of all systems, K; their total momentum is zero."""
        freedoms = 3 * (self.num_atoms - 1)
        return float(2 * self.kinetic_energy.mean() / (freedoms * BOLTZMANN))


def cells_along(num_atoms: int) -> int:
    """Return the number of fcc cells along an edge of a box with so many atoms.

    Raises
    ------
    ValueError
        Not four times a cube.
    """
    repeat = round((num_atoms / 4) ** (1 / 3))
    if repeat < 1 or 4 * repeat**3 != num_atoms:
        raise ValueError(f"{num_atoms} atoms do not fill a cube of fcc cells: 32, 108, 256, ... do")
    return repeat


def argon(count: int, num_atoms: int, temperature: float, rattle: float, seed: int) -> Systems:
    """Return boxes of fcc argon, each rattled and with velocities of its own.

    Parameters
    ----------
    count, num_atoms
        Systems, and atoms in each: 4, 32, 108, 256, ..., 4000, ...
    temperature
        Of the velocities, K, before the motion of the centre of mass is taken away.
    rattle
        Standard deviation of the displacement along each axis.
    """
    repeat = cells_along(num_atoms)
    rng = np.random.default_rng(seed)
    axis = np.arange(repeat)
    corners = np.stack(np.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 1, 3)
    lattice = ((corners + BASIS) * LATTICE_CONSTANT).reshape(-1, 3)
    positions = lattice + rattle * rng.normal(size=(count, num_atoms, 3))
    velocities = np.sqrt(BOLTZMANN * temperature / MASS) * rng.normal(size=positions.shape)
    velocities -= velocities.mean(axis=1, keepdims=True)
    return Systems(positions, velocities, repeat * LATTICE_CONSTANT)


def potential_energy(systems: Systems) -> tuple[np.ndarray, np.ndarray]:
    """Sum Lennard-Jones over all pairs and images, with no list and no tricks.

    Returns
    -------
    energy
        Of each system, not shifted at the cutoff.
    pairs
        Number of pairs within the cutoff of each system; each takes ``ENERGY_AT_CUTOFF`` off where
        the energy is shifted.
    """
    edge = systems.edge
    reach = int(np.floor(CUTOFF / edge + 0.5))
    steps = np.arange(-reach, reach + 1) * edge
    images = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(-1, 1, 3)
    results = [_sums_of_one(positions, edge, images) for positions in systems.positions]
    energy, pairs = zip(*results, strict=True)
    return np.array(energy), np.array(pairs)


def _sums_of_one(positions: np.ndarray, edge: float, images: np.ndarray) -> tuple[float, float]:
    energy = count = 0.0
    for atom in positions:
        vectors = positions - atom
        vectors -= edge * np.round(vectors / edge)
        squares = ((vectors + images) ** 2).sum(axis=-1)
        squares = squares[(squares > 1e-12) & (squares < CUTOFF**2)]
        sixth = (SIGMA**2 / squares) ** 3
        energy += 2 * EPSILON * float((sixth * sixth - sixth).sum())
        count += 0.5 * len(squares)
    return energy, count
