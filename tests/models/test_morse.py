import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.morse import MorsePotential
from hypothesis import given

from nvdyn_ase.models import Morse
from tests.models import oracles

PARAMETERS = {"epsilon": 0.7, "rho0": 5.0, "r0": 2.1, "rcut1": 1.3, "rcut2": 2.2}


@oracles.examples
@given(structures=oracles.batches())
def test_numbers_are_those_of_ase(structures):
    results = oracles.evaluated(Morse(**PARAMETERS), structures)
    for atoms, values in zip(structures, results, strict=True):
        reference = oracles.asked_of_ase(atoms, MorsePotential(**PARAMETERS))
        oracles.assert_close(values, reference, scale=20.0)


def test_defaults_are_those_of_ase():
    atoms = bulk("Ar", "fcc", a=1.5) * (2, 2, 1)
    atoms.rattle(0.05, seed=1)
    (values,) = oracles.evaluated(Morse(), [atoms])
    oracles.assert_close(values, oracles.asked_of_ase(atoms, MorsePotential()), scale=20.0)


def test_it_is_zero_at_the_cutoff_and_beyond():
    for distance in (2.7, np.nextafter(2.7, 2.0), np.nextafter(2.7, 3.0), 2.9, 1.9, 1.0):
        atoms = Atoms("Ar2", [[0, 0, 0], [distance, 0, 0]])
        (values,) = oracles.evaluated(Morse(), [atoms])
        oracles.assert_close(values, oracles.asked_of_ase(atoms, MorsePotential()), scale=1e-3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"r0": 0.0}, "r0 must be positive"),
        ({"rcut2": -1.0}, "rcut2 must be positive"),
        ({"rcut1": 2.7}, "rcut1=2.7 must be less than rcut2=2.7"),
        ({"rcut1": float("nan")}, "rcut1"),
        ({"epsilon": -1.0}, "epsilon"),
        ({"rho0": float("inf")}, "rho0"),
        ({"skin": -1.0}, "skin"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Morse(**arguments)


def test_parameters_are_attributes_and_shown():
    model = Morse(**PARAMETERS, skin=0.5)
    assert {name: getattr(model, name) for name in PARAMETERS} == PARAMETERS
    assert repr(model) == "Morse(epsilon=0.7, rho0=5.0, r0=2.1, rcut1=1.3, rcut2=2.2)"
    config = model.model_card.neighbor_config
    assert (config.cutoff, config.half_list, config.skin) == (2.2 * 2.1, True, 0.5)
