"""Atoms are brought back into the cell, and nothing else changes."""

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import batch_from_atoms, batch_to_atoms
from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.dynamics import (
    BFGS,
    FIRE,
    LBFGS,
    NVE,
    BFGSLineSearch,
    BlowUpHook,
    FreezeAtomsHook,
    GoodOldQuasiNewton,
    LBFGSLineSearch,
    Outcome,
    WrapPeriodicHook,
    filter_cells,
)
from nvdyn_ase.models import EMT
from tests.data.strategies import CELLS
from tests.systems import mixed, with_velocities
from tests.wells import Well, wells


class Still(Well):
    """No forces: only the hook moves anything."""

    def __init__(self):
        super().__init__(k=0.0)


@given(
    cell=st.sampled_from(sorted(CELLS)),
    seed=st.integers(0, 1000),
    skew=st.floats(-0.5, 0.5),
    away=st.integers(0, 5),
)
def test_it_is_what_ase_does(cell, seed, skew, away):
    vectors, pbc = CELLS[cell]
    rng = np.random.default_rng(seed)
    vectors = vectors.copy()
    vectors[0, 1] += skew * (cell == "bulk")
    positions = rng.normal(size=(6, 3)) * 4 + away * vectors.sum(0)
    data = AtomicData(positions=positions, atomic_numbers=[1] * 6, cell=vectors, pbc=pbc)
    batch = Batch.from_data_list([data, data])
    expected = batch_to_atoms(batch)[0]
    expected.wrap()
    FIRE(Still(), hooks=[WrapPeriodicHook()]).run(batch, n_steps=0)
    for row in range(2):
        np.testing.assert_allclose(
            batch[[row]]["positions"].numpy(), expected.positions, atol=1e-10
        )
    inside = (expected.positions == positions).all(1)
    assert torch.equal(batch["positions"][:6][inside], torch.from_numpy(positions)[inside])


def far_away(atoms, seed):
    rng = np.random.default_rng(seed)
    atoms.positions += rng.integers(-2, 3, (len(atoms), 3)) * atoms.pbc @ atoms.cell.array
    return atoms


METHODS = {
    "nve": lambda **more: NVE(EMT(), 0.3, **more),
    "fire": lambda **more: FIRE(EMT(), **more),
    "fire with a check": lambda **more: FIRE(EMT(), downhill_check=True, **more),
    "lbfgs": lambda **more: LBFGS(EMT(), **more),
    "bfgs": lambda **more: BFGS(EMT(), **more),
    "lbfgs line search": lambda **more: LBFGSLineSearch(EMT(), **more),
    "bfgs line search": lambda **more: BFGSLineSearch(EMT(), **more),
    "good old quasi-newton": lambda **more: GoodOldQuasiNewton(EMT(), **more),
}


@pytest.mark.parametrize("frequency", [1, 3])
@pytest.mark.parametrize("name", METHODS)
def test_a_method_goes_on_as_if_nothing_had_happened(name, frequency):
    drifting = [bulk("Cu", cubic=True) * (1, 1, 2), fcc111("Pt", (1, 1, 3), vacuum=5.0)]
    drifting += [molecule("CO"), bulk("Au") * (2, 2, 1)]
    for i, atoms in enumerate(drifting):
        atoms.rattle(0.15, seed=i)
        with_velocities(atoms, i)
        # On a face of the cell, so that steps cross it.
        atoms.positions -= atoms.positions[0]
    wrapped, plain = batch_from_atoms(drifting), batch_from_atoms(drifting)
    METHODS[name](hooks=[WrapPeriodicHook(frequency)]).run(wrapped, n_steps=12)
    METHODS[name]().run(plain, n_steps=12)
    for key in ("energy", "forces", "velocities", "steps", "evaluations"):
        torch.testing.assert_close(wrapped[key], plain[key], rtol=1e-8, atol=1e-8)
    difference = wrapped["positions"] - plain["positions"]
    assert difference.abs().max() > 1.0
    scaled = torch.linalg.solve(
        torch.tensor(np.array([a.cell.complete().array for a in drifting]))[wrapped.batch].mT,
        difference.unsqueeze(2),
    )
    torch.testing.assert_close(scaled, scaled.round(), rtol=0, atol=1e-8)


@pytest.mark.parametrize("kind", ["unit_cell", "frechet", "strain"])
@pytest.mark.parametrize("method", [FIRE, LBFGS])
def test_methods_that_move_cells_go_on_too(kind, method):
    energies = []
    for hooks in ([], [WrapPeriodicHook()]):
        atoms = bulk("Cu", cubic=True, a=3.7)
        atoms.rattle(0.1, seed=3)
        atoms.positions -= atoms.positions[0]
        batch = batch_from_atoms([atoms])
        filter_cells(batch, kind)
        method(EMT(), hooks=hooks).run(batch, n_steps=10)
        energies.append(torch.cat([batch["energy"], batch["fmax"]]))
    torch.testing.assert_close(*energies, rtol=1e-7, atol=1e-7)


@given(seed=st.integers(0, 100))
@settings(max_examples=10)
def test_pairs_of_your_own_go_to_the_same_images(seed):
    rng = np.random.default_rng(seed)
    systems = []
    for cell in ("bulk", "slab", "molecule", "left-handed"):
        vectors, pbc = CELLS[cell]
        shifts = rng.integers(-2, 3, (5, 3)) * np.array(pbc)
        systems.append(
            AtomicData(
                positions=rng.normal(size=(4, 3)) * 9,
                atomic_numbers=[1] * 4,
                cell=vectors,
                pbc=pbc,
                edge_index=rng.integers(0, 4, (5, 2)),
                unit_shifts=shifts,
                shifts=shifts @ vectors,
            )
        )
    batch = Batch.from_data_list(systems)

    def ways():
        i, j = batch["edge_index"].unbind(1)
        by_cells = (batch["unit_shifts"].double()[:, None] @ batch["cell"][batch.batch[i]])[:, 0]
        straight = batch["positions"][j] - batch["positions"][i]
        return torch.stack([straight + by_cells, straight + batch["shifts"]])

    before = ways()
    FIRE(Still(), hooks=[WrapPeriodicHook()]).run(batch, n_steps=0)
    torch.testing.assert_close(ways(), before)


def test_it_gets_on_with_other_hooks_and_costs_no_evaluation():
    model = Well(k=0.0)
    batch = wells(1.0, 2.0)
    batch["pbc"] = torch.ones(2, 3, dtype=torch.bool)
    batch["velocities"] = torch.full_like(batch["velocities"], 5.0)
    held = FreezeAtomsHook({1: [0]})
    hooks = [BlowUpHook(None, 1.0), WrapPeriodicHook(), held]
    NVE(model, dt=0.1, hooks=hooks).run(batch, n_steps=90)
    assert model.forwards == 91
    assert (batch["outcome"] == Outcome.BUDGET).all()
    assert batch["positions"].min() >= -1e-5 and batch["positions"].max() <= 20.0


def test_broken_cells_and_positions_disturb_no_other():
    systems = mixed(3)
    plain = batch_from_atoms(systems)
    broken = batch_from_atoms(systems)
    broken["cell"] = broken["cell"].clone()
    broken["cell"][1] = float("nan")
    for batch in (plain, broken):
        WrapPeriodicHook()(batch, FIRE(EMT()) if batch is None else _Everyone())
    for row in (0, 2):
        assert torch.equal(plain[[row]]["positions"], broken[[row]]["positions"])


class _Everyone:
    def active(self, batch):
        return None

    def jump(self, batch, positions):
        batch["positions"] = positions
