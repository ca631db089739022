"""MatterSim in a batch gives what its calculator gives, one by one; the networks are random."""

import warnings

import ase
import ase.optimize
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.filters import FrechetCellFilter
from ase.units import GPa

from nvdyn_ase.atoms import unwrapped
from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator, model_for
from nvdyn_ase.models import as_model
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.optimize import FIRE
from tests.models.oracles import batch_of, with_pairs

pytest.importorskip("mattersim")

from mattersim.forcefield import MatterSimCalculator, Potential
from mattersim.forcefield.m3gnet.m3gnet import M3Gnet

from nvdyn_ase.models.mattersim import MatterSimModel, pretrained

LIMITS = {"energy": 1e-5, "forces": 1e-4, "stress": 1e-6}


def network(seed=1, **options):
    """Return a small network with random weights, forces of 1 eV/Å and angles that matter."""
    torch.manual_seed(seed)
    module = M3Gnet(num_blocks=2, units=16, device="cpu", **options).eval()
    module.normalizer.shift.copy_(torch.randn(module.max_z + 1) - 3.0)
    module.normalizer.scale.fill_(200.0)
    return module


def calculator(module, **options):
    return MatterSimCalculator(Potential(module, device="cpu"), device="cpu", **options)


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
    slab, thick = fcc111("Cu", (2, 2, 3), vacuum=5.0), fcc111("Cu", (1, 2, 2), vacuum=5.0)
    thick.pbc = True
    structures += [slab, thick, bulk("Fe"), bulk("NaCl", "rocksalt", a=5.6, cubic=True)]
    structures += [molecule(name) for name in ("CH3CH2OH", "H2O", "CO", "O2", "C6H6")]
    structures.append(molecule("CH4", cell=[9, 9, 9], pbc=True))
    apart = ase.Atoms("CuO", [[0, 0, 0], [0, 0, 7]], cell=[3, 12, 14], pbc=True)
    structures.append(apart)
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    thick.positions += thick.cell[0] * 3  # outside of the cell
    return structures


def check(theirs, structures, limits):
    """Compare what a batch gives with what the calculator gives of each structure."""
    calc = NvdynCalculator(theirs)
    assert type(calc.model) is MatterSimModel
    found = calc.evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, found, strict=True):
        own = atoms.copy()  # it puts molecules into a cell
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            expected = {name: theirs.get_property(name, own) for name in limits}
        for name, limit in limits.items():
            if name == "stress" and (atoms.cell.rank < 3 or not atoms.pbc.any()):
                continue
            scale = len(atoms) if name == "energy" else 1
            difference = np.abs(ours[name] - expected[name]).max() / scale
            assert difference < limit, (atoms, name, difference)
        assert sum(ours["energies"]) == pytest.approx(ours["energy"], abs=1e-9)


# -------------------------------------------------------------------------------- its numbers


def test_the_numbers_of_its_calculator():
    structures = mixed()
    assert len(structures) == 32
    assert {1, 60} <= {len(atoms) for atoms in structures}
    check(calculator(network()), structures, LIMITS)
    check(calculator(network(), stress_weight=1.0), structures[::8], {"stress": 1e-6 / GPa})


def test_other_cutoffs():
    module = network(cutoff=4.5, threebody_cutoff=3.0, max_l=3, max_n=3)
    assert as_model(module).model_card.neighbor_config.cutoff == 4.5
    check(calculator(module), mixed()[::4], LIMITS)


def test_alone_and_in_a_batch():
    """In float64, where a system that depended on the others would show."""
    module, structures = network(), mixed()[::2]
    alone_model = MatterSimModel(module, dtype=torch.float64)
    for size in (1, 300, 2**20):
        model = MatterSimModel(module, chunk_size=size, dtype=torch.float64)
        together = NvdynCalculator(model).evaluate([atoms.copy() for atoms in structures])
        for atoms, ours in zip(structures, together, strict=True):
            alone = NvdynCalculator(alone_model).evaluate([atoms.copy()])[0]
            for name, value in alone.items():
                np.testing.assert_allclose(ours[name], value, rtol=1e-11, atol=1e-11)


def test_full_lists_and_lists_that_reach_further():
    model, structures = MatterSimModel(network(), dtype=torch.float64), mixed()[::6]
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
    exact = model(with_pairs(batch_of(structures), model))
    for changes in ({"half_list": False}, {"half_list": False, "skin": 1.5}, {"skin": 0.0}):
        found = model(with_pairs(batch_of(structures), model, **changes))
        for name, values in exact.items():
            torch.testing.assert_close(found[name], values, atol=1e-11, rtol=1e-11)


def test_the_derivatives_are_those_of_the_energy():
    model, structures = MatterSimModel(network(), dtype=torch.float64), mixed()
    slab = fcc111("Al", (1, 1, 3), vacuum=None)  # no third vector
    left = bulk("NaCl", "rocksalt", a=5.4)
    left.set_cell(left.cell.array[::-1])
    for atoms in (structures[1], structures[26], slab, left):
        atoms.rattle(0.05, seed=2)
        atoms.calc = NvdynCalculator(model)
        numerical = calculate_numerical_forces(atoms, 1e-5)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
        if atoms.cell.rank == 3:
            numerical = calculate_numerical_stress(atoms, 1e-6)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)


# -------------------------------------------------------------------------------- its rules


def test_failures_stay_alone():
    structures = [bulk("Al"), bulk("Al"), bulk("Al"), ase.Atoms("H")]
    structures[1].numbers[0] = 95
    model = MatterSimModel(network())
    asked = frozenset({"energy", "forces", "stress", "atomic_energies"})
    model.model_config = ModelConfig(outputs=asked)
    batch = batch_of(structures)
    positions = batch["positions"].clone()
    positions[2, 0] = torch.nan
    batch["positions"] = positions
    outputs = model(with_pairs(batch, model))
    assert outputs.failures == {1: "MatterSimModel has no parameters for Am"}
    alone = model(with_pairs(batch_of(structures[:1]), model))
    for name, values in outputs.items():
        torch.testing.assert_close(values[:1], alone[name], atol=1e-5, rtol=0)
        assert torch.isnan(values[1:3]).all(), name
    assert torch.isfinite(outputs["energy"][3])  # an atom alone
    assert (outputs["forces"][3] == 0).all()


def test_a_type_of_its_own_leaves_the_network_as_it_is():
    module = network()
    model = MatterSimModel(module, dtype=torch.float64)
    assert model.model_card.dtype is torch.float64
    assert next(module.parameters()).dtype is torch.float32
    single, double = (
        NvdynCalculator(one).get_forces(mixed()[18]) for one in (MatterSimModel(module), model)
    )
    assert 0 < np.abs(single - double).max() < 1e-4


# -------------------------------------------------------------------------------- the registry


def test_it_is_found():
    module = network()
    for thing in (calculator(module), Potential(module, device="cpu"), module):
        model = as_model(thing, skin=1.0)
        assert (type(model), model.module, model.skin) == (MatterSimModel, module, 1.0)


def test_what_it_cannot_stand_for_is_called():
    class Changed(MatterSimCalculator):
        pass

    class Another(M3Gnet):
        pass

    changed, other = calculator(network()), network()
    changed.__class__, other.__class__ = Changed, Another
    assert type(as_model(changed)) is CalculatorModel
    assert type(as_model(calculator(other))) is CalculatorModel


def test_calculators_with_equal_networks_are_one_model():
    structures = [bulk("Al"), bulk("Cu")]
    for atoms in structures:
        atoms.calc = calculator(network())
    assert type(model_for(structures)) is MatterSimModel
    structures[1].calc = calculator(network(seed=2))
    assert type(model_for(structures)) is CalculatorModel
    structures[1].calc = calculator(network(), stress_weight=1.0)
    assert type(model_for(structures)) is CalculatorModel


def test_files(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))  # where it keeps what it downloads
    module = network()
    Potential(module, device="cpu").save(tmp_path / "small.pth")
    model = as_model("mattersim", checkpoint=tmp_path / "small.pth")
    assert model.gives_same_as(MatterSimModel(module))
    double = pretrained(tmp_path / "small.pth", dtype=torch.float64)
    assert double.model_card.dtype is torch.float64
    (tmp_path / "notes.pth").write_text("a list of things to do")
    torch.save({"weights": 1}, tmp_path / "other.pth")
    for name in ("notes.pth", "other.pth", "nothing.pth"):
        with pytest.raises(ValueError, match=rf"{name} is not a checkpoint of MatterSim"):
            as_model("mattersim", checkpoint=tmp_path / name)


def test_a_list_is_relaxed_as_by_ase():
    ours = mixed()[:3]
    theirs = [atoms.copy() for atoms in ours]
    shared = calculator(network())
    for atoms in (*ours, *theirs):
        atoms.calc = shared
    optimizer = FIRE([FrechetCellFilter(atoms) for atoms in ours], logfile=None)
    assert type(optimizer.engine.model) is MatterSimModel
    optimizer.run(fmax=0.001, steps=5)
    for one, other in zip(ours, theirs, strict=True):
        ase.optimize.FIRE(FrechetCellFilter(other), logfile=None).run(fmax=0.001, steps=5)
        assert unwrapped(one.calc) is shared
        assert one.get_volume() == pytest.approx(other.get_volume(), rel=1e-5)
        np.testing.assert_allclose(one.get_forces(), other.get_forces(), atol=1e-3)
