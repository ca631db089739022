"""How many structures a bar expects."""

from pathlib import Path

import ase.io
import pytest
from ase import Atoms

from nvdyn_ase import counting
from nvdyn_ase.cli import main
from nvdyn_ase.counting import estimate


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def chains(count, longest=7):
    return [Atoms(f"H{n}", [[0.8 * i, 0, 0] for i in range(n)]) for n in sizes(count, longest)]


def sizes(count, longest):
    return [1 + (5 * k) % longest for k in range(count)]


@pytest.mark.parametrize("name", ["in.extxyz", "in.traj", "in.db"])
def test_of_whole_files_and_parts_of_them(name):
    ase.io.write(name, chains(11))
    assert estimate([name]) == 11
    for part in (":4", "3:", "::2", "-3:", "5", "-1", ":99"):
        expected = len(ase.io.read(name, slice(None))[_slice(part)])
        assert estimate([f"{name}@{part}"]) == expected, part
    ase.io.write("more.extxyz", chains(3))
    assert estimate([name, "more.extxyz"]) == 14


def _slice(part):
    found = ase.io.formats.string2index(part)
    return found if isinstance(found, slice) else slice(found, found + 1 or None)


@pytest.mark.parametrize("longest", [1, 7, 60])
def test_of_a_large_text_blocks_tell(monkeypatch, longest):
    monkeypatch.setattr(counting, "_BLOCKS", 16)
    monkeypatch.setattr(counting, "_BYTES", 4096)
    count = 40000 // (longest + 2)
    with open("in.extxyz", "w") as file:
        for n in sizes(count, longest):
            print(n, "name=chain", *["H 0.0 0.0 1.5"] * n, sep="\n", file=file)
    assert abs(estimate(["in.extxyz"]) - count) < 0.15 * count


def test_what_only_reading_tells():
    ase.io.write("in.extxyz.gz", chains(3))
    ase.io.write("in.xyz", chains(3), format="xyz")
    ase.io.write("in.db", chains(3))
    Path("in.traj").write_text("something else")
    for name in ("in.extxyz.gz", "in.traj", "gone.extxyz"):
        assert estimate([name]) is None, name
        assert estimate(["in.db", name]) is None, name


@pytest.mark.parametrize("more", ["", "2\n\nH 0 0 0\nH 0 zero 0\n", "1\n\n", "5\n3\n"])
def test_the_bar_ends_where_the_structures_do(capfd, more):
    ase.io.write("in.extxyz", chains(5, longest=1))
    with open("in.extxyz", "a") as file:
        file.write(more)
    line = "relax in.extxyz -o out.traj --model lj --progress --batch-size 2"
    assert main(line.split()) == (1 if more else 0)
    shown = capfd.readouterr().err
    assert "| 0/5 " in shown or more
    assert "100%" in shown and "5/5" in shown
    assert "active=" in shown and "structures/s" in shown
