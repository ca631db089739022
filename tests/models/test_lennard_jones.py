import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk
from ase.calculators.lj import LennardJones as AseLennardJones
from ase.data import atomic_numbers
from hypothesis import given

from nvdyn_ase.models import LennardJones
from nvdyn_ase.models.mixing import RULES
from tests.models import oracles

PARAMETERS = {"sigma": 1.9, "epsilon": 0.8, "rc": 4.7}
KINDS = [{}, {"smooth": True}, {"smooth": True, "ro": 1.8}]
kinds = pytest.mark.parametrize("kind", KINDS, ids=["shifted", "smooth", "smooth-early"])


# -------------------------------------------------------------------------------- as ASE


@kinds
@oracles.examples
@given(structures=oracles.batches())
def test_numbers_are_those_of_ase(kind, structures):
    model = LennardJones(**PARAMETERS, **kind)
    results = oracles.evaluated(model, structures)
    for atoms, values in zip(structures, results, strict=True):
        reference = oracles.asked_of_ase(atoms, AseLennardJones(**PARAMETERS, **kind))
        oracles.assert_close(values, reference, scale=20.0)


def test_defaults_are_those_of_ase():
    atoms = bulk("Ar", "fcc", a=1.6) * (2, 2, 1)
    atoms.rattle(0.05, seed=1)
    (values,) = oracles.evaluated(LennardJones(), [atoms])
    oracles.assert_close(values, oracles.asked_of_ase(atoms, AseLennardJones()), scale=20.0)


@pytest.mark.parametrize("smooth", [False, True])
def test_a_pair_at_the_cutoff_is_in_as_in_ase(smooth):
    for distance in (3.0, np.nextafter(3.0, 4.0), np.nextafter(3.0, 2.0)):
        atoms = Atoms("Ar2", [[0, 0, 0], [distance, 0, 0]])
        (values,) = oracles.evaluated(LennardJones(1.0, 1.0, rc=3.0, smooth=smooth), [atoms])
        reference = oracles.asked_of_ase(atoms, AseLennardJones(rc=3.0, smooth=smooth))
        oracles.assert_close(values, reference, scale=1e-3)
        assert (values["forces"] == 0).all() == (reference["forces"] == 0).all()


# -------------------------------------------------------------------------------- several kinds

SIGMA = {"Ar": 1.9, "Kr": 2.2, "Xe": 2.4}
EPSILON = {18: 0.8, "Kr": 1.1, "Xe": 1.3}


def mixed_terms(rule, rc=None):
    """Return the energy of a pair and its derivative, with textbook formulas."""

    def terms(r, a, b):
        (s1, e1), (s2, e2) = (
            next(
                (s, e)
                for (name, s), e in zip(SIGMA.items(), EPSILON.values(), strict=True)
                if atomic_numbers[name] == z
            )
            for z in (a, b)
        )
        sigma, epsilon = {
            "lorentz-berthelot": ((s1 + s2) / 2, np.sqrt(e1 * e2)),
            "geometric": (np.sqrt(s1 * s2), np.sqrt(e1 * e2)),
            "waldman-hagler": (
                ((s1**6 + s2**6) / 2) ** (1 / 6),
                2 * np.sqrt(e1 * e2) * (s1 * s2) ** 3 / (s1**6 + s2**6),
            ),
        }[rule]
        cutoff = 3 * sigma if rc is None else rc
        if r > cutoff:
            return 0.0, 0.0
        x, y = sigma / r, sigma / cutoff
        energy = 4 * epsilon * (x**12 - x**6 - y**12 + y**6)
        return energy, -24 * epsilon * (2 * x**12 - x**6) / r

    return terms


@pytest.mark.parametrize("rc", [None, 5.1])
@pytest.mark.parametrize("rule", sorted(RULES))
def test_mixtures_are_sums_over_pairs(rule, rc):
    structures = oracles.crystals(6, seed=4, symbols=sorted(SIGMA))
    model = LennardJones(SIGMA, EPSILON, rc=rc, mixing=rule)
    cutoff = 3 * 2.4 if rc is None else rc
    assert model.model_card.neighbor_config.cutoff == cutoff
    terms = mixed_terms(rule, rc)
    for atoms, values in zip(structures, oracles.evaluated(model, structures), strict=True):
        reference = oracles.summed_over_pairs(atoms, cutoff, terms)
        oracles.assert_close(values, reference, scale=20.0)


def test_a_pair_that_is_given_is_not_combined():
    sigma = {"Ar": 1.9, "Kr": 2.2, ("Kr", "Ar"): 2.0}
    atoms = Atoms("ArKr", [[0, 0, 0], [0, 0, 2.3]])
    (mixed,) = oracles.evaluated(LennardJones(sigma, 0.7, rc=5.0), [atoms])
    (plain,) = oracles.evaluated(LennardJones(2.0, 0.7, rc=5.0), [atoms])
    oracles.assert_same_bits(mixed, plain)


def test_pairs_alone_are_enough_where_all_are_given():
    pairs = {("Ar", "Ar"): 1.9, ("Ar", "Kr"): 2.0, ("Kr", "Kr"): 2.2}
    structures = oracles.crystals(3, symbols=["Ar", "Kr"])
    by_pairs = oracles.evaluated(LennardJones(pairs, 0.7, rc=5.0), structures)
    sigma = {"Ar": 1.9, "Kr": 2.2, ("Ar", "Kr"): 2.0}
    for one, other in zip(
        by_pairs, oracles.evaluated(LennardJones(sigma, 0.7, rc=5.0), structures), strict=True
    ):
        oracles.assert_same_bits(one, other)


@kinds
def test_one_kind_in_a_dict_has_the_bits_of_numbers(kind):
    structures = oracles.crystals(8)
    numbers = oracles.evaluated(LennardJones(**PARAMETERS, **kind), structures)
    named = LennardJones({"Ar": 1.9}, {"Ar": 0.8}, rc=4.7, **kind)
    for one, other in zip(numbers, oracles.evaluated(named, structures), strict=True):
        oracles.assert_same_bits(one, other)


def test_elements_without_parameters_are_unknown_and_named():
    model = LennardJones({"Ar": 1.9, "Kr": 2.2}, 0.7, rc=5.0)
    assert model.model_card.supported_elements == {18, 36}
    assert model.elements_unknown([18, 10, 2]) == [2, 10]
    assert LennardJones().elements_unknown([18, 10, 2]) == []

    structures = [Atoms("Ar2", [[0, 0, 0], [0, 0, 2]]), Atoms("ArNe", [[0, 0, 0], [0, 0, 2]])]
    structures += [Atoms("He"), structures[0]]
    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    for torch_path in (False, True):
        values = oracles.outputs(model, batch, torch_path)
        finite = values["energy"].isfinite().view(-1).tolist()
        assert finite == [True, False, False, True]
        for name in ("forces", "atomic_energies", "atomic_stresses"):
            bad = values[name].isnan().view(7, -1)
            assert (bad.all(1) == bad.any(1)).all(), name
            assert bad.all(1).tolist() == [False] * 2 + [True] * 3 + [False] * 2, name
        assert values["stress"][1:3].isnan().all()
        assert list(values.failures) == [1, 2]
        assert "Ne" in values.failures[1] and "He" in values.failures[2]


# -------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rc": 0.0}, "rc.*positive"),
        ({"rc": -1.0}, "rc.*positive"),
        ({"rc": float("inf")}, "rc.*positive"),
        ({"sigma": 0.0}, "sigma must be positive"),
        ({"sigma": float("nan")}, "sigma must be positive"),
        ({"epsilon": -0.1}, "epsilon must not be negative"),
        ({"epsilon": float("nan")}, "epsilon"),
        ({"rc": 3.0, "ro": 3.0, "smooth": True}, "ro.*between 0 and rc=3.0"),
        ({"rc": 3.0, "ro": -1.0, "smooth": True}, "ro.*between"),
        ({"skin": -1.0}, "skin"),
        ({"sigma": {"Ar": 1.0}, "mixing": "democratic"}, "democratic.*geometric"),
        ({"mixing": "democratic"}, "democratic.*geometric"),
        ({"sigma": {"Qq": 1.0}}, "'Qq' is not an element"),
        ({"sigma": {400: 1.0}}, "400 is not an element"),
        ({"sigma": {("Ar", "Kr", "Xe"): 1.0}}, "neither an element nor a pair"),
        ({"sigma": {("Ar", "Kr"): 1.0, ("Kr", "Ar"): 2.0}}, "two values"),
        ({"sigma": {"Ar": 1.0, 18: 2.0}}, "two values"),
        ({"sigma": {"Ar": 1.0, ("Kr", "Kr"): 0.0}}, "sigma must be positive"),
        ({"sigma": {"Ar": 1.0, "Kr": -1.0}}, "sigma must not be negative.*'Kr'"),
        ({"epsilon": {"Ar": 1.0, ("Ar", "Kr"): float("inf")}}, "epsilon must not be negative"),
        ({"sigma": {"Ar": 1.0}, "epsilon": {"Kr": 1.0}}, "sigma has no value for Ar-Kr"),
        ({"sigma": {("Ar", "Kr"): 1.0}}, "sigma has no value for Ar-Ar"),
        ({"sigma": {}}, "name no element"),
    ],
)
def test_parameters_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        LennardJones(**arguments)


def test_parameters_are_attributes_and_shown():
    model = LennardJones(3.4, 0.01, rc=8.5, smooth=True, skin=0.5, mixing="geometric")
    assert (model.sigma, model.epsilon, model.rc, model.ro) == (3.4, 0.01, 8.5, None)
    assert (model.smooth, model.skin, model.mixing) == (True, 0.5, "geometric")
    assert repr(model) == "LennardJones(sigma=3.4, epsilon=0.01, rc=8.5, ro=None, smooth=True)"
    assert dict(model.model_card.neighbor_config) == {"cutoff": 8.5, "half_list": True, "skin": 0.5}
    assert LennardJones(3.4, 0.01).model_card.neighbor_config.cutoff == pytest.approx(10.2)


def test_the_list_of_another_batch_is_refused():
    model = LennardJones()
    batch = oracles.batch_of(oracles.crystals(3))
    with pytest.raises(ValueError, match=r"no neighbour list.*NeighborList"):
        model(batch)
    oracles.with_pairs(batch, LennardJones(rc=2.0))
    with pytest.raises(ValueError, match=r"reaches 2\.0"):
        model(batch)
    other = oracles.with_pairs(oracles.batch_of(oracles.crystals(5)), model)
    batch.neighbors = other.neighbors
    with pytest.raises(ValueError, match="another batch"):
        model(batch)


def test_only_what_is_asked_for_is_computed():
    model = LennardJones(1.9, rc=4.0)
    batch = oracles.with_pairs(oracles.batch_of(oracles.crystals(3)), model)
    assert set(model(batch)) == {"energy", "forces"}
    with model.computing({"stress"}):
        assert set(model(batch)) == {"energy", "forces", "stress"}
    assert set(model.forward_torch(batch)) == {"energy", "forces"}


def test_results_have_the_type_of_the_positions():
    model = LennardJones(1.9, rc=4.0)
    structures = oracles.crystals(5)
    double = oracles.with_pairs(oracles.batch_of(structures), model)
    single = oracles.with_pairs(oracles.batch_of(structures, torch.float32), model)
    for torch_path in (False, True):
        expected = oracles.outputs(model, double, torch_path)
        for key, value in oracles.outputs(model, single, torch_path).items():
            assert value.dtype is torch.float32
            assert torch.allclose(value.double(), expected[key], rtol=1e-3, atol=1e-3), key
