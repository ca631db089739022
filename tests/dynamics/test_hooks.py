import csv
import io
import math

import pytest
import torch

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
from nvdyn_ase.models.base import NeighborConfig
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
