"""Velocities for one Atoms as in ASE, and for a list."""

import ase.md.velocitydistribution as theirs
import numpy as np
import pytest
from ase import units
from ase.build import bulk, molecule
from ase.constraints import FixAtoms

import nvdyn_ase.md.velocitydistribution as ours

pytestmark = pytest.mark.filterwarnings("ignore:Use thermalize_momenta")
DRAWING = ["MaxwellBoltzmannDistribution", "thermalize_momenta"]


def structures():
    slab = bulk("Cu", cubic=True)
    slab.set_constraint(FixAtoms([0, 1]))
    return [bulk("Au") * 2, slab, molecule("C2H6"), molecule("H2O")]


def moving():
    systems = structures()
    for seed, atoms in enumerate(systems):
        theirs.thermalize_momenta(atoms, 300.0, rng=np.random.default_rng(seed))
    return systems


def momenta(systems):
    return [atoms.get_momenta() for atoms in systems]


@pytest.mark.parametrize("name", DRAWING)
def test_one_atoms_and_a_generator_each_give_ases_numbers(name):
    temperatures = [100.0, 200.0, 300.0, 400.0]
    one, each, alone = structures(), structures(), structures()
    rngs = [np.random.default_rng(seed) for seed in range(4)]
    getattr(ours, name)(each, temperature_K=temperatures, rng=rngs)
    for row in range(4):
        options = {"temperature_K": temperatures[row]}
        getattr(ours, name)(one[row], **options, rng=np.random.default_rng(row))
        getattr(theirs, name)(alone[row], **options, rng=np.random.default_rng(row))
    for a, b, c in zip(momenta(one), momenta(each), momenta(alone), strict=True):
        assert np.array_equal(a, b)
        assert np.array_equal(a, c)
    assert not each[1].get_momenta()[:2].any()


def test_streams_follow_from_the_seed_and_the_place():
    first, second, third = structures(), structures(), structures()
    ours.thermalize_momenta(first, 300.0, seed=7)
    ours.thermalize_momenta(second[:2], 300.0, seed=7)
    np.random.seed(0)
    ours.thermalize_momenta(third, 300.0)
    again = structures()
    np.random.seed(0)
    ours.thermalize_momenta(again, 300.0)
    for row in range(2):
        assert np.array_equal(first[row].get_momenta(), second[row].get_momenta())
    for a, b, c in zip(momenta(first), momenta(third), momenta(again), strict=True):
        assert not np.array_equal(a, b)
        assert np.array_equal(b, c)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("Stationary", {}),
        ("Stationary", {"preserve_temperature": False}),
        ("ZeroRotation", {}),
        ("force_temperature", {"temperature": [10.0, 20.0, 30.0, 40.0]}),
        ("force_temperature", {"temperature": 0.01, "unit": "eV"}),
    ],
)
def test_what_changes_momenta_changes_each_as_ase_does(name, options):
    several, alone = moving(), moving()
    if name == "ZeroRotation":
        several, alone = several[2:], alone[2:]
    getattr(ours, name)(several, *options.values())
    for row, atoms in enumerate(alone):
        own = {k: v[row] if isinstance(v, list) else v for k, v in options.items()}
        getattr(theirs, name)(atoms, **own)
    for a, b in zip(momenta(several), momenta(alone), strict=True):
        assert np.array_equal(a, b)


def test_the_temperature_is_right_on_average():
    systems = [bulk("Cu", cubic=True) * 3 for _ in range(20)]
    ours.thermalize_momenta(systems, 250.0, seed=1)
    kinetic = [2 * a.get_kinetic_energy() / (3 * len(a) * units.kB) for a in systems]
    # 20 x 324 degrees of freedom: the mean is good to 2 % (one standard deviation 1.8 %).
    assert np.mean(kinetic) == pytest.approx(250.0, rel=0.07)
    ours.thermalize_momenta(systems, 250.0, seed=1, exact_temperature=True)
    assert [a.get_temperature() for a in systems] == pytest.approx([250.0] * 20)


def test_wrong_numbers_are_refused():
    with pytest.raises(ValueError, match="temperature_K: 2 values for 4 systems"):
        ours.thermalize_momenta(structures(), [1.0, 2.0])
    with pytest.raises(ValueError, match="rng: 1 generators for 4 systems"):
        ours.thermalize_momenta(structures(), 1.0, rng=[np.random.default_rng(0)])
