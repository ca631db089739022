"""``Tersoff`` against ASE's, and its parameters."""

import ase.calculators.tersoff
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk, surface
from ase.calculators.tersoff import TersoffParameters

from nvdyn_ase.calculators import CalculatorModel
from nvdyn_ase.calculators.choosing import interchangeable
from nvdyn_ase.models import Tersoff, as_model
from nvdyn_ase.models.potential_files import PotentialFileError
from tests.models import oracles
from tests.models.tersoff_parameters import NAMES, SILICON_T2, as_text, silicon_carbide


def of_ase(triples):
    return ase.calculators.tersoff.Tersoff(
        {key: TersoffParameters.from_list(numbers) for key, numbers in triples.items()}
    )


def asked_of_ase(atoms, triples):
    """Return what ASE's class says; None where it divides by zero, with one neighbour or none."""
    atoms = atoms.copy()
    atoms.calc = of_ase(triples)
    try:
        reference = {
            "energy": np.array([atoms.get_potential_energy()]),
            "forces": atoms.get_forces(),
            "atomic_energies": atoms.get_potential_energies(),
        }
    except ZeroDivisionError:
        return None
    if atoms.cell.rank == 3:
        reference["stress"] = atoms.get_stress(voigt=False)
    return reference


def structures():
    rng = np.random.default_rng(5)
    carbide = bulk("SiC", "zincblende", a=4.36)
    skewed = bulk("Si") * (1, 2, 1)
    skewed.set_cell(skewed.cell @ (np.eye(3) + rng.uniform(-0.1, 0.1, (3, 3))), scale_atoms=True)
    skewed.cell[2] += 2 * skewed.cell[0]
    found = [
        *(bulk("Si"), bulk("C"), carbide, carbide * (1, 2, 1), skewed),
        *(surface("Si", (1, 1, 1), 2, vacuum=4.0), surface(carbide, (1, 0, 0), 2, vacuum=4.0)),
        *oracles.crystals(8, 2, 1.8, ("Si", "C")),
    ]
    for atoms in found[1:]:
        atoms.rattle(0.05, rng=rng)
    return found


@pytest.mark.parametrize("torch_path", [False, True])
@pytest.mark.parametrize("triples", [silicon_carbide(), SILICON_T2], ids=["SiC", "T2"])
def test_numbers_are_those_of_ase(triples, torch_path):
    model = Tersoff(triples)
    known = [a for a in structures() if not model.elements_unknown(a.numbers)]
    known += [Atoms("Si"), Atoms("Si2", [[0, 0, 0], [9, 0, 0]])]
    batch = oracles.with_pairs(oracles.batch_of(known), model)
    results = oracles.per_system(oracles.outputs(model, batch, torch_path), batch)
    compared = 0
    for atoms, values in zip(known, results, strict=True):
        reference = asked_of_ase(atoms, triples)
        if reference is not None:
            oracles.assert_close(values, reference, scale=10.0, tolerance=1e-12)
            compared += 1
    assert compared >= 6


def test_the_cohesive_energy_is_the_published_one():
    """Tersoff (1989): 4.63 eV per atom of silicon at 5.432 Å, 7.37 eV of diamond at 3.566 Å."""
    crystals = [bulk("Si", a=5.432), bulk("C", a=3.566)]
    energies = [v["energy"][0] / 2 for v in oracles.evaluated(Tersoff(silicon_carbide()), crystals)]
    assert energies == pytest.approx([-4.63, -7.37], abs=0.01)


@pytest.mark.parametrize("torch_path", [False, True])
def test_a_bond_alone_is_of_order_one(torch_path):
    """ASE divides by zero here; the limit is what two atoms far from all others have."""
    model, triples = Tersoff(silicon_carbide()), silicon_carbide()
    row = dict(zip(NAMES, triples["Si", "Si", "Si"], strict=True))
    r = 2.3
    repulsion = row["A"] * np.exp(-row["lambda1"] * r)
    attraction = row["B"] * np.exp(-row["lambda2"] * r)
    pull = row["lambda2"] * attraction - row["lambda1"] * repulsion
    batch = oracles.batch_of([Atoms("Si2", [[0, 0, 0], [r, 0, 0]])])
    values = oracles.outputs(model, oracles.with_pairs(batch, model), torch_path)
    assert float(values["energy"]) == pytest.approx(repulsion - attraction, abs=1e-12)
    expected = np.array([[pull, 0, 0], [-pull, 0, 0]])
    assert np.abs(values["forces"].numpy() - expected).max() < 1e-12


# -------------------------------------------------------------------- where parameters come from


def test_files_dicts_and_calculators_make_the_same(tmp_path):
    triples = silicon_carbide()
    path = tmp_path / "SiC.tersoff"
    path.write_text(as_text(triples))
    model = Tersoff(triples)
    named = as_model("tersoff", potential=str(path), skin=0.2)
    assert type(named) is Tersoff and named.skin == 0.2
    for other in (named, as_model(of_ase(triples)), Tersoff(of_ase(triples).parameters)):
        assert type(other) is Tersoff
        assert other.gives_same_as(model)
    assert interchangeable(of_ase(triples), of_ase(triples))
    assert not interchangeable(of_ase(triples), of_ase(SILICON_T2))
    assert repr(Tersoff(SILICON_T2)) == "Tersoff(elements='Si', cutoff=3.2)"
    assert model.model_card.supported_elements == {6, 14}


def _changed(triples, **changes):
    key = next(iter(triples))
    numbers = list(triples[key])
    for name, value in changes.items():
        numbers[NAMES.index(name)] = value
    return {**triples, key: tuple(numbers)}


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        ({}, "there are no parameters"),
        (_changed(SILICON_T2, m=2.0), "m must be 1 or 3, not 2.0"),
        (_changed(SILICON_T2, D=0.0), "D of Si-Si-Si must be positive"),
        (_changed(SILICON_T2, n=-1.0), "n of Si-Si-Si must be positive"),
        (_changed(SILICON_T2, A=np.nan), "14 finite numbers: m, gamma"),
        ({("Si", "Si", "Q"): (1.0,) * 14}, "not a triple of elements"),
        ({("Si", "Si", "Si"): (1.0,) * 13}, "14 finite numbers"),
        ({k: v for k, v in silicon_carbide().items() if k != ("C", "Si", "C")}, "for C-Si-C"),
    ],
)
def test_parameters_that_make_no_sense_are_refused_and_left_to_ase(triples, message):
    with pytest.raises(ValueError, match=message):
        Tersoff(triples)
    calculator = of_ase(SILICON_T2)
    calculator.parameters = triples
    assert type(as_model(calculator)) is CalculatorModel


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("Si Si Si 3 1", "ends where the 14 numbers m gamma .* should be: 12 are missing"),
        ("Si(B) Si Si 3 1", r"first element should be the symbol of an element, not 'Si\(B\)'"),
        ("Si Si Si " + "one " * 14, "should be numbers"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.tersoff"
    path.write_text(text)
    with pytest.raises(
        PotentialFileError, match=f"is not a file of Tersoff parameters: .*{message}"
    ):
        Tersoff(path)
