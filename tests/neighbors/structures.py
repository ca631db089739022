"""Batches of difficult structures, and the pairs that ASE finds in them."""

import ase
import ase.build
import numpy as np
import torch
from ase.neighborlist import primitive_neighbor_list
from hypothesis import strategies as st

from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.neighbors import NeighborList


def system(positions, cell=None, pbc=False) -> AtomicData:
    """Return hydrogen atoms at these places."""
    positions = np.atleast_2d(np.asarray(positions, float))
    cell = np.zeros((3, 3)) if cell is None else np.asarray(cell, float)
    numbers = np.ones(len(positions), int)
    return AtomicData(
        positions=positions, atomic_numbers=numbers, cell=cell, pbc=np.broadcast_to(pbc, 3)
    )


def random_system(rng: np.random.Generator, atoms: int, pbc, spread: float = 1.0) -> AtomicData:
    """Return atoms in a cell of any shape and handedness, ``spread`` cells around its origin.

    Vectors along directions that are not periodic are zero as often as not.
    """
    while True:
        cell = rng.normal(0, 3, (3, 3))
        lengths = np.linalg.norm(cell, axis=1)
        if abs(np.linalg.det(cell)) > 0.1 * lengths.prod() and lengths.min() > 1.5:
            break
    positions = rng.uniform(-spread, spread, (atoms, 3)) @ cell
    pbc = np.asarray(pbc)
    cell[~pbc & (rng.random(3) < 0.5)] = 0.0
    return system(positions, cell, pbc)


@st.composite
def batches(draw, most: int = 4) -> Batch:
    """Any cells, boundary conditions and sizes; atoms up to three cells outside."""
    systems = []
    for _ in range(draw(st.integers(1, most))):
        rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
        pbc = draw(st.tuples(st.booleans(), st.booleans(), st.booleans()))
        atoms = draw(st.integers(1, 6))
        systems.append(random_system(rng, atoms, pbc, draw(st.sampled_from([0.5, 1.0, 3.0]))))
    return Batch.from_data_list(systems)


def argon(count: int, seed: int = 0, repeat: int = 2, cell: float = 5.26) -> Batch:
    """Return rattled cubic cells of fcc argon with ``4 repeat**3`` atoms each."""
    rng = np.random.default_rng(seed)
    crystal = ase.build.bulk("Ar", "fcc", a=cell, cubic=True) * repeat
    return Batch.from_data_list(
        [
            system(crystal.positions + rng.normal(0, 0.1, (len(crystal), 3)), crystal.cell, True)
            for _ in range(count)
        ]
    )


def rows_of_ase(batch: Batch, cutoff: float, half: bool) -> np.ndarray:
    """Return i, j and S of all pairs as ASE finds them, in canonical order, (E, 5)."""
    parts = []
    for b in range(len(batch)):
        data, base = batch[b], batch.host_ptr[b]
        positions, pbc, cell = data.positions.numpy(), data.pbc[0].numpy(), data.cell[0].numpy()
        cell = ase.cell.Cell(np.where(pbc[:, None], cell, 0.0)).complete()
        i, j, shift = primitive_neighbor_list("ijS", pbc, cell, positions, cutoff)
        rows = np.column_stack([i + base, j + base, shift])
        parts.append(rows[np.lexsort(rows.T[::-1])])
    rows = np.concatenate(parts)
    positive = [
        row[0] < row[1] or (row[0] == row[1] and tuple(row[2:]) > (0, 0, 0)) for row in rows
    ]
    return rows[np.array(positive, bool)] if half else rows


def rows_of(pairs) -> np.ndarray:
    """Return i, j and S of all pairs, (E, 5)."""
    flat = pairs.flat()
    return torch.cat([flat.i[:, None], flat.j[:, None], flat.shift], dim=1).numpy()


def distances(batch: Batch, pairs) -> np.ndarray:
    """Return the length of each pair."""
    flat = pairs.flat()
    moved = (flat.shift[:, :, None] * batch["cell"][flat.system]).sum(1)
    return (batch["positions"][flat.j] - batch["positions"][flat.i] + moved).norm(dim=1).numpy()


def anywhere(neighbors: NeighborList) -> NeighborList:
    """Make a list treat the CPU as it treats any other device."""
    neighbors._slots_on = "nowhere"
    return neighbors


def jostle(batch: Batch, size: float, seed: int = 0, atoms: slice = slice(None)) -> None:
    """Move atoms at random, by up to ``size`` along each axis."""
    positions = batch["positions"].clone()
    moves = np.random.default_rng(seed).uniform(-size, size, positions[atoms].shape)
    positions[atoms] += torch.from_numpy(moves).to(positions.device)
    batch["positions"] = positions
