"""Networks of fairchem in a batch give what its calculator gives; the weights are random."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator, model_for
from nvdyn_ase.models import as_model
from nvdyn_ase.models.base import ModelConfig
from tests.models.oracles import batch_of

pytest.importorskip("fairchem.core")

import hydra
from fairchem.core.calculate.ase_calculator import FAIRChemCalculator
from fairchem.core.units.mlip_unit import InferenceSettings, MLIPPredictUnit
from fairchem.core.units.mlip_unit.api.inference import MLIPInferenceCheckpoint

from nvdyn_ase.models.fairchem import FairchemModel

TASKS = ("omat", "omol")
EVERYTHING = ("energy", "forces", "stress")
UMA = "fairchem.core.models.uma"


def network():
    """Return the configuration of a small network like UMA, for two tasks."""
    backbone = {
        "model": f"{UMA}.escn_md.eSCNMDBackbone",
        **{"sphere_channels": 8, "edge_channels": 8, "hidden_channels": 8, "num_layers": 2},
        **{"num_distance_basis": 16, "cutoff": 4.0, "otf_graph": True, "always_use_pbc": False},
        **{"direct_forces": False, "regress_forces": True, "regress_stress": True},
        "dataset_mapping": {task: task for task in TASKS},
    }
    head = {
        "module": f"{UMA}.escn_moe.DatasetSpecificSingleHeadWrapper",
        "dataset_names": list(TASKS),
        "head_cls": f"{UMA}.escn_md.MLP_EFS_Head",
        "head_kwargs": {"wrap_property": False},
    }
    return {
        "_target_": "fairchem.core.models.base.HydraModel",
        **{"backbone": backbone, "heads": {"efs": head}, "pass_through_head_outputs": True},
    }


def tasks():
    unit = "fairchem.core.units.mlip_unit.mlip_unit"
    normal = "fairchem.core.modules.normalization.normalizer.Normalizer"
    shapes = {"energy": ("system", [1]), "forces": ("atom", [3]), "stress": ("system", [1, 9])}
    return [
        {
            "_target_": f"{unit}.Task",
            **{"name": f"{task}_{name}", "property": name, "level": level, "datasets": [task]},
            "out_spec": {"_target_": f"{unit}.OutputSpec", "dim": shape, "dtype": "float32"},
            "normalizer": {"_target_": normal, "mean": 0.0, "rmsd": 30.0},
        }
        for task in TASKS
        for name, (level, shape) in shapes.items()
    ]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """Write a checkpoint with random weights."""
    torch.manual_seed(1)
    module = hydra.utils.instantiate(network())
    weights = torch.optim.swa_utils.AveragedModel(module).state_dict()
    file = tmp_path_factory.mktemp("weights") / "small.pt"
    torch.save(MLIPInferenceCheckpoint(network(), module.state_dict(), weights, tasks()), file)
    return str(file)


def predictor_from(checkpoint, dtype=torch.float64, **settings):
    settings = InferenceSettings(base_precision_dtype=dtype, **settings)
    return MLIPPredictUnit(checkpoint, "cpu", inference_settings=settings)


@pytest.fixture(scope="module")
def predictor(checkpoint):
    return predictor_from(checkpoint)


def mixed():
    """Return structures of 1 to 27 atoms: crystals, skewed cells, slabs, molecules."""
    rng, structures = np.random.default_rng(0), []
    for seed in range(9):
        symbol, lattice = (("Al", 4.05), ("Cu", 3.6), ("Si", 5.43))[seed % 3]
        crystal = "diamond" if symbol == "Si" else "fcc"
        atoms = bulk(symbol, crystal, a=lattice, cubic=seed % 2 == 0)
        skew = np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3))
        atoms.set_cell(atoms.cell.array @ skew, scale_atoms=True)
        atoms.numbers[rng.random(len(atoms)) < 0.3] = 28
        structures.append(atoms)
    structures += [bulk("Al") * (3, 3, 3), fcc111("Cu", (2, 2, 3), vacuum=5.0)]
    structures += [molecule(name) for name in ("CH3CH2OH", "H2O", "CO")]
    structures.append(molecule("CH4", cell=[9, 9, 9], pbc=True))
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    structures[3].positions += structures[3].cell[0] * 3  # outside of the cell
    return structures


def check(theirs, structures, limits):
    """Compare what a batch gives with what the calculator gives of each structure."""
    calc = NvdynCalculator(theirs)
    assert type(calc.model) is FairchemModel
    found = calc.evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, found, strict=True):
        own = atoms.copy()  # it writes into info
        for name, limit in zip(EVERYTHING, limits, strict=True):
            if name == "stress" and atoms.cell.rank < 3:
                continue
            expected = np.reshape(theirs.get_property(name, own), np.shape(ours[name]))
            scale = len(atoms) if name == "energy" else 1
            difference = np.abs(ours[name] - expected).max() / scale
            assert difference < limit, (atoms, name, difference)
    return found


def test_the_numbers_of_its_calculator(predictor, checkpoint):
    found = check(FAIRChemCalculator(predictor, task_name="omat"), mixed(), (1e-10,) * 3)
    assert max(np.abs(one["forces"]).max() for one in found) > 0.01
    single = predictor_from(checkpoint, torch.float32)
    structures = mixed()[::3]
    structures[0].positions += 1000 * structures[0].cell[0]  # where float32 is coarse
    check(FAIRChemCalculator(single, task_name="omat"), structures, (1e-5, 1e-4, 1e-6))


def test_charges_and_spins(predictor):
    structures = [molecule(name) for name in ("OH", "H2O", "CH3", "OH")]
    theirs = FAIRChemCalculator(predictor, task_name="omol")
    usual = check(theirs, structures, (1e-10,) * 3)
    for atoms, charge, spin in zip(structures, (0, 1, -1, -1), (2, 2, 1, 1), strict=True):
        atoms.info |= {"charge": charge, "spin": spin}
    charged = check(theirs, structures, (1e-10,) * 3)
    assert all(a["energy"] != b["energy"] for a, b in zip(usual, charged, strict=True))
    other = NvdynCalculator(FairchemModel(predictor, task_name="omat")).evaluate(structures)
    assert all(a["energy"] != b["energy"] for a, b in zip(other, charged, strict=True))


def test_the_derivatives_are_those_of_the_energy(predictor):
    for atoms in (mixed()[1], mixed()[12]):
        atoms.calc = NvdynCalculator(FairchemModel(predictor, task_name="omat"))
        numerical = calculate_numerical_forces(atoms, 1e-4)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
        if atoms.cell.rank == 3:
            numerical = calculate_numerical_stress(atoms, 1e-5)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-6)


def test_failures_stay_alone(predictor):
    model = FairchemModel(predictor, task_name="omat")
    model.model_config = ModelConfig(outputs=frozenset(EVERYTHING))
    structures = [bulk("Al"), bulk("Al"), molecule("H2O")]
    batch = batch_of(structures)
    positions = batch["positions"].clone()
    positions[1, 0] = torch.nan
    batch["positions"] = positions
    outputs = model(batch)
    for name, values in outputs.items():
        alone = model(batch_of(structures[:1]))[name]
        torch.testing.assert_close(values[:1], alone, atol=1e-11, rtol=0)
        assert torch.isnan(values[1]).all()
        assert torch.isfinite(values[2:]).all()


def test_atoms_alone_are_looked_up(checkpoint):
    table = {"omol": {1: {0: -13.0}, 8: {0: -2000.0}}}
    settings = InferenceSettings(base_precision_dtype=torch.float64)
    looked_up = MLIPPredictUnit(checkpoint, "cpu", inference_settings=settings, atom_refs=table)
    structures = [ase.Atoms("H"), molecule("H2O"), ase.Atoms("O"), molecule("CO")]
    found = check(FAIRChemCalculator(looked_up, task_name="omol"), structures, (1e-10,) * 3)
    assert [found[row]["energy"] for row in (0, 2)] == [-13.0, -2000.0]


def test_it_is_found(predictor, checkpoint):
    theirs = FAIRChemCalculator(predictor, task_name="omol")
    for model in (as_model(theirs), as_model(predictor, task_name="omol")):
        assert (type(model), model.module, model.task_name) == (FairchemModel, predictor, "omol")
    with pytest.raises(
        ValueError, match=r"several tasks; choose one, task_name=\['omat', 'omol'\]"
    ):
        as_model(predictor)
    with pytest.raises(ValueError, match="no task 'oc20'"):
        as_model(predictor, task_name="oc20")
    outside = predictor_from(checkpoint, external_graph_gen=True)
    with pytest.raises(ValueError, match="external_graph_gen=False"):
        as_model(outside, task_name="omol")
    outside = FAIRChemCalculator(outside, task_name="omol")
    assert type(as_model(outside)) is CalculatorModel


def test_calculators_with_one_predictor_are_one_model(predictor):
    structures = [bulk("Al"), bulk("Cu")]
    for atoms in structures:
        atoms.calc = FAIRChemCalculator(predictor, task_name="omat")
    assert type(model_for(structures)) is FairchemModel
    structures[1].calc = FAIRChemCalculator(predictor, task_name="omol")
    assert type(model_for(structures)) is CalculatorModel


def test_files(predictor, checkpoint, tmp_path):
    model = as_model("fairchem", checkpoint=checkpoint, task_name="omat", dtype=torch.float64)
    same = FairchemModel(predictor, task_name="omat")
    energies = [NvdynCalculator(one).get_potential_energy(mixed()[0]) for one in (model, same)]
    assert energies[0] == pytest.approx(energies[1], abs=1e-10)
    (tmp_path / "notes.pt").write_text("a list of things to do")
    torch.save({"weights": 1}, tmp_path / "other.pt")
    for name in ("notes.pt", "other.pt", "nothing.pt"):
        with pytest.raises(ValueError, match=rf"{name} is not a checkpoint of fairchem"):
            as_model("fairchem", checkpoint=tmp_path / name, task_name="omat")
