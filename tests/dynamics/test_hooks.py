import csv
import io
import math

import pytest
import torch

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import (
    FIRE,
    NVE,
    ConvergenceHook,
    Hook,
    HookStageEnum,
    LoggingHook,
    NaNDetectorHook,
    NeighborListHook,
    ProgressHook,
    SnapshotHook,
)
from nvdyn_ase.dynamics.sinks import HostMemory
from nvdyn_ase.models import EMT
from nvdyn_ase.models.base import NeighborConfig
from tests.systems import mixed, with_velocities
from tests.wells import Well, wells

SHIPPED = [
    LoggingHook(io.StringIO()),
    SnapshotHook(HostMemory(1)),
    NaNDetectorHook(),
    NeighborListHook(NeighborConfig(cutoff=2.0)),
    ProgressHook(),
]


@pytest.mark.parametrize("hook", SHIPPED, ids=lambda hook: type(hook).__name__)
def test_what_ships_is_a_hook_with_a_one_line_repr(hook):
    assert isinstance(hook, Hook)
    assert repr(hook).startswith(type(hook).__name__ + "(")
    assert "\n" not in repr(hook)


def test_what_is_no_hook_is_refused():
    with pytest.raises(TypeError, match="stage"):
        FIRE(Well(), hooks=[print])


@pytest.mark.parametrize("frequency", [1, 3, 100])
def test_the_table_has_every_due_step_and_the_last(frequency):
    text = io.StringIO()
    FIRE(Well(), hooks=[LoggingHook(text, frequency)]).run(wells(1.0, 2.0), n_steps=8)
    lines = text.getvalue().splitlines()
    assert lines[0].split() == ["step", "moving", "mean", "energy", "max", "fmax"]
    steps = [int(line.split()[0]) for line in lines[1:]]
    assert steps[:-1] == list(range(0, 7, frequency))
    assert steps[-1] >= 7


def test_a_csv_has_a_row_for_each_system(tmp_path):
    path = tmp_path / "log.csv"
    engine = FIRE(Well(), hooks=[LoggingHook(path)], convergence_hook=ConvergenceHook())
    batch = engine.run(wells(0.5, 2.0))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    final = {int(row["system_id"]): row for row in rows}
    for i in range(2):
        assert float(final[i]["energy"]) == batch["energy"][i].item()
        assert float(final[i]["fmax"]) == batch["fmax"][i].item()


def test_logs_of_engines_that_conserve_something_show_it(tmp_path):
    path, text = tmp_path / "log.csv", io.StringIO()
    engine = NVE(Well(), dt=0.05, hooks=[LoggingHook(path), LoggingHook(text)])
    batch = engine.run(wells(1.0, 2.0), n_steps=5)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    final = [float(row["conserved_energy"]) for row in rows[-2:]]
    assert final == engine.conserved_energy(batch).view(-1).tolist()
    assert float(text.getvalue().split()[-1]) == pytest.approx(sum(final) / 2, abs=1e-6)
    assert "conserved" in text.getvalue().splitlines()[0]
    FIRE(Well(), hooks=[LoggingHook(text := io.StringIO())]).run(wells(1.0), n_steps=1)
    assert "conserved" not in text.getvalue()


def test_a_log_of_conserved_energies_when_some_systems_leave(tmp_path):
    path = tmp_path / "log.csv"
    criterion = ConvergenceHook.from_fmax(0.7)
    batch = wells(0.5, 3.0, 4.0)
    NVE(Well(), dt=0.05, hooks=[LoggingHook(path)], convergence_hook=criterion).run(batch, 5)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    known = [row["system_id"] for row in rows if row["conserved_energy"] != "nan"]
    assert known.count("0") == 0 and known.count("2") == 5


def test_a_file_takes_a_second_run(tmp_path):
    path = tmp_path / "log.txt"
    engine = NVE(Well(), dt=0.1, hooks=[LoggingHook(str(path))])
    batch = engine.run(wells(1.0), n_steps=2)
    engine.run(batch, n_steps=2)
    lines = path.read_text().splitlines()
    assert [line.split()[0] for line in lines] == ["step", "0", "1", "2", "3"]


def test_snapshots_are_what_the_batch_was():
    sink = HostMemory(100)
    positions = []

    class Note:
        stage, frequency = HookStageEnum.AFTER_STEP, 2

        def __call__(self, batch, dynamics):
            positions.append(batch["positions"].clone())

    NVE(Well(), dt=0.1, hooks=[SnapshotHook(sink, 2), Note()]).run(wells(1.0, 2.0), n_steps=5)
    assert len(sink) == 6
    assert torch.equal(sink.read()["positions"], torch.cat(positions))


def test_the_nan_detector_says_nothing_of_finite_numbers():
    batch = wells(1.0, 1e-300, 1e150)
    FIRE(Well(), hooks=[NaNDetectorHook()]).run(batch, n_steps=2)
    assert batch["outcome"].view(-1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_nan_detector_finds_any_other(value):
    batch = wells(1.0, 2.0)
    batch["positions"][0, 1] = value
    FIRE(Well(), hooks=[NaNDetectorHook()]).run(batch, n_steps=2)
    assert batch["outcome"].view(-1).tolist() == [3, 2]


def test_a_second_run_goes_on_without_who_has_failed_in_the_first():
    first, second, large = (with_velocities(atoms, 1) for atoms in mixed(3))
    batch = batch_from_atoms([first, large, second])
    reference = batch.clone()
    batch["positions"][batch.host_ptr[1], 0] = math.nan  # of so many atoms that they are taken out
    engine = NVE(EMT(), dt=0.2, hooks=[NaNDetectorHook()])
    for _ in range(3):
        engine.run(batch, n_steps=2)
    assert batch["steps"].view(-1).tolist() == [6, 0, 6]
    NVE(EMT(), dt=0.2).run(reference, n_steps=6)
    for row in (0, 2):
        assert torch.equal(batch[[row]]["positions"], reference[[row]]["positions"])


def test_the_progress_bar_counts_steps(capsys):
    engine = NVE(Well(), dt=0.1, hooks=[ProgressHook(total=7, frequency=2)])
    engine.run(wells(1.0, 2.0), n_steps=7)
    assert "7/7" in capsys.readouterr().err


def test_a_hook_may_change_what_the_optimizer_sees():
    class Push:
        stage, frequency = HookStageEnum.AFTER_COMPUTE, 1

        def __call__(self, batch, dynamics):
            batch["forces"] = batch["forces"] + torch.tensor([1.0, 0.0, 0.0]).double()

    hook = ConvergenceHook.from_fmax(1e-3)
    batch = FIRE(Well(), hooks=[Push()], convergence_hook=hook).run(wells(0.5))
    assert torch.allclose(batch["positions"], torch.tensor([1.0, 0.0, 0.0]).double(), atol=1e-3)


def test_hooks_may_come_and_go_in_a_run(tmp_path):
    class ComeAndGo:
        stage, frequency = HookStageEnum.AFTER_STEP, 1

        def __call__(self, batch, dynamics):
            dynamics.hooks[self.stage].remove(self)
            dynamics.register_hook(late)

    late = LoggingHook(tmp_path / "late.csv")
    counted = SnapshotHook(HostMemory(10))
    NVE(Well(), dt=0.1, hooks=[ComeAndGo(), counted]).run(wells(1.0), n_steps=3)
    assert len(counted.sink) == 3
    assert len((tmp_path / "late.csv").read_text().splitlines()) == 1 + 2
    assert late._file is None


def test_hooks_that_ship_work_in_steps_by_hand(tmp_path):
    log = LoggingHook(tmp_path / "steps.csv")
    engine = NVE(Well(), dt=0.1, hooks=[log, ProgressHook(frequency=1)])
    batch = wells(1.0)
    for _ in range(3):
        engine.step(batch)
    assert len((tmp_path / "steps.csv").read_text().splitlines()) == 1 + 3


@pytest.mark.parametrize("frequency", [1, 4, 10])
def test_a_state_has_the_same_step_whatever_the_frequency(frequency):
    text = io.StringIO()
    NVE(Well(), dt=0.1, hooks=[LoggingHook(text, frequency)]).run(wells(1.0), n_steps=8)
    assert text.getvalue().splitlines()[-1].split()[0] == "7"


@pytest.mark.parametrize("frequency", [1, 3])
def test_a_system_that_never_moves_is_recorded(frequency):
    sink = HostMemory(100)
    hooks, done = [SnapshotHook(sink, frequency)], ConvergenceHook.from_fmax(0.05)
    engine = FIRE(Well(), hooks=hooks, convergence_hook=done)
    engine.run(wells(0.001, 0.002))
    assert sink.drain()["system_id"].view(-1).tolist() == [0, 1]
    engine.run(wells(0.001, 2.0), n_steps=3)
    assert 0 in sink.read()["system_id"]


def test_the_table_has_one_line_a_step_also_when_systems_leave():
    text = io.StringIO()
    hooks, done = [LoggingHook(text, frequency=5)], ConvergenceHook.from_fmax(0.05)
    FIRE(Well(), hooks=hooks, convergence_hook=done).run(wells(0.01, 0.1, 0.3, 1.0, 2.0, 3.0))
    steps = [int(line.split()[0]) for line in text.getvalue().splitlines()[1:]]
    assert steps == [*range(0, steps[-1], 5), steps[-1]]


STAGES = [stage for stage in HookStageEnum if stage is not HookStageEnum.ON_CONVERGE]


@pytest.mark.parametrize("stage", STAGES)
def test_a_method_never_moves_by_forces_of_another_geometry(stage):
    class Shift:
        frequency = 1

        def __init__(self):
            self.stage = stage

        def __call__(self, batch, dynamics):
            if dynamics.step_count == 2:
                batch["positions"] = 2.0 * batch["positions"]

    class Careful(FIRE):
        def pre_update(self, batch):
            assert torch.equal(batch["forces"], -batch["positions"])
            super().pre_update(batch)

    Careful(Well(), hooks=[Shift()]).run(wells(1.0, 2.0), n_steps=5)
