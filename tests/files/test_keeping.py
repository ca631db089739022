"""What is written is read: nothing that an Atoms holds is lost on the way."""

import ase
import ase.db
import ase.io
import numpy as np
import pytest
from ase.build import bulk, fcc111, molecule
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixBondLengths, FixCartesian, FixedPlane, Hookean
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.files import INDEX
from tests.atoms.structures import structures
from tests.files.written import KINDS, assert_kept, computed, contents, marks, some, write
from tests.systems import copper_slab


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


def through(kind, folder, atoms):
    """Write structures and read them again; a list, or one."""
    path = folder / f"a.{kind}"
    for own in KINDS[kind].belongings(path):
        own.unlink(missing_ok=True)
    whole = atoms if isinstance(atoms, list) else [atoms]
    write(kind, path, whole)
    found = contents(kind, path)
    return [found[index] for index in range(len(whole))] if atoms is whole else found[0]


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_usual_is_kept(kind, tmp_path):
    whole = some(7)
    write(kind, tmp_path / "a", whole)
    found = contents(kind, tmp_path / "a")
    for index, atoms in enumerate(whole):
        assert_kept(found[index], atoms, decimals=kind == "extxyz")
        assert found[index].info["label"] == atoms.info["label"]


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=15)
@given(several=st.lists(structures(constraints=False), min_size=5, max_size=5))
def test_whatever_an_atoms_holds(folder, kind, several):
    """Arrays of any name, type and shape; those that are no numbers or words may be left out."""
    several = [computed(whole.copy()) for whole in several]
    for whole, found in zip(several, through(kind, folder, several), strict=True):
        for name, array in list(whole.arrays.items()):
            if name not in found.arrays:
                assert array.dtype.kind in "OSM" or array.dtype.char == "g", name
                del whole.arrays[name]
        assert_kept(found, whole, decimals=kind == "extxyz")
        if "name" in whole.info:
            assert found.info["name"] == "x"
            assert found.info[7] is None
            assert (found.info["deep"]["list"][1]["array"] == np.arange(3)).all()


TEXTS = (
    *("007", "1e5", "nan", "T", "false", "inf and nan", "", " ", "a b", "  x ", 'say "so"', "it's"),
    *("a\nb", "a\r\nb", "back\\slash\\n", "a=b", "[1, 2]", "{1}", "Å", "_JSON [1]", "T T", "1 2 3"),
    *("12345678901234567890123456789012", "x\u2028y", "tab\there", ",", "None", "input_index=5"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_texts_stay_texts(tmp_path, kind):
    several = [ase.Atoms("H", info={"text": text, "deep": {"list": [text]}}) for text in TEXTS]
    for text, found in zip(TEXTS, through(kind, tmp_path, several), strict=True):
        assert found.info["text"] == text
        assert found.info["deep"]["list"][0] == text


@given(st.lists(st.text(max_size=20), max_size=10))
@settings(max_examples=30)
def test_any_text_in_a_line(folder, texts):
    several = [ase.Atoms("H", info={"text": text}) for text in texts]
    assert [a.info["text"] for a in through("extxyz", folder, several)] == texts


VALUES = {
    "a flag": True,
    "a number": 3,
    "a large number": 10**30,
    "a real": 1 / 3,
    "a numpy number": np.int64(5),
    "a numpy flag": np.bool_(False),
    "nothing": None,
    "ragged": [[1], [1, 2]],
    "a matrix": np.arange(4.0).reshape(2, 2),
    "a vector": np.array([0.1, 0.2]),
    "one in a vector": np.array([0.1]),
    "an empty vector": np.zeros(0),
    "complex": np.array([1j, 2.0]),
    "a dict": {"a": {"b": np.float64(2.5)}, "c": [1, "x"]},
    "words": ["x", "y"],
}
NAMES = (
    "x",
    "energy",
    "stress",
    "virial",
    "Lattice",
    "Properties",
    "pbc",
    "a b",
    "a=b",
    "uid",
    "é",
    "",
)


@pytest.mark.parametrize("kind", KINDS)
def test_entries_of_any_name_and_kind(tmp_path, kind):
    pairs = [(name, value) for name in NAMES for value in VALUES.values()]
    several = [computed(bulk("Cu")) for _ in pairs]
    for atoms, (name, value) in zip(several, pairs, strict=True):
        atoms.info = {name: value, "behind": 1}
    found = through(kind, tmp_path, several)
    for own, atoms, (name, value) in zip(found, several, pairs, strict=True):
        if isinstance(value, (list, dict)):
            assert name in own.info
        else:
            np.testing.assert_equal(np.squeeze(own.info[name]), np.squeeze(value))
        assert own.info["behind"] == 1
        assert own.get_potential_energy() == atoms.get_potential_energy()


CONSTRAINTS = {
    "atoms": lambda: [FixAtoms([0])],
    "cartesian": lambda: [FixCartesian([1], (True, False, True)), FixAtoms([0])],
    "plane": lambda: [FixedPlane(0, (0, 1, 0))],
    "bonds": lambda: [FixBondLengths([[0, 1]])],
    "spring": lambda: [Hookean(0, 1, k=3.0, rt=1.0)],
}


@pytest.mark.parametrize("kind", KINDS)
def test_constraints(tmp_path, kind):
    several = [computed(molecule("CO")) for _ in CONSTRAINTS]
    for atoms, make in zip(several, CONSTRAINTS.values(), strict=True):
        atoms.set_constraint(make())
    for found, atoms in zip(through(kind, tmp_path, several), several, strict=True):
        assert_kept(found, atoms, decimals=kind == "extxyz")


class Untold:
    def adjust_positions(self, atoms, positions):
        pass

    def adjust_forces(self, atoms, forces):
        pass


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_written_down_is_left_out_and_the_rest_is_not(tmp_path, kind):
    atoms = computed(molecule("CO"))
    atoms.info = {"function": print, "kept": 2}
    atoms.set_constraint([FixAtoms([1]), Untold()])
    found = through(kind, tmp_path, atoms)
    assert [type(c) for c in found.constraints] == [FixAtoms]
    assert found.info["kept"] == 2
    assert found.get_potential_energy() == atoms.get_potential_energy()


@pytest.mark.parametrize("kind", KINDS)
def test_results_of_other_positions_are_not_written(tmp_path, kind):
    atoms = bulk("Cu")
    atoms.calc = EMT()
    atoms.get_potential_energy()
    atoms.rattle(0.1)
    assert through(kind, tmp_path, atoms).calc is None


@pytest.mark.parametrize("kind", KINDS)
def test_all_properties(tmp_path, kind):
    atoms = bulk("Cu") * (2, 1, 1)
    rng = np.random.default_rng(0)
    results = {
        "free_energy": 1.5,
        "energies": rng.normal(size=2),
        "stresses": rng.normal(size=(2, 6)),
        "dipole": rng.normal(size=3),
        "magmom": 2.0,
        "charges": rng.normal(size=2),
        "magmoms": rng.normal(size=2),
    }
    atoms.calc = SinglePointCalculator(atoms, energy=1.0, **results)
    found = through(kind, tmp_path, atoms)
    atoms.calc.results = {name: np.asarray(value) for name, value in atoms.calc.results.items()}
    assert found.calc.results.keys() == atoms.calc.results.keys()
    for name, value in results.items():
        np.testing.assert_allclose(found.calc.results[name], value, atol=5.1e-9, err_msg=name)


def test_other_programs_read_the_files(tmp_path):
    whole = [computed(fcc111("Cu", (1, 1, 2), vacuum=5.0)), computed(copper_slab(0))]
    for kind in KINDS:
        path = write(kind, tmp_path / f"a.{kind}", whole)
        for atoms, found in zip(whole, ase.io.read(path, ":"), strict=True):
            np.testing.assert_allclose(found.positions, atoms.positions, atol=5.1e-9)
            assert found.get_potential_energy() == atoms.get_potential_energy()
            assert len(found.constraints) == len(atoms.constraints)
            if kind != "db":
                assert found.info["relax_steps"] == 3
                assert "adsorbate_info" in found.info


def test_a_database_can_be_asked(tmp_path):
    atoms = molecule("CO")
    atoms.info = {
        "key_value_pairs": {"mp": "mp-12", "gap": 1.5, "bad": "12"},
        "data": {"spectrum": np.arange(3)},
        "unique_id": "1" * 32,
        "note": "text",
    }
    path = write("db", tmp_path / "a.db", [atoms])
    row = ase.db.connect(path).get(mp="mp-12", relax_outcome="converged", **{INDEX: 0})
    assert row.gap == 1.5
    assert row.data["spectrum"].tolist() == [0, 1, 2]
    assert row.data["note"] == "text"
    assert row.data["bad"] == "12"  # ase.db takes no texts that look like numbers
    assert row.data["input_unique_id"] == "1" * 32


def test_entries_that_marks_take_the_place_of(tmp_path):
    """A mark is a mark, and what it hid comes back where structures are read."""
    for kind in KINDS:
        atoms = ase.Atoms("H", info={"relax_steps": "mine"})
        write(kind, tmp_path / f"a.{kind}", [atoms])
        file = KINDS[kind](tmp_path / f"a.{kind}")
        file.recover()
        ((found, own),) = file.read()
        assert found.info["relax_steps"] == "mine"
        assert own["relax_steps"] == marks(0)["relax_steps"]
