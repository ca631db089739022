"""``EMT`` against ASE's, one by one, and what every model promises."""

import re

import ase.calculators.emt
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import add_adsorbate, bulk, fcc111, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.models.emt import EMT
from nvdyn_ase.models.emt_kernel import _exponentiate
from nvdyn_ase.models.emt_parameters import BETA, PARAMETERS
from nvdyn_ase.neighbors import NeighborList

METALS = ["Al", "Cu", "Ag", "Au", "Ni", "Pd", "Pt"]
OUTPUTS = ("energy", "free_energy", "forces", "stress", "atomic_energies")
MODELS = {asap: EMT(asap) for asap in (False, True)}
for model in MODELS.values():
    model.model_config = ModelConfig(outputs=frozenset(OUTPUTS))


def alloy(rng):
    atoms = bulk("Cu", a=rng.uniform(3.6, 4.1), cubic=True) * (1, 1, int(rng.integers(1, 3)))
    atoms.symbols = rng.choice([*METALS, "O"], len(atoms))
    return rattled(atoms, rng)


def skewed(rng):
    atoms = bulk(rng.choice(METALS), "fcc", a=rng.uniform(3.6, 4.1)) * (1, 2, 1)
    atoms.set_cell(atoms.cell @ (np.eye(3) + rng.uniform(-0.2, 0.2, (3, 3))), scale_atoms=True)
    atoms.cell[2] += 2 * atoms.cell[0]
    return rattled(atoms, rng)


def one_atom(rng):
    return bulk(rng.choice(METALS))


def left_handed(rng):
    atoms = alloy(rng)
    atoms.set_cell(atoms.cell[[1, 0, 2]])
    return atoms


def slab(rng):
    atoms = fcc111(rng.choice(METALS), (1, 2, 3), vacuum=rng.choice([None, 5.0]))
    add_adsorbate(atoms, rng.choice(["O", "C", "H", "Au"]), 1.5, "fcc")
    return rattled(atoms, rng)


def cluster(rng):
    atoms = bulk("Au", cubic=True) * (2, 1, 1)
    atoms.symbols = rng.choice(list(PARAMETERS), len(atoms))
    atoms.pbc, atoms.cell = False, np.zeros((3, 3))
    return rattled(atoms, rng)


def small_molecule(rng):
    return rattled(molecule(rng.choice(["CO", "H2O", "CH4", "N2"])), rng)


def isolated(rng):
    length = rng.choice([0, 20])
    return Atoms(rng.choice(list(PARAMETERS)), cell=[length] * 3, pbc=length > 0)


def far_apart(rng):
    return Atoms("CuO", [[0, 0, 0], [0, 0, rng.uniform(5.5, 6.5)]])


def mixed_pbc(rng):
    atoms = alloy(rng)
    atoms.pbc = rng.random(3) < 0.5
    return atoms


def outside(rng):
    """Atoms that are far from their cell."""
    atoms = alloy(rng)
    atoms.positions += rng.integers(-3, 4, (len(atoms), 3)) @ atoms.cell
    return atoms


KINDS = [
    *(alloy, skewed, one_atom, left_handed, slab, cluster),
    *(small_molecule, isolated, far_apart, mixed_pbc, outside),
]


def rattled(atoms, rng):
    atoms.positions += rng.uniform(-0.1, 0.1, atoms.positions.shape)
    return atoms


def structures(min_size=1, max_size=4):
    """Choose a list of Atoms of many kinds."""
    make = st.builds(
        lambda kind, seed: kind(np.random.default_rng(seed)),
        st.sampled_from(KINDS),
        st.integers(0, 2**16),
    )
    return st.lists(make, min_size=min_size, max_size=max_size)


def make_batch(atoms):
    """Return the batch of some Atoms."""
    return Batch.from_data_list(
        [
            AtomicData(positions=a.positions, atomic_numbers=a.numbers, cell=a.cell[:], pbc=a.pbc)
            for a in atoms
        ]
    )


def listed(batch, model, **changes):
    """Give a batch its pairs; return it."""
    config = {**dict(model.model_card.neighbor_config), **changes}
    batch.neighbors = None
    NeighborList(**config).update(batch)
    return batch


def evaluated(atoms, model, **changes):
    return model(listed(make_batch(atoms), model, **changes))


def own(outputs, batch, row):
    """Return the results of one system."""
    atoms = slice(*batch.host_ptr[row : row + 2])
    rows = {"forces": atoms, "atomic_energies": atoms}
    return {key: values[rows.get(key, slice(row, row + 1))] for key, values in outputs.items()}


def same_bits(a, b):
    return a.shape == b.shape and torch.equal(a.view(torch.int64), b.view(torch.int64))


def assert_same(a, b):
    assert a.keys() == b.keys()
    for key in a:
        assert same_bits(a[key], b[key]), key


def assert_near(a, b, tolerance=1e-12):
    """Assert that numbers agree relative to the largest of them, or to what they are sums of."""
    for key in a:
        scale = max(1.0, float(b[key].abs().max()) if b[key].numel() else 0.0)
        if "energy" in key:
            scale *= max(1, len(a["forces"]))  # sums of several eV for each atom
        torch.testing.assert_close(a[key], b[key], rtol=0, atol=tolerance * scale, equal_nan=True)


def of_ase(atoms, asap):
    atoms = atoms.copy()
    atoms.calc = ase.calculators.emt.EMT(asap_cutoff=asap)
    energy = torch.tensor([[atoms.get_potential_energy()]], dtype=torch.float64)
    stress = atoms.get_stress(voigt=False) if atoms.cell.rank == 3 else np.zeros((3, 3))
    return {
        "energy": energy,
        "free_energy": energy,
        "forces": torch.tensor(atoms.get_forces()),
        "stress": torch.tensor(stress)[None],
        "atomic_energies": torch.tensor(atoms.get_potential_energies()),
    }


# -------------------------------------------------------------------- the same as ASE


def test_parameters_are_those_of_ase():
    assert ase.calculators.emt.parameters == PARAMETERS
    assert ase.calculators.emt.beta == BETA
    radii = [row[1] for row in PARAMETERS.values()]
    assert radii == sorted(radii)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(structures(), st.booleans())
def test_equals_ase(atoms, asap):
    batch = listed(make_batch(atoms), MODELS[asap])
    outputs = MODELS[asap](batch)
    for row, one in enumerate(atoms):
        assert_near(own(outputs, batch, row), of_ase(one, asap))


@pytest.mark.parametrize("asap", [False, True])
@pytest.mark.parametrize("symbol", PARAMETERS)
def test_an_isolated_atom_has_exactly_the_energy_of_ase(symbol, asap):
    outputs = evaluated([Atoms(symbol), Atoms("Cu2", [[0, 0, 0], [0, 0, 30]])], MODELS[asap])
    assert float(outputs["energy"][0]) == -PARAMETERS[symbol][0]
    assert float(outputs["energy"][1]) == -2 * PARAMETERS["Cu"][0]
    assert not outputs["forces"].any()


@pytest.mark.parametrize("asap", [False, True])
def test_the_edge_of_the_list(asap):
    """Beyond the last neighbour an atom is isolated, and just before it is not."""
    ours = EMT(asap)
    edge = float(ours._tables.cutoff[list(PARAMETERS).index("Ag"), 2])
    calculator = ase.calculators.emt.EMT(asap_cutoff=asap)
    calculator.initialize(Atoms("Ag"))
    assert edge == pytest.approx(calculator.rc_list, abs=1e-14)
    for distance, alone in ((edge - 1e-9, False), (edge, True), (edge + 1e-9, True)):
        energy = float(evaluated([Atoms("Ag2", [[0, 0, 0], [0, 0, distance]])], ours)["energy"])
        assert (energy == -2 * PARAMETERS["Ag"][0]) is alone


def test_asap_cutoff_is_that_of_each_system():
    atoms = [bulk("Ni", cubic=True), bulk("Ag", cubic=True)]
    both = evaluated(atoms, MODELS[True])["energy"]
    assert same_bits(both[:1], evaluated(atoms[:1], MODELS[True])["energy"])
    assert abs(float(both[0] - evaluated(atoms, MODELS[False])["energy"][0])) > 1e-3


# -------------------------------------------------------------------- consistent in itself

# How far a difference of energies may be off, eV/Å, as the energy jumps by a little where a pair
# enters the list: far more with ASAP's, which ends nearer to the middle of the cutoff function.
EDGE = {False: 2e-4, True: 3e-2}


@settings(max_examples=8, deadline=None, derandomize=True)
@given(structures(1, 2), st.booleans(), st.integers(0, 2**16))
def test_forces_are_the_slope_of_the_energy(atoms, asap, seed):
    model, rng, h = MODELS[asap], np.random.default_rng(seed), 1e-4
    batch = listed(make_batch(atoms), model)
    direction = torch.tensor(rng.normal(size=(batch.num_nodes, 3)))
    forces = model(batch)["forces"]
    start, energies = batch["positions"], []
    for step in (-h, h):
        batch["positions"] = start + step * direction
        energies.append(model(listed(batch, model, skin=0.1))["energy"])
    slope = (energies[1] - energies[0]).sum() / (2 * h)
    expected = -(forces * direction).sum()
    torch.testing.assert_close(slope, expected, rtol=1e-5, atol=EDGE[asap])


@settings(max_examples=8, deadline=None, derandomize=True)
@given(st.integers(0, 2**16), st.sampled_from([alloy, skewed, left_handed]), st.booleans())
def test_stress_is_the_slope_of_the_energy(seed, kind, asap):
    model, rng, h = MODELS[asap], np.random.default_rng(seed), 1e-4
    atoms = kind(rng)
    strain = rng.normal(size=(3, 3))
    energies = []
    for step in (-h, h):
        strained = atoms.copy()
        strained.set_cell(atoms.cell @ (np.eye(3) + step * strain), scale_atoms=True)
        energies.append(float(evaluated([strained], model)["energy"]))
    stress = evaluated([atoms], model)["stress"][0].numpy()
    slope = (energies[1] - energies[0]) / (2 * h)
    expected = (stress * strain).sum() * atoms.get_volume()
    assert slope == pytest.approx(expected, rel=1e-4, abs=10 * EDGE[asap])


@settings(max_examples=30, deadline=None, derandomize=True)
@given(structures(), st.booleans(), st.booleans())
def test_torch_operations_agree_with_the_loops(atoms, asap, half):
    batch = listed(make_batch(atoms), MODELS[asap], half_list=half)
    assert_near(MODELS[asap](batch), MODELS[asap].forward_torch(batch))


# -------------------------------------------------------------------- only a system's own bits


@settings(max_examples=25, deadline=None, derandomize=True)
@given(structures(2, 5), st.booleans(), st.randoms(use_true_random=False))
def test_a_system_does_not_know_its_neighbours(atoms, asap, random):
    model = MODELS[asap]
    order = list(range(len(atoms)))
    random.shuffle(order)
    batch = listed(make_batch([atoms[k] for k in order]), model)
    for evaluate in (model, model.forward_torch):
        together = evaluate(batch)
        for row, k in enumerate(order):
            alone = evaluate(listed(make_batch([atoms[k]]), model))
            assert_same(own(together, batch, row), alone)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(structures(), st.booleans(), st.sampled_from([0.3, 1.0, 2.5]), st.integers(0, 2**16))
def test_the_list_does_not_show(atoms, asap, skin, seed):
    """A list made elsewhere, reaching further or both ways, gives the same bits."""
    model, rng = MODELS[asap], np.random.default_rng(seed)
    batch = make_batch(atoms)
    positions = batch["positions"]
    away = torch.tensor(rng.uniform(-0.08, 0.08, positions.shape))
    for half in (True, False):
        batch["positions"] = positions + away
        listed(batch, model, skin=skin, half_list=half)
        batch["positions"] = positions
        for evaluate in (model, model.forward_torch):
            assert_same(evaluate(batch), evaluate(listed(make_batch(atoms), model, skin=0.0)))


@settings(max_examples=20, deadline=None, derandomize=True)
@given(structures(2, 4), st.data(), st.booleans(), st.sampled_from(["positions", "cell"]))
def test_numbers_that_are_none_stay_in_their_system(atoms, data, stale, key):
    model = MODELS[False]
    batch = listed(make_batch(atoms), model)
    sound = model(batch)
    bad = data.draw(st.integers(0, len(atoms) - 1))
    broken = batch[key].clone()
    broken[bad if key == "cell" else batch.host_ptr[bad], 1] = data.draw(
        st.sampled_from([float("nan"), float("inf")])
    )
    batch[key] = broken
    if not stale:
        listed(batch, model)
    for evaluate in (model, model.forward_torch):
        outputs = evaluate(batch)
        for row in range(len(atoms)):
            if row == bad:
                assert outputs["energy"][row].isnan()
                assert own(outputs, batch, row)["forces"].isnan().all()
            elif evaluate == model:
                assert_same(own(outputs, batch, row), own(sound, batch, row))
            else:
                assert_near(own(outputs, batch, row), own(sound, batch, row))


def test_coincident_atoms_spoil_their_system_alone():
    rng = np.random.default_rng(0)
    atoms = [alloy(rng), alloy(rng), slab(rng)]
    sound = evaluated(atoms, MODELS[False])
    atoms[1].positions[2] = atoms[1].positions[0]
    batch = listed(make_batch(atoms), MODELS[False])
    for evaluate in (MODELS[False], MODELS[False].forward_torch):
        outputs = evaluate(batch)
        spoiled = own(outputs, batch, 1)
        assert not spoiled["forces"][[0, 2]].isfinite().any()
        assert not spoiled["stress"].isfinite().all()
        for row in (0, 2):
            assert_near(own(outputs, batch, row), own(sound, batch, row))


# -------------------------------------------------------------------- what it says of itself


@pytest.mark.parametrize("name", ["forward", "forward_torch"])
@pytest.mark.parametrize(("number", "called"), [(26, "Fe"), (0, "X"), (500, "500"), (-3, "-3")])
@pytest.mark.parametrize("asap", [False, True])
def test_an_unknown_element_fails_its_system_alone(name, number, called, asap):
    atoms = [bulk("Cu"), bulk("Cu") * 2, bulk("Au"), bulk("Al", cubic=True)]
    model = EMT(asap)
    model.model_config = ModelConfig(outputs=frozenset(OUTPUTS))
    sound = listed(make_batch(atoms), model)
    whole = getattr(model, name)(sound)
    assert not whole.failures
    batch = listed(make_batch(atoms), model)
    batch["atomic_numbers"] = batch["atomic_numbers"].clone()
    batch["atomic_numbers"][4] = number
    for _ in range(2):
        outputs = getattr(model, name)(batch)
        assert set(outputs) == set(OUTPUTS)
        assert list(outputs.failures) == [1]
        assert re.fullmatch(rf"EMT has no parameters for .*{called}", outputs.failures[1])
        assert all(values.isnan().all() for values in own(outputs, batch, 1).values())
        for row in (0, 2, 3):
            assert_same(own(outputs, batch, row), own(whole, sound, row))
        outputs.failures.clear()  # the caller's own
    batch["atomic_numbers"][4] = 29
    outputs = getattr(model, name)(batch)
    assert not outputs.failures
    assert_same(outputs, whole)


def test_elements_that_change_in_place_are_noticed():
    batch = listed(make_batch([bulk("Cu")]), MODELS[False])
    before = MODELS[False].forward_torch(batch)["energy"]
    batch["atomic_numbers"].fill_(79)
    after = MODELS[False].forward_torch(batch)["energy"]
    assert float(before) != float(after)
    torch.testing.assert_close(after, MODELS[False](batch)["energy"], rtol=0, atol=1e-12)


def test_the_card():
    model = EMT()
    assert model.model_card.supported_elements == {1, 6, 7, 8, 13, 28, 29, 46, 47, 78, 79}
    assert model.model_card.supports_stress
    assert model.model_card.dtype is torch.float64
    assert model.model_card.neighbor_config.cutoff == pytest.approx(5.8767, abs=1e-3)
    assert EMT(True).model_card.neighbor_config.cutoff < 5.63
    assert EMT(skin=0.4).model_card.neighbor_config.skin == 0.4
    assert repr(EMT(True, skin=0.4)) == "EMT(asap_cutoff=True, skin=0.4)"


def test_it_gives_what_is_asked():
    model = EMT()
    batch = listed(make_batch([bulk("Cu", cubic=True)]), model)
    for outputs in ({"energy"}, {"stress"}, {"forces"}, {"atomic_energies", "free_energy"}):
        model.model_config = ModelConfig(outputs=frozenset(outputs))
        for evaluate in (model, model.forward_torch):
            given_ = evaluate(batch)
            assert set(given_) == outputs | {"energy"}
            for key, values in given_.items():
                torch.testing.assert_close(values, MODELS[False](batch)[key])


def test_single_precision_is_computed_in_double():
    batch = listed(make_batch([alloy(np.random.default_rng(1))]), MODELS[False])
    single = batch.to(dtype=torch.float32)
    double = listed(single.to(dtype=torch.float64), MODELS[False])
    single.neighbors = double.neighbors
    for evaluate in (MODELS[False], MODELS[False].forward_torch):
        for key, values in evaluate(single).items():
            assert values.dtype is torch.float32
            assert torch.equal(values, evaluate(double)[key].float())


def test_an_empty_batch_is_legal():
    batch = listed(make_batch([bulk("Cu")])[[]], MODELS[False])
    for evaluate in (MODELS[False], MODELS[False].forward_torch):
        shapes = {key: tuple(values.shape) for key, values in evaluate(batch).items()}
        assert shapes["energy"] == (0, 1)
        assert shapes["forces"] == (0, 3)
        assert shapes["stress"] == (0, 3, 3)


def test_pairs_are_needed_and_must_reach():
    batch = make_batch([bulk("Cu")])
    with pytest.raises(ValueError, match="no neighbour list"):
        MODELS[False](batch)
    with pytest.raises(ValueError, match="reaches 5"):
        MODELS[False](listed(batch, MODELS[False], cutoff=5.0))


def test_exponentials_are_good_to_two_units_in_the_last_place():
    numbers = np.concatenate([np.linspace(-700, 700, 20_001), [0.0, -0.0, np.nan]])
    ours = numbers.copy()
    _exponentiate(ours, len(ours))
    exact = np.exp(numbers)
    np.testing.assert_array_less(abs(ours - exact)[:-1], 2.01 * np.spacing(exact)[:-1])
    assert np.isnan(ours[-1])
