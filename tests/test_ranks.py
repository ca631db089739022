"""Commands in several ranks: one input, one output, whoever dies."""

import os
import random
import re
import signal
import subprocess
import sys
from functools import cache
from itertools import filterfalse
from pathlib import Path

import ase.db
import ase.io
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from torch.distributed import HashStore

import nvdyn_ase
from nvdyn_ase.cli import main
from nvdyn_ase.dynamics.run import Run
from nvdyn_ase.files import DatabaseFile
from nvdyn_ase.output import result_file
from nvdyn_ase.ranks import Claims, Positions, RankError, RankJob, Shares
from nvdyn_ase.ranks.signs_of_life import PATIENCE, Neighbor
from nvdyn_ase.workflows.capacity import Capacity
from tests.killing import killed_after
from tests.launching import dying, launched
from tests.systems import mixed
from tests.test_resume import (
    STAGES,
    ends,
    left_over,
    line_of,
    outcomes,
    says_its_status,
    use,
    wells,
)
from tests.wells import Well

pytestmark = pytest.mark.filterwarnings("ignore:This process")  # it is multi-threaded, and forks


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("stages.toml").write_text(STAGES)


def whole(job, count=7):
    """Write an input; return how every structure ends if this process does the job."""
    ase.io.write("in.traj", mixed(count))
    return _whole(job, count)


@cache
def _whole(job, count):
    assert main(line_of(job, "whole.db").split()) in (0, 1)
    found = ends("whole.db")
    os.remove("whole.db")
    return found


slow = pytest.mark.slow


def in_order(name):
    return [row.input_index for row in ase.db.connect(name).select()]


# -------------------------------------------------------------------- sharing


@given(
    count=st.integers(0, 60),
    chunk=st.integers(1, 9),
    ranks=st.integers(1, 4),
    done=st.sets(st.integers(0, 59)),
    moving=st.dictionaries(st.integers(0, 59), st.integers(0, 3)),
    turns=st.randoms(use_true_random=False),
)
def test_every_position_is_one_rank_s(count, chunk, ranks, done, moving, turns):
    counter = [0]

    def claim(number):
        counter[0] += number
        return counter[0]

    moving = {index: rank % ranks for index, rank in moving.items() if index not in done}
    readers = {}
    for rank in range(ranks):
        own = {index for index, whose in moving.items() if whose == rank}
        claims = Claims(claim, chunk, done | moving.keys(), own)
        readers[rank] = filterfalse(claims.__contains__, range(count))
    taken = []
    while readers:
        rank = turns.choice(sorted(readers))
        found = next(readers[rank], None)
        if found is None:
            del readers[rank]
        else:
            assert moving.get(found, rank) == rank
            taken.append(found)
    assert sorted(taken) == [index for index in range(count) if index not in done]


@given(st.sets(st.integers(0, 300)))
def test_positions_come_through_a_text(positions):
    found = Positions.unpacked(Positions(positions).packed())
    assert {index for index in range(400) if index in found} == positions
    assert len(found) == len(positions)


@given(st.integers(0, 10**8), st.integers(1, 1000))
def test_something_is_left_for_every_rank(count, ranks):
    shares = Shares.of(count, ranks)
    assert min(shares) >= 1
    if count >= 2 * ranks:
        assert sum(shares) <= max(count / ranks, 3)


@pytest.mark.parametrize(("batch_size", "max_atoms"), [("auto", None), (50, None), ("auto", 900)])
def test_a_batch_holds_no_more_structures_than_leave_others_something(batch_size, max_atoms):
    structures = mixed(30)
    capacity = Capacity(batch_size, None, max_atoms, most=7)
    shares = np.cumsum([capacity.share(atoms) for atoms in structures])
    assert (shares <= capacity.limit).sum() <= 7
    smallest = min(structures, key=len)
    assert 7 * capacity.share(smallest) <= capacity.limit + 6


def test_a_rank_that_gives_no_sign_of_life_is_named(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr("nvdyn_ase.ranks.signs_of_life.time.monotonic", lambda: clock[0])
    store = HashStore()
    first, second = (RankJob(store, rank, 2) for rank in range(2))
    neighbor = Neighbor(first)
    for clock[0] in range(0, 100, 10):
        second.say("alive/1", clock[0])
        neighbor.look()
    first.check()
    clock[0] += PATIENCE + 1
    neighbor.look()
    for job in (first, second):
        with pytest.raises(RankError, match="rank 1 of 2: it has given no sign of life for 21 s"):
            job.check()
    assert not second.fail("something else")  # the first reason is the reason


# -------------------------------------------------------------------- one result


@pytest.mark.parametrize(
    "job",
    [pytest.param("FIRE", marks=slow), "Langevin", pytest.param("stages", marks=slow)],
)
def test_two_ranks_end_as_one(job, capfd):
    expected = whole(job)
    capfd.readouterr()
    both = line_of(job).replace("--quiet", "")
    assert launched(both, 2) == [0, 0]
    out, err = capfd.readouterr()
    assert err == ""
    assert re.findall(r"^structures +(\d+)", out, re.MULTILINE) == ["7"]
    assert ends("out.db") == expected
    assert in_order("out.db") == sorted(expected)
    assert left_over() == []
    assert ase.db.connect("out.db").metadata["ranks"] == 2


@pytest.mark.parametrize(
    "name",
    [pytest.param("out.extxyz", marks=slow), pytest.param("out.traj", marks=slow), "out.extxyz.gz"],
)
def test_other_formats(name):
    expected = whole("FIRE")
    assert launched(line_of("FIRE", name), 2) == [0, 0]
    found = ase.io.read(name, ":")
    assert [atoms.info["input_index"] for atoms in found] == sorted(expected)
    for atoms in found:
        positions, *_ = expected[atoms.info["input_index"]]
        np.testing.assert_allclose(atoms.positions.ravel(), np.frombuffer(positions), atol=1e-8)
    assert left_over() == []


@slow
def test_a_file_for_each_structure():
    whole("FIRE")
    assert launched(line_of("FIRE", "out_{index}.xyz"), 2) == [0, 0]
    assert {f"out_{index}.xyz" for index in range(7)} < set(os.listdir())
    assert left_over() == []


# -------------------------------------------------------------------- whoever dies


def test_a_killed_rank_is_named_and_its_work_gone_on_with(capfd):
    expected = whole("FIRE")
    capfd.readouterr()
    status = launched(line_of("FIRE"), 2, dying({1: 9}))
    assert status == [2, -9]
    (said,) = capfd.readouterr().err.splitlines()
    assert "rank 1 of 2 on" in said and "its process is gone" in said
    assert "out.db.rank1.checkpoint.npz" in left_over()
    # The checkpoint that is gone on with has to outlive the first one that is written again.
    assert launched(line_of("FIRE", more="--resume"), 2, dying({1: 2}))[1] == -9
    assert "out.db.rank1.checkpoint.npz" in left_over()
    assert launched(line_of("FIRE", more="--resume"), 2) == [0, 0]
    assert ends("out.db") == expected
    assert left_over() == []


@pytest.mark.parametrize(("before", "after"), [pytest.param(2, 3, marks=slow), (3, 1)])
def test_another_number_of_ranks_goes_on(before, after, monkeypatch):
    expected = whole("Langevin")
    assert launched(line_of("Langevin"), before, dying({0: 8}))[0] == -9
    line = line_of("Langevin", more="--resume")
    if after == 1:
        steps, advance = [0], Run.advance

        def counted(self):
            steps[0] += len(self.batch)
            advance(self)

        monkeypatch.setattr(Run, "advance", counted)
        assert main(line.split()) == 0
        assert steps[0] < 30 * 7  # something had been done
    else:
        assert launched(line, after) == [0] * after
    assert ends("out.db") == expected
    assert in_order("out.db") == sorted(expected) or after == 1
    assert left_over() == []


def test_launched_again_it_goes_on_by_itself():
    expected = whole("FIRE")
    launched(line_of("FIRE"), 2, dying({0: 6, 1: 7}))
    assert launched(line_of("FIRE"), 2, restarts=1) == [0, 0]
    assert ends("out.db") == expected
    again = launched(line_of("FIRE"), 2)
    assert again[0] == 2  # it exists, and nobody said --overwrite
    assert again[1] in (2, -signal.SIGTERM)  # or the launcher has ended it before it could hear


def test_ranks_have_their_output_alone(capfd):
    whole("FIRE")
    capfd.readouterr()
    output = result_file("out.db")
    with output.locked():  # by the process that these are children of
        assert 0 not in launched(line_of("FIRE"), 2)
        (said,) = capfd.readouterr().err.splitlines()
        assert f"out.db is in use by process {os.getpid()} on" in said
        assert not os.path.exists("out.partial.db")
    assert launched(line_of("FIRE"), 2) == [0, 0]
    assert not [name for name in os.listdir() if name.endswith(".lock")]


def looks_when_the_first_is_killed(line):
    """Return what lets rank 1 kill the first, and see whether another run gets the output."""

    def look():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the launcher ends all when one has died
        os.kill(int(Path("first").read_text()), signal.SIGKILL)
        os.environ.pop("RANK")
        Path("status").write_text(killed_after(-1, says_its_status, line)[0])
        os._exit(3)

    def prepare(rank):
        if rank == 0:
            Path("first").write_text(str(os.getpid()))
        dying({1: 5}, look)(rank)

    return prepare


def test_nobody_goes_on_with_what_a_rank_still_writes(capfd):
    expected = whole("FIRE")
    line = line_of("FIRE", more="--resume")
    assert launched(line_of("FIRE"), 2, looks_when_the_first_is_killed(line)) == [-9, 3]
    assert Path("status").read_text() == "2"
    assert "out.db is in use by the ranks of process" in capfd.readouterr().err
    assert main(line.split()) == 0
    assert ends("out.db") == expected
    assert left_over() == []


def raises():
    raise ValueError("there is something wrong")


def test_a_rank_that_raises_is_named(capfd):
    whole("FIRE")
    capfd.readouterr()
    status = launched(line_of("FIRE"), 2, dying({1: 5}, raises))
    assert status == [2, 99]  # with its traceback
    said = [line for line in capfd.readouterr().err.splitlines() if "nvdyn-ase: error" in line]
    assert len(said) == 1
    assert "rank 1 of 2" in said[0] and "ValueError: there is something wrong" in said[0]


def test_failures_are_tried_again(monkeypatch):
    use(monkeypatch, Well(fail=[1, 4]))
    ase.io.write("in.traj", wells(6))
    line = "relax in.traj -o out.db --model well --quiet"
    assert launched(line, 2) == [0, 0]  # all are in the output
    failed = {index for index, outcome in outcomes("out.db").items() if outcome != "converged"}
    assert failed == {1, 4}
    use(monkeypatch, Well(fail=[4]))
    assert launched(f"{line} --resume --retry-failed --optimizer LBFGS", 2) == [0, 0]
    assert outcomes("out.db") == {**dict.fromkeys(range(6), "converged"), 4: "error"}
    assert in_order("out.db") == list(range(6))
    assert left_over() == []


@slow
def test_what_a_launcher_ends_is_gone_on_with(capfd):
    expected = whole("FIRE")
    capfd.readouterr()
    ended = dying({0: 5, 1: 5}, lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert 0 not in launched(line_of("FIRE"), 2, ended)
    assert "Traceback" not in capfd.readouterr().err
    assert launched(line_of("FIRE", more="--resume"), 2) == [0, 0]
    assert ends("out.db") == expected


def full(rank):
    def add(self, atoms, marks):
        raise OSError("no space left on device")

    if rank == 1:
        DatabaseFile.add = add


def test_an_output_that_fails_is_named(capfd):
    whole("FIRE")
    capfd.readouterr()
    assert launched(line_of("FIRE"), 2, full) == [2, 2]
    (said,) = capfd.readouterr().err.splitlines()
    assert "rank 1 of 2" in said and "no space left on device" in said


def test_what_is_wrong_for_all_is_said_once(capfd):
    ase.io.write("in.traj", mixed(2))
    assert 0 not in launched(line_of("FIRE", "out.cif"), 2)
    (said,) = capfd.readouterr().err.splitlines()
    assert "several ranks cannot write a cif file together" in said
    assert launched("relax in.traj -o out.db --model", 2)[0] == 2
    assert capfd.readouterr().err.count("expected one argument") == 1
    assert sorted(os.listdir()) == ["in.traj", "stages.toml"]


def test_an_empty_input_says_so(capfd):
    open("in.extxyz", "w").close()
    assert launched("relax in.extxyz -o out.db --model emt", 2)[0] == 2
    assert "Empty file" in capfd.readouterr().err
    assert sorted(os.listdir()) == ["in.extxyz", "stages.toml"]


@slow
@pytest.mark.parametrize("job", ["FIRE", "LBFGS", "Langevin", "stages"])
def test_ranks_die_at_random_again_and_again(job):
    rng = random.Random(job)
    expected = whole(job, 40)
    resume = ""
    for _ in range(12):
        ranks = rng.randint(1, 3)
        victims = {rank: rng.randint(1, 12) for rank in range(ranks) if rng.random() < 0.6}
        launched(line_of(job, more=resume), ranks, dying(victims))
        resume = "--resume"
    launched(line_of(job, more=resume), 2)
    assert ends("out.db") == expected
    assert left_over() == []


@slow
def test_torchrun_goes_on_after_a_kill(capfd):
    expected = whole("FIRE", 12)
    with open("killed.py", "w") as file:
        file.write(KILLED)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    line = [*torchrun, "--max-restarts=1", "killed.py", *line_of("FIRE").split()]
    paths = {"PYTHONPATH": str(Path(nvdyn_ase.__file__).parents[1])}
    subprocess.run(line, env={**os.environ, **paths}, check=True)
    assert "rank 1 of 2" in capfd.readouterr().err
    assert ends("out.db") == expected
    assert left_over() == []


KILLED = """
import os, sys
from tests.launching import dying
from nvdyn_ase.cli import main
dying({1: 9} if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0" else {})(int(os.environ["RANK"]))
sys.exit(main(sys.argv[1:]))
"""
