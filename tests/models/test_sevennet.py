"""SevenNet in a batch gives what its own calculator gives, one by one, with the weights it has."""

import warnings

import ase
import ase.optimize
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.collections import dcdft
from ase.filters import FrechetCellFilter

from nvdyn_ase.atoms import unwrapped
from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator, model_for
from nvdyn_ase.models import as_model
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.neighbors import NeighborList
from nvdyn_ase.optimize import FIRE
from tests.models.oracles import batch_of, with_pairs

pytest.importorskip("sevenn")

from sevenn.calculator import SevenNetCalculator
from sevenn.nn.sequential import AtomGraphSequential
from sevenn.util import load_checkpoint

from nvdyn_ase.models.sevennet import SevenNetModel, pretrained

LIMITS = {"energy": 1e-5, "forces": 1e-4, "stress": 1e-6, "energies": 1e-5}


def network(name="7net-0"):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = load_checkpoint(name).build_model()
    module.set_is_batch_data(False)
    return module


def calculator(module, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return SevenNetCalculator(module, "model_instance", device="cpu", **options)


@pytest.fixture(scope="module")
def its_network():
    return network()


@pytest.fixture(scope="module")
def in_float64():
    return pretrained(dtype=torch.float64)


def mixed():
    """Return 32 structures of 1 to 60 atoms: crystals, skewed cells, slabs, molecules."""
    rng, structures = np.random.default_rng(0), []
    for name in dcdft.names[::4]:
        crystal = dcdft[name]
        atoms = ase.Atoms(crystal.numbers, crystal.positions, cell=crystal.cell, pbc=True)
        strain = np.eye(3) + rng.uniform(-0.03, 0.03, (3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        structures.append(atoms)
    skewed = bulk("GaAs", "zincblende", a=5.6) * (2, 1, 1)
    skewed.set_cell(skewed.cell.array + rng.normal(0, 0.3, (3, 3)))
    left = bulk("NaCl", "rocksalt", a=5.4)
    left.set_cell(left.cell.array[::-1])
    slab, thick = fcc111("Al", (2, 2, 3), vacuum=6.0), fcc111("Pt", (3, 4, 5), vacuum=6.0)
    thick.pbc = True
    structures += [skewed, left, slab, thick, bulk("NaCl", "rocksalt", a=5.6, cubic=True)]
    structures += [molecule(name) for name in ("CH3CH2OH", "H2O", "O2")]
    structures.append(molecule("CH4", cell=[9, 9, 9], pbc=True))
    distant = ase.Atoms("H2Ar2", [[0, 0, 0], [0, 0, 0.8], [12, 0, 0], [12, 0, 3.8]])
    distant.set_cell([40, 40, 40])
    structures += [
        distant,
        ase.Atoms("CuO", [[0, 0, 0], [0, 0, 7.0]], cell=[2.9, 12, 14], pbc=True),
    ]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    slab.positions += slab.cell[0] * 3  # outside of the cell
    structures += [bulk("Fe"), ase.Atoms("Fe", cell=[20, 20, 20], pbc=True), ase.Atoms("H")]
    return structures


def largest_differences(found, theirs, structures):
    """Return the largest difference of each property from those of a calculator, per atom."""
    largest = dict.fromkeys(LIMITS, 0.0)
    for atoms, ours in zip(structures, found, strict=True):
        own = atoms.copy()
        for name in LIMITS:
            if name == "stress" and atoms.cell.rank < 3:
                assert name not in ours
                continue
            scale = len(atoms) if name == "energy" else 1
            off = np.abs(ours[name] - theirs.get_property(name, own)).max() / scale
            largest[name] = max(largest[name], off)
    return largest


# -------------------------------------------------------------------------------- its numbers


def test_the_numbers_of_its_calculator(its_network):
    structures = mixed()
    assert len(structures) == 32
    assert {1, 60} <= {len(atoms) for atoms in structures}
    theirs = calculator(its_network)
    calc = NvdynCalculator(theirs)
    assert type(calc.model) is SevenNetModel
    found = calc.evaluate([atoms.copy() for atoms in structures])
    off = largest_differences(found, theirs, structures)
    assert all(off[name] < limit for name, limit in LIMITS.items()), off


@pytest.mark.parametrize("modal", ["PBE", "R2SCAN"])
def test_a_network_for_several_levels_of_theory(modal):
    theirs = calculator(network("7net-mf-0"), modal=modal)
    model = as_model(theirs)
    assert model.modal == modal
    structures = mixed()[::5]
    off = largest_differences(NvdynCalculator(model).evaluate(structures), theirs, structures)
    assert all(off[name] < limit for name, limit in LIMITS.items()), off


@pytest.mark.parametrize("name", ["7net-l3i5", "7net-0_22may2024"])
def test_other_weights_that_it_has(name):
    theirs = calculator(network(name))
    structures = mixed()[::8]
    off = largest_differences(NvdynCalculator(theirs).evaluate(structures), theirs, structures)
    assert all(off[name] < limit for name, limit in LIMITS.items()), off


def test_alone_and_in_a_batch(in_float64):
    """In float64, where a system that depended on the others would show."""
    structures = mixed()[1::3]
    for size in (1, 2**12, 2**20):
        model = SevenNetModel(in_float64.module, chunk_size=size)
        together = NvdynCalculator(model).evaluate([atoms.copy() for atoms in structures])
        for atoms, ours in zip(structures, together, strict=True):
            alone = NvdynCalculator(in_float64).evaluate([atoms.copy()])[0]
            for name, value in alone.items():
                np.testing.assert_allclose(ours[name], value, atol=1e-10, rtol=0, err_msg=name)


def test_full_lists_and_lists_that_reach_further(in_float64):
    model, structures = in_float64, mixed()[18:22]
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
    exact = model(with_pairs(batch_of(structures), model, skin=0.0))
    for changes in ({"half_list": False}, {"skin": 1.5}, {"half_list": False, "skin": 2.0}):
        found = model(with_pairs(batch_of(structures), model, **changes))
        for name, values in exact.items():
            torch.testing.assert_close(found[name], values, atol=1e-10, rtol=0)


def test_the_derivatives_are_those_of_the_energy(in_float64):
    crystal = bulk("NaCl", "rocksalt", a=5.6)
    crystal.set_cell(crystal.cell.array + np.random.default_rng(0).normal(0, 0.2, (3, 3)))
    water = molecule("H2O")  # no cell at all
    slab = fcc111("Al", (1, 1, 3), vacuum=None)  # no third vector
    for atoms in (crystal, water, slab):
        atoms.rattle(0.05, seed=2)
        atoms.calc = NvdynCalculator(in_float64)
        numerical = calculate_numerical_forces(atoms, 1e-5)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
        if atoms.cell.rank == 3:
            numerical = calculate_numerical_stress(atoms, 1e-6)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)


# -------------------------------------------------------------------------------- its rules


def test_failures_stay_alone(its_network):
    structures = [bulk("Si"), bulk("Si"), bulk("Si")]
    structures[1].numbers[1] = 95
    model = SevenNetModel(its_network)
    asked = frozenset({"energy", "forces", "stress", "atomic_energies"})
    model.model_config = ModelConfig(outputs=asked)
    batch = batch_of(structures)
    positions = batch["positions"].clone()
    positions[5, 0] = torch.nan
    batch["positions"] = positions
    neighbors = NeighborList(**dict(model.model_card.neighbor_config))
    neighbors.update(batch)
    outputs = model(batch)
    assert outputs.failures == {1: "SevenNetModel has no parameters for Am"}
    assert list(neighbors.failures) == [2]
    alone = model(with_pairs(batch_of(structures[:1]), model))
    for name, values in outputs.items():
        rows = len(values) // 3
        torch.testing.assert_close(values[:rows], alone[name], atol=1e-5, rtol=0)
        assert torch.isnan(values[rows:]).all(), name


def test_what_is_asked_is_given(its_network):
    model = SevenNetModel(its_network)
    batch = with_pairs(batch_of([bulk("Si")]), model)
    for outputs in ({"energy"}, {"forces"}, {"stress"}, {"atomic_energies"}):
        model.model_config = ModelConfig(outputs=frozenset(outputs))
        assert set(model(batch)) == outputs | {"energy"}
    empty = batch[[]]
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
    NeighborList(**dict(model.model_card.neighbor_config)).update(empty)
    assert [len(values) for values in model(empty).values()] == [0, 0, 0]


def test_a_type_of_its_own_leaves_the_network_as_it_is(its_network):
    model = SevenNetModel(its_network, dtype=torch.float64)
    assert model.model_card.dtype is torch.float64
    assert next(its_network.parameters()).dtype is torch.float32
    assert SevenNetModel(its_network, dtype=torch.float32).module is its_network
    single, double = (
        NvdynCalculator(one).get_forces(mixed()[18]) for one in (SevenNetModel(its_network), model)
    )
    assert 0 < np.abs(single - double).max() < 1e-4


# -------------------------------------------------------------------------------- the registry


def test_it_is_found(its_network):
    for thing in (calculator(its_network), its_network):
        model = as_model(thing, skin=1.0)
        assert (type(model), model.module, model.skin) == (SevenNetModel, its_network, 1.0)
    assert as_model("sevennet").gives_same_as(SevenNetModel(its_network))
    theirs = SumCalculator([calculator(its_network), LennardJones(sigma=2.0, rc=5.0)])
    parts = as_model(theirs).models
    assert [type(part).__name__ for part in parts] == ["SevenNetModel", "LennardJones"]


def test_levels_of_theory_are_named():
    module = network("7net-mf-0")
    with pytest.raises(
        ValueError, match=r"several levels of theory; choose one, modal=\['R2SCAN', 'PBE'\]"
    ):
        SevenNetModel(module)
    with pytest.raises(ValueError, match=r"no modal 'hse'; there are \['R2SCAN', 'PBE'\]"):
        SevenNetModel(module, modal="hse")
    one, other = (SevenNetModel(module, modal=modal) for modal in ("PBE", "R2SCAN"))
    assert not one.gives_same_as(other)


def test_files_that_are_not_checkpoints(tmp_path):
    (tmp_path / "notes.txt").write_text("a list of things to do")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "line.pth")
    torch.save({"weights": 1}, tmp_path / "other.pth")
    for name in ("notes.txt", "line.pth", "other.pth"):
        with pytest.raises(ValueError, match=rf"{name} is not a checkpoint of SevenNet"):
            as_model("sevennet", checkpoint=tmp_path / name)
    with pytest.raises(ValueError, match=r"nothing.pth does not exist"):
        as_model("sevennet", checkpoint=tmp_path / "nothing.pth")


def test_what_it_cannot_stand_for_is_called(its_network):
    class Changed(SevenNetCalculator):
        pass

    class Another(AtomGraphSequential):
        pass

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        changed = Changed(its_network, "model_instance", device="cpu")
        other = network()
        other.__class__ = Another
    assert type(as_model(changed)) is CalculatorModel
    assert type(as_model(calculator(other))) is CalculatorModel
    part = network()
    part.delete_module_by_key("reduce_total_enegy")
    with pytest.raises(ValueError, match="only a part of one"):
        SevenNetModel(part)


def test_calculators_with_equal_networks_are_one_model():
    structures = [bulk("Si"), bulk("Cu")]
    for atoms in structures:
        atoms.calc = calculator(network())
    assert type(model_for(structures)) is SevenNetModel
    structures[1].calc = calculator(network("7net-0_22may2024"))
    assert type(model_for(structures)) is CalculatorModel


def test_a_list_is_relaxed_as_by_ase(its_network):
    ours = mixed()[:3]
    theirs = [atoms.copy() for atoms in ours]
    shared = calculator(its_network)
    for atoms in (*ours, *theirs):
        atoms.calc = shared
    optimizer = FIRE([FrechetCellFilter(atoms) for atoms in ours], logfile=None)
    assert type(optimizer.engine.model) is SevenNetModel
    optimizer.run(fmax=0.05, steps=8)
    for one, other in zip(ours, theirs, strict=True):
        ase.optimize.FIRE(FrechetCellFilter(other), logfile=None).run(fmax=0.05, steps=8)
        assert unwrapped(one.calc) is shared
        assert one.get_volume() == pytest.approx(other.get_volume(), rel=1e-4)
