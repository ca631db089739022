"""Models of torch-sim give, in our batches, what they give in torch-sim's."""

import ase
import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress

from nvdyn_ase.calculators import NvdynCalculator
from nvdyn_ase.models import LennardJones, as_model
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.optimize import FIRE
from tests.models.oracles import batch_of

pytest.importorskip("torch_sim")

from torch_sim.io import atoms_to_state
from torch_sim.models.interface import SumModel
from torch_sim.models.lennard_jones import LennardJonesModel
from torch_sim.models.morse import MorseModel

from nvdyn_ase.models.torchsim import TorchSimModel

EVERYTHING = ("energy", "forces", "stress")
CUTOFF = 6.0


def lennard_jones(**options):
    settings = {"sigma": 2.3, "epsilon": 0.2, "cutoff": CUTOFF, "compute_stress": True}
    return LennardJonesModel(**{**settings, "dtype": torch.float64, **options})


def mixed():
    """Return crystals, skewed cells, slabs with and without a third vector, molecules, one atom."""
    rng = np.random.default_rng(0)
    structures = [bulk("Cu"), bulk("Al", cubic=True), bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1)]
    skewed = bulk("GaAs", "zincblende", a=5.6)
    skewed.set_cell(skewed.cell.array + rng.normal(0, 0.3, (3, 3)), scale_atoms=True)
    slab = fcc111("Al", (2, 2, 3), vacuum=6.0)
    flat = fcc111("Pt", (1, 1, 3), vacuum=None)
    wire = ase.Atoms("Cu2", [[0, 0, 0], [0.4, 0, 2.5]], cell=[0, 0, 5.0], pbc=(False, False, True))
    structures += [skewed, slab, flat, wire, molecule("CH3CH2OH"), ase.Atoms("H")]
    structures.append(molecule("H2O", cell=[15, 16, 17], pbc=True))
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    return structures


def test_the_numbers_of_the_model():
    """Each asked alone in torch-sim, where its own conversion can take it."""
    module = lennard_jones()
    model = as_model(module)
    assert type(model) is TorchSimModel
    structures = [atoms for atoms in mixed() if atoms.cell.rank in (0, 3)]
    found = NvdynCalculator(model).evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, found, strict=True):
        state = atoms_to_state([atoms], torch.device("cpu"), torch.float64)
        theirs = module(state)
        assert ours["energy"] == pytest.approx(float(theirs["energy"][0]), abs=1e-10)
        np.testing.assert_allclose(ours["forces"], theirs["forces"].numpy(), atol=1e-10)
        if atoms.cell.rank == 3:
            stress = ase.stress.full_3x3_to_voigt_6_stress(theirs["stress"][0].numpy())
            np.testing.assert_allclose(ours["stress"], stress, atol=1e-12)


def test_the_numbers_of_our_own_potential():
    """Forces are those of an independent Lennard-Jones, with any set of cell vectors."""
    ours = NvdynCalculator(LennardJones(sigma=2.3, epsilon=0.2, rc=CUTOFF))
    theirs = NvdynCalculator(lennard_jones())
    for one, other in zip(ours.evaluate(mixed()), theirs.evaluate(mixed()), strict=True):
        np.testing.assert_allclose(other["forces"], one["forces"], atol=1e-9)
        if "stress" in one:
            np.testing.assert_allclose(other["stress"], one["stress"], atol=1e-10)


def test_alone_and_in_a_batch():
    structures, model = mixed(), as_model(lennard_jones())
    together = NvdynCalculator(model).evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, together, strict=True):
        alone = NvdynCalculator(model).evaluate([atoms.copy()])[0]
        for name, value in alone.items():
            np.testing.assert_allclose(ours[name], value, atol=1e-12, err_msg=name)


def test_the_derivatives_are_those_of_the_energy():
    structures = mixed()
    for atoms in (structures[3], structures[5], structures[7]):
        atoms.calc = NvdynCalculator(lennard_jones())
        numerical = calculate_numerical_forces(atoms, 1e-5)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
        if atoms.cell.rank == 3:
            numerical = calculate_numerical_stress(atoms, 1e-6)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-6)


def test_sums_of_models():
    parts = lennard_jones(), MorseModel(dtype=torch.float64, cutoff=CUTOFF, compute_stress=True)
    whole = NvdynCalculator(SumModel(*parts)).evaluate(mixed()[:3])
    alone = [NvdynCalculator(part).evaluate(mixed()[:3]) for part in parts]
    for k, ours in enumerate(whole):
        for name in EVERYTHING:
            total = alone[0][k][name] + alone[1][k][name]
            np.testing.assert_allclose(ours[name], total, atol=1e-9)


def test_a_system_that_is_not_finite_stays_alone():
    model = as_model(lennard_jones())
    model.model_config = ModelConfig(outputs=frozenset(EVERYTHING))
    batch = batch_of([bulk("Cu"), bulk("Cu"), molecule("H2O")])
    positions = batch["positions"].clone()
    positions[1, 0] = torch.nan
    batch["positions"] = positions
    outputs = model(batch)
    alone = model(batch_of([bulk("Cu")]))
    assert torch.isnan(outputs["energy"]).view(-1).tolist() == [False, True, False]
    torch.testing.assert_close(outputs["energy"][0], alone["energy"][0])
    assert torch.isnan(outputs["forces"][1]).all()
    assert torch.isfinite(outputs["forces"][2:]).all()
    assert (outputs["stress"][2] == 0).all()
    assert [len(value) for value in model(batch[[]]).values()] == [0, 0, 0]


def test_what_a_model_cannot_do_is_said():
    assert not as_model(lennard_jones(compute_stress=False)).model_card.supports_stress
    with pytest.raises(ValueError, match=r"LennardJonesModel computes no forces.*=True"):
        as_model(lennard_jones(compute_forces=False))
    with pytest.raises(ValueError, match=r"is on cpu, and stays there; make it on cuda"):
        as_model(lennard_jones()).to("cuda")
    assert as_model(lennard_jones(dtype=torch.float32)).model_card.dtype is torch.float32


def test_a_list_is_relaxed_as_with_our_own_potential():
    ours, theirs = mixed(), mixed()
    FIRE(ours, model=LennardJones(sigma=2.3, epsilon=0.2, rc=CUTOFF)).run(fmax=0.05, steps=10)
    FIRE(theirs, model=lennard_jones()).run(fmax=0.05, steps=10)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-8)
