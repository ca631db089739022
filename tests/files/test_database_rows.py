"""Rows are what ``ase.db`` itself writes of a structure, in every table."""

import sqlite3
from contextlib import closing

import ase
import ase.db
import numpy as np
import pytest
from ase.calculators.singlepoint import SinglePointCalculator
from ase.constraints import FixAtoms, FixCartesian, FixedPlane, Hookean

from nvdyn_ase.files import INDEX, DatabaseFile
from tests.files.written import marks

TABLES = ("systems", "species", "keys", "text_key_values", "number_key_values")
#: What no two rows have in common.
OWN = {"unique_id", "ctime", "mtime"}
CONSTRAINTS = (
    *(
        lambda: FixAtoms([0]),
        lambda: FixAtoms([0, 1]),
        lambda: FixCartesian(1, (True, False, True)),
    ),
    *(lambda: FixedPlane(0, (1, 2, 3)), lambda: Hookean(a1=0, a2=1, rt=0.5, k=2.0)),
)


def structure(seed):
    """Return a structure with some of all that a row has a column for."""
    rng = np.random.default_rng(seed)
    size = int(rng.integers(2, 9))
    atoms = ase.Atoms(numbers=rng.choice([1, 6, 29, 79], size), pbc=rng.integers(0, 2, 3))
    atoms.positions = rng.normal(size=(size, 3)) * 3
    atoms.cell[:] = np.diag([3.0, 4.0, 5.0]) + rng.normal(size=(3, 3)) * rng.integers(0, 2)
    if rng.random() < 0.2:
        atoms.cell[int(rng.integers(3))] = 0.0  # no volume
    for name, values in (
        ("tags", rng.integers(-9, 9, size)),
        ("masses", rng.uniform(1.0, 2.0, size)),
        ("momenta", rng.normal(size=(size, 3))),
        ("initial_magmoms", rng.normal(size=size)),
        ("initial_charges", rng.normal(size=size)),
    ):
        if rng.random() < 0.4:
            atoms.set_array(name, values)
    if rng.random() < 0.6:
        chosen = rng.choice(len(CONSTRAINTS), int(rng.integers(1, 3)), replace=False)
        atoms.set_constraint([CONSTRAINTS[k]() for k in chosen])
    results = {
        **{"energy": rng.normal(), "free_energy": rng.normal(), "magmom": rng.normal()},
        **{"forces": rng.normal(size=(size, 3)), "stress": rng.normal(size=6)},
        **{"dipole": rng.normal(size=3), "magmoms": rng.normal(size=size)},
        "charges": rng.normal(size=size),
    }
    kept = {name: value for name, value in results.items() if rng.random() < 0.6}
    if kept:
        atoms.calc = SinglePointCalculator(atoms, **kept)
    entries = {"name": f"number {seed}", "matrix": rng.normal(size=(2, 2)), "deep": [1, {"a": 2.5}]}
    atoms.info = {key: value for key, value in entries.items() if rng.random() < 0.6}
    return atoms


def tables(path):
    """Return what is in the tables of a database, but for what is of a row alone."""
    with closing(sqlite3.connect(path)) as connection:
        found = {}
        for table in TABLES:
            names = [own[1] for own in connection.execute(f"PRAGMA table_info({table})")]
            columns = ", ".join(name for name in names if name not in OWN)
            found[table] = sorted(connection.execute(f"SELECT {columns} FROM {table}"), key=repr)
        return found


@pytest.mark.parametrize("again", [False, True], ids=["new", "replaced"])
def test_every_column_is_as_ase_writes_it(tmp_path, again):
    file = DatabaseFile(tmp_path / "ours.db")
    file.recover()
    with ase.db.connect(tmp_path / "theirs.db", use_lock_file=False) as theirs:
        for seed in range(150):
            atoms, own = structure(seed), marks(seed)
            if again:  # with another number of keys and elements
                file.add(structure(seed + 1000), {INDEX: seed, "word": "before"})
            file.add(atoms, own)
            theirs.write(atoms, key_value_pairs=own, data=atoms.info)
    file.close()
    ours, expected = tables(file.path), tables(tmp_path / "theirs.db")
    for table in TABLES:
        assert len(ours[table]) == len(expected[table])
        for row, theirs in zip(ours[table], expected[table], strict=True):
            assert row == theirs


def test_rows_of_other_programs_stay(tmp_path):
    """A row is replaced alone; ids go on behind the largest."""
    path = tmp_path / "a.db"
    with ase.db.connect(path, use_lock_file=False) as database:
        for name in ("one", "two"):
            database.write(ase.Atoms("H"), name=name)
    file = DatabaseFile(path)
    file.recover()
    for outcome in ("error", "converged"):
        file.add(ase.Atoms("C"), marks(0, outcome))
    file.close()
    with ase.db.connect(path) as database:
        assert [
            (row.id, row.get("name"), row.get("relax_outcome")) for row in database.select()
        ] == [
            (1, "one", None),
            (2, "two", None),
            (3, None, "converged"),
        ]
