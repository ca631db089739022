"""ORB in a batch gives what its own calculator gives, one by one; the networks are random."""

import ase
import ase.optimize
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter

from nvdyn_ase.atoms import unwrapped
from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator, model_for
from nvdyn_ase.models import as_model
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.optimize import FIRE
from tests.models.oracles import batch_of, with_pairs

pytest.importorskip("orb_models")

from orb_models.forcefield import pretrained as published

from nvdyn_ase.models.orb import OrbModel, pretrained

SMALL = {"latent_dim": 16, "base_mlp_hidden_dim": 16, "head_mlp_hidden_dim": 16}
EVERYTHING = ("energy", "forces", "stress")
KINDS = ("conservative", "direct")
NEW = not hasattr(published, "SystemConfig")  # from version 0.6 on


@pytest.fixture(autouse=True)
def usual_numbers():
    """Set back what ORB sets for the whole process."""
    yield
    torch.set_default_dtype(torch.float32)


def network(kind="conservative", seed=1, dtype=torch.float64, **options):
    """Return a small network with random weights, large enough for forces to be seen."""
    torch.manual_seed(seed)
    torch.set_default_dtype(dtype)
    make = getattr(published, f"orb_v3_{kind}_architecture")
    module = make(**SMALL, num_message_passing_steps=2, device="cpu", **options).eval()
    for head in module.heads.values():
        for name, values in head.named_buffers():
            if name.endswith("running_var") and "energy" not in name:
                values.fill_(0.04)
    return module


def calculator(module, most=120, **options):
    """Return the calculator of the package, which computes in the default type."""
    if NEW:
        from orb_models.forcefield.forcefield_adapter import ForcefieldAtomsAdapter
        from orb_models.forcefield.inference.calculator import ORBCalculator

        adapter = ForcefieldAtomsAdapter(radius=6.0, max_num_neighbors=most)
        return ORBCalculator(module, adapter, device="cpu", **options)
    from orb_models.forcefield.atomic_system import SystemConfig
    from orb_models.forcefield.calculator import ORBCalculator

    config = SystemConfig(radius=6.0, max_num_neighbors=most)
    return ORBCalculator(module, system_config=config, device="cpu", **options)


def mixed():
    """Return 32 structures of 1 to 60 atoms: crystals, skewed cells, slabs, molecules."""
    rng, structures = np.random.default_rng(0), []
    for seed in range(19):
        symbol, lattice = (("Al", 4.05), ("Cu", 3.6), ("Si", 5.43))[seed % 3]
        crystal = "diamond" if symbol == "Si" else "fcc"
        atoms = bulk(symbol, crystal, a=lattice, cubic=seed % 2 == 0)
        skew = np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3))
        atoms.set_cell(atoms.cell.array @ skew, scale_atoms=True)
        atoms.numbers[rng.random(len(atoms)) < 0.3] = 28
        structures.append(atoms)
    structures += [bulk("Al", cubic=True) * (3, 1, 5), bulk("NaCl", "rocksalt", a=5.6)]
    for size in ((2, 2, 3), (1, 2, 2)):
        slab = fcc111("Cu", size, vacuum=5.0)
        slab.pbc = True
        structures.append(slab)
    structures += [molecule(name) for name in ("CH3CH2OH", "H2O", "CO", "O2", "C6H6")]
    structures.append(molecule("CH4", cell=[9, 9, 9], pbc=True))
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    structures[22].positions += structures[22].cell[0] * 3  # outside of the cell
    structures.append(ase.Atoms("Al", cell=[20, 20, 20], pbc=True))
    apart = ase.Atoms("CuO", [[0, 0, 0], [0, 0, 7]], cell=[3, 12, 14], pbc=True)
    structures += [ase.Atoms("H"), apart]
    return structures


def check(theirs, structures, limits):
    """Compare what a batch gives with what the calculator gives of each structure."""
    calc = NvdynCalculator(theirs)
    assert type(calc.model) is OrbModel
    found = calc.evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, found, strict=True):
        own = atoms.copy()
        for name, limit in zip(EVERYTHING, limits, strict=True):
            if name == "stress" and atoms.cell.rank < 3:
                continue
            expected = np.reshape(theirs.get_property(name, own), np.shape(ours[name]))
            scale = len(atoms) if name == "energy" else 1
            difference = np.abs(ours[name] - expected).max() / scale
            assert difference < limit, (atoms, name, difference)


# -------------------------------------------------------------------------------- its numbers


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("dtype", "limits"),
    [(torch.float64, (1e-10,) * 3), (torch.float32, (1e-5, 1e-4, 1e-6))],
)
def test_the_numbers_of_its_calculator(kind, dtype, limits):
    structures = mixed()
    assert len(structures) == 32
    assert {1, 60} <= {len(atoms) for atoms in structures}
    check(calculator(network(kind, dtype=dtype)), structures, limits)


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_nearest_neighbours(kind):
    """The structures are distorted: where several are equally far, rounding decides."""
    module, structures = network(kind), mixed()[:28:3]
    check(calculator(module, most=20), structures, (1e-10,) * 3)
    check(calculator(module, max_num_neighbors=6), structures, (1e-10,) * 3)
    few, more = (OrbModel(module, max_num_neighbors=most) for most in (20, 120))
    off = NvdynCalculator(few).get_forces(structures[0]) - NvdynCalculator(more).get_forces(
        structures[0]
    )
    assert np.abs(off).max() > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_charges_and_spins(kind):
    module = network(kind, has_charge_spin_cond=True)
    model = OrbModel(module, max_num_neighbors=120, chunk_size=1)
    structures = [molecule(name) for name in ("OH", "H2O", "CH3", "OH")]
    neutral = [atoms.copy() for atoms in structures]
    for atoms in neutral[:2]:
        atoms.info |= {"charge": 0, "spin": 1}
    said, unsaid = (
        NvdynCalculator(model).evaluate([atoms.copy() for atoms in own])
        for own in (neutral, neutral[2:])
    )
    for one, other in zip(said[2:], unsaid, strict=True):  # whether others say or not
        assert one["energy"] == pytest.approx(other["energy"], abs=1e-10)
    check(calculator(module), neutral[:2], (1e-10,) * 3)
    for atoms, charge, spin in zip(structures, (0, 1, -1, -1), (2, 2, 1, 1), strict=True):
        atoms.info |= {"charge": charge, "spin": spin}
    check(calculator(module), structures, (1e-10,) * 3)
    copies = [atoms.copy() for atoms in structures]
    energies = [own["energy"] for own in NvdynCalculator(model).evaluate(copies)]
    assert abs(energies[0] - energies[3]) > 1e-4


@pytest.mark.parametrize("kind", KINDS)
def test_alone_and_in_a_batch(kind):
    module, structures = network(kind), mixed()[::2]
    for size in (1, 300, 2**20):
        model = OrbModel(module, max_num_neighbors=20, chunk_size=size)
        together = NvdynCalculator(model).evaluate([atoms.copy() for atoms in structures])
        for atoms, ours in zip(structures, together, strict=True):
            alone = NvdynCalculator(OrbModel(module, max_num_neighbors=20)).evaluate([atoms.copy()])
            for name, value in alone[0].items():
                np.testing.assert_allclose(ours[name], value, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_full_lists_and_lists_that_reach_further(kind):
    model, structures = OrbModel(network(kind), max_num_neighbors=20), mixed()[::6]
    model.model_config = ModelConfig(outputs=frozenset(EVERYTHING))
    exact = model(with_pairs(batch_of(structures), model))
    for changes in ({"half_list": False}, {"half_list": False, "skin": 1.5}, {"skin": 0.0}):
        found = model(with_pairs(batch_of(structures), model, **changes))
        for name, values in exact.items():
            torch.testing.assert_close(found[name], values, atol=1e-11, rtol=1e-11)


def test_the_derivatives_are_those_of_the_energy():
    model, structures = OrbModel(network(), max_num_neighbors=500), mixed()
    slab = fcc111("Al", (1, 1, 3), vacuum=None)  # no third vector
    for atoms in (structures[1], structures[24], slab):
        atoms.rattle(0.05, seed=2)
        atoms.calc = NvdynCalculator(model)
        numerical = calculate_numerical_forces(atoms, 1e-5)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-7)
        if atoms.cell.rank == 3:
            numerical = calculate_numerical_stress(atoms, 1e-6)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)


# -------------------------------------------------------------------------------- its rules


@pytest.mark.parametrize("kind", KINDS)
def test_failures_stay_alone(kind):
    structures = [bulk("Al"), bulk("Al"), bulk("Al")]
    structures[1].numbers[0] = 118
    model = OrbModel(network(kind), max_num_neighbors=120)
    model.model_config = ModelConfig(outputs=frozenset(EVERYTHING))
    batch = batch_of(structures)
    positions = batch["positions"].clone()
    positions[2, 0] = torch.nan
    batch["positions"] = positions
    outputs = model(with_pairs(batch, model))
    assert outputs.failures == {1: "OrbModel has no parameters for Og"}
    alone = model(with_pairs(batch_of(structures[:1]), model))
    for name, values in outputs.items():
        torch.testing.assert_close(values[:1], alone[name], atol=1e-11, rtol=0)
        assert torch.isnan(values[1:]).all(), name


def test_what_it_says_of_itself():
    conservative, direct = (OrbModel(network(kind), max_num_neighbors=20) for kind in KINDS)
    assert conservative.model_card.conservative
    assert not direct.model_card.conservative
    assert conservative.model_card.supports_stress
    bare = OrbModel(network("direct", has_stress=False), max_num_neighbors=20)
    assert not bare.model_card.supports_stress
    assert "stress" not in NvdynCalculator(bare).evaluate([mixed()[0]])[0]
    with pytest.raises(ValueError, match="max_num_neighbors=20 or 120"):
        OrbModel(network())
    for model in (conservative, direct):
        single = OrbModel(model.module, max_num_neighbors=20, dtype=torch.float32)
        assert (single.model_card.dtype, model.model_card.dtype) == (torch.float32, torch.float64)
        assert single.model_card.conservative is model.model_card.conservative
        off = NvdynCalculator(single).get_forces(mixed()[0]) - NvdynCalculator(model).get_forces(
            mixed()[0]
        )
        assert 0 < np.abs(off).max() < 1e-4


# -------------------------------------------------------------------------------- the registry


def test_it_is_found():
    for kind in KINDS:
        module = network(kind)
        for model in (
            as_model(calculator(module, most=20), skin=1.0),
            as_model(module, max_num_neighbors=20, skin=1.0),
        ):
            assert (type(model), model.module, model.skin) == (OrbModel, module, 1.0)
            assert model.max_num_neighbors == 20


def test_what_it_cannot_stand_for_is_called():
    theirs = calculator(network())

    class Changed(type(theirs)):
        pass

    theirs.__class__ = Changed
    assert type(as_model(theirs)) is CalculatorModel
    module = network()
    more = calculator(module)
    module.heads["energy"] = torch.nn.Identity()
    assert type(as_model(more)) is CalculatorModel
    with pytest.raises(ValueError, match="has electrostatics or is no potential"):
        OrbModel(module, max_num_neighbors=20)
    if NEW:
        charged = network(has_electrostatics=True)
        assert type(as_model(calculator(charged))) is CalculatorModel


def test_calculators_with_equal_networks_are_one_model():
    structures = [bulk("Al"), bulk("Cu")]
    for atoms in structures:
        atoms.calc = calculator(network())
    assert type(model_for(structures)) is OrbModel
    structures[1].calc = calculator(network(seed=2))
    assert type(model_for(structures)) is CalculatorModel
    structures[1].calc = calculator(network(), most=20)
    assert type(model_for(structures)) is CalculatorModel


def test_published_names_and_files(tmp_path, monkeypatch):
    """The networks that are published are large; a small one stands in for one of them."""
    architecture = published.orb_v3_direct_architecture
    file, small = tmp_path / "small.ckpt", network("direct", dtype=torch.float32)
    torch.save(small.state_dict(), file)
    monkeypatch.setattr(
        published,
        "orb_v3_direct_architecture",
        lambda **options: architecture(**SMALL, num_message_passing_steps=2, **options),
    )
    before = torch.get_float32_matmul_precision()
    torch.set_default_dtype(torch.float16)
    model = as_model("orb", checkpoint="orb-v3-direct-20-omat", weights_path=file)
    assert torch.get_default_dtype() is torch.float16
    assert torch.get_float32_matmul_precision() == before
    assert (model.max_num_neighbors, model.radius) == (20, 6.0)
    torch.set_default_dtype(torch.float32)
    assert model.gives_same_as(OrbModel(small, max_num_neighbors=20))
    double = pretrained("orb-v3-direct-20-omat", weights_path=file, dtype=torch.float64)
    assert double.model_card.dtype is torch.float64
    with pytest.raises(ValueError, match=r"knows no 'orb-v9'.*orb-v3-direct-20-omat"):
        pretrained("orb-v9")
    (tmp_path / "notes.ckpt").write_text("a list of things to do")
    torch.save({"weights": torch.ones(1)}, tmp_path / "other.ckpt")
    for name in ("notes.ckpt", "other.ckpt"):
        with pytest.raises(ValueError, match=rf"{name} does not hold the weights of orb-v3-direct"):
            pretrained("orb-v3-direct-20-omat", weights_path=tmp_path / name)


def test_a_list_is_relaxed_as_by_ase():
    ours = mixed()[:3]
    theirs = [atoms.copy() for atoms in ours]
    shared = calculator(network())
    for atoms in (*ours, *theirs):
        atoms.calc = shared
    optimizer = FIRE([FrechetCellFilter(atoms) for atoms in ours], logfile=None)
    assert type(optimizer.engine.model) is OrbModel
    optimizer.run(fmax=0.001, steps=5)
    for one, other in zip(ours, theirs, strict=True):
        ase.optimize.FIRE(FrechetCellFilter(other), logfile=None).run(fmax=0.001, steps=5)
        assert unwrapped(one.calc) is shared
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-8)
        np.testing.assert_allclose(one.cell.array, other.cell.array, atol=1e-8)
