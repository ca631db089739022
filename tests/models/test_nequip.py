"""NequIP and Allegro in a batch give what their calculator gives; the networks are random."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator, model_for
from nvdyn_ase.models import as_model
from nvdyn_ase.models.base import ModelConfig
from tests.models.oracles import batch_of, with_pairs

pytest.importorskip("nequip")

from nequip.data.transforms import ChemicalSpeciesToAtomTypeMapper, NeighborListTransform
from nequip.integrations.ase import NequIPCalculator
from nequip.model import NequIPGNNModel
from nequip.utils.global_state import set_global_state

from nvdyn_ase.models.nequip import NequIPModel

NAMES = ["H", "C", "O", "Na", "Al", "Cl", "Cu"]
CUTOFF = 4.0
EVERYTHING = ("energy", "forces", "stress", "energies")


def network(seed=1, dtype="float64", kind="nequip", names=NAMES, **options):
    """Return a small network with random weights."""
    set_global_state()
    shifts = np.random.default_rng(seed).normal(-3, 1, len(names))
    settings = {
        "seed": seed,
        "model_dtype": dtype,
        "r_max": CUTOFF,
        "type_names": names,
        "l_max": 1,
        "avg_num_neighbors": 12.0,
        "per_type_energy_shifts": dict(zip(names, shifts.tolist(), strict=True)),
    }
    if kind == "allegro":
        allegro = pytest.importorskip("allegro.model")
        chemical = {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 4}
        own = {"num_layers": 1, "num_scalar_features": 8, "num_tensor_features": 4}
        own |= {"radial_chemical_embed": chemical}
        return allegro.AllegroModel(**settings, **own, **options).eval()
    own = {"num_layers": 2, "num_features": 6, "radial_mlp_width": 8}
    return NequIPGNNModel(**{**settings, **own, **options}).eval()


def calculator(module, names=NAMES, mapping=None, **options):
    mapper = ChemicalSpeciesToAtomTypeMapper(names, mapping)
    return NequIPCalculator(
        module, "cpu", transforms=[mapper, NeighborListTransform(CUTOFF)], **options
    )


def mixed():
    """Return 32 structures of 1 to 60 atoms: crystals, skewed cells, slabs, molecules."""
    rng, structures = np.random.default_rng(0), []
    for seed in range(20):
        symbol, lattice = (("Al", 4.05), ("Cu", 3.6), ("C", 3.6))[seed % 3]
        crystal = "diamond" if symbol == "C" else "fcc"
        atoms = bulk(symbol, crystal, a=lattice, cubic=seed % 2 == 0)
        skew = np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3))
        atoms.set_cell(atoms.cell.array @ skew, scale_atoms=True)
        atoms.numbers[rng.random(len(atoms)) < 0.3] = 13
        structures.append(atoms)
    structures += [bulk("Al", cubic=True) * (3, 1, 5), bulk("NaCl", "rocksalt", a=5.6)]
    for pbc in ((True, True, False), True):
        slab = fcc111("Cu", (2, 2, 3), vacuum=5.0)
        slab.pbc = pbc
        structures.append(slab)
    structures += [molecule(name) for name in ("CH3CH2OH", "H2O", "CO", "O2", "C6H6")]
    structures.append(molecule("CH4", cell=[9, 9, 9], pbc=True))
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    structures += [ase.Atoms("Al", cell=[20, 20, 20], pbc=True), bulk("Al")]
    return structures


def check(theirs, structures, limits):
    calc = NvdynCalculator(theirs)
    assert type(calc.model) is NequIPModel
    found = calc.evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, found, strict=True):
        own = atoms.copy()
        for name, limit in zip(EVERYTHING, limits, strict=True):
            if name == "stress" and atoms.cell.rank < 3:
                continue
            expected = np.asarray(theirs.get_property(name, own))
            scale = len(atoms) if name == "energy" else 1
            difference = np.abs(ours[name] - expected).max() / scale
            assert difference < limit, (atoms, name, difference)


# -------------------------------------------------------------------------------- its numbers


@pytest.mark.parametrize(
    ("dtype", "limits"),
    [("float64", (1e-10,) * 4), ("float32", (1e-5, 1e-4, 1e-6, 1e-5))],
)
def test_the_numbers_of_its_calculator(dtype, limits):
    structures = mixed()
    assert len(structures) == 32
    assert {1, 60} <= {len(atoms) for atoms in structures}
    check(calculator(network(dtype=dtype)), structures, limits)


def test_allegro():
    check(calculator(network(kind="allegro")), mixed()[::3], (1e-10,) * 4)


def test_types_that_are_not_elements():
    names = ["light", "heavy"]
    mapping = {"H": "light", "O": "light", "C": "light", "Al": "heavy", "Cu": "heavy"}
    module = network(names=names)
    check(calculator(module, names, mapping), [mixed()[0], mixed()[22], mixed()[24]], (1e-10,) * 4)
    with pytest.raises(ValueError, match="types light, heavy are not elements"):
        as_model(module)
    assert as_model(module, types={1: 0, 29: 1}).model_card.supported_elements == {1, 29}


def test_alone_and_in_a_batch():
    module, structures = network(), mixed()[::2]
    for size in (1, 300, None):
        model = NequIPModel(module, chunk_size=size)
        together = NvdynCalculator(model).evaluate([atoms.copy() for atoms in structures])
        for atoms, ours in zip(structures, together, strict=True):
            alone = NvdynCalculator(NequIPModel(module)).evaluate([atoms.copy()])[0]
            for name, value in alone.items():
                np.testing.assert_allclose(ours[name], value, rtol=1e-12, atol=1e-12)


def test_full_lists_and_lists_that_reach_further():
    model, structures = NequIPModel(network()), mixed()[::6]
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
    exact = model(with_pairs(batch_of(structures), model))
    for changes in ({"half_list": False}, {"half_list": False, "skin": 1.5}, {"skin": 0.0}):
        found = model(with_pairs(batch_of(structures), model, **changes))
        for name, values in exact.items():
            torch.testing.assert_close(found[name], values, atol=1e-11, rtol=1e-11)


def test_the_derivatives_are_those_of_the_energy():
    structures = mixed()
    for atoms in (structures[1], structures[22], structures[25]):
        atoms.calc = NvdynCalculator(NequIPModel(network()))
        numerical = calculate_numerical_forces(atoms, 1e-5)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-7)
        if atoms.cell.rank == 3:
            numerical = calculate_numerical_stress(atoms, 1e-6)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)


def test_failures_stay_alone():
    structures = [bulk("Al"), bulk("Ag"), bulk("Al")]
    model = NequIPModel(network())
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
    batch = batch_of(structures)
    positions = batch["positions"].clone()
    positions[2, 0] = torch.nan
    batch["positions"] = positions
    outputs = model(with_pairs(batch, model))
    assert outputs.failures == {1: "NequIPModel has no parameters for Ag"}
    alone = model(with_pairs(batch_of(structures[:1]), model))
    for name, values in outputs.items():
        torch.testing.assert_close(values[:1], alone[name], atol=1e-12, rtol=0)
        assert torch.isnan(values[1:]).all(), name


# -------------------------------------------------------------------------------- the registry


def test_what_it_cannot_stand_for_is_called():
    class Changed(NequIPCalculator):
        pass

    module = network()
    mapper, found = ChemicalSpeciesToAtomTypeMapper(NAMES), NeighborListTransform(CUTOFF)
    assert as_model(module, skin=1.0).skin == 1.0
    assert type(as_model(calculator(module, energy_units_to_eV=27.2))) is CalculatorModel
    assert type(as_model(Changed(module, "cpu", transforms=[mapper, found]))) is CalculatorModel
    more = NequIPCalculator(module, "cpu", transforms=[mapper, found, torch.nn.Identity()])
    assert type(as_model(more)) is CalculatorModel
    with pytest.raises(ValueError, match="does not make forces of its energy"):
        NequIPModel(network(do_derivatives=False))


def test_calculators_with_equal_networks_are_one_model():
    structures = [bulk("Al"), bulk("Cu")]
    for atoms in structures:
        atoms.calc = calculator(network())
    assert type(model_for(structures)) is NequIPModel
    structures[1].calc = calculator(network(seed=2))
    assert type(model_for(structures)) is CalculatorModel
