"""Results are those of the total charge and spin that an Atoms has, whoever holds them."""

import copy

import pytest
from ase.build import molecule

from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator
from nvdyn_ase.models import BaseModelMixin, ModelCard, ModelOutputs
from nvdyn_ase.optimize import FIRE


class OfElectrons(BaseModelMixin):
    """Ten eV for each elementary charge, and one for each spin; those that do not say have -1."""

    model_card = ModelCard()

    def forward(self, batch):
        energy = batch["positions"].new_zeros(len(batch), 1)
        for factor, name in ((10.0, "total_charge"), (1.0, "spin_multiplicity")):
            energy = energy + (factor * batch[name] if name in batch else -factor)
        return ModelOutputs({"energy": energy, "forces": 0.0 * batch["positions"]})


def water(calc=None, **info):
    atoms = molecule("H2O")
    atoms.info |= info
    atoms.calc = calc
    return atoms


def energy_of(charge, spin):
    return 10.0 * charge + spin


def shared(atoms):
    """Return a calculator behind a proxy, as after a run of a list that shares it."""
    calc = NvdynCalculator(OfElectrons())
    other = water(calc)
    atoms.calc = calc
    FIRE([atoms, other], logfile=None).run(fmax=0.01, steps=1)
    assert atoms.calc is not calc


def alone(atoms):
    atoms.calc = NvdynCalculator(OfElectrons())


def filled(atoms):
    alone(atoms)
    FIRE([atoms], logfile=None).run(fmax=0.01, steps=1)


def together(atoms):
    NvdynCalculator(OfElectrons()).evaluate([water(charge=7), atoms])


def behind_others(atoms):
    atoms.calc = NvdynCalculator(CalculatorModel(NvdynCalculator(OfElectrons())))


@pytest.mark.parametrize("give", [alone, filled, shared, together, behind_others])
def test_a_change_of_charge_or_spin_is_noticed(give):
    atoms = water(charge=0, spin=1)
    give(atoms)
    assert atoms.get_potential_energy() == energy_of(0, 1)
    for charge, spin in ((1, 1), (1, 2), (-1, 2), (0, 1)):
        atoms.info |= {"charge": charge, "spin": spin}
        assert atoms.calc.check_state(atoms) == ["info"]
        assert atoms.get_potential_energy() == energy_of(charge, spin)
        assert atoms.calc.check_state(atoms) == []
        assert copy.deepcopy(atoms).get_potential_energy() == energy_of(charge, spin)
    atoms.info["charge"] = 0.0  # the same number
    atoms.info["name"] = "water"
    assert atoms.calc.check_state(atoms) == []


def test_who_no_longer_says_is_another_than_who_says_the_default():
    atoms = water(NvdynCalculator(OfElectrons()), charge=0, spin=1)
    assert atoms.get_potential_energy() == energy_of(0, 1)
    del atoms.info["charge"]
    assert atoms.get_potential_energy() == energy_of(-1, 1)


@pytest.mark.parametrize("charges", [(0, 1), (2, -1)])
def test_others_of_the_same_geometry_have_their_own(charges):
    calc = NvdynCalculator(OfElectrons())
    for charge in charges:
        assert calc.get_potential_energy(water(charge=charge, spin=1)) == energy_of(charge, 1)


def test_in_a_list_whoever_has_changed_is_evaluated_again():
    calc = NvdynCalculator(OfElectrons())
    structures = [water(charge=charge, spin=1) for charge in range(3)]
    for charges in ((0, 1, 2), (0, 5, 2), (3, 5, 1)):
        for atoms, charge in zip(structures, charges, strict=True):
            atoms.info["charge"] = charge
        expected = [energy_of(charge, 1) for charge in charges]
        assert [results["energy"] for results in calc.evaluate(structures)] == expected
        for atoms in structures:
            atoms.info["charge"] += 1
        assert [atoms.get_potential_energy() - 10.0 for atoms in structures] == expected
