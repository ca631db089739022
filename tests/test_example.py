import importlib.util
from pathlib import Path

import numpy as np
import pytest

PATH = Path(__file__).parents[1] / "examples" / "relax_many.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("relax_many", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_structures_are_the_same_every_time(example):
    first, second = example.build(12), example.build(16)
    assert first == second[:12]
    assert {atoms.info["kind"] for atoms in first} == {
        "alloy",
        "slab",
        "cluster",
        "small_molecule",
    }


def test_structures_are_what_they_say(example):
    structures = example.build(80)
    for atoms in structures:
        distances = atoms.get_all_distances(mic=True)
        assert distances[~np.eye(len(atoms), dtype=bool)].min() > 0.6
    slabs = [atoms for atoms in structures if atoms.info["kind"] == "slab"]
    assert all(len(atoms.constraints) == 1 for atoms in slabs)
    assert any(set("HCNO") & set(atoms.symbols) for atoms in slabs)


def test_all_of_it(example, tmp_path, capsys):
    picture = tmp_path / "picture.png"
    example.main(["--count", "12", "--sample", "4", "--picture", str(picture)])
    shown = capsys.readouterr().out
    assert "converged            12" in shown
    assert "same number of steps, each:     yes" in shown
    assert "bit for bit as in the big batch: yes" in shown
    assert str(picture) in shown
    assert picture.stat().st_size > 10_000


def test_without_matplotlib_there_is_no_picture(example, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    numbers = np.ones((2, 3))
    assert not example.draw(numbers, numbers, tmp_path / "picture.png")
