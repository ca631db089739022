"""What holds for every pair potential: derivatives, bits, and what happens to the unusual."""

import copy
import pickle

import numpy as np
import pytest
import torch
from ase import Atoms
from hypothesis import given

from nvdyn_ase.models import LennardJones, Morse, PairTable, pair_potential
from tests.models import oracles
from tests.models.pair_tables import soft

MODELS = {
    "shifted": lambda **o: LennardJones(1.9, 0.8, rc=4.7, **o),
    "smooth": lambda **o: LennardJones(1.9, 0.8, rc=4.7, smooth=True, **o),
    "mixture": lambda **o: LennardJones({"Ar": 1.9, "Kr": 2.1}, {"Ar": 0.8, "Kr": 0.5}, **o),
    "smooth-mixture": lambda **o: LennardJones(
        {"Ar": 1.9, "Kr": 2.1}, {"Ar": 0.8, "Kr": 0.5}, rc=4.7, smooth=True, **o
    ),
    "morse": lambda **o: Morse(0.7, 5.0, 2.1, 1.3, 2.2, **o),
    "table": lambda **o: PairTable(
        {("Ar", "Ar"): soft(), ("Ar", "Kr"): soft(2.0), ("Kr", "Kr"): soft(1.5)}, **o
    ),
}
models = pytest.mark.parametrize("make", list(MODELS.values()), ids=list(MODELS))
smooth_models = pytest.mark.parametrize(
    "make",
    [MODELS[n] for n in ("smooth", "smooth-mixture", "morse", "table")],
    ids=["lj", "mix", "morse", "table"],
)
SYMBOLS = ("Ar", "Kr")


@smooth_models
@oracles.examples
@given(atoms=oracles.structures(symbols=SYMBOLS))
def test_forces_and_stress_are_derivatives_of_the_energy(make, atoms):
    model = make()
    (values,) = oracles.evaluated(model, [atoms])
    scale = 1.0 + np.abs(values["atomic_energies"]).max()
    numerical = oracles.numerical_forces(model, atoms)
    assert np.abs(values["forces"] - numerical).max() < 1e-7 * scale
    if atoms.cell.rank == 3:
        numerical = oracles.numerical_stress(model, atoms)
        assert np.abs(values["stress"] - numerical).max() < 1e-7 * scale
    else:
        assert not values["stress"].any()


@models
@oracles.examples
@given(structures=oracles.batches(symbols=SYMBOLS))
def test_shares_of_atoms_add_up(make, structures):
    for atoms, values in zip(structures, oracles.evaluated(make(), structures), strict=True):
        total = values["atomic_energies"].sum()
        assert total == pytest.approx(values["energy"][0], rel=1e-12, abs=1e-12)
        assert np.allclose(values["atomic_stresses"].sum(0), values["stress"], atol=1e-12)
        assert np.abs(values["forces"].sum(0)).max() < 1e-10 * (1 + np.abs(values["forces"]).max())
        assert len(values["forces"]) == len(atoms)


# -------------------------------------------------------------------------------- bits


@models
@oracles.examples
@given(structures=oracles.batches(symbols=SYMBOLS))
def test_the_torch_operations_agree_with_the_loops(make, structures):
    model = make()
    for half in (True, False):
        batch = oracles.with_pairs(oracles.batch_of(structures), model, half_list=half)
        loops = oracles.per_system(oracles.outputs(model, batch), batch)
        torch_path = oracles.per_system(oracles.outputs(model, batch, True), batch)
        for one, other in zip(torch_path, loops, strict=True):
            oracles.assert_close(one, other, scale=20.0)


@models
@oracles.examples
@given(structures=oracles.batches(symbols=SYMBOLS))
def test_a_system_does_not_know_its_neighbours_in_the_batch(make, structures):
    model = make()
    together = oracles.evaluated(model, structures)
    backwards = oracles.evaluated(model, structures[::-1])[::-1]
    for atoms, one, other in zip(structures, together, backwards, strict=True):
        (alone,) = oracles.evaluated(model, [atoms])
        oracles.assert_same_bits(one, alone)
        oracles.assert_same_bits(other, alone)


@models
@oracles.examples
@given(structures=oracles.batches(symbols=SYMBOLS))
def test_skin_and_kind_of_list_do_not_change_a_bit(make, structures):
    model = make()
    reference = oracles.evaluated(model, structures, skin=0.0)
    for changes in ({"skin": 0.4}, {"skin": 3.0}, {"skin": 0.4, "half_list": False}):
        results = oracles.evaluated(model, structures, **changes)
        for one, other in zip(results, reference, strict=True):
            oracles.assert_same_bits(one, other)
    longer = oracles.evaluated(model, structures, cutoff=9.0)
    for one, other in zip(longer, reference, strict=True):
        oracles.assert_same_bits(one, other)


@models
def test_an_atom_with_more_pairs_than_a_block_holds(make):
    atoms = oracles.crystals(3, seed=5, spacing=2.0, symbols=SYMBOLS)[2]
    dense = Atoms("ArKr", [[0, 0, 0], [0.6, 0.7, 0.8]], cell=[1.3, 1.2, 1.4], pbc=True)
    model = make()
    batch = oracles.with_pairs(oracles.batch_of([atoms, dense]), model, skin=2.0)
    assert batch.neighbors.num_pairs[1] > 3 * 128
    loops, other = (oracles.outputs(model, batch, path) for path in (False, True))
    for key, value in loops.items():
        assert torch.allclose(value, other[key], rtol=1e-11), key
    exact = oracles.evaluated(model, [atoms, dense], skin=0.0)[1]
    oracles.assert_same_bits(oracles.per_system(loops, batch)[1], exact)


@models
def test_parts_of_a_batch_give_the_whole(make, monkeypatch):
    model = make()
    batch = oracles.with_pairs(oracles.batch_of(oracles.crystals(9, symbols=SYMBOLS)), model)
    whole = oracles.outputs(model, batch, True)
    monkeypatch.setattr(pair_potential, "PAIRS_AT_ONCE", 40)
    parts = oracles.outputs(model, batch, True)
    for key, value in whole.items():
        assert torch.equal(value, parts[key]), key


# -------------------------------------------------------------------------------- the unusual


@models
def test_a_system_that_is_not_a_number_leaves_the_others_alone(make):
    structures = [
        *oracles.crystals(5, symbols=SYMBOLS),
        Atoms("Ar"),
        Atoms("Ar2", [[0] * 3, [9] * 3]),
    ]
    model = make()
    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    before = oracles.per_system(oracles.outputs(model, batch), batch)
    for system in range(len(structures)):
        for bad in (float("nan"), float("inf")):
            positions = batch["positions"].clone()
            positions[batch.host_ptr[system], 1] = bad
            kept, batch["positions"] = batch["positions"], positions
            for torch_path in (False, True):
                values = oracles.outputs(model, batch, torch_path)
                after = oracles.per_system(values, batch)
                assert np.isnan(after[system]["energy"]).all()
                assert np.isnan(after[system]["forces"][0]).all()
                for other in set(range(len(structures))) - {system}:
                    if not torch_path:
                        oracles.assert_same_bits(after[other], before[other])
                    assert np.isfinite(after[other]["forces"]).all()
            batch["positions"] = kept


@models
def test_a_cell_that_is_not_a_number_leaves_the_others_alone(make):
    structures = oracles.crystals(6, symbols=SYMBOLS)
    model = make()
    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    before = oracles.per_system(oracles.outputs(model, batch), batch)
    crystal = next(b for b, atoms in enumerate(structures) if atoms.pbc.all())
    batch["cell"][crystal, 0, 0] = float("nan")
    after = oracles.per_system(oracles.outputs(model, batch), batch)
    assert np.isnan(after[crystal]["energy"]).all() and np.isnan(after[crystal]["stress"]).any()
    for other in set(range(len(structures))) - {crystal}:
        oracles.assert_same_bits(after[other], before[other])


@models
def test_coincident_atoms_have_forces_that_are_no_numbers(make):
    structures = oracles.crystals(4, symbols=SYMBOLS)
    structures.insert(2, Atoms("Ar3", [[0, 0, 0], [0, 0, 0], [0, 0, 2]]))
    model = make()
    results = oracles.evaluated(model, structures)
    assert not np.isfinite(results[2]["forces"][:2]).all()
    others = structures[:2] + structures[3:]
    reference = oracles.evaluated(model, others)
    for one, other in zip(results[:2] + results[3:], reference, strict=True):
        oracles.assert_same_bits(one, other)


@models
def test_an_empty_batch_and_atoms_without_pairs(make):
    model = make()
    far = [Atoms("Ar"), Atoms("Ar2", [[0, 0, 0], [50, 0, 0]]), Atoms("Ar", cell=[40] * 3, pbc=True)]
    batch = oracles.with_pairs(oracles.batch_of(far), model)
    for torch_path in (False, True):
        values = oracles.outputs(model, batch, torch_path)
        assert all(not value.any() for value in values.values())
    empty = oracles.with_pairs(batch.index_select([]), model)
    for torch_path in (False, True):
        values = oracles.outputs(model, empty, torch_path)
        shapes = {key: tuple(value.shape) for key, value in values.items()}
        assert shapes["energy"] == (0, 1) and shapes["forces"] == (0, 3)
        assert shapes["stress"] == (0, 3, 3)


@models
def test_copies_and_pickles_are_the_same_model(make):
    structures = oracles.crystals(4, symbols=SYMBOLS)
    reference = oracles.evaluated(make(), structures)
    for copied in (copy.deepcopy(make()), pickle.loads(pickle.dumps(make()))):
        for one, other in zip(oracles.evaluated(copied, structures), reference, strict=True):
            oracles.assert_same_bits(one, other)


@models
def test_atoms_many_cells_away_are_the_same_atoms(make):
    model = make()
    atoms = next(a for a in oracles.crystals(8, symbols=SYMBOLS) if a.pbc.all())
    moved = atoms.copy()
    moved.positions += (np.arange(3 * len(atoms)).reshape(-1, 3) % 7 - 3) @ atoms.cell.array
    one, other = oracles.evaluated(model, [atoms, moved])
    oracles.assert_close(one, other, scale=20.0, tolerance=1e-11)
