"""Point charges: Madelung's constants, sums over pairs, derivatives, and one method by another."""

import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.build import bulk, molecule

from nvdyn_ase.calculators import NvdynCalculator
from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.models import LennardJones, SumModel, as_model
from nvdyn_ase.models.base import ModelConfig
from nvdyn_ase.optimize import FIRE
from nvdyn_ase.workflows import relax
from tests.models import oracles

pytest.importorskip("torchpme")
coulomb = pytest.importorskip("nvdyn_ase.models.coulomb")

OUTPUTS = ("energy", "free_energy", "forces", "stress", "atomic_energies")
METHODS = ("ewald", "pme")
K = units.Hartree * units.Bohr  # 14.3996 eV Å


def charged(atoms, seed=None):
    """Give atoms charges, of both signs in turn; with a seed they are moved, and the cell too."""
    charges = np.where(np.arange(len(atoms)) % 2, -1.0, 1.0)
    atoms.set_initial_charges(charges)
    if seed is not None:
        rng = np.random.default_rng(seed)
        atoms.set_initial_charges(charges * rng.uniform(0.5, 1.5, len(atoms)))
        if atoms.cell.rank == 3:
            atoms.set_cell(atoms.cell.array @ (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3))), True)
        atoms.rattle(0.1, seed=seed)
    return atoms


def structures():
    left = charged(bulk("NaCl", "rocksalt", a=5.2, cubic=True), 3)
    left.set_cell(left.cell[[1, 0, 2]])
    charged_cell = charged(bulk("Cu", cubic=True), 4)
    charged_cell.set_initial_charges([1.0, 0.5, -0.2, 0.3])
    return [
        *(charged(bulk("NaCl", "rocksalt", a=5.6), 0), charged(molecule("H2O"), 1)),
        *(charged(bulk("ZnS", "wurtzite", a=3.8), 2), left, charged_cell, charged(Atoms("Ar"))),
    ]


def batch_of(atoms_list):
    return Batch.from_data_list([AtomicData.from_atoms(atoms) for atoms in atoms_list])


def evaluated(model, atoms_list, names=OUTPUTS, **changes):
    batch = oracles.with_pairs(batch_of(atoms_list), model, **changes)
    values = oracles.outputs(model, batch, names=names)
    return oracles.per_system(values, batch)


def energy(model, atoms):
    return evaluated(model, [atoms], ("energy",))[0]["energy"][0]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("structure", "madelung"),
    [
        ("rocksalt", 1.7475645946331822),
        ("cesiumchloride", 1.76267477307099),
        ("zincblende", 1.63805505338879),
    ],
)
def test_madelung_constants(method, structure, madelung):
    crystal = charged(bulk("NaCl", structure, a=4.3))
    distance = crystal.get_distance(0, 1, mic=True)
    found = -energy(coulomb.Coulomb(method, accuracy=1e-8, mesh_spacing=0.2), crystal)
    assert found == pytest.approx(madelung * K / distance, rel=1e-7)


def test_charges_that_are_not_periodic_are_summed_over_pairs():
    atoms = charged(molecule("CH3CH2OH"), 1)
    atoms.positions *= 5.0  # beyond any cutoff
    (values,) = evaluated(coulomb.Coulomb(), [atoms])
    distances, charges = atoms.get_all_distances(), atoms.get_initial_charges()
    np.fill_diagonal(distances, np.inf)
    own = 0.5 * K * charges * (charges / distances).sum(1)
    np.testing.assert_allclose(values["atomic_energies"], own, rtol=1e-12)
    assert values["energy"][0] == values["free_energy"][0] == pytest.approx(own.sum(), rel=1e-12)
    vectors = atoms.get_all_distances(vector=True)
    pulls = K * charges[:, None, None] * charges[:, None] * vectors / distances[:, :, None] ** 3
    np.testing.assert_allclose(values["forces"], -pulls.sum(1), atol=1e-12)
    assert not values["stress"].any()


def test_the_split_into_two_parts_does_not_matter():
    crystals = [atoms for atoms in structures() if atoms.pbc.all()]
    exact = evaluated(coulomb.Coulomb(accuracy=1e-12, cutoff=9.0), crystals)
    for method in METHODS:
        for cutoff in (4.0, 7.0):
            for own, other in zip(
                evaluated(coulomb.Coulomb(method, cutoff=cutoff), crystals), exact, strict=True
            ):
                assert own["energy"] == pytest.approx(other["energy"], abs=1e-5)
                np.testing.assert_allclose(own["forces"], other["forces"], atol=5e-5)
                np.testing.assert_allclose(own["stress"], other["stress"], atol=1e-6)


@pytest.mark.parametrize("index", range(6))
@pytest.mark.parametrize("method", METHODS)
def test_forces_and_stress_are_derivatives_of_the_energy(method, index):
    model, atoms = coulomb.Coulomb(method, accuracy=1e-8, mesh_spacing=0.2), structures()[index]
    (values,), step = evaluated(model, [atoms]), 1e-4
    for i in range(min(2, len(atoms))):
        for c in range(3):
            moved = [atoms.copy(), atoms.copy()]
            moved[0].positions[i, c] += step
            moved[1].positions[i, c] -= step
            slope = (energy(model, moved[1]) - energy(model, moved[0])) / (2 * step)
            assert values["forces"][i, c] == pytest.approx(slope, abs=1e-5)
    if atoms.pbc.all():
        for a, b in ((0, 0), (0, 1), (1, 2), (2, 2)):
            moved = [atoms.copy(), atoms.copy()]
            for one, sign in zip(moved, (1, -1), strict=True):
                strain = np.eye(3)
                strain[a, b] += sign * step / 2
                strain[b, a] += sign * step / 2
                one.set_cell(one.cell.array @ strain, True)
            slope = (energy(model, moved[0]) - energy(model, moved[1])) / (2 * step)
            assert values["stress"][a, b] * atoms.cell.volume == pytest.approx(slope, abs=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_energy_goes_as_one_over_the_length(method):
    """So that the trace of the stress times the volume is minus the energy (Clausius)."""
    for atoms in structures():
        if atoms.pbc.all():
            (values,) = evaluated(coulomb.Coulomb(method, accuracy=1e-8), [atoms])
            virial = np.trace(values["stress"]) * atoms.cell.volume
            assert virial == pytest.approx(-values["energy"][0], abs=5e-5)


def test_a_system_does_not_know_its_neighbours_in_the_batch():
    for method in METHODS:
        model = coulomb.Coulomb(method)
        for atoms, one in zip(structures(), evaluated(model, structures()), strict=True):
            (alone,) = evaluated(model, [atoms])
            oracles.assert_same_bits(one, alone)


def test_half_and_full_lists_are_the_same():
    model = coulomb.Coulomb()
    full = evaluated(model, structures(), half_list=False, skin=1.0)
    for one, other in zip(evaluated(model, structures()), full, strict=True):
        oracles.assert_close(one, other, scale=1.0, tolerance=1e-12)


def test_who_has_no_sum_fails_alone():
    slab = charged(bulk("NaCl", "rocksalt", a=5.6), 0)
    slab.pbc = (True, True, False)
    found, model = [structures()[0], bulk("Cu"), slab, *structures()[:2]], coulomb.Coulomb()
    batch = oracles.with_pairs(batch_of(found), model)
    batch["positions"] = batch["positions"].clone()
    batch["positions"][batch.host_ptr[3]] = torch.nan
    values = oracles.outputs(model, batch, names=OUTPUTS)
    assert list(values.failures) == [1, 2]
    assert "no charges" in values.failures[1] and "some directions only" in values.failures[2]
    rows = oracles.per_system(values, batch)
    for row in (1, 2, 3):
        assert all(np.isnan(value).all() for value in rows[row].values())
    for row, atoms in ((0, structures()[0]), (4, structures()[1])):
        oracles.assert_same_bits(rows[row], evaluated(model, [atoms])[0])
    without = oracles.with_pairs(oracles.batch_of([bulk("Cu")]), model)
    assert "no charges" in model(without).failures[0]


def test_what_is_asked_is_given():
    model, found = coulomb.Coulomb(), structures()[:2]
    batch = oracles.with_pairs(batch_of(found), model)
    whole = oracles.outputs(model, batch, names=OUTPUTS)
    for names in ({"energy"}, {"forces"}, {"stress", "atomic_energies"}):
        model.model_config = ModelConfig(outputs=frozenset(names))
        own = model(batch)
        assert set(own) == names | {"energy"}
        for name, value in own.items():
            assert torch.equal(value, whole[name])


def test_it_is_added_to_other_models():
    parts = [coulomb.Coulomb(cutoff=5.0), LennardJones(2.4, 0.1, rc=7.0)]
    model, found = SumModel(parts), structures()
    names = ("energy", "forces", "stress")
    each = [evaluated(part, found, names) for part in parts]
    for both, *own in zip(evaluated(model, found, names), *each, strict=True):
        for name, value in both.items():
            np.testing.assert_allclose(value, own[0][name] + own[1][name], atol=1e-12)


def test_ions_are_relaxed_in_lists_and_streams():
    def salts():
        salts = [charged(bulk("NaCl", "rocksalt", a=a, cubic=True)) for a in (5.0, 5.2)]
        for seed, atoms in enumerate(salts):
            atoms.rattle(0.1, seed=seed)
        return salts

    model, listed = SumModel(["coulomb", LennardJones(2.5, 0.1, rc=6.0)]), salts()
    FIRE(listed, model=model, logfile=None).run(fmax=0.01)
    streamed = list(relax(salts(), model=model, fmax=0.01, ordered=True, optimizer="FIRE"))
    for atoms, result in zip(listed, streamed, strict=True):
        assert np.abs(atoms.get_forces()).max() < 0.01
        np.testing.assert_allclose(result.atoms.positions, atoms.positions, atol=1e-10)
        neighbours = np.sort(atoms.get_all_distances(mic=True)[0])[1:4]
        np.testing.assert_allclose(neighbours, atoms.cell[0, 0] / 2, atol=5e-3)


def test_charges_are_part_of_a_structure():
    atoms = structures()[0]
    atoms.calc = NvdynCalculator("coulomb")
    before = atoms.get_potential_energy()
    atoms.set_initial_charges(2 * atoms.get_initial_charges())
    assert atoms.get_potential_energy() == pytest.approx(4 * before, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "wolf"}, "'ewald' or 'pme', not 'wolf'"),
        ({"accuracy": 0.0}, "accuracy is 0.0"),
        ({"cutoff": -1.0}, "cutoff is -1.0"),
        ({"mesh_spacing": 0.0}, "mesh_spacing is 0.0"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        as_model("coulomb", **options)


def test_models_with_the_same_parameters_are_the_same():
    assert coulomb.Coulomb("pme").gives_same_as(coulomb.Coulomb("pme"))
    assert not coulomb.Coulomb("pme").gives_same_as(coulomb.Coulomb("ewald"))
    assert "'pme', accuracy=1e-06, cutoff=6.0" in repr(coulomb.Coulomb("pme"))
