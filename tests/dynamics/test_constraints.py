"""Constraints of a batch do what ``ase.Atoms`` does with each system, in the order of its user."""

import importlib.util

import numpy as np
import pytest
import torch
from ase.stress import voigt_6_to_full_3x3_stress

from nvdyn_ase.atoms import HostConstraint, batch_from_atoms
from nvdyn_ase.dynamics.constraints import BatchConstraints
from tests.atoms.constrained import MAKERS, constrained, free_molecule, mixed_up, symmetric

SPGLIB = importlib.util.find_spec("spglib") is not None
KINDS = [*MAKERS, *(["FixSymmetry"] if SPGLIB else [])]


class Given:
    """A calculator that answers what it was told."""

    def __init__(self, forces, stress):
        self.forces, self.stress = forces, stress

    def get_forces(self, atoms):
        return self.forces.copy()

    def get_stress(self, atoms):
        return self.stress.copy()

    def get_potential_energy(self, atoms, force_consistent=False):
        return 0.0


def of_kind(kind, seeds=8):
    if kind == "FixSymmetry":
        return [symmetric(seed) for seed in range(seeds)]
    return [constrained(kind, seed) for seed in range(seeds)]


def hosted(batch, structures):
    """Return the same batch with all constraints on the host."""
    twin = batch.clone()
    del twin["fixed"]
    twin.constraints = [
        (HostConstraint(atoms),) if atoms.constraints else () for atoms in structures
    ]
    return twin


def close(ours, theirs, scale=1.0):
    np.testing.assert_allclose(np.asarray(ours), np.concatenate(theirs), rtol=1e-12, atol=1e-12)


def check_against_ase(structures, seed=0):
    rng = np.random.default_rng(seed)
    # Each is where its constraints have been: bonds know their lengths.
    for atoms in structures:
        atoms.set_positions(atoms.positions + 0.02 * rng.normal(size=atoms.positions.shape))
    batch = batch_from_atoms(structures, copy_constraints=False)
    if "fixed" not in batch:
        batch["fixed"] = torch.zeros(batch.num_nodes, dtype=torch.bool)
    paths = [batch, hosted(batch, structures)]
    known = [BatchConstraints(each) for each in paths]
    ptr = batch.host_ptr
    cuts = [slice(*ptr[row : row + 2]) for row in range(len(batch))]
    for _ in range(2):
        step, raw, velocities = (
            scale * rng.normal(size=(batch.num_nodes, 3)) for scale in (0.05, 1.0, 0.1)
        )
        stress = rng.normal(size=(len(batch), 6))
        full = np.stack([voigt_6_to_full_3x3_stress(own) for own in stress])
        strain = np.eye(3) + 0.01 * rng.normal(size=(len(batch), 3, 3))
        for atoms, cut, own in zip(structures, cuts, stress, strict=True):
            atoms.calc = Given(raw[cut], own)
            atoms.set_momenta(velocities[cut] * atoms.get_masses()[:, None])
        for each, constraints in zip(paths, known, strict=True):
            each["forces"] = torch.tensor(raw)
            old = each["positions"]
            allowed = constraints.velocities(each, torch.tensor(velocities))
            close(allowed, [atoms.get_velocities() for atoms in structures])
            for md in (False, True):
                expected = [atoms.get_forces(md=md) for atoms in structures]
                close(constraints.forces(each, md=md), expected)
            energy = constraints.energy(each, torch.zeros(len(each), 1, dtype=torch.float64))
            close(energy.view(-1), [[atoms.get_potential_energy()] for atoms in structures])
            expected = [atoms.get_stress(voigt=False)[None] for atoms in structures]
            close(constraints.stress(each, torch.tensor(full)), expected)
            cells = each["cell"] @ torch.tensor(strain)
            found = constraints.cell(each, each["cell"], cells)
            stored = []
            for atoms, cell in zip(structures, cells.numpy(), strict=True):
                twin = atoms.copy()
                twin.set_constraint(atoms.constraints)
                twin.set_cell(cell)
                stored.append(twin.cell.array[None])
            close(found, stored)
            each["positions"] = constraints.positions(each, old, old + torch.tensor(step))
            assert constraints.are_of(each)
            assert not any(mask.any() for mask, _ in constraints.failures())
        for atoms, cut in zip(structures, cuts, strict=True):
            atoms.set_positions(atoms.positions + step[cut])
        for each in paths:
            close(each["positions"], [atoms.positions for atoms in structures])
    return batch, known


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_does_what_ase_does(kind):
    structures = [*of_kind(kind), free_molecule()]
    batch, (native, host) = check_against_ase(structures)
    own = [each for each in batch.constraints if each]
    if kind == "FixAtoms":
        assert not own and native.fixed is not None
    else:
        assert len(own) == 8
        assert not any(isinstance(c, HostConstraint) for each in own for c in each)
    if kind == "FixSymmetry":
        with pytest.raises(NotImplementedError, match="FixSymmetry"):
            native.degrees_of_freedom(batch)
        return
    expected = [atoms.get_number_of_degrees_of_freedom() for atoms in structures]
    assert native.degrees_of_freedom(batch).view(-1).tolist() == expected
    assert host.degrees_of_freedom(batch).view(-1).tolist() == expected


@pytest.mark.parametrize("seed", range(12))
def test_any_number_of_them_in_the_order_of_their_user(seed):
    structures = [mixed_up(100 * seed + i) for i in range(8)]
    batch, (native, _) = check_against_ase(structures, seed)
    expected = [atoms.get_number_of_degrees_of_freedom() for atoms in structures]
    assert native.degrees_of_freedom(batch).view(-1).tolist() == expected
