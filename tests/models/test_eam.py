"""``EAM`` against ASE's, and the files that it reads."""

from pathlib import Path

import ase.calculators.eam
import ase.io
import ase.optimize
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from scipy.interpolate import InterpolatedUnivariateSpline

from nvdyn_ase.calculators import CalculatorModel
from nvdyn_ase.calculators.choosing import interchangeable
from nvdyn_ase.cli import main
from nvdyn_ase.models import EAM, as_model
from nvdyn_ase.models.potential_files import PotentialFileError
from nvdyn_ase.optimize import FIRE
from tests.models import oracles
from tests.models.eam_files import write_eam

FORMS = ("alloy", "fs", "adp", "eam")
SYMBOLS = {form: ("Al",) if form == "eam" else ("Al", "Cu") for form in FORMS}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("eam")
    return {form: write_eam(folder / f"x.{form}", form, SYMBOLS[form]) for form in FORMS}


def asked_of_ase(atoms, path):
    atoms = atoms.copy()
    atoms.calc = ase.calculators.eam.EAM(potential=path)
    reference = {"energy": np.array([atoms.get_potential_energy()]), "forces": atoms.get_forces()}
    if atoms.cell.rank == 3:
        reference["stress"] = atoms.get_stress(voigt=False)
    return reference


# -------------------------------------------------------------------- the same as ASE


@pytest.mark.parametrize("torch_path", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_numbers_are_those_of_ase(files, form, torch_path):
    structures = oracles.crystals(8, seed=3, spacing=2.3, symbols=SYMBOLS[form])
    structures += [Atoms("Al"), Atoms("Al2", [[0, 0, 0], [2.4, 0, 0]]), bulk("Al")]
    model = EAM(files[form])
    batch = oracles.with_pairs(oracles.batch_of(structures), model)
    results = oracles.per_system(oracles.outputs(model, batch, torch_path), batch)
    for atoms, values in zip(structures, results, strict=True):
        oracles.assert_close(values, asked_of_ase(atoms, files[form]), scale=10.0, tolerance=1e-12)
        assert values["atomic_energies"].sum() == pytest.approx(values["energy"][0], abs=1e-11)


def test_a_pair_at_the_cutoff_counts_as_in_ase(files):
    for step in (-1, 0, 1):
        distance = 5.5 + step * np.spacing(5.5)
        atoms = Atoms("AlCu", [[0, 0, 0], [distance, 0, 0]])
        (values,) = oracles.evaluated(EAM(files["alloy"]), [atoms])
        oracles.assert_close(values, asked_of_ase(atoms, files["alloy"]), scale=1e-3)


@pytest.mark.parametrize("spacing", [0.02, 1.2])
def test_distances_and_densities_that_are_not_in_the_file_are_as_in_ase(files, spacing):
    cluster = Atoms(
        "AlCuAlCu", spacing * np.array([[0, 0, 0], [1, 0, 0], [0, 1.1, 0], [0, 0, 0.9]])
    )
    (values,) = oracles.evaluated(EAM(files["fs"]), [cluster])
    oracles.assert_close(values, asked_of_ase(cluster, files["fs"]), scale=10.0, tolerance=1e-10)


# -------------------------------------------------------------------- calculators


@pytest.mark.parametrize("form", FORMS)
def test_a_calculator_becomes_its_equal(files, form):
    model = as_model(ase.calculators.eam.EAM(potential=files[form]), skin=0.4)
    assert type(model) is EAM and model.form == form and model.skin == 0.4
    assert model.gives_same_as(EAM(files[form]))
    assert not model.gives_same_as(EAM(files["fs" if form != "fs" else "alloy"]))


def test_two_calculators_of_a_file_share_a_batch(files):
    one, other, third = (
        ase.calculators.eam.EAM(potential=files[form]) for form in ("alloy", "alloy", "fs")
    )
    assert interchangeable(one, other)
    assert not interchangeable(one, third)


def _from_splines(**changes):
    r, rho = np.linspace(0.0, 5.0, 60), np.linspace(0.0, 40.0, 50)
    arguments = {
        "elements": ["Al"],
        "embedded_energy": np.array([InterpolatedUnivariateSpline(rho, -np.sqrt(rho + 1.0))]),
        "electron_density": np.array([InterpolatedUnivariateSpline(r, np.exp(-r))]),
        "phi": np.array([[InterpolatedUnivariateSpline(r, np.exp(-2.0 * r))]]),
        "cutoff": 5.0,
        "form": "alloy",
    }
    return ase.calculators.eam.EAM(**{**arguments, **changes})


def test_splines_given_to_a_calculator():
    atoms = bulk("Al", cubic=True)
    calculator = _from_splines()
    model = as_model(calculator)
    assert type(model) is EAM
    (values,) = oracles.evaluated(model, [atoms])
    calculator.update(atoms)
    calculator.calculate_energy(atoms)
    assert values["energy"][0] == pytest.approx(calculator.results["energy"], abs=1e-12)


def test_functions_that_are_no_such_splines_are_left_to_ase():
    uneven = InterpolatedUnivariateSpline(np.array([0, 0.1, 0.3, 1, 2, 5.0]), np.arange(6.0))
    linear = InterpolatedUnivariateSpline(np.linspace(0.0, 5.0, 60), np.arange(60.0), k=1)
    for changes in (
        {"phi": np.array([[lambda r: 0.0 * r]])},
        {"phi": np.array([[uneven]])},
        {"electron_density": np.array([linear])},
        {"d_phi": np.array([[lambda r: 0.0 * r]])},
        {"elements": ["Xx"]},
    ):
        assert type(as_model(_from_splines(**changes))) is CalculatorModel


# -------------------------------------------------------------------- files


def test_the_name_and_the_option_make_it(files):
    model = as_model("eam", potential=files["alloy"], skin=0.5)
    assert type(model) is EAM and model.skin == 0.5
    assert model.model_card.supported_elements == {13, 29}
    assert model.model_card.neighbor_config.cutoff == 5.5
    assert repr(model) == f"EAM(potential={files['alloy']!r}, form='alloy', elements='Al-Cu')"


def test_a_form_may_be_given(files, tmp_path):
    path = tmp_path / "potential"
    path.write_bytes(Path(files["fs"]).read_bytes())
    assert EAM(path, "fs").gives_same_as(EAM(files["fs"]))
    with pytest.raises(ValueError, match=r"should end with \.alloy, \.fs, \.adp or \.eam"):
        EAM(path)
    with pytest.raises(ValueError, match="form='setfl' is not one of alloy, fs, adp, eam"):
        EAM(path, "setfl")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda lines: lines[:200], "ends where embedding energies should be: .* are missing"),
        (lambda lines: [*lines[:3], "2 Al Zz", *lines[4:]], "symbol of an element, not 'Zz'"),
        (lambda lines: [*lines[:3], "2 Al Al", *lines[4:]], "an element is there twice"),
        (lambda lines: [*lines[:3], "Al Cu", *lines[4:]], "number of elements.*whole number"),
        (lambda lines: [*lines[:4], "3 0.1 500 0.01 5.5", *lines[5:]], "densities .*at least 5"),
        (lambda lines: [*lines[:4], "1000 0.1 500 0.01 -1", *lines[5:]], "cutoff .*positive"),
        (lambda lines: [*lines[:9], "one", *lines[10:]], "embedding energies should be numbers"),
        (lambda lines: [*lines[:9], "nan", *lines[10:]], "embedding energies should be finite"),
        (lambda lines: [*lines, "1.0"], "goes on after the pair energies, with 1 words"),
    ],
)
def test_a_file_that_is_something_else_is_refused(files, tmp_path, change, message):
    path = tmp_path / "bad.alloy"
    path.write_text("\n".join(change(Path(files["alloy"]).read_text().splitlines())))
    with pytest.raises(PotentialFileError, match=rf"bad\.alloy is not an EAM file.*{message}"):
        EAM(path)


def test_files_of_other_forms_or_none_are_refused(files, tmp_path):
    for form, other in (("fs", "alloy"), ("alloy", "fs"), ("alloy", "adp"), ("alloy", "eam")):
        with pytest.raises(PotentialFileError, match=f"of the form '{other}'"):
            EAM(files[form], other)
    (tmp_path / "x.alloy").write_bytes(bytes(range(256)))
    with pytest.raises(PotentialFileError, match="it is not text"):
        EAM(tmp_path / "x.alloy")
    with pytest.raises(FileNotFoundError):
        EAM(tmp_path / "none.alloy")


# -------------------------------------------------------------------- where it is used


def test_a_list_is_relaxed_as_by_ase(files):
    structures = [bulk("Al", cubic=True), bulk("Cu"), Atoms("AlCu", [[0, 0, 0], [2.5, 0, 0]])]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.1, seed=seed)
    alone = [atoms.copy() for atoms in structures]
    for atoms in structures + alone:
        atoms.calc = ase.calculators.eam.EAM(potential=files["alloy"])
    with FIRE(structures, logfile=None) as optimizer:
        optimizer.run(fmax=0.02, steps=12)
        results = optimizer.results
    for atoms, reference, result in zip(structures, alone, results, strict=True):
        one = ase.optimize.FIRE(reference, logfile=None)
        one.run(fmax=0.02, steps=12)
        assert result.steps == one.nsteps
        assert np.abs(atoms.positions - reference.positions).max() < 1e-9
        assert atoms.get_potential_energy() == pytest.approx(reference.get_potential_energy())


def test_the_command_line_takes_a_file(files, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    ase.io.write("in.traj", [bulk("Al"), bulk("Cu")])
    line = f"evaluate in.traj -o out.traj --model eam --model-option potential={files['alloy']}"
    assert main(line.split()) == 0
    energies = [atoms.get_potential_energy() for atoms in ase.io.read("out.traj", ":")]
    expected = oracles.evaluated(EAM(files["alloy"]), [bulk("Al"), bulk("Cu")])
    assert energies == [values["energy"][0] for values in expected]
    capsys.readouterr()
    line = line.replace(files["alloy"], "no.fs").replace("out.traj", "b.traj")
    assert main(line.split()) != 0
    assert "no.fs" in capsys.readouterr().err
