"""``PairTable`` against scipy's splines and sums written out, and its files."""

import numpy as np
import pytest
from ase import Atoms
from ase.data import atomic_numbers
from hypothesis import given
from scipy.interpolate import CubicHermiteSpline, CubicSpline

from nvdyn_ase.models import PairTable, as_model
from nvdyn_ase.models.potential_files import PotentialFileError
from tests.models import oracles
from tests.models.pair_tables import CUTOFF, as_text, soft

MIXTURE = {("Ar", "Ar"): soft(1.0), ("Kr", "Ar"): soft(1.5, 90), ("Kr", "Kr"): soft(2.0)[:2]}


def splines():
    found = {}
    for (one, other), (r, energy, *force) in MIXTURE.items():
        spline = CubicHermiteSpline(r, energy, -force[0]) if force else CubicSpline(r, energy)
        for pair in ((one, other), (other, one)):
            found[tuple(atomic_numbers[symbol] for symbol in pair)] = spline
    return found


@pytest.mark.parametrize("torch_path", [False, True])
@oracles.examples
@given(structures=oracles.batches(symbols=("Ar", "Kr")))
def test_numbers_are_those_of_scipy(torch_path, structures):
    model, of_pair = PairTable(MIXTURE), splines()

    def terms(r, one, other):
        return of_pair[one, other](r), of_pair[one, other](r, 1)

    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    results = oracles.per_system(oracles.outputs(model, batch, torch_path), batch)
    for atoms, values in zip(structures, results, strict=True):
        reference = oracles.summed_over_pairs(atoms, CUTOFF, terms)
        oracles.assert_close(values, reference, scale=10.0)


@pytest.mark.parametrize("torch_path", [False, True])
def test_energies_and_forces_at_the_points_and_where_they_end(torch_path):
    r, energy, force = soft(points=20, first=1.0)
    model = PairTable((r, energy, force))
    distances = [*r, np.nextafter(r[-1], 9), np.nextafter(r[0], 0)]
    structures = [Atoms("Xe2", [[0, 0, 0], [0, 0, d]]) for d in distances]
    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    *at, beyond, before = oracles.per_system(oracles.outputs(model, batch, torch_path), batch)
    assert [v["energy"][0] for v in at] == pytest.approx(energy, abs=1e-14)
    assert [v["forces"][1, 2] for v in at] == pytest.approx(force, abs=1e-13)
    assert not beyond["energy"].any() and not beyond["forces"].any()
    assert np.isnan(before["energy"]).all() and np.isnan(before["forces"]).any()


# -------------------------------------------------------------------- files


def test_files_arrays_and_names_make_the_same(tmp_path):
    path = tmp_path / "x.table"
    path.write_text(as_text({"LJ": soft(), "OTHER": soft(2.0)}))
    model = as_model("table", potential=str(path), section="LJ", skin=0.3)
    assert type(model) is PairTable and model.skin == 0.3
    assert model.gives_same_as(PairTable(soft()))
    assert not model.gives_same_as(PairTable(path, "OTHER"))
    with pytest.raises(ValueError, match="sections LJ, OTHER; choose one with section="):
        PairTable(path)
    with pytest.raises(ValueError, match="no section 'NONE'; it has LJ, OTHER"):
        PairTable(path, "NONE")
    path.write_text(as_text({"ANY": soft()}, key=""))
    assert PairTable(path).gives_same_as(model)
    assert PairTable(path).model_card.supported_elements is None


def test_sections_called_by_pairs(tmp_path):
    path = tmp_path / "x.table"
    tables = {("Ar", "Ar"): soft(1.0), ("Kr", "Ar"): soft(1.5, 90), ("Kr", "Kr"): soft(2.0)}
    path.write_text(as_text({"Ar-Ar": soft(1.0), "Kr_Ar": soft(1.5, 90), "Kr-Kr": soft(2.0)}))
    model = PairTable(path)
    assert model.gives_same_as(PairTable(tables))
    assert model.model_card.supported_elements == {18, 36}
    assert repr(model) == "PairTable(elements='Ar-Kr', cutoff=4.7)"


def test_squares_of_distances_may_be_equidistant(tmp_path):
    r = np.sqrt(np.linspace(1.0, 16.0, 40))
    table = r, 1.0 / r, 1.0 / r**2
    path = tmp_path / "x.table"
    path.write_text(as_text({"X": table}, key="RSQ"))
    assert PairTable(path).gives_same_as(PairTable((np.sqrt(np.linspace(1, 16, 40)), *table[1:])))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "it has no sections"),
        ("# nothing", "it has no sections"),
        ("LJ\nR 1 2\n1 1 1 1\n", "line after LJ should say N"),
        ("LJ\nN 3\n1 1 1 1\n", "3 lines of four numbers in section LJ should be: 8 are missing"),
        ("LJ\nN 2\n1 1 1 1\n2 2 2\n2", "should be: 1 are missing"),
        ("LJ\nN 2\n1 1 1 1 1\n2 2 2 2\n", "section LJ should have four numbers each"),
        ("LJ\nN 2 BITMAP 1 2\n", "BITMAP in section LJ should be N, R, RSQ or FPRIME"),
        ("LJ\nN two\n", "N of section LJ should be a whole number"),
        ("A\nN 2\n1 1 1 1\n2 2 2 2\nA\nN 2\n1 1 1 1\n2 2 2 2\n", "there are two sections A"),
    ],
)
def test_a_file_that_is_something_else_is_refused(tmp_path, text, message):
    path = tmp_path / "bad.table"
    path.write_text(text)
    with pytest.raises(PotentialFileError, match=rf"bad\.table is not a file of pair.*{message}"):
        PairTable(path)


@pytest.mark.parametrize(
    ("potential", "message"),
    [
        (([1, 2, 3, 4],), r"should be \(r, energy\) or \(r, energy, force\)"),
        (([1, 2, 3], [1, 2, 3]), "at least 4 distances that grow"),
        (([1, 2, 2], [1, 2, 3], [1, 2, 3]), "at least 2 distances that grow"),
        (([1, 2], [1, 2, 3], [1, 2]), "as many energies and forces as distances"),
        (([1, 2], [1, np.nan], [1, 2]), "finite numbers"),
        ({}, "there are no tables"),
        ({("Ar", "Q"): soft()}, "not a pair of elements"),
        ({("Ar", "Kr"): soft()}, "no table for Ar-Ar"),
        ({("Ar", "Kr"): soft(), ("Kr", "Ar"): soft()}, "two tables for Kr-Ar"),
    ],
)
def test_tables_that_make_no_sense_are_refused(potential, message):
    with pytest.raises(ValueError, match=message):
        PairTable(potential)
