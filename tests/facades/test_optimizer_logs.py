"""Logs of optimizers: one table for the batch, or ASE's table of each system."""

import io
import re

import ase.optimize
import pytest
from ase.filters import FrechetCellFilter

import nvdyn_ase.optimize
from nvdyn_ase.optimize import FIRE
from tests.facades.test_lists import OPTIMIZERS, Silent, metals

NAMES = [*OPTIMIZERS, "CellAwareBFGS"]


def items(name, count=3):
    structures = metals(count)
    if name != "CellAwareBFGS":
        return structures
    return [FrechetCellFilter(atoms, exp_cell_factor=1.0) for atoms in structures]


def lines(text):
    """Return the words of each line without the time of day."""
    return [re.sub(r"\d\d:\d\d:\d\d", "", line).split() for line in text.splitlines()]


def same(ours, theirs):
    """Compare tables; the last digit of a number may be rounded the other way."""
    assert len(ours) == len(theirs)
    for line, expected in zip(ours, theirs, strict=True):
        assert [w for w in line if "." not in w] == [w for w in expected if "." not in w]
        numbers = [[float(w) for w in words if "." in w] for words in (line, expected)]
        assert numbers[0] == pytest.approx(numbers[1], abs=2e-6 if len(line) < 6 else 1.1e-4)


def ases_tables(name):
    for item in items(name):
        file = io.StringIO()
        getattr(ase.optimize, name)(item, logfile=file).run(fmax=0.3, steps=12)
        # GoodOldQuasiNewton also tells of its search there, which a list does not.
        table = [
            line
            for line in lines(file.getvalue())
            if not line or line[0] in ("Step", "Step[", f"{name}:")
        ]
        yield table


@pytest.mark.parametrize("name", NAMES)
def test_a_file_for_each_has_ases_table_of_it(name):
    files = [io.StringIO() for _ in range(3)]
    optimizer = getattr(nvdyn_ase.optimize, name)(items(name), logfile=files)
    optimizer.run(fmax=0.3, steps=12)
    for file, expected in zip(files, ases_tables(name), strict=True):
        same(lines(file.getvalue()), expected)
    lengths = {len(file.getvalue().splitlines()) for file in files}
    assert len(lengths) > 1  # each ends with its own last step


@pytest.mark.parametrize("form", ["names", "pattern", "format"])
def test_files_by_name(form, tmp_path):
    names = [f"l-{i:02d}.log" if form == "format" else f"l-{i}.log" for i in range(3)]
    targets = {
        "names": [str(tmp_path / name) for name in names],
        "pattern": str(tmp_path / "l-{index}.log"),
        "format": tmp_path / "l-{index:02d}.log",
    }
    FIRE(metals(3), logfile=targets[form]).run(fmax=0.3, steps=12)
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    for name, expected in zip(names, ases_tables("FIRE"), strict=True):
        same(lines((tmp_path / name).read_text()), expected)


def test_one_name_is_one_table_of_the_batch(tmp_path):
    FIRE(metals(2), logfile=tmp_path / "all.log").run(fmax=0.3, steps=2)
    assert "Systems" in (tmp_path / "all.log").read_text()


def test_a_second_run_goes_on_in_the_same_files():
    files = [io.StringIO() for _ in range(3)]
    optimizer = FIRE(metals(3), logfile=files)
    optimizer.run(fmax=0.3, steps=5)
    optimizer.run(fmax=0.3, steps=7)
    for file, expected in zip(files, ases_tables("FIRE"), strict=True):
        same(lines(file.getvalue()), expected)


def test_a_system_that_fails_ends_its_own_log():
    structures = metals(3)
    structures[1].calc = Silent(fail_at=3)
    files = [io.StringIO() for _ in structures]
    FIRE(structures, logfile=files).run(fmax=1e-9, steps=6)
    counts = [len(file.getvalue().splitlines()) for file in files]
    assert counts[0] == counts[2] == 8 and 1 <= counts[1] < 8
    assert "nan" not in files[1].getvalue()


def test_a_wrong_number_of_logs_is_an_error_before_anything_moves():
    with pytest.raises(ValueError, match="2 logs for 3 structures"):
        FIRE(metals(3), logfile=["a", "b"])
