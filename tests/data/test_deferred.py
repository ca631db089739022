"""Fields that are computed when somebody reads them."""

import copy
import pickle

import pytest
import torch

from nvdyn_ase.data import Batch, Level
from tests.data.strategies import batch_of


class Counted:
    """Computes a field and counts how often."""

    def __init__(self, value):
        self.value, self.calls = value, 0

    def __call__(self):
        self.calls += 1
        return self.value


@pytest.fixture
def change():
    """Return a function that makes a system field of a batch of two."""
    return Counted(torch.tensor([[1.0], [2.0]]))


@pytest.fixture
def batch(change):
    """Return a batch of two with that field deferred."""
    batch = batch_of(2, 1)
    batch.defer("change", change)
    return batch


def test_computed_once_when_first_read(batch, change):
    assert "change" in batch
    assert "change" in batch.keys()  # noqa: SIM118
    assert batch.level("change") is Level.SYSTEM
    assert batch.deferred("change") is change
    assert "change" in repr(batch)
    assert change.calls == 0
    assert batch["change"] is batch.change is change.value
    assert batch.deferred("change") is None
    assert dict(batch)["change"] is change.value
    assert change.calls == 1


@pytest.mark.parametrize("level", list(Level))
def test_any_level(level):
    batch = batch_of(2, 1, edges=2)
    rows = {"node": 3, "edge": 4, "system": 2, "block": 45}[level]
    batch.defer("w", lambda: torch.zeros(rows), level=level)
    assert batch.level("w") is level
    assert batch[[1]]["w"].shape == ({"node": 1, "edge": 2, "system": 1, "block": 9}[level],)
    batch.defer("forces", lambda: torch.zeros(3, 3))
    assert batch.level("forces") is Level.NODE
    batch.add_key("u", torch.zeros(3))
    batch.defer("u", lambda: torch.ones(3))
    assert batch.level("u") is Level.NODE


@pytest.mark.parametrize(
    "whole",
    [
        lambda batch: batch[:],
        lambda batch: batch.clone(),
        lambda batch: batch.to("cpu"),
        lambda batch: batch.cpu(),
        lambda batch: batch.pin_memory(),
        lambda batch: copy.copy(batch),
        lambda batch: copy.deepcopy(batch),
        lambda batch: pickle.loads(pickle.dumps(batch)),
        lambda batch: Batch.from_data_list(batch.to_data_list()),
        lambda batch: Batch.from_data_list([batch[0], batch[1]]),
    ],
)
def test_copies_have_the_value(batch, change, whole):
    other = whole(batch)
    assert other["change"].tolist() == [[1], [2]]
    assert batch["change"] is change.value
    assert change.calls == 1


def test_appending_computes_it(batch, change):
    other = batch_of(3)
    other["change"] = torch.tensor([[3.0]])
    batch.append(other)
    assert batch["change"].tolist() == [[1], [2], [3]]
    assert change.calls == 1


def test_a_value_or_another_function_takes_its_place(batch, change):
    batch["change"] = torch.zeros(2, 1)
    assert batch.deferred("change") is None
    assert batch["change"].tolist() == [[0], [0]]
    batch.defer("change", Counted(torch.ones(2, 1)))
    assert batch["change"].tolist() == [[1], [1]]
    assert batch.keys().count("change") == 1
    batch.defer("change", change)
    del batch["change"]
    assert "change" not in batch
    with pytest.raises(KeyError):
        batch["change"]
    assert change.calls == 0


def test_it_may_read_other_fields(batch, change):
    batch.defer("twice", lambda: 2 * batch["change"])
    batch.defer("four", lambda: 2 * batch["twice"])
    assert batch["four"].tolist() == [[4], [8]]
    assert change.calls == 1


def test_a_function_that_fails_is_asked_again(batch):
    answers = [RuntimeError("out of memory"), torch.ones(2, 1)]

    def function():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    batch.defer("w", function)
    with pytest.raises(RuntimeError, match="out of memory"):
        _ = batch.w
    assert "w" in batch
    assert batch["w"].tolist() == [[1], [1]]


def test_its_value_must_fit(batch):
    batch.defer("energy", lambda: torch.zeros(3, 1))
    with pytest.raises(ValueError, match="'energy' is system-level and needs 2 rows"):
        batch["energy"]
    batch.defer("energy", lambda: torch.zeros(2))
    assert batch["energy"].shape == (2, 1)
