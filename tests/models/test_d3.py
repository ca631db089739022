"""D3 in a batch gives what torch-dftd's calculator gives."""

import ase.calculators.emt
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.mixing import SumCalculator

from nvdyn_ase.calculators import CalculatorModel, model_for
from nvdyn_ase.models import SumModel, as_model
from nvdyn_ase.models.base import ModelConfig
from tests.models import oracles

torch_dftd = pytest.importorskip("torch_dftd.torch_dftd3_calculator")
d3 = pytest.importorskip("nvdyn_ase.models.d3")

OUTPUTS = ("energy", "free_energy", "forces", "stress")
SHORT = {"cutoff": 9.0, "cnthr": 7.0}


def calculator(**options):
    return torch_dftd.TorchDFTD3Calculator(dtype=torch.float64, **{**SHORT, **options})


def structures():
    skewed = bulk("NaCl", "rocksalt", a=5.6)
    skewed.cell[2] += skewed.cell[0]
    left = bulk("Cu", cubic=True)
    left.set_cell(left.cell[[1, 0, 2]])
    found = [
        *(molecule("H2O"), molecule("C6H6"), bulk("Cu"), skewed, left, ase.Atoms("Ar")),
        *(fcc111("Au", (1, 1, 2), vacuum=5.0), ase.Atoms("Ar2", [[0, 0, 0], [0, 0, 3.8]])),
    ]
    for k, atoms in enumerate(found):
        atoms.rattle(0.05, seed=k)
    return found


@pytest.mark.parametrize("damping", ["zero", "bj", "zerom", "bjm"])
@pytest.mark.parametrize("smoothing", ["none", "poly"])
def test_numbers_are_those_of_the_calculator(damping, smoothing):
    options = {"damping": damping, "cutoff_smoothing": smoothing}
    model = as_model(calculator(**options))
    assert type(model) is d3.D3
    for atoms, values in zip(
        structures(), oracles.evaluated(model, structures(), OUTPUTS), strict=True
    ):
        atoms.calc = calculator(**options)
        assert values["energy"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
        assert np.abs(values["forces"] - atoms.get_forces()).max() < 1e-10
        if atoms.pbc.any() and atoms.cell.rank == 3:
            assert np.abs(values["stress"] - atoms.get_stress(voigt=False)).max() < 1e-10


def test_defaults_are_those_of_the_calculator():
    atoms = molecule("CH3CH2OCH3")
    for options in ({}, {"xc": "b3-lyp", "damping": "bj"}):
        (values,) = oracles.evaluated(as_model("d3", **options), [atoms], OUTPUTS)
        atoms.calc = torch_dftd.TorchDFTD3Calculator(dtype=torch.float64, **options)
        assert values["energy"][0] == pytest.approx(atoms.get_potential_energy(), abs=1e-11)
    single = as_model(torch_dftd.TorchDFTD3Calculator())
    assert single.model_card.dtype is torch.float32
    assert single.model_card.neighbor_config.cutoff == pytest.approx(50.27, abs=0.01)


@pytest.mark.parametrize("index", range(8))
def test_forces_and_stress_are_derivatives_of_the_energy(index):
    model, atoms = d3.D3(damping="bj", cutoff_smoothing="poly", **SHORT), structures()[index]
    (values,) = oracles.evaluated(model, [atoms], OUTPUTS)
    assert np.abs(values["forces"] - oracles.numerical_forces(model, atoms, 1e-4)).max() < 1e-6
    if atoms.cell.rank == 3:
        numerical = oracles.numerical_stress(model, atoms, 1e-4)
        assert np.abs(values["stress"] - numerical).max() < 1e-6


def test_a_system_does_not_know_its_neighbours_in_the_batch():
    model, found = d3.D3(damping="bj", **SHORT), structures()
    together = oracles.evaluated(model, found, OUTPUTS)
    small = d3.D3(damping="bj", chunk_size=100, **SHORT)
    parts = oracles.evaluated(small, found, OUTPUTS)
    for atoms, one, other in zip(found, together, parts, strict=True):
        (alone,) = oracles.evaluated(model, [atoms], OUTPUTS)
        for values in (one, other):
            oracles.assert_close(values, alone, scale=1.0, tolerance=1e-13)


def test_half_and_full_lists_are_the_same():
    model, found = d3.D3(**SHORT), structures()
    half = oracles.evaluated(model, found, OUTPUTS)
    full = oracles.evaluated(model, found, OUTPUTS, half_list=False, skin=1.0)
    for one, other in zip(half, full, strict=True):
        oracles.assert_close(one, other, scale=1.0, tolerance=1e-13)


def test_unknown_elements_and_positions_that_are_no_numbers_fail_alone():
    model, found = d3.D3(**SHORT), structures()
    batch = oracles.with_pairs(oracles.batch_of(found), model)
    before = oracles.per_system(oracles.outputs(model, batch, names=OUTPUTS), batch)
    batch["atomic_numbers"] = batch["atomic_numbers"].clone()
    batch["atomic_numbers"][0] = 99
    batch["positions"] = batch["positions"].clone()
    batch["positions"][batch.host_ptr[2]] = torch.nan
    values = oracles.outputs(model, batch, names=OUTPUTS)
    assert values.failures == {0: "D3 has no parameters for Es"}
    for row, after in enumerate(oracles.per_system(values, batch)):
        if row in (0, 2):
            assert np.isnan(after["energy"]).all() and np.isnan(after["forces"]).all()
        else:
            oracles.assert_close(after, before[row], scale=1.0, tolerance=1e-13)


def test_corrections_of_other_calculators_become_sums():
    atoms = bulk("Cu", cubic=True)
    atoms.rattle(0.05)
    calculators = (
        calculator(dft=ase.calculators.emt.EMT(), damping="bj"),
        SumCalculator([ase.calculators.emt.EMT(), calculator(damping="bj")]),
    )
    for calc in calculators:
        model = as_model(calc)
        assert type(model) is SumModel
        (values,) = oracles.evaluated(model, [atoms], ("energy", "forces"))
        one = atoms.copy()
        one.calc = calc
        assert values["energy"][0] == pytest.approx(one.get_potential_energy(), abs=1e-10)
        assert np.abs(values["forces"] - one.get_forces()).max() < 1e-10


def test_what_is_not_covered_is_left_to_the_calculator():
    assert type(as_model(calculator(abc=True))) is CalculatorModel
    assert type(as_model(calculator(old=True))) is CalculatorModel


def test_calculators_with_the_same_parameters_share_a_batch():
    found = structures()[:2]
    for atoms in found:
        atoms.calc = calculator(damping="bj")
    assert type(model_for(found)) is d3.D3
    assert not as_model(calculator()).gives_same_as(as_model(calculator(damping="bj")))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"xc": "nothing"}, "xc"),
        ({"damping": "none"}, "damping"),
        ({"cutoff_smoothing": "cos"}, "cutoff_smoothing must be"),
        ({"cutoff": -1.0}, "cutoff"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        d3.D3(**options)


def test_energy_alone_is_the_energy():
    model, found = d3.D3(**SHORT), structures()
    whole = oracles.evaluated(model, found, OUTPUTS)
    model.model_config = ModelConfig(outputs=frozenset({"energy"}))
    for one, other in zip(oracles.evaluated(model, found, ("energy",)), whole, strict=True):
        assert one["energy"] == pytest.approx(other["energy"], abs=1e-14)
