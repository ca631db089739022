"""MACE in a batch gives what its own calculator gives; the networks are small and random."""

import logging

import ase
import ase.optimize
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.lj import LennardJones
from ase.calculators.mixing import SumCalculator
from ase.filters import FrechetCellFilter

from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator, model_for
from nvdyn_ase.models import SumModel, as_model
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.optimize import FIRE
from tests.models.oracles import batch_of, with_pairs

pytest.importorskip("mace")

from e3nn import o3
from mace.calculators import MACECalculator
from mace.modules import gate_dict, interaction_classes
from mace.modules.models import MACE, ScaleShiftMACE

from nvdyn_ase.models.mace import MACEModel, from_file

NUMBERS = (1, 6, 8, 13, 14, 29)
EVERYTHING = ("energy", "forces", "stress", "energies")


def network(seed=0, kind=ScaleShiftMACE, heads=("Default",), **options):
    """Return a small network in float64 with random weights."""
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    block = "RealAgnosticResidualInteractionBlock"
    settings = {
        "r_max": 4.0,
        "num_bessel": 6,
        "num_polynomial_cutoff": 5,
        "max_ell": 2,
        "interaction_cls": interaction_classes[block],
        "interaction_cls_first": interaction_classes["RealAgnosticInteractionBlock"],
        "num_interactions": 2,
        "num_elements": len(NUMBERS),
        "hidden_irreps": o3.Irreps("8x0e + 8x1o"),
        "MLP_irreps": o3.Irreps("8x0e"),
        "atomic_energies": np.random.default_rng(seed).normal(-3, 1, (len(heads), len(NUMBERS))),
        "avg_num_neighbors": 12.0,
        "atomic_numbers": list(NUMBERS),
        "correlation": 2,
        "gate": gate_dict["silu"],
        "radial_MLP": [16, 16],
        "heads": list(heads),
    }
    if issubclass(kind, ScaleShiftMACE):
        settings["atomic_inter_scale"] = [0.8] * len(heads)
        settings["atomic_inter_shift"] = [0.1] * len(heads)
    try:
        return kind(**{**settings, **options})
    finally:
        torch.set_default_dtype(default)


def calculator(modules, dtype="float64", **options):
    logging.getLogger().setLevel(logging.ERROR)
    return MACECalculator(models=modules, device="cpu", default_dtype=dtype, **options)


def mixed():
    """Return 32 structures of 1 to 60 atoms: crystals, skewed cells, slabs, molecules."""
    rng, structures = np.random.default_rng(0), []
    for seed, (symbol, lattice) in enumerate(
        (symbol, lattice)
        for symbol, lattice in (("Al", 4.05), ("Cu", 3.6), ("Si", 5.4), ("C", 3.6))
        for _ in range(5)
    ):
        crystal = "diamond" if symbol in ("Si", "C") else "fcc"
        atoms = bulk(symbol, crystal, a=lattice, cubic=seed % 2 == 0)
        skew = np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3))
        atoms.set_cell(atoms.cell.array @ skew, scale_atoms=True)
        atoms.numbers[rng.random(len(atoms)) < 0.3] = 13
        structures.append(atoms)
    structures.append(bulk("Al", cubic=True) * (3, 1, 5))
    for pbc in ((True, True, False), True):
        slab = fcc111("Cu", (2, 2, 3), vacuum=5.0)
        slab.pbc = pbc
        structures.append(slab)
    structures += [molecule(name) for name in ("CH3CH2OH", "H2O", "CO", "O2", "C6H6")]
    structures.append(molecule("CH4", cell=[9, 9, 9], pbc=True))
    structures.append(ase.Atoms("Al", cell=[20, 20, 20], pbc=True))
    structures.append(ase.Atoms("H"))
    structures.append(bulk("Al"))
    for seed, atoms in enumerate(structures[:-2]):
        atoms.rattle(0.05, seed=seed)
    return structures


def check(calc, theirs, structures, limits):
    found = calc.evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, found, strict=True):
        own = atoms.copy()
        for name, limit in zip(EVERYTHING, limits, strict=True):
            if name == "stress" and atoms.cell.rank < 3:
                assert name not in ours
                continue
            if name == "stress":
                own.pbc = True  # else it is per a volume of MACE's own; there is room enough
            expected = theirs.get_property(name, own)
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
    theirs = calculator(network(), dtype)
    calc = NvdynCalculator(theirs)
    assert type(calc.model) is MACEModel
    assert calc.model.model_card.dtype is getattr(torch, dtype)
    check(calc, theirs, structures, limits)


@pytest.mark.parametrize(
    "options",
    [
        {"kind": MACE},
        {"pair_repulsion": True, "distance_transform": "Agnesi"},
        {"interaction_cls": interaction_classes["RealAgnosticDensityResidualInteractionBlock"]},
        {"apply_cutoff": False},
    ],
    ids=["MACE", "repulsion", "density", "cutoff"],
)
def test_networks_of_other_kinds(options):
    theirs = calculator(network(**options))
    check(NvdynCalculator(theirs), theirs, mixed()[::4], (1e-10,) * 4)


def test_heads():
    module = network(heads=("pbe", "default", "scan"))
    by_head = {head: calculator(module, head=head) for head in ("pbe", "scan")}
    by_head["default"] = calculator(module)
    for head, theirs in by_head.items():
        model = as_model(theirs)
        assert model.head == head
        check(NvdynCalculator(model), theirs, mixed()[::8], (1e-10,) * 4)
    assert not as_model(by_head["pbe"]).gives_same_as(as_model(by_head["scan"]))
    with pytest.raises(ValueError, match=r"no head 'hse'.*'pbe', 'default', 'scan'"):
        MACEModel(module, head="hse")
    with pytest.raises(ValueError, match=r"several heads; choose one, head=\['pbe', 'scan'\]"):
        MACEModel(network(heads=("pbe", "scan")))


def test_a_committee_is_its_mean():
    theirs = calculator([network(seed) for seed in range(3)])
    model = as_model(theirs)
    assert type(model) is SumModel
    check(NvdynCalculator(model), theirs, mixed()[::8], (1e-10,) * 4)


def test_alone_and_in_a_batch():
    model, structures = MACEModel(network()), mixed()
    together = NvdynCalculator(model).evaluate(structures)
    for atoms, ours in zip(structures, together, strict=True):
        alone = NvdynCalculator(model).evaluate([atoms.copy()])[0]
        for name, value in alone.items():
            np.testing.assert_allclose(ours[name], value, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("block", interaction_classes)
@pytest.mark.parametrize("options", [{}, {"apply_cutoff": False, "pair_repulsion": True}])
def test_pairs_beyond_the_cutoff_have_no_weight(monkeypatch, block, options):
    """On a device most networks are given them, so as not to wait for the device."""
    kind = "interaction_cls" if "Residual" in block else "interaction_cls_first"
    module = network(**options, **{kind: interaction_classes[block]})
    model, structures = MACEModel(module, skin=1.5), mixed()[::6]
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
    exact = model(with_pairs(batch_of(structures), model))
    found = [
        model(with_pairs(batch_of(structures), model, half_list=False, skin=skin))
        for skin in (0.0, 1.5)
    ]
    monkeypatch.setattr(MACEModel, "_picks_pairs", staticmethod(lambda batch: False))
    found.append(model(with_pairs(batch_of(structures), model)))
    for one in found:
        for name, values in exact.items():
            torch.testing.assert_close(one[name], values, atol=1e-10, rtol=1e-10)


def test_of_a_list_that_reaches_further_it_takes_its_own_pairs(monkeypatch):
    """As beside D3 in a sum; there would be hundreds of times as many."""
    monkeypatch.setattr(MACEModel, "_picks_pairs", staticmethod(lambda batch: False))
    given, energies = [], MACEModel._energies

    def counted(model, part):
        given.append(len(part.i))
        return energies(model, part)

    monkeypatch.setattr(MACEModel, "_energies", counted)
    model, structures = MACEModel(network(), chunk_size=10**6), mixed()[::6]
    found = [
        model(with_pairs(batch_of(structures), model, cutoff=cutoff))["energy"]
        for cutoff in (4.0, 4.5, 9.0)
    ]
    torch.testing.assert_close(found, found[:1] * 3, atol=1e-11, rtol=0)
    assert given[1] == given[2] < given[0]


def test_the_derivatives_are_those_of_the_energy():
    structures = mixed()
    for atoms in (structures[1], structures[24], structures[22]):
        atoms.calc = NvdynCalculator(MACEModel(network()))
        numerical = calculate_numerical_forces(atoms, 1e-5)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-7)
        if atoms.cell.rank == 3:
            numerical = calculate_numerical_stress(atoms, 1e-6)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-7)


def test_failures_stay_alone():
    structures = [bulk("Al"), bulk("Ag"), bulk("Al")]
    model = MACEModel(network())
    model.model_config = ModelConfig(
        outputs=frozenset({"energy", "forces", "stress", "atomic_energies"})
    )
    batch = batch_of(structures)
    positions = batch["positions"].clone()
    positions[2, 0] = torch.nan
    batch["positions"] = positions
    outputs = model(with_pairs(batch, model))
    assert outputs.failures == {1: "MACEModel has no parameters for Ag"}
    alone = model(with_pairs(batch_of(structures[:1]), model))
    for name, values in outputs.items():
        torch.testing.assert_close(values[:1], alone[name], atol=1e-12, rtol=0)
        assert torch.isnan(values[1:]).all(), name


# -------------------------------------------------------------------------------- the registry


def test_it_is_found(tmp_path):
    module = network()
    assert as_model(calculator(module)).module is module
    assert as_model(module, skin=1.0).skin == 1.0
    theirs = SumCalculator([calculator(module), LennardJones(sigma=2.0, epsilon=0.01, rc=5.0)])
    model = as_model(theirs)
    assert [type(part).__name__ for part in model.models] == ["MACEModel", "LennardJones"]
    atoms = mixed()[3]
    energy = NvdynCalculator(model).get_potential_energy(atoms)
    assert energy == pytest.approx(theirs.get_potential_energy(atoms), abs=1e-10)

    torch.save(module, tmp_path / "small.model")
    model = as_model("mace", path=tmp_path / "small.model", dtype=torch.float32)
    assert model.model_card.dtype is torch.float32
    assert from_file(tmp_path / "small.model").gives_same_as(MACEModel(module))


def test_files_that_are_not_of_a_network(tmp_path):
    (tmp_path / "notes.txt").write_text("a list of things to do")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "line.model")
    with pytest.raises(ValueError, match=r"notes.txt is not a file of a MACE network"):
        from_file(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match=r"line.model holds a Linear, not a MACE network"):
        from_file(tmp_path / "line.model")
    with pytest.raises(FileNotFoundError):
        from_file(tmp_path / "nothing.model")


def test_what_it_cannot_stand_for_is_called(tmp_path):
    class Changed(MACECalculator):
        pass

    class Another(ScaleShiftMACE):
        pass

    module = network()
    assert type(as_model(calculator(module, energy_units_to_eV=27.2))) is CalculatorModel
    assert type(as_model(calculator(network(kind=Another)))) is CalculatorModel
    assert type(as_model(Changed(models=module, default_dtype="float64"))) is CalculatorModel
    with pytest.raises(ValueError, match="needs more than elements"):
        MACEModel(network(kind=Another))


def test_calculators_with_equal_networks_are_one_model():
    structures = [bulk("Al"), bulk("Cu")]
    for atoms in structures:
        atoms.calc = calculator([network(seed) for seed in range(2)])
    assert type(model_for(structures)) is SumModel
    for atoms in structures:
        atoms.calc = calculator(network())
    assert type(model_for(structures)) is MACEModel
    structures[1].calc = calculator(network(seed=1))
    assert type(model_for(structures)) is CalculatorModel


def test_a_list_is_relaxed_as_by_ase():
    ours = mixed()[:4]
    theirs = [atoms.copy() for atoms in ours]
    shared = calculator(network())
    for atoms in (*ours, *theirs):
        atoms.calc = shared
    FIRE([FrechetCellFilter(atoms) for atoms in ours], logfile=None).run(fmax=0.01, steps=8)
    for one, other in zip(ours, theirs, strict=True):
        ase.optimize.FIRE(FrechetCellFilter(other), logfile=None).run(fmax=0.01, steps=8)
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-8)
        np.testing.assert_allclose(one.cell.array, other.cell.array, atol=1e-8)
