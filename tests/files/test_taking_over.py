"""Files that take over what others hold."""

import os

import ase.db
import pytest

from nvdyn_ase.files import INDEX
from nvdyn_ase.files.joined_databases import join_databases
from tests.files.written import KINDS, assert_kept, contents, marks, some

WHOLE = some(7)


def written(kind, path, indices, outcome="converged"):
    """Return a file with structures; that of index i is number i, or the one after it if failed."""
    file = KINDS[kind](path)
    file.recover()
    for index in indices:
        file.add(WHOLE[index + (outcome == "failed")], marks(index, outcome))
    file.close()
    file = KINDS[kind](path)
    file.recover()
    return file


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("own", [[], [4, 1]])
def test_all_of_it_in_order_and_the_newest_of_each(kind, own, tmp_path):
    target = written(kind, tmp_path / f"target.{kind}", own, "failed")
    parts = [
        written(kind, tmp_path / f"part0.{kind}", [5, 0, 1]),
        written(kind, tmp_path / f"part1.{kind}", []),
        written(kind, tmp_path / f"part2.{kind}", [3, 2]),
    ]
    target.take_over(parts)
    target.close()
    found = contents(kind, target.path)
    assert list(found) == sorted({0, 1, 2, 3, 5, *own})
    for index, atoms in found.items():
        assert_kept(atoms, WHOLE[index + (index == 4)], decimals=kind == "extxyz")
    file = KINDS[kind](target.path)
    outcomes = {one[INDEX]: one["relax_outcome"] for one in file.recover()}
    assert [index for index, outcome in outcomes.items() if outcome == "failed"] == own[:1]
    file.add(WHOLE[6], marks(6))  # it goes on as ever
    file.close()
    assert 6 in contents(kind, target.path)


def test_rows_can_be_searched_for_and_metadata_stay(tmp_path):
    target = written("db", tmp_path / "target.db", [0])
    target.tell({"method": "relax"})
    target.take_over([written("db", tmp_path / "part.db", [3, 2])])
    target.close()
    database = ase.db.connect(target.path)
    assert database.metadata == {"method": "relax"}
    for query in ("relax_outcome=converged", "relax_fmax>0.2", "relax_steps"):
        assert [row.input_index for row in database.select(query)] == [0, 2, 3]
    symbol = WHOLE[2].symbols[0]
    expected = [index for index in (0, 2, 3) if symbol in set(WHOLE[index].symbols)]
    assert [row.input_index for row in database.select(symbol)] == expected


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_the_old_file_if_there_is_no_room(kind, tmp_path, monkeypatch):
    target = written(kind, tmp_path / f"target.{kind}", [0])
    part = written(kind, tmp_path / f"part.{kind}", [1])

    def full(*arguments):
        raise OSError("no space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        target.take_over([part])
    monkeypatch.undo()
    assert list(contents(kind, target.path)) == [0]
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"part.{kind}", f"target.{kind}"]


def test_a_database_is_not_joined_with_one_that_is_not_there(tmp_path):
    with pytest.raises(Exception, match=r"no such table|unable to open"):
        join_databases(tmp_path / "new.db", [(tmp_path / "none" / "x.db", {1: 1})], {})
    assert not (tmp_path / "new.db").exists()
