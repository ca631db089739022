"""``StillingerWeber`` against sums written out, published numbers, and its files."""

import itertools

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.data import chemical_symbols

from nvdyn_ase.models import StillingerWeber, as_model
from nvdyn_ase.models.potential_files import PotentialFileError
from nvdyn_ase.models.stillinger_weber import SILICON
from tests.models import oracles
from tests.models.stillinger_weber_parameters import NAMES, as_text, mixture


def summed(atoms, triples):
    """Sum over all pairs and angles of all images, with no list; return the energy."""
    rows = {key: dict(zip(NAMES, numbers, strict=True)) for key, numbers in triples.items()}
    counts = [0, 0, 0]
    if atoms.cell.rank == 3:
        heights = atoms.cell.volume / np.linalg.norm(
            np.cross(np.roll(atoms.cell, -1, 0), np.roll(atoms.cell, -2, 0)), axis=1
        )
        reach = 5.0 + np.ptp(atoms.positions, axis=0).max()
        counts = [int(np.ceil(reach / h)) * int(p) for h, p in zip(heights, atoms.pbc, strict=True)]
    else:
        counts = [8 * int(p) for p in atoms.pbc]
    images = itertools.product(*[range(-n, n + 1) for n in counts])
    shifts = [np.array(image) @ atoms.cell.array for image in images]
    symbols = [chemical_symbols[number] for number in atoms.numbers]
    energy = 0.0
    for i in range(len(atoms)):
        near = []
        for j, shift in itertools.product(range(len(atoms)), shifts):
            d = atoms.positions[j] + shift - atoms.positions[i]
            r = np.linalg.norm(d)
            row = rows[symbols[i], symbols[j], symbols[j]]
            if 0 < r < row["a"] * row["sigma"]:
                near.append((symbols[j], d, r, row))
        for _, _, r, row in near:
            ratio, tail = row["sigma"] / r, np.exp(row["sigma"] / (r - row["a"] * row["sigma"]))
            powers = row["B"] * ratio ** row["p"] - ratio ** row["q"]
            energy += 0.5 * row["A"] * row["epsilon"] * powers * tail
        for (j, d, r, one), (k, e, s, two) in itertools.combinations(near, 2):
            row = rows[symbols[i], j, k]
            off = d @ e / (r * s) - row["costheta0"]
            decay = one["gamma"] * one["sigma"] / (r - one["a"] * one["sigma"])
            decay += two["gamma"] * two["sigma"] / (s - two["a"] * two["sigma"])
            energy += row["lambda"] * row["epsilon"] * off**2 * np.exp(decay)
    return energy


@pytest.mark.parametrize("torch_path", [False, True])
@pytest.mark.parametrize("triples", [SILICON, mixture()], ids=["Si", "mixture"])
def test_the_energy_is_the_sum_written_out(triples, torch_path):
    model = StillingerWeber(triples)
    symbols = sorted({symbol for key in triples for symbol in key})
    structures = [bulk("Si"), *oracles.crystals(8, 7, 2.2, symbols)]
    structures += [Atoms("Si"), Atoms("Si2", [[0, 0, 0], [2.5, 0, 0]])]
    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    values = oracles.outputs(model, batch, torch_path)
    for atoms, energy in zip(structures, values["energy"][:, 0].tolist(), strict=True):
        assert energy == pytest.approx(summed(atoms, triples), rel=1e-12, abs=1e-12)


def test_silicon_is_as_published():
    """In diamond all angles are right, and each of two bonds an atom has the depth of 2.1683 eV."""
    lattice = 4.0 / np.sqrt(3.0) * 2.0 ** (1.0 / 6.0) * 2.0951
    assert lattice == pytest.approx(5.431, abs=5e-4)
    (values,) = oracles.evaluated(StillingerWeber(), [bulk("Si", a=lattice)])
    assert values["energy"][0] / 2 == pytest.approx(-2 * 2.1683, abs=1e-6)
    assert np.abs(values["stress"]).max() < 1e-7
    assert np.abs(values["forces"]).max() < 1e-12


def test_elastic_constants_are_as_published():
    """c11 and c12 in H. Balamane, T. Halicioglu and W. A. Tiller, Phys. Rev. B 46, 2250 (1992)."""
    model, gpa, strain = StillingerWeber(), 160.21766, 1e-4
    stresses = []
    for sign in (1, -1):
        atoms = bulk("Si", a=5.43095)
        atoms.set_cell(atoms.cell @ np.diag([1 + sign * strain, 1, 1]), scale_atoms=True)
        stresses.append(oracles.evaluated(model, [atoms])[0]["stress"] * gpa)
    slope = (stresses[0] - stresses[1]) / (2 * strain)
    assert slope[0, 0] == pytest.approx(151.4, abs=0.5)
    assert slope[1, 1] == pytest.approx(76.4, abs=0.5)


# -------------------------------------------------------------------- where parameters come from


def test_files_dicts_and_names_make_the_same(tmp_path):
    path = tmp_path / "mixture.sw"
    path.write_text(as_text(mixture()))
    for name in ("sw", "stillinger-weber"):
        model = as_model(name, potential=str(path), skin=0.2)
        assert type(model) is StillingerWeber and model.skin == 0.2
        assert model.gives_same_as(StillingerWeber(mixture()))
    assert as_model("sw").gives_same_as(StillingerWeber(SILICON))
    assert repr(as_model("sw")) == f"StillingerWeber(elements='Si', cutoff={1.8 * 2.0951})"


def _changed(key, **changes):
    numbers = list(mixture()[key])
    for name, value in changes.items():
        numbers[NAMES.index(name)] = value
    return {**mixture(), key: tuple(numbers)}


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        (_changed(("Si", "Si", "Si"), a=0.0), "a of Si-Si-Si must be positive"),
        (_changed(("Si", "Si", "Si"), costheta0=-2.0), "costheta0 must be between"),
        (_changed(("Si", "Ge", "Ge"), A=1.0), "A of a pair is another one the other way round"),
        (_changed(("Si", "Ge", "Si"), **{"lambda": 1.0}), "lambda of an angle is another one"),
        ({key: value for key, value in mixture().items() if key[0] == "Si"}, "for Ge-Si-Si"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(triples, message):
    with pytest.raises(ValueError, match=message):
        StillingerWeber(triples)


def test_a_file_that_is_something_else_is_refused(tmp_path):
    path = tmp_path / "bad.sw"
    path.write_text("Si Si Si 2.17 2.1")
    expected = r"bad\.sw is not a file of Stillinger-Weber parameters: .* 9 are missing"
    with pytest.raises(PotentialFileError, match=expected):
        StillingerWeber(path)
