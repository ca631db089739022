"""Structures of every shape, what ASE says of them, and sums over pairs written out."""

import ase
import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.neighbors import NeighborList

EVERYTHING = ("energy", "forces", "stress", "atomic_energies", "atomic_stresses")

#: Few examples, the same in every run: each is a batch of several structures.
examples = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

# Which cell vectors a structure has, and along which it is periodic.
_SHAPES = {
    "molecule": ((), (False, False, False)),
    "box": ((0, 1, 2), (False, False, False)),
    "crystal": ((0, 1, 2), (True, True, True)),
    "slab": ((0, 1), (True, True, False)),
    "tilted slab": ((0, 2), (True, False, True)),
    "wire": ((1,), (False, True, False)),
    "slab in a box": ((0, 1, 2), (True, False, True)),
    "wire in a box": ((0, 1, 2), (False, False, True)),
}


@st.composite
def structures(draw, spacing=2.0, symbols=("Ar",)):
    """Atoms about ``spacing`` apart, periodic along some directions, some outside of the cell."""
    size = draw(st.integers(1, 6))
    shape = draw(st.sampled_from(sorted(_SHAPES)))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    return _structure(size, shape, draw(st.booleans()), spacing, symbols, rng)


def _structure(size, shape, left_handed, spacing, symbols, rng):
    vectors, pbc = _SHAPES[shape]
    grid = np.ceil(size ** (1 / 3)) if size > 1 else 1
    cell = spacing * grid * (np.eye(3) + rng.uniform(-0.25, 0.25, (3, 3)))
    if left_handed:
        cell = cell[::-1].copy()
    sites = np.stack(np.meshgrid(*[np.arange(grid)] * 3), -1).reshape(-1, 3)
    chosen = sites[rng.permutation(len(sites))[:size]]
    fractions = (chosen + rng.uniform(-0.15, 0.15, (size, 3))) / grid
    fractions += rng.integers(-2, 3, (size, 3)) * np.array(pbc)
    positions = fractions @ cell
    present = np.zeros(3, bool)
    present[list(vectors)] = True
    cell[~present] = 0.0
    return ase.Atoms(rng.choice(symbols, size), positions, cell=cell, pbc=pbc)


def batches(**options):
    """Draw lists of one to four structures."""
    return st.lists(structures(**options), min_size=1, max_size=4)


def crystals(count=3, seed=0, spacing=2.0, symbols=("Ar",)):
    """Return structures of all shapes without drawing."""
    rng = np.random.default_rng(seed)
    shapes = sorted(_SHAPES)
    return [
        _structure(1 + k % 6, shapes[k % len(shapes)], k % 2 == 0, spacing, symbols, rng)
        for k in range(count)
    ]


def batch_of(atoms_list, dtype=torch.float64):
    """Return a batch without the help of the conversion."""
    systems = [
        AtomicData(
            positions=torch.as_tensor(atoms.positions).to(dtype),
            atomic_numbers=atoms.numbers,
            cell=torch.as_tensor(atoms.cell.array).to(dtype),
            pbc=atoms.pbc,
        )
        for atoms in atoms_list
    ]
    return Batch.from_data_list(systems)


def with_pairs(batch, model, **changes):
    """Give a batch the pairs that a model needs, and return it."""
    NeighborList(**{**dict(model.model_card.neighbor_config), **changes}).update(batch)
    return batch


def outputs(model, batch, torch_path=False, names=EVERYTHING):
    """Return what the model gives, everything it can."""
    model.model_config = ModelConfig(outputs=frozenset(names))
    return model.forward_torch(batch) if torch_path else model(batch)


def evaluated(model, atoms_list, names=EVERYTHING, **changes):
    """Return what the model gives for each structure, as numpy arrays."""
    batch = with_pairs(batch_of(atoms_list), model, **changes)
    return per_system(outputs(model, batch, names=names), batch)


def per_system(values, batch):
    """Cut outputs into those of each system."""
    ptr = batch.host_ptr
    node = {"forces", "atomic_energies", "atomic_stresses"}
    return [
        {
            key: (value[ptr[b] : ptr[b + 1]] if key in node else value[b]).numpy()
            for key, value in values.items()
        }
        for b in range(len(batch))
    ]


def assert_same_bits(one, other):
    """Assert that two results of a system agree in every bit; NaN is NaN."""
    assert one.keys() == other.keys()
    for key, value in one.items():
        assert np.array_equal(value, other[key], equal_nan=True), key


def assert_close(values, reference, scale, tolerance=1e-12):
    """Assert agreement to a tolerance, relative to what the pairs of the system contribute."""
    for key, expected in reference.items():
        error = np.abs(np.asarray(values[key]) - expected).max(initial=0.0)
        largest = max(scale, np.abs(expected).max(initial=0.0))
        assert error <= tolerance * largest, (key, error, largest)


def asked_of_ase(atoms, calculator):
    """Return what an ASE calculator says, in our shapes."""
    atoms = atoms.copy()
    atoms.calc = calculator
    reference = {
        "energy": np.array([atoms.get_potential_energy()]),
        "forces": atoms.get_forces(),
        "atomic_energies": atoms.get_potential_energies(),
        "stress": np.zeros((3, 3)),
    }
    if atoms.cell.rank == 3:
        reference["stress"] = atoms.get_stress(voigt=False)
    if atoms.cell.rank == 3 and "stresses" in calculator.implemented_properties:
        reference["atomic_stresses"] = atoms.get_stresses(voigt=False)
    return reference


def summed_over_pairs(atoms, cutoff, terms):
    """Sum over all pairs and images, with no list and no tricks.

    Parameters
    ----------
    terms
        ``terms(r, z_i, z_j)`` gives the energy of a pair and its derivative.
    """
    size, cell, positions = len(atoms), atoms.cell.array, atoms.positions
    reach = np.ptp(positions, axis=0).max() + cutoff
    heights = 1.0 / np.linalg.norm(np.linalg.pinv(cell), axis=0).clip(1e-9)
    counts = [
        int(np.ceil(2 * reach / h)) if p else 0 for h, p in zip(heights, atoms.pbc, strict=True)
    ]
    shifts = np.stack(np.meshgrid(*[np.arange(-n, n + 1) for n in counts]), -1).reshape(-1, 3)
    energies, forces, virial = np.zeros(size), np.zeros((size, 3)), np.zeros((3, 3))
    for i in range(size):
        for j in range(size):
            vectors = positions[j] - positions[i] + shifts @ cell
            lengths = np.linalg.norm(vectors, axis=1)
            near = (lengths > 0.0) & (lengths <= cutoff)
            for d, r in zip(vectors[near], lengths[near], strict=True):
                energy, slope = terms(r, atoms.numbers[i], atoms.numbers[j])
                energies[i] += energy / 2
                forces[i] += slope * d / r
                virial += slope * np.outer(d, d) / r / 2
    volume = atoms.cell.volume if atoms.cell.rank == 3 else np.inf
    return {
        "energy": np.array([energies.sum()]),
        "atomic_energies": energies,
        "forces": forces,
        "stress": virial / volume,
    }


def energy_of(model, atoms):
    """Return the energy of one structure."""
    return float(evaluated(model, [atoms], names=("energy",))[0]["energy"][0])


def numerical_forces(model, atoms, step=1e-5):
    """Return minus the central differences of the energy by the positions."""
    forces = np.zeros((len(atoms), 3))
    for i in range(len(atoms)):
        for c in range(3):
            moved = [atoms.copy(), atoms.copy()]
            moved[0].positions[i, c] += step
            moved[1].positions[i, c] -= step
            up, down = (energy_of(model, m) for m in moved)
            forces[i, c] = -(up - down) / (2 * step)
    return forces


def numerical_stress(model, atoms, step=1e-6):
    """Return the central differences of the energy by the strain, per volume."""
    stress = np.zeros((3, 3))
    for a in range(3):
        for b in range(3):
            energies = []
            for sign in (1, -1):
                strain = np.eye(3)
                strain[a, b] += sign * step
                moved = atoms.copy()
                moved.set_cell(atoms.cell.array @ strain.T, scale_atoms=False)
                moved.positions = atoms.positions @ strain.T
                energies.append(energy_of(model, moved))
            stress[a, b] = (energies[0] - energies[1]) / (2 * step) / atoms.cell.volume
    return stress
