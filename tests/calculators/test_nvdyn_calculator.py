"""``NvdynCalculator`` is an ASE calculator: the same numbers, caching, errors, and users."""

import copy
import pickle

import ase.optimize
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, fcc111, molecule
from ase.calculators.calculator import (
    CalculationFailed,
    PropertyNotImplementedError,
)
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from ase.calculators.singlepoint import SinglePointCalculator
from ase.db import connect
from ase.eos import EquationOfState
from ase.filters import FrechetCellFilter
from ase.io import read, write
from ase.mep import NEB
from ase.phonons import Phonons
from ase.vibrations import Vibrations

from nvdyn_ase import models
from nvdyn_ase.atoms import unwrapped
from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator, model_for
from nvdyn_ase.data import StructureError
from nvdyn_ase.md import VelocityVerlet
from nvdyn_ase.models import BaseModelMixin, Harmonic, ModelCard, as_model
from nvdyn_ase.neighbors import NeighborList
from nvdyn_ase.optimize import FIRE
from tests.atoms.calculators import CountingEMT
from tests.models.oracles import crystals


class Counting(BaseModelMixin):
    """EMT that counts its forward passes, and the systems in each."""

    def __init__(self):
        self.inside = models.EMT()
        self.model_card = self.inside.model_card
        self.sizes = []

    def forward(self, batch):
        self.sizes.append(len(batch))
        with self.inside.computing(self.model_config.outputs):
            return self.inside(batch)


def copper(seed=0, symbol="Cu"):
    atoms = bulk(symbol, cubic=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


def mixed():
    """Return crystals, a slab and a molecule of EMT's elements."""
    slab = fcc111("Al", (2, 2, 3), vacuum=5.0)
    slab.rattle(0.05, seed=3)
    return [copper(), copper(1, "Au") * (2, 1, 1), slab, molecule("CO"), Atoms("Cu")]


# -------------------------------------------------------------------------------- its numbers


@pytest.mark.parametrize(
    ("make", "structures"),
    [
        (EMT, mixed()),
        (lambda: LennardJones(sigma=2.0, epsilon=0.1, rc=5.0), crystals(9)),
        (lambda: MorsePotential(r0=2.0), crystals(9, seed=1)),
    ],
)
def test_the_numbers_of_ase(make, structures):
    theirs = make()
    calc = NvdynCalculator(theirs)
    names = [name for name in calc.implemented_properties if name in theirs.implemented_properties]
    assert {"energy", "free_energy", "forces", "stress", "energies"} <= set(names)
    for atoms in structures:
        for name in names:
            if name.startswith("stress") and atoms.cell.rank < 3:
                with pytest.raises(PropertyNotImplementedError):
                    calc.get_property(name, atoms)
                continue
            expected = make().get_property(name, atoms)
            found = calc.get_property(name, atoms)
            assert np.shape(found) == np.shape(expected)
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_alone_and_in_a_list_are_the_same_bits():
    calc = NvdynCalculator("emt")
    structures = mixed()
    together = calc.evaluate(structures)
    for atoms, results in zip(structures, together, strict=True):
        own = atoms.copy()
        own.calc = NvdynCalculator("emt")
        assert own.get_potential_energy() == results["energy"] == atoms.get_potential_energy()
        np.testing.assert_array_equal(own.get_forces(), results["forces"])
        np.testing.assert_array_equal(atoms.get_forces(), results["forces"])


def test_any_calculator_may_be_inside():
    atoms = copper()
    calc = NvdynCalculator(CalculatorModel(CountingEMT()))
    assert calc.get_potential_energy(atoms) == EMT().get_potential_energy(atoms)
    np.testing.assert_array_equal(calc.get_stress(atoms), EMT().get_stress(atoms))
    np.testing.assert_array_equal(
        calc.get_potential_energies(atoms), EMT().get_potential_energies(atoms)
    )


# -------------------------------------------------------------------------------- ASE's rules


def test_one_forward_pass_for_everything_until_something_changes():
    model = Counting()
    atoms = copper()
    atoms.calc = NvdynCalculator(model)
    for _ in range(2):
        atoms.get_forces()
        atoms.get_potential_energy(force_consistent=True)
        atoms.get_stress()
        atoms.get_potential_energies()
    atoms.set_velocities(np.ones((4, 3)))
    atoms.get_forces()
    assert model.sizes == [1]
    for count, change in enumerate(
        (
            lambda: atoms.rattle(0.01),
            lambda: atoms.set_cell(atoms.cell * 1.01),
            lambda: atoms.set_pbc((True, True, False)),
            lambda: setattr(atoms, "numbers", [29, 29, 29, 79]),
            lambda: atoms.set_initial_charges(np.ones(4)),
            lambda: atoms.append("Cu"),
        ),
        start=2,
    ):
        change()
        assert atoms.calc.calculation_required(atoms, ["energy"])
        atoms.get_forces()
        atoms.get_potential_energy()
        assert len(model.sizes) == count
        expected = atoms.copy()
        expected.calc = EMT()
        np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), atol=1e-12)


def test_results_are_not_those_that_a_user_has_changed():
    atoms = copper()
    atoms.calc = NvdynCalculator("emt")
    atoms.get_forces()[:] = 0.0
    assert np.abs(atoms.get_forces()).max() > 0.1


def test_properties_that_it_does_not_have():
    atoms = copper()
    atoms.calc = NvdynCalculator(Harmonic())
    assert "stress" not in atoms.calc.implemented_properties
    for ask in (atoms.get_stress, atoms.get_dipole_moment, atoms.get_magnetic_moments):
        with pytest.raises(PropertyNotImplementedError):
            ask()
    with pytest.raises(PropertyNotImplementedError, match="colour"):
        atoms.calc.get_property("colour", atoms)
    assert atoms.calc.get_property("energy", atoms, allow_calculation=False) is None
    with pytest.raises(ValueError, match="has not seen any Atoms"):
        NvdynCalculator("emt").calculate()


def test_what_it_cannot_evaluate_is_said_and_does_not_stay():
    atoms = Atoms("CuU", [[0, 0, 0], [0, 0, 2.5]])
    atoms.calc = NvdynCalculator("emt")
    for _ in range(2):
        with pytest.raises(CalculationFailed, match="EMT has no parameters for U"):
            atoms.get_potential_energy()
    atoms.numbers[1] = 79
    assert atoms.get_potential_energy() == pytest.approx(EMT().get_potential_energy(atoms))


def test_parameters_are_the_model_s():
    calc = NvdynCalculator("lj", sigma=2.0, rc=5.0)
    assert calc.model.sigma == 2.0
    with pytest.raises(TypeError, match=r"sigma.*NvdynCalculator\(model\)"):
        calc.set(sigma=3.0)
    with pytest.raises(AttributeError):
        calc.model = Harmonic()
    assert repr(calc) == f"NvdynCalculator({calc.model!r})"


def test_copies_and_pickles():
    atoms = copper()
    atoms.calc = NvdynCalculator("emt")
    energy = atoms.get_potential_energy()
    for twin in (copy.deepcopy(atoms), pickle.loads(pickle.dumps(atoms))):
        assert twin.calc is not atoms.calc
        assert twin.get_potential_energy() == energy
        twin.rattle(0.1)
        assert twin.get_potential_energy() != energy
    NvdynCalculator("emt").evaluate([atoms_2 := copper(), copper(1)])
    for twin in (copy.deepcopy(atoms_2), pickle.loads(pickle.dumps(atoms_2))):
        twin.rattle(0.1, seed=9)
        expected = EMT().get_potential_energy(twin)
        assert twin.get_potential_energy() == pytest.approx(expected, abs=1e-12)


# -------------------------------------------------------------------------------- users in ASE


def both(run, *arguments):
    """Return what a use of a calculator gives with ours and with ASE's."""
    return run(NvdynCalculator("emt"), *arguments), run(EMT(), *arguments)


def test_equation_of_state():
    def run(calc):
        volumes, energies = [], []
        for scale in np.linspace(0.96, 1.04, 5):
            atoms = bulk("Ag", a=4.06 * scale)
            atoms.calc = calc
            volumes.append(atoms.get_volume())
            energies.append(atoms.get_potential_energy())
        return EquationOfState(volumes, energies).fit()

    ours, theirs = both(run)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_vibrations(tmp_path):
    def run(calc, name):
        atoms = molecule("CO")
        atoms.calc = calc
        vibrations = Vibrations(atoms, name=str(tmp_path / f"{name}-{type(calc).__name__}"))
        vibrations.run()
        return vibrations.get_energies()

    ours, theirs = both(run, "co")
    np.testing.assert_allclose(ours[-1], theirs[-1], rtol=1e-8)


def test_phonons(tmp_path):
    def run(calc):
        name = str(tmp_path / type(calc).__name__)
        phonons = Phonons(bulk("Cu"), calc, supercell=(2, 2, 2), delta=0.05, name=name)
        phonons.run()
        phonons.read(acoustic=True)
        return phonons.get_force_constant()

    ours, theirs = both(run)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_optimizers_and_filters():
    def run(calc):
        atoms = copper()
        atoms.calc = calc
        ase.optimize.BFGS(FrechetCellFilter(atoms), logfile=None).run(fmax=0.01, steps=5)
        return np.vstack([atoms.positions, atoms.cell.array])

    ours, theirs = both(run)
    np.testing.assert_allclose(ours, theirs, atol=1e-10)


def test_databases_and_files(tmp_path):
    atoms = copper()
    atoms.calc = NvdynCalculator("emt")
    forces = atoms.get_forces()
    with connect(tmp_path / "all.db") as database:
        row = database.get(database.write(atoms))
    assert row.energy == atoms.get_potential_energy()
    np.testing.assert_array_equal(row.forces, forces)
    assert (row.calculator, row.calculator_parameters) == ("nvdyn", atoms.calc.todict())
    assert row.calculator_parameters == {"model": repr(atoms.calc.model)}
    for name in ("one.traj", "one.extxyz"):
        write(tmp_path / name, atoms)
        np.testing.assert_allclose(read(tmp_path / name).get_forces(), forces, atol=1e-7)


def band():
    """Return images of an Al atom that hops on Al(100)."""
    first = fcc111("Al", (2, 1, 2), vacuum=5.0)
    last = first.copy()
    first.positions[-1] += (0.3, 0.0, 0.2)
    last.positions[-1] += (-0.3, 0.2, 0.2)
    return [first, *(first.copy() for _ in range(3)), last]


def relaxed_band(images, **options):
    neb = NEB(images, method="improvedtangent", **options)
    neb.interpolate()
    ase.optimize.BFGS(neb, logfile=None).run(fmax=0.01, steps=4)
    return [atoms.get_potential_energy() for atoms in images]


def test_bands_of_images_with_own_and_shared_calculators():
    images = band()
    for atoms in images:
        atoms.calc = EMT()
    expected = relaxed_band(images)

    images = band()
    for atoms in images:
        atoms.calc = NvdynCalculator("emt")
    np.testing.assert_allclose(relaxed_band(images), expected, atol=1e-9)

    images, calc = band(), NvdynCalculator("emt")
    for atoms in images:
        atoms.calc = calc
    energies = relaxed_band(images, allow_shared_calculator=True)
    np.testing.assert_allclose(energies, expected, atol=1e-9)


# -------------------------------------------------------------------------------- lists


def test_a_band_does_one_forward_pass_a_step():
    images, model = band(), Counting()
    NvdynCalculator(model).evaluate(images)
    neb = NEB(images, method="improvedtangent")
    neb.interpolate()
    assert model.sizes == [5]
    optimizer = ase.optimize.BFGS(neb, logfile=None)
    optimizer.run(fmax=0.001, steps=4)
    energies = [atoms.get_potential_energy() for atoms in images]
    assert model.sizes == [5, *[3] * 5]

    images = band()
    for atoms in images:
        atoms.calc = EMT()
    np.testing.assert_allclose(energies, relaxed_band(images), atol=1e-9)


def test_those_who_moved_are_evaluated_when_the_first_is_asked():
    model = Counting()
    calc = NvdynCalculator(model)
    structures = mixed()[:3]
    calc.evaluate(structures)
    assert all(unwrapped(atoms.calc) is calc for atoms in structures)
    for atoms in structures[:2]:
        atoms.rattle(0.05, seed=7)
    for atoms in structures:
        expected = EMT().get_property("forces", atoms)
        np.testing.assert_allclose(atoms.get_forces(), expected, atol=1e-12)
        atoms.get_stress()
    assert model.sizes == [3, 2]
    structures[1].calc = calc  # leaves
    for atoms in structures:
        atoms.rattle(0.05, seed=8)
    structures[0].get_forces()
    assert model.sizes == [3, 2, 2]
    kept = structures.pop(0)
    del structures[:], atoms  # nobody holds the others any more
    kept.rattle(0.05, seed=9)
    kept.get_forces()
    assert model.sizes == [3, 2, 2, 1]


def test_a_member_may_be_asked_about_another_atoms():
    structures = [copper(), copper(1)]
    NvdynCalculator("emt").evaluate(structures)
    other = copper(2) * (2, 1, 1)
    expected = EMT().get_potential_energy(other)
    assert structures[0].calc.get_potential_energy(other) == pytest.approx(expected, abs=1e-12)
    expected = EMT().get_potential_energy(structures[0])
    assert structures[0].get_potential_energy() == pytest.approx(expected, abs=1e-12)


def test_a_later_list_takes_over():
    model = Counting()
    calc = NvdynCalculator(model)
    structures = [copper(seed) for seed in range(3)]
    calc.evaluate(structures)
    calc.evaluate(structures[1:])
    for atoms in structures:
        atoms.rattle(0.05, seed=5)
    structures[2].get_forces()
    structures[0].get_forces()
    assert model.sizes == [3, 2, 2, 1]


def test_the_same_list_again_uses_its_pairs_again(monkeypatch):
    made, search = [], NeighborList.__init__

    def counted(own, *arguments, **options):
        made.append(own)
        search(own, *arguments, **options)

    calc = NvdynCalculator("emt")
    monkeypatch.setattr(NeighborList, "__init__", counted)
    structures = mixed()
    for seed in range(3):
        found = calc.evaluate(structures)
        for atoms, results in zip(structures, found, strict=True):
            expected = EMT().get_property("forces", atoms)
            np.testing.assert_allclose(results["forces"], expected, atol=1e-12)
            atoms.rattle(0.01, seed=seed)
    assert len(made) == 1
    calc.evaluate(structures[::-1])
    calc.evaluate(structures[1:])
    assert len(made) == 3
    assert pickle.loads(pickle.dumps(calc)).get_potential_energy(structures[0].copy())


def test_the_same_atoms_twice_and_none():
    calc, atoms = NvdynCalculator("emt"), copper()
    first, second = calc.evaluate([atoms, atoms])
    assert first["energy"] == second["energy"] == atoms.get_potential_energy()
    assert calc.evaluate([]) == []


def test_only_atoms_that_share_the_calculator():
    calc, structures = NvdynCalculator("emt"), [copper(), copper(1)]
    structures[1].calc = EMT()
    with pytest.raises(StructureError, match=r"structure 1: its calculator is another one.*EMT"):
        calc.evaluate(structures)
    assert structures[0].calc is None
    structures[1].calc = SinglePointCalculator(structures[1], energy=1.0)
    with pytest.raises(StructureError, match="SinglePoint"):
        calc.evaluate(structures)


def test_who_fails_leaves_the_others_alone():
    good, bad = copper(), Atoms("CuU", [[0, 0, 0], [0, 0, 2.5]])
    calc = NvdynCalculator("emt")
    with pytest.raises(CalculationFailed, match="structure 1: EMT has no parameters for U"):
        calc.evaluate([good, bad])
    assert good.calc.results["energy"] == pytest.approx(EMT().get_potential_energy(good))
    with pytest.raises(CalculationFailed, match="no parameters for U"):
        bad.get_potential_energy()
    bad.numbers[1] = 29
    good.rattle(0.1)
    assert bad.get_potential_energy() == pytest.approx(EMT().get_potential_energy(bad))
    assert not good.calc.check_state(good)


# -------------------------------------------------------------------------------- facades


def test_lists_are_moved_by_the_model_inside():
    model = models.EMT()
    calc = NvdynCalculator(model)
    assert as_model(calc) is model
    shared, own = mixed()[:3], mixed()[:3]
    for atoms in shared:
        atoms.calc = calc
    for atoms in own:
        atoms.calc = NvdynCalculator(model)
    assert model_for(shared) is model
    assert model_for(own) is model
    assert type(model_for([own[0], *shared[:1]])) is models.EMT
    own[1].calc = NvdynCalculator(models.EMT(asap_cutoff=True))
    assert type(model_for(own)) is CalculatorModel


@pytest.mark.parametrize("make", [lambda: None, lambda: LennardJones(sigma=2.0)])
@pytest.mark.parametrize("count", [1, 3])
def test_the_model_of_a_run_stays_as_the_calculator(make, count):
    model = Counting()
    structures = mixed()[:count]
    for atoms in structures:
        atoms.calc = make()
    FIRE(structures, model=model, logfile=None).run(fmax=0.01, steps=3)
    passes = len(model.sizes)
    for atoms in structures:
        expected = atoms.copy()
        expected.calc = EMT()
        assert unwrapped(atoms.calc).model is model
        np.testing.assert_allclose(atoms.get_forces(), expected.get_forces(), atol=1e-12)
        assert len(model.sizes) == passes
    for atoms in structures:
        atoms.rattle(0.05, seed=11)
        expected = EMT().get_potential_energy(atoms)
        assert atoms.get_potential_energy() == pytest.approx(expected, abs=1e-12)
    VelocityVerlet(structures, 1.0, logfile=None).run(2)
    assert len(model.sizes) > passes + count


def test_a_model_says_what_else_it_gives():
    class Extra(Harmonic):
        def __init__(self):
            super().__init__()
            self.model_card = ModelCard(extra_outputs=frozenset({"charges"}))

        def forward(self, batch):
            outputs = super().forward(batch)
            outputs["charges"] = batch["positions"][:, 0]
            return outputs

    calc = NvdynCalculator(Extra())
    assert calc.implemented_properties == ["energy", "free_energy", "forces", "charges"]
    atoms = copper()
    np.testing.assert_array_equal(calc.get_charges(atoms), atoms.positions[:, 0])
