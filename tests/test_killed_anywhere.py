"""A command that is killed before any call that changes the disk, and gone on with."""

from pathlib import Path

import ase.io
import numpy as np
import pytest
from ase.build import bulk

from nvdyn_ase.cli import main
from nvdyn_ase.reading import structures
from tests.killing import killed_before
from tests.launching import dying, launched
from tests.test_resume import STAGES

LINE = "relax in.traj -o {} --steps 4 --model emt --batch-size 2 --checkpoint-every 2 --quiet"
OTHER = LINE.replace("--steps 4", "--steps 3")
SINGLE = ["out.extxyz", "out.traj", "out.db"]
EACH = "out_{index}.extxyz"


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    whole = [bulk(metal) * (1, 1, 2) for metal in ("Cu", "Au", "Ni", "Pt", "Al", "Pd")]
    for index, atoms in enumerate(whole):
        atoms.rattle(0.02 * (index % 3 + 1), rng=rng)
        atoms.info["label"] = f"it is number {index}"
    ase.io.write("in.traj", whole)
    Path("stages.toml").write_text(STAGES)


def files():
    """Return what there is in files, but for a lock that nobody has."""
    there = [path for path in Path().iterdir() if path.suffix != ".lock"]
    return {path.name: path.read_bytes() for path in there}


def put(before):
    """Have the files that there were."""
    for path in Path().iterdir():
        path.unlink()
    for name, data in before.items():
        Path(name).write_bytes(data)


def ends(name):
    """Return how every structure ended, bit for bit, by its index."""
    names = [name]
    if name == EACH:
        names = [str(path) for path in sorted(Path().glob("out_[0-9]*"))]
    found = {}
    for _, atoms in (own for each in names for own in structures([each])):
        marks = atoms.info | atoms.info.pop("key_value_pairs", {}) | atoms.info.pop("data", {})
        marks.pop("unique_id", None)
        index = marks["input_index"]
        assert index not in found
        found[index] = (
            *(
                atoms.positions.tobytes(),
                atoms.get_forces().tobytes(),
                atoms.get_potential_energy(),
            ),
            sorted((key, str(value)) for key, value in marks.items()),
        )
    assert len(found) == 6
    return found


def run(line):
    """Run a command that ends as it should: some structures have not converged."""
    assert main(line.split()) == 1


def works(name):
    """Return how every structure ends undisturbed, and the names of the files that there are."""
    before = files()
    run(LINE.format(name))
    found = ends(name), files().keys()
    put(before)
    return found


def sample(calls, size):
    """Return some numbers of calls, from the first to the last."""
    return sorted({int(call) for call in np.linspace(1, calls, size)})


def kill_at(line, name, resumed, size=None):
    """Kill a command before calls, and go on each time; compare with the undisturbed run.

    Parameters
    ----------
    line
        The command.
    name
        Its output.
    resumed
        What goes on with it.
    size
        So many calls, spread over the run; all by default.
    """
    start = files()
    put({key: start[key] for key in ("in.traj", "stages.toml")})
    expected = works(name)
    put(start)
    calls = killed_before(-1, main, line.split())
    assert (ends(name), files().keys()) == expected
    for call in range(1, calls + 1) if size is None else sample(calls, size):
        put(start)
        killed_before(call, main, line.split())
        yield call
        run(resumed)
        assert (ends(name), files().keys()) == expected, call


def stopped(line):
    """Kill a command in the middle of its work."""
    before = files()
    calls = killed_before(-1, main, line.split())
    put(before)
    assert killed_before(int(0.6 * calls), main, line.split()) is None


def left_by_ranks(line):
    """Have two ranks begin, and be killed."""
    assert 0 not in launched(line, 2, dying({0: 9, 1: 9}))
    assert len([name for name in files() if "partial.rank" in name]) in (0, 2)


def test_killed_at_some_calls():
    for _ in kill_at(
        LINE.format("out.extxyz"), "out.extxyz", LINE.format("out.extxyz --resume"), 3
    ):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SINGLE, "out.extxyz.gz", EACH])
def test_killed_anywhere(name):
    for _ in kill_at(LINE.format(name), name, LINE.format(f"{name} --resume")):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SINGLE, EACH])
def test_killed_anywhere_while_it_goes_on(name):
    line = LINE.format(f"{name} --resume")
    stopped(LINE.format(name))
    for _ in kill_at(line, name, line):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", [*SINGLE, EACH])
def test_killed_anywhere_while_parts_are_gathered(name):
    line = LINE.format(f"{name} --resume")
    left_by_ranks(LINE.format(name))
    for _ in kill_at(line, name, line):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("name", SINGLE)
def test_killed_anywhere_while_a_complete_output_is_replaced(name):
    line = LINE.format(f"{name} --overwrite")
    run(OTHER.format(name))
    complete = files()
    for _ in kill_at(line, name, f"{line} --resume"):
        is_over = not any("partial" in left for left in files())
        assert files()[name] == complete[name] or is_over


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("name", [*SINGLE, EACH])
def test_killed_anywhere_while_what_another_run_has_left_is_replaced(name, ranks):
    """Before that is gone, nothing is gone on with; there is nothing of this run yet."""
    line = LINE.format(f"{name} --overwrite")
    (stopped if ranks == 1 else left_by_ranks)(OTHER.format(name))
    for _ in kill_at(line, name, f"{line} --resume"):
        if main(f"{line} --resume".split()) == 2:
            run(line)
