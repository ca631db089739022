"""A file may be cut off at any byte, and the process killed at any moment."""

import errno
import random
import resource
import sqlite3
import threading

import ase.db
import ase.io
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nvdyn_ase.files.database
from nvdyn_ase.files import INDEX, DamagedFileError, TrajectoryFile
from nvdyn_ase.files.ulm_items import find_items
from tests.files.written import KINDS, STREAMS, assert_kept, contents, marks, some, write
from tests.killing import killed_after, killed_before

WHOLE = some(6)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("files")


@pytest.fixture(scope="module")
def whole(folder):
    return {kind: write(kind, folder / f"whole.{kind}", WHOLE).read_bytes() for kind in STREAMS}


def ends(kind, folder):
    """Return the sizes of a file after each structure."""
    path = folder / f"ends.{kind}"
    path.unlink(missing_ok=True)
    sizes = []
    for index, atoms in enumerate(WHOLE):
        write(kind, path, [atoms], first=index)
        sizes.append(path.stat().st_size)
    return sizes


@pytest.mark.parametrize("kind", STREAMS)
@settings(max_examples=40)
@given(share=st.floats(0, 1))
def test_a_file_cut_anywhere_goes_on_and_ends_with_each_once(folder, whole, kind, share):
    path = folder / f"cut.{kind}"
    size = int(share * len(whole[kind]))
    path.write_bytes(whole[kind][:size])
    file = KINDS[kind](path)
    done = [own[INDEX] for own in file.recover()]
    assert done == list(range(len(done)))
    for index in range(len(done), len(WHOLE)):
        file.add(WHOLE[index], marks(index))
    file.close()
    found = contents(kind, path)
    assert sorted(found) == list(range(len(WHOLE)))
    for index, atoms in enumerate(WHOLE):
        assert_kept(found[index], atoms, decimals=kind == "extxyz")
    assert len(ase.io.read(path, ":")) == len(WHOLE)


@pytest.mark.parametrize("kind", STREAMS)
def test_only_what_was_cut_is_lost(folder, kind):
    sizes = ends(kind, folder)
    data = (folder / f"ends.{kind}").read_bytes()
    path = folder / f"cut.{kind}"
    for count, size in enumerate(sizes[:-1], 1):
        for more in (1, 10, (sizes[count] - size) // 2, sizes[count] - size - 1):
            path.write_bytes(data[: size + more])
            assert len(KINDS[kind](path).recover()) in (count, count + (kind == "traj"))
            assert len(KINDS[kind](path).recover()) >= count


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_takes_the_place_of_an_older_one_of_its_index(tmp_path, kind):
    path = tmp_path / "a"
    write(kind, path, WHOLE[:4])
    file = KINDS[kind](path)
    file.recover()
    file.add(WHOLE[4], marks(1, "budget"))
    file.add(WHOLE[5], marks(1, "error"))
    file.settle()
    file.add(WHOLE[4], marks(4))
    file.close()
    file = KINDS[kind](path)
    assert {own[INDEX]: own["relax_outcome"] for own in file.recover()} == {
        **dict.fromkeys(range(5), "converged"),
        1: "error",
    }
    file.close()
    assert_kept(contents(kind, path)[1], WHOLE[5], decimals=kind == "extxyz")
    if kind != "db":
        assert list(contents(kind, path)) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("kind", KINDS)
def test_files_of_another_kind_are_left_alone(tmp_path, kind):
    path = tmp_path / "a"
    path.write_bytes(b"a shopping list\n" * 10)
    with pytest.raises((DamagedFileError, OSError)):
        KINDS[kind](path).recover()
    assert path.read_bytes() == b"a shopping list\n" * 10


def test_damage_in_the_middle_of_a_text_is_left_alone(tmp_path, whole):
    path = tmp_path / "a"
    data = whole["extxyz"].replace(b"\nAu", b"", 1)
    path.write_bytes(data)
    with pytest.raises(DamagedFileError, match="structure 1"):
        KINDS["extxyz"](path).recover()
    assert path.read_bytes() == data


@pytest.mark.parametrize("size", [1, 2, 41, 42, 43, 60])
def test_the_table_of_a_trajectory_grows(tmp_path, size):
    path = tmp_path / "a"
    write("traj", path, WHOLE[:1] * size)
    data = path.read_bytes()
    for lost in (1, 9, 500, len(data) // 2):
        path.write_bytes(data[:-lost])
        left = len(TrajectoryFile(path).recover())
        write("traj", path, WHOLE[:1] * (size - left), first=left)
        assert len(contents("traj", path)) == size


def test_a_trajectory_that_is_whole_is_not_searched(tmp_path, monkeypatch):
    path = write("traj", tmp_path / "a", WHOLE)
    monkeypatch.setattr("nvdyn_ase.files.ulm_items._searched", None)
    with path.open("rb") as file:
        items = find_items(file, path.stat().st_size)
    assert items.is_whole
    assert len(items.offsets) == len(WHOLE)


# -------------------------------------------------------------------- a full disk


def fill_up(file, kind, monkeypatch):
    """Let the file take part of what is written next, and no more."""
    if kind == "extxyz":
        real = file._file

        class Full:
            def write(self, data):
                if len(data) < 60:
                    raise OSError(errno.ENOSPC, "No space left on device")
                return real.write(data[:50])

            def __getattr__(self, name):
                return getattr(real, name)

        monkeypatch.setattr(file, "_file", Full())
    elif kind == "traj":

        def sync(self):
            self.fd.write(b"half of it")
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("ase.io.ulm.Writer.sync", sync)
    else:
        connection = file._connected().connection
        pages = connection.execute("PRAGMA page_count").fetchone()[0]
        connection.execute(f"PRAGMA max_page_count = {pages}")


def add_until_it_fails(file):
    for index in range(3, 60):
        file.add(WHOLE[2], marks(index))


@pytest.mark.parametrize("kind", KINDS)
def test_a_full_disk_is_an_error_and_the_file_is_as_it_was(tmp_path, monkeypatch, kind):
    path = tmp_path / "a"
    file = KINDS[kind](path)
    file.recover()
    for index in range(3):
        file.add(WHOLE[index], marks(index))
    file.flush()
    with monkeypatch.context() as patch:
        fill_up(file, kind, patch)
        with pytest.raises(OSError, match=r"No space|full"):
            add_until_it_fails(file)
    for index in range(3, 6):  # somebody made room
        file.add(WHOLE[index], marks(index))
    file.close()
    found = contents(kind, path)
    assert sorted(found) == list(range(6))
    for index, atoms in enumerate(WHOLE):
        assert_kept(found[index], atoms, decimals=kind == "extxyz")


def write_under_a_limit(say, kind, path):
    """Let no file be larger than a little more than this one is."""
    file = KINDS[kind](path)
    file.recover()
    file.add(WHOLE[0], marks(0))
    file.flush()
    size = path.stat().st_size + 3000
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    for index in range(1, 10000):
        try:
            file.add(WHOLE[index % 5], marks(index))
        except OSError:
            say(index)
            return


@pytest.mark.parametrize("kind", KINDS)
def test_a_limit_on_the_size_of_files(tmp_path, kind):
    """The nearest to a full disk that needs no other rights: the system itself refuses."""
    path = tmp_path / "a"
    written, end = killed_after(-1, write_under_a_limit, kind, path)
    assert end == "end"
    found = contents(kind, path)
    assert sorted(found) == list(range(len(found)))
    assert 1 <= len(found) <= int(written)
    if kind != "db":
        assert len(found) == int(written)


# -------------------------------------------------------------------- kill -9


def write_the_rest(say, kind, path, count):
    nvdyn_ase.files.database.ROWS_PER_COMMIT = 7
    file = KINDS[kind](path)
    done = {own[INDEX] for own in file.recover()}
    for index in range(count):
        if index not in done:
            file.add(WHOLE[index % 5], marks(index))
            say(index)
    file.close()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("kills", [5, pytest.param(100, marks=pytest.mark.slow)])
def test_killed_again_and_again_each_is_there_once(tmp_path, kind, kills):
    path, count, rng = tmp_path / "a", 120, random.Random(kills)
    for _ in range(kills):
        killed_after(rng.randint(1, 2 + 200 // kills), write_the_rest, kind, path, count)
    assert killed_after(-1, write_the_rest, kind, path, count)[-1] == "end"
    found = contents(kind, path)
    assert sorted(found) == list(range(count))
    for index, atoms in found.items():
        assert_kept(atoms, WHOLE[index % 5], decimals=kind == "extxyz")


def test_a_database_that_was_being_made_goes_on(tmp_path):
    calls, call = None, 0
    while calls is None:
        call += 1
        path = tmp_path / f"{call}.db"
        calls = killed_before(call, KINDS["db"](path).recover)
        write("db", path, WHOLE[:1])
        assert sorted(contents("db", path)) == [0]
    assert calls == call - 1 > 20


# -------------------------------------------------------------------- databases


def test_rows_are_committed_by_number_and_time(tmp_path, monkeypatch):
    def committed():
        with sqlite3.connect(path) as connection:
            return connection.execute("SELECT COUNT(*) FROM systems").fetchone()[0]

    path = tmp_path / "a.db"
    file = KINDS["db"](path)
    file.recover()
    monkeypatch.setattr(nvdyn_ase.files.database, "ROWS_PER_COMMIT", 3)
    for index in range(5):
        file.add(WHOLE[0], marks(index))
    assert committed() == 3
    monkeypatch.setattr(nvdyn_ase.files.database, "SECONDS_PER_COMMIT", 0.0)
    file.add(WHOLE[0], marks(5))
    assert committed() == 6
    monkeypatch.undo()
    file.add(WHOLE[0], marks(6))
    assert committed() == 6
    file.flush()
    assert committed() == 7
    file.close()


def test_a_database_belongs_to_the_thread_that_writes(tmp_path):
    """It may be looked into before, by another one."""
    file = KINDS["db"](tmp_path / "a.db")
    assert file.recover() == []

    def work():
        file.add(WHOLE[0], marks(0))
        file.close()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert list(contents("db", tmp_path / "a.db")) == [0]


def test_a_lock_that_somebody_left_does_not_hang(tmp_path):
    path = tmp_path / "a.db"
    path.with_name("a.db.lock").touch()
    write("db", path, WHOLE[:1])
    assert list(contents("db", path)) == [0]


def test_what_a_database_is_about(tmp_path):
    path = tmp_path / "a.db"
    file = KINDS["db"](path)
    file.recover()
    file.tell({"model": "emt"})
    file.add(WHOLE[0], marks(0))
    file.close()
    assert ase.db.connect(path).metadata == {"model": "emt"} == KINDS["db"](path).told()
