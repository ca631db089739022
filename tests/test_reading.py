import gzip
import io
import itertools
import sqlite3
from unittest import mock

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk, molecule
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.counting import estimate
from nvdyn_ase.files.frames import frames
from nvdyn_ase.reading import Unreadable, count, structures
from tests.files.written import KINDS, STREAMS, assert_kept, some, write

WHOLE = some(5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module")
def whole(folder):
    return {kind: write(kind, folder / f"whole.{kind}", WHOLE) for kind in KINDS}


def read(*names, **options):
    return dict(structures([str(name) for name in names], **options))


def labels(found):
    return {
        position: atoms.info.get("label") or atoms.info["data"]["label"]
        for position, atoms in found.items()
        if not isinstance(atoms, Unreadable)
    }


def unread(found):
    return {key: value for key, value in found.items() if isinstance(value, Unreadable)}


EXPECTED = {index: f"it is number {index}" for index in range(5)}

LINES = ["2\n", "1\n", " 3 \n", "H 0 0 0\n", "C 1 1 1\n", "about it\n", "\n", "VEC1 1 0 0\n", "0 0"]


@given(st.lists(st.sampled_from(LINES)), st.sets(st.integers(0, 30)))
def test_frames_are_what_a_look_at_each_line_says(lines, unwanted):
    """Also those that nobody wants."""
    text = "".join(lines).encode()
    found = list(frames(io.BytesIO(text), unwanted.__contains__))
    with mock.patch("nvdyn_ase.files.frames._ATOMS_AT_ONCE", -1):
        every = list(frames(io.BytesIO(text)))
    assert [own._replace(text=b"") for own in found] == [own._replace(text=b"") for own in every]
    for number, (own, other) in enumerate(zip(found, every, strict=True)):
        assert own.text == other.text or number in unwanted


def test_a_number_that_is_none_of_atoms_does_not_have_the_file_read():
    file = io.BytesIO(b"99999999\nabout it\nH 0 0 0\n" + FRAME.encode() * 1000)
    assert "should have 99999999 atoms and has 1" in next(frames(file)).problem
    assert file.tell() < 100


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", ["", "@1:4", "@::2", "@-2:"])
def test_counting_is_as_reading(whole, kind, part):
    names = [str(whole[kind]), f"{whole[kind]}{part}", "none.traj"]
    assert count(names) == len(read(*names))
    several = read(*names, skip={0, 3, 6})
    assert several.keys() == read(*names).keys() - {0, 3, 6}


@pytest.mark.parametrize("kind", KINDS)
def test_whole_files(whole, kind):
    found = read(whole[kind])
    assert labels(found) == EXPECTED
    for index, atoms in enumerate(WHOLE):
        assert_kept(found[index], atoms, decimals=kind == "extxyz")


def test_files_of_other_programs_are_read_as_ase_reads_them(tmp_path):
    whole = [bulk("Cu"), molecule("C2H6")]
    for index, atoms in enumerate(whole):
        atoms.info["label"] = f"it is number {index}"
    for name in ("a.extxyz", "a.traj", "a.db", "a.xyz", "a.json", "a.extxyz.gz", "a.extxyz.bz2"):
        ase.io.write(tmp_path / name, whole)
        found = read(tmp_path / name)
        assert [str(found[index].symbols) for index in (0, 1)] == ["Cu", "C2H6"]
        for index, atoms in enumerate(ase.io.read(tmp_path / name, ":")):
            np.testing.assert_array_equal(found[index].positions, atoms.positions)
            np.testing.assert_array_equal(found[index].cell.array, atoms.cell.array)


@pytest.mark.parametrize("name", ["a.db", "a.json", "a.json.gz"])
def test_rows_keep_what_was_with_them(tmp_path, name):
    plain = tmp_path / name.removesuffix(".gz")
    with ase.db.connect(plain) as database:
        database.write(bulk("Cu"), gap=1.5, data={"spectrum": [1, 2]})
        unique = database.get(gap=1.5).unique_id
    if name != plain.name:
        (tmp_path / name).write_bytes(gzip.compress(plain.read_bytes()))
    info = read(tmp_path / name)[0].info
    assert info["key_value_pairs"] == {"gap": 1.5}
    assert info["data"] == {"spectrum": [1, 2]}
    assert info["unique_id"] == unique


@pytest.fixture(scope="module")
def annotated(folder):
    """Return a database of 148 rows with keys and data."""
    return annotate(folder / "annotated.db", range(150))


def annotate(path, indices):
    with ase.db.connect(path) as database:
        for index in indices:
            atoms = [bulk("Cu"), bulk("Au"), molecule("CO")][index % 3]
            database.write(atoms, num=index, kind=f"k{index % 2}", data={"spectrum": [index]})
        database.delete([5])
        database.delete([min(70, len(indices) - 1)])
    return path


def test_rows_of_a_database_in_json_are_those_of_ase(tmp_path):
    path = annotate(tmp_path / "a.json", range(12))
    with ase.db.connect(path) as database:
        for part, chosen in {
            "": list(database.select()),
            "@2:9:3": list(database.select())[2:9:3],
            "@-2:": list(database.select())[-2:],
            "@num>3,Cu": list(database.select("num>3,Cu")),
        }.items():
            found = read(f"{path}{part}")
            assert len(chosen) > 1
            assert count([f"{path}{part}"]) == len(chosen)
            for atoms, row in zip(found.values(), chosen, strict=True):
                assert atoms == row.toatoms()
                assert atoms.info["key_value_pairs"] == row.key_value_pairs
                assert atoms.info["data"] == row.data
                assert atoms.info["unique_id"] == row.unique_id
    assert "no structures" in read(f"{path}@num>1000")[0].problem
    path.write_bytes(path.read_bytes()[:-100])
    assert list(unread(read(path))) == [0]


@pytest.mark.parametrize(
    "query",
    ["num>3", "num>=10,num<14", "Au", "Cu,num>100", "kind=k1", "id<20", "natoms=2,kind=k0", "id=3"],
)
def test_rows_of_a_query_are_those_of_ase_with_all_that_is_with_them(annotated, query):
    found = read(f"{annotated}@{query}")
    with ase.db.connect(annotated) as database:
        rows = list(database.select(query))
    assert list(found) == list(range(len(rows)))
    assert len(rows) > 0
    for atoms, row in zip(found.values(), rows, strict=True):
        assert atoms == row.toatoms()
        assert atoms.info["key_value_pairs"] == row.key_value_pairs
        assert atoms.info["data"] == row.data
        assert atoms.info["unique_id"] == row.unique_id
    assert count([f"{annotated}@{query}"]) == estimate([f"{annotated}@{query}"]) == len(rows)
    assert read(f"{annotated}@{query}", skip=range(1, len(rows))).keys() == {0}


def test_a_part_of_a_database_keeps_what_was_with_its_rows(annotated):
    found = read(f"{annotated}@60:72:2")
    with ase.db.connect(annotated) as database:
        rows = list(database.select())[60:72:2]
    assert [atoms.info["unique_id"] for atoms in found.values()] == [r.unique_id for r in rows]
    assert [atoms.info["key_value_pairs"]["num"] for atoms in found.values()] == [
        row.num for row in rows
    ]


def test_a_damaged_row_of_a_query_and_a_query_without_sense(annotated, tmp_path):
    path = tmp_path / "a.db"
    path.write_bytes(annotated.read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE systems SET positions = x'00' WHERE id = 8")
    found = read(f"{path}@num>5,num<10")
    assert list(unread(found)) == [1]
    assert [found[k].info["key_value_pairs"]["num"] for k in (0, 2, 3)] == [6, 8, 9]
    assert "no structures" in read(f"{path}@num>1000")[0].problem
    assert "must be a number" in read(f"{path}@natoms=Cu", f"{path}@1")[0].problem


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "part", [":", "2", "-1", "1:3", "-3:", ":-1", "::2", "1:5:3", "7:9", "4:2", "-3:-1"]
)
def test_parts_of_files(whole, kind, part):
    found = read(f"{whole[kind]}@{part}")
    expected = list(EXPECTED.values())
    chosen = (
        expected[eval(f"slice({','.join(x or 'None' for x in part.split(':'))})")]
        if (":" in part)
        else [expected[int(part)]]
    )
    assert list(labels(found).values()) == chosen
    if not chosen:
        assert "no structures" in str(found[0])


def test_a_query_of_a_database(whole):
    assert list(read(f"{whole['db']}@relax_steps=3,Au")) == [0]


def test_several_files_in_their_order_without_those_that_are_done(whole):
    found = read(whole["traj"], whole["db"], whole["extxyz"], skip={0, 1, 6, 14})
    assert sorted(found) == sorted(set(range(15)) - {0, 1, 6, 14})
    assert all(label == f"it is number {index % 5}" for index, label in labels(found).items())


def test_what_is_done_is_not_read(whole, monkeypatch):
    monkeypatch.setattr("nvdyn_ase.reading.from_text", None)
    assert read(whole["extxyz"], skip=range(5)) == {}


def test_files_that_are_not_there_or_empty(tmp_path, whole):
    (tmp_path / "empty.extxyz").touch()
    (tmp_path / "blank.extxyz").write_text("\n\n")
    (tmp_path / "a.txt").write_text("a shopping list\n")
    names = ("none.traj", "empty.extxyz", "blank.extxyz", "a.txt", ".")
    found = read(*(tmp_path / name for name in names), whole["traj"])
    assert sorted(unread(found)) == [0, 1, 2, 3, 4]
    assert all(value.record is None for value in unread(found).values())
    assert "No such file" in str(found[0])
    assert "empty.extxyz" in str(found[1])
    assert "no structures" in found[2].problem
    assert "no format" in found[3].problem
    assert list(labels(found)) == [5, 6, 7, 8, 9]


# -------------------------------------------------------------------- cut off, growing


@pytest.mark.parametrize("kind", STREAMS)
@given(share=st.floats(0, 1))
@settings(max_examples=60)
def test_a_file_cut_anywhere_gives_what_is_whole_and_says_so(folder, whole, kind, share):
    data = whole[kind].read_bytes()
    size = int(share * len(data))
    path = folder / f"cut.{kind}"
    path.write_bytes(data[:size])
    found = read(path)
    good = labels(found)
    assert list(good.values()) == list(EXPECTED.values())[: len(good)]
    for index in good:
        assert_kept(found[index], WHOLE[index], decimals=kind == "extxyz")
    assert len(unread(found)) <= 1
    if not unread(found) and kind == "extxyz":  # between two structures, or before a line's end
        rest = data[size:]
        assert not rest or rest[:1] == b"\n" or data[size - 1 : size] == b"\n"


@pytest.mark.parametrize("kind", STREAMS)
def test_a_file_that_grows_is_read_as_it_was(folder, whole, kind):
    path = folder / f"grows.{kind}"
    path.write_bytes(whole[kind].read_bytes())
    stream = structures([str(path)])
    first = [next(stream), next(stream)]
    write(kind, path, WHOLE[:3], first=5)
    assert len(first + list(stream)) == 5
    assert len(read(path)) == 8


def test_a_compressed_file_that_is_cut(tmp_path, whole):
    data = gzip.compress(whole["extxyz"].read_bytes())
    (tmp_path / "a.extxyz.gz").write_bytes(data[: len(data) // 2])
    found = read(tmp_path / "a.extxyz.gz")
    assert len(unread(found)) == 1
    assert list(labels(found).values()) == list(EXPECTED.values())[: len(found) - 1]


def test_a_line_without_its_end_may_be_the_last(tmp_path):
    (tmp_path / "a.xyz").write_text("2\n\nCu 0.0 0.0 0.0\nCu 0.0 0.0 2.5")
    assert read(tmp_path / "a.xyz")[0].positions[1, 2] == 2.5
    (tmp_path / "a.xyz").write_text("2\n\nCu 0.0 0.0 0.0\nCu 0.0 0.0 2.")
    assert "last line" in read(tmp_path / "a.xyz")[0].problem


# -------------------------------------------------------------------- damaged in the middle

FRAME = "2\nenergy=1.5\nCu 0 0 0\nCu 0 0 2.5\n"
BROKEN = {
    "a word for a number": "2\n\nCu 0 0 0\nCu 0 zero 0\n",
    "an atom too few": "3\n\nCu 0 0 0\nCu 0 0 1\n",
    "an atom too many": "1\n\nCu 0 0 0\nCu 0 0 1\n",
    "no comment": "2\nCu 0 0 0\nCu 0 0 1\n",
    "no count": "energy=1.5\nCu 0 0 0\nCu 0 0 1\n",
    "half a count": "x2\n\nCu 0 0 0\nCu 0 0 1\n",
    "an unknown element": "1\n\nQq 0 0 0\n",
    "a bad comment": '1\nstress="1 2"\nCu 0 0 0\n',
    "rubbish": "\0\0\0\n&&&&\n",
    "no text": "1\n\nCu\x80\xff 0 0 0\n",
    "a column too few": "2\n\nCu 0 0 0\nCu 0 0\n",
}


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_broken_frame_is_one_record_and_the_next_is_read(tmp_path, kind, place):
    parts = [FRAME, FRAME]
    parts.insert(place, BROKEN[kind])
    (tmp_path / "a.xyz").write_bytes("".join(parts).encode("latin-1"))
    found = read(tmp_path / "a.xyz", form="extxyz")
    assert list(unread(found)) == [place]
    assert found[place].record == place
    assert len(found) == 3
    for position in set(range(3)) - {place}:
        assert found[position].get_potential_energy() == 1.5


@given(st.data())
@settings(max_examples=60)
def test_whatever_is_between_frames_those_that_are_whole_are_read(folder, data):
    """Lines that are not a frame never cost one that follows a line's end."""
    junk = st.text("0123456789 CuHx.\t", max_size=12).map(lambda line: line + "\n")
    pieces = data.draw(st.lists(st.just(FRAME) | junk, max_size=8))
    path = folder / "between.xyz"
    path.write_text("".join(pieces))
    found = read(path, form="extxyz")
    good = sum(isinstance(atoms, ase.Atoms) for atoms in found.values())
    lone = all(piece == FRAME or not piece.strip().isdigit() for piece in pieces)
    atomic = any(piece != FRAME and len(piece.split()) >= 4 for piece in pieces)
    if lone and not atomic:
        assert good == pieces.count(FRAME)
    with path.open("rb") as file:
        spans = [(frame.start, frame.end) for frame in frames(file)]
    assert all(a[1] <= b[0] for a, b in itertools.pairwise(spans))


def test_an_item_of_a_trajectory_that_is_damaged(tmp_path, whole):
    data = bytearray(whole["traj"].read_bytes())
    place = data.index(b"it is number 2")
    data[data.index(b'"cell"', place - 3000, place)] = ord("}")
    (tmp_path / "a.traj").write_bytes(data)
    found = read(tmp_path / "a.traj")
    assert list(unread(found)) == [2]
    assert sorted(labels(found)) == [0, 1, 3, 4]


def test_a_row_that_is_damaged(tmp_path, whole):
    path = tmp_path / "a.db"
    path.write_bytes(whole["db"].read_bytes())
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE systems SET positions = x'00' WHERE id = 2")
        connection.execute("UPDATE systems SET key_value_pairs = '{\"a\": ' WHERE id = 4")
    found = read(path)
    assert {value.record for value in unread(found).values()} == {1, 3}
    assert sorted(labels(found)) == [0, 2, 4]


def test_a_format_that_only_ase_knows_ends_where_it_is_broken(tmp_path):
    ase.io.write(tmp_path / "a.xsf", [bulk("Cu")] * 3)
    lines = (tmp_path / "a.xsf").read_text().splitlines()
    (tmp_path / "a.xsf").write_text("\n".join([*lines[:-1], "29 x y z"]))
    found = read(tmp_path / "a.xsf")
    assert isinstance(found[max(found)], Unreadable)


def test_memory_does_not_grow_with_the_file(tmp_path):
    """The reader is never more than one frame ahead of what was asked for."""
    path = tmp_path / "a.xyz"
    path.write_text(FRAME * 20000)
    stream = structures([str(path)])
    next(stream)
    path.write_text("")  # whatever is not in memory is gone
    assert sum(1 for _ in stream) < 40000
