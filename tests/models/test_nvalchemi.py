"""Models of nvalchemi-toolkit give, in our batches, what they give in the toolkit's."""

import numpy as np
import pytest
import torch
from ase.build import bulk, fcc111, molecule
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.stress import full_3x3_to_voigt_6_stress

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.calculators import NvdynCalculator
from nvdyn_ase.models import LennardJones, as_model
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.optimize import FIRE
from tests.models.oracles import batch_of

pytest.importorskip("nvalchemi")

from nvalchemi.data import AtomicData, Batch
from nvalchemi.models.base import ModelConfig as TheirConfig
from nvalchemi.models.demo import DemoModel, DemoModelWrapper
from nvalchemi.models.lj import LennardJonesModelWrapper
from nvalchemi.neighbors import compute_neighbors

from nvdyn_ase.models.nvalchemi import NvalchemiModel

CUTOFF = 6.0


def lennard_jones(half_list=True):
    return LennardJonesModelWrapper(epsilon=0.2, sigma=2.3, cutoff=CUTOFF, half_list=half_list)


def mixed():
    """Return crystals, skewed cells, slabs with and without a third vector, molecules."""
    rng = np.random.default_rng(0)
    structures = [bulk("Cu"), bulk("Al", cubic=True), bulk("NaCl", "rocksalt", a=5.6) * (2, 1, 1)]
    skewed = bulk("GaAs", "zincblende", a=5.6)
    skewed.set_cell(skewed.cell.array + rng.normal(0, 0.3, (3, 3)), scale_atoms=True)
    slab = fcc111("Al", (2, 2, 3), vacuum=6.0)
    flat = fcc111("Pt", (1, 1, 3), vacuum=None)
    structures += [skewed, slab, flat, molecule("CH3CH2OH")]
    structures.append(molecule("H2O", cell=[15, 16, 17], pbc=True))
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.05, seed=seed)
    return structures


def theirs_of(module, atoms):
    """Return what a model gives for one structure, in the toolkit's own batch."""
    data = AtomicData(
        positions=torch.tensor(atoms.positions),
        atomic_numbers=torch.tensor(atoms.numbers),
        cell=torch.tensor(atoms.cell.array)[None],
        pbc=torch.tensor(atoms.pbc)[None],
    )
    batch = Batch.from_data_list([data])
    compute_neighbors(batch, config=module.model_config.neighbor_config)
    module.model_config.active_outputs = {"energy", "forces", "stress"}
    found = {name: value.detach().clone().numpy() for name, value in module(batch).items()}
    module.model_config.active_outputs = {"energy", "forces"}
    return found


@pytest.mark.parametrize("half_list", [True, False])
def test_the_numbers_of_the_model(half_list):
    module = lennard_jones(half_list)
    model = as_model(module)
    assert type(model) is NvalchemiModel
    structures = [atoms for atoms in mixed() if atoms.cell.rank == 3 and atoms.pbc.all()]
    found = NvdynCalculator(model).evaluate([atoms.copy() for atoms in structures])
    assert module.model_config.active_outputs == {"energy", "forces"}
    for atoms, ours in zip(structures, found, strict=True):
        theirs = theirs_of(module, atoms)
        assert ours["energy"] == pytest.approx(float(theirs["energy"].item()), abs=1e-10)
        np.testing.assert_allclose(ours["forces"], theirs["forces"], atol=1e-10)
        stress = full_3x3_to_voigt_6_stress(theirs["stress"][0])
        np.testing.assert_allclose(ours["stress"], stress, atol=1e-12)


def test_the_numbers_of_our_own_potential():
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
            np.testing.assert_allclose(ours[name], value, atol=1e-11, err_msg=name)


def test_the_derivatives_are_those_of_the_energy():
    structures = mixed()
    for atoms in (structures[3], structures[6]):
        atoms.calc = NvdynCalculator(lennard_jones())
        numerical = calculate_numerical_forces(atoms, 1e-5)
        np.testing.assert_allclose(atoms.get_forces(), numerical, atol=1e-6)
        if atoms.cell.rank == 3:
            numerical = calculate_numerical_stress(atoms, 1e-6)
            np.testing.assert_allclose(atoms.get_stress(), numerical, atol=1e-6)


def test_a_network_whose_forces_are_derivatives():
    torch.manual_seed(0)
    model = as_model(DemoModelWrapper(DemoModel(hidden_dim=8)))
    assert model.model_card.forces_via_autograd
    assert model.model_card.dtype is torch.float32
    structures = [molecule("CH4"), molecule("H2O")]
    found = NvdynCalculator(model).evaluate([atoms.copy() for atoms in structures])
    for atoms, ours in zip(structures, found, strict=True):
        alone = NvdynCalculator(model).evaluate([atoms.copy()])[0]
        np.testing.assert_allclose(ours["forces"], alone["forces"], atol=1e-5)
        assert ours["forces"].shape == (len(atoms), 3)


def test_a_system_that_is_not_finite_stays_alone():
    model = as_model(lennard_jones())
    model.model_config = ModelConfig(outputs=frozenset({"energy", "forces", "stress"}))
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


def test_a_model_without_forces_is_refused():
    module = lennard_jones()
    module.model_config = TheirConfig(outputs=frozenset({"energy"}))
    with pytest.raises(ValueError, match="does not give both energy and forces"):
        as_model(module)


def test_a_list_is_relaxed_as_with_our_own_potential():
    ours, theirs = mixed(), mixed()
    FIRE(ours, model=LennardJones(sigma=2.3, epsilon=0.2, rc=CUTOFF)).run(fmax=0.05, steps=10)
    FIRE(theirs, model=lennard_jones()).run(fmax=0.05, steps=10)
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.positions, other.positions, atol=1e-8)


def test_charges_and_spins_are_handed_on():
    seen = {}

    class Looking(LennardJonesModelWrapper):
        def forward(self, data, **options):
            seen.update(charge=data.charge.tolist(), spin=data.spin.tolist())
            return super().forward(data, **options)

    model = as_model(Looking(epsilon=0.2, sigma=2.3, cutoff=CUTOFF, half_list=True))
    ions = [molecule("H2O"), molecule("NH3")]
    ions[0].info.update(charge=1, spin=2)
    model(batch_from_atoms(ions))
    assert np.ravel(seen["charge"]).tolist() == [1, 0]
    assert np.ravel(seen["spin"]).tolist() == [2, 1]
