"""Models of metatomic give, in a batch, what its calculator gives; they are small and random."""

# TorchScript takes the older spelling of types.
# ruff: noqa: UP006, UP035, UP045
import math
from typing import Dict, List, Optional

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator
from nvdyn_ase.models import as_model
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.optimize import FIRE
from tests.models.oracles import batch_of, with_pairs

pytest.importorskip("metatomic.torch")
pytest.importorskip("metatomic_ase")

from metatensor.torch import Labels, TensorBlock, TensorMap
from metatomic.torch import (
    AtomisticModel,
    ModelCapabilities,
    ModelMetadata,
    ModelOutput,
    NeighborListOptions,
    System,
)
from metatomic_ase import MetatomicCalculator

from nvdyn_ase.models.metatomic import MetatomicModel

NUMBERS = [1, 6, 8, 11, 13, 17, 29]


class Density(torch.nn.Module):
    """A repulsion of pairs, and the root of a density at each atom, with random weights."""

    def __init__(self, full: bool, strict: bool, scale: float):
        super().__init__()
        self.options = NeighborListOptions(cutoff=5.0 * scale, full_list=full, strict=strict)
        self.full, self.cutoff, self.scale = full, 5.0, scale
        weights = torch.rand(120, generator=torch.Generator().manual_seed(0))
        self.weights = torch.nn.Parameter(0.5 + weights.double())

    def requested_neighbor_lists(self) -> List[NeighborListOptions]:
        return [self.options]

    def forward(
        self,
        systems: List[System],
        outputs: Dict[str, ModelOutput],
        selected_atoms: Optional[Labels] = None,
    ) -> Dict[str, TensorMap]:
        found: List[torch.Tensor] = []
        samples: List[torch.Tensor] = []
        by_atom = outputs["energy"].sample_kind == "atom"
        for row, system in enumerate(systems):
            pairs = system.get_neighbor_list(self.options)
            r = (pairs.values.reshape(-1, 3) ** 2).sum(dim=1).sqrt() / self.scale
            i = pairs.samples.column("first_atom").long()
            j = pairs.samples.column("second_atom").long()
            weights = self.weights.to(r.dtype)[system.types.long()]
            near = torch.where(r < self.cutoff, (1.0 - (r / self.cutoff) ** 2) ** 3, 0.0)
            pushes = 0.5 * torch.exp(-2.0 * r + 4.0) * near
            atoms = torch.zeros(len(system), dtype=r.dtype, device=r.device)
            density, energy = atoms + 0.01, atoms
            density = density.index_add(0, i, weights[j] * near)
            energy = energy.index_add(0, i, pushes)
            if not self.full:
                density = density.index_add(0, j, weights[i] * near)
                energy = energy.index_add(0, j, pushes)
            energy = energy - weights * density.sqrt()
            atom = torch.arange(len(system), dtype=torch.int32)
            one = torch.stack([torch.full_like(atom, row), atom], 1)
            found.append(energy if by_atom else energy.sum().reshape(1))
            samples.append(one if by_atom else one[:1, :1])
        block = TensorBlock(
            values=torch.cat(found).reshape(-1, 1),
            samples=Labels(["system", "atom"] if by_atom else ["system"], torch.cat(samples)),
            components=torch.jit.annotate(List[Labels], []),
            properties=Labels(["energy"], torch.tensor([[0]])),
        )
        keys = Labels(["_"], torch.tensor([[0]]))
        return {"energy": TensorMap(keys=keys, blocks=[block])}


def exported(
    full=True, strict=True, dtype="float64", kind="atom", length="angstrom", name="energy"
):
    scale = {"angstrom": 1.0, "nm": 0.1}[length]
    can = ModelCapabilities(
        outputs={"energy": ModelOutput(unit="eV", sample_kind=kind)},
        atomic_types=NUMBERS,
        interaction_range=5.0 * scale,
        length_unit=length,
        supported_devices=["cpu"],
        dtype=dtype,
    )
    module = Density(full, strict, scale).eval()
    return AtomisticModel(module, ModelMetadata(name="density"), can)


def mixed():
    """Return crystals, skewed cells, slabs with and without a third vector, molecules, one atom."""
    rng = np.random.default_rng(0)
    structures = [bulk("Cu"), bulk("Al", cubic=True), bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1)]
    skewed = bulk("NaCl", "rocksalt", a=5.6)
    skewed.set_cell(skewed.cell.array + rng.normal(0, 0.3, (3, 3)), scale_atoms=True)
    slab = fcc111("Al", (2, 2, 3), vacuum=6.0)
    structures += [skewed, slab, fcc111("Cu", (1, 1, 3), vacuum=None), molecule("CH3CH2OH")]
    structures += [molecule("H2O", cell=[15, 16, 17], pbc=True), molecule("H2O")[[0]]]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    return structures


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({}, 1e-10),
        ({"full": False}, 1e-10),
        ({"strict": False}, 1e-10),
        ({"kind": "system", "length": "nm"}, 1e-10),
        ({"dtype": "float32"}, 1e-4),
    ],
    ids=["full", "half", "not strict", "nanometres", "float32"],
)
def test_the_numbers_of_its_calculator(options, limit):
    theirs = MetatomicCalculator(exported(**options), device="cpu")
    calc, structures = NvdynCalculator(theirs), mixed()
    assert type(calc.model) is MetatomicModel
    found = calc.evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, found, strict=True):
        own = atoms.copy()
        names = ["energy", "forces"] + ["stress"] * bool(atoms.pbc.all())
        names += ["energies"] if options.get("kind") != "system" else []
        for name in names:
            np.testing.assert_allclose(ours[name], theirs.get_property(name, own), atol=limit)


def test_alone_and_in_a_batch():
    structures, model = mixed(), as_model(exported())
    together = NvdynCalculator(model).evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, together, strict=True):
        alone = NvdynCalculator(model).evaluate([atoms.copy()])[0]
        for name, value in alone.items():
            np.testing.assert_allclose(ours[name], value, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("full", [True, False])
def test_lists_of_any_kind(full):
    model = as_model(exported(full=full))
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
    exact = model(with_pairs(batch_of(mixed()), model))
    for changes in ({"half_list": False, "skin": 1.0}, {"half_list": True, "skin": 0.0}):
        found = model(with_pairs(batch_of(mixed()), model, **changes))
        for name, values in exact.items():
            torch.testing.assert_close(found[name], values, atol=1e-11, rtol=1e-11)


def test_the_derivatives_are_those_of_the_energy():
    structures = mixed()
    for atoms in (structures[3], structures[4], structures[5], structures[6]):
        atoms.calc = NvdynCalculator(exported())
        numerical = calculate_numerical_forces(atoms, 1e-5)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
        if atoms.pbc.all():
            numerical = calculate_numerical_stress(atoms, 1e-6)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-6)


def test_failures_stay_alone():
    model = as_model(exported())
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
    structures = [bulk("Cu"), bulk("Au"), bulk("Cu")]
    batch = batch_of(structures)
    positions = batch["positions"].clone()
    positions[2, 0] = torch.nan
    batch["positions"] = positions
    outputs = model(with_pairs(batch, model))
    assert outputs.failures == {1: "MetatomicModel has no parameters for Au"}
    alone = model(with_pairs(batch_of(structures[:1]), model))
    for name, values in outputs.items():
        torch.testing.assert_close(values[:1], alone[name], atol=1e-12, rtol=0)
        assert torch.isnan(values[1:]).all(), name


def test_it_is_found(tmp_path):
    module = exported()
    assert as_model(module, skin=1.0).skin == 1.0
    module.save(str(tmp_path / "density.pt"))
    model = as_model("metatomic", path=tmp_path / "density.pt")
    energies = [NvdynCalculator(one).get_potential_energy(bulk("Cu")) for one in (module, model)]
    assert math.isclose(*energies, abs_tol=1e-12)
    (tmp_path / "notes.txt").write_text("a list of things to do")
    for name in ("notes.txt", "nothing.pt"):
        with pytest.raises(ValueError, match=f"{name} is not a file of a metatomic model"):
            as_model("metatomic", path=tmp_path / name)


def test_what_it_cannot_stand_for_is_called():
    class Changed(MetatomicCalculator):
        pass

    extra = {"energy": ModelOutput(unit="eV", sample_kind="atom")}
    assert type(as_model(Changed(exported(), device="cpu"))) is CalculatorModel
    more = MetatomicCalculator(exported(), device="cpu", additional_outputs=extra)
    assert type(as_model(more)) is CalculatorModel


def test_a_list_is_relaxed_as_by_one():
    ours, theirs = mixed(), mixed()
    calc = MetatomicCalculator(exported(), device="cpu")
    for atoms in (*ours, *theirs):
        atoms.calc = calc
    FIRE(ours, logfile=None).run(fmax=0.05, steps=8)
    for one, other in zip(ours, theirs, strict=True):
        FIRE(other, logfile=None).run(fmax=0.05, steps=8)
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-8)
