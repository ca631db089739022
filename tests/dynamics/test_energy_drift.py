"""The drift of each system is measured against its own start, and told or acted upon."""

import pytest
import torch
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st
from loguru import logger

from nvdyn_ase.atoms import Result, batch_from_atoms
from nvdyn_ase.dynamics import (
    NVE,
    Bussi,
    ConvergenceHook,
    EnergyDriftMonitorHook,
    HookStageEnum,
    Langevin,
    Outcome,
)
from nvdyn_ase.models import EMT
from tests.systems import with_velocities
from tests.wells import Well, wells


@pytest.fixture
def lines():
    found = []
    handle = logger.add(lambda line: found.append(str(line)), format="{message}")
    yield found
    logger.remove(handle)


class Pump:
    """Gives some systems energy, a little more in each step."""

    stage, frequency = HookStageEnum.AFTER_POST_UPDATE, 1

    def __init__(self, factors):
        self.factors = factors

    def __call__(self, batch, dynamics):
        factors = torch.tensor([self.factors[i] for i in batch["system_id"].view(-1).tolist()])
        batch["velocities"] = batch["velocities"] * factors.double()[batch.batch].view(-1, 1)


def pumped(factors, *hooks, speed=1.0):
    """Return the batch after a run in which systems are pumped."""
    batch = wells(*[1.0] * len(factors))
    batch["velocities"] = torch.full_like(batch["velocities"], speed)
    NVE(Well(), dt=0.01, hooks=[Pump(factors), *hooks]).run(batch, n_steps=6)
    return batch


@given(st.lists(st.sampled_from([1.0, 1.2]), min_size=1, max_size=6))
@settings(max_examples=15)
def test_those_that_drift_are_retired_and_the_others_do_not_notice(factors):
    batch = pumped(factors, EnergyDriftMonitorHook(0.5, "retire"))
    ends = [Outcome.EXPLODED if factor > 1.0 else Outcome.BUDGET for factor in factors]
    assert batch["outcome"].view(-1).tolist() == ends
    plain = pumped(factors)
    for row, end in enumerate(ends):
        if end is Outcome.BUDGET:
            assert torch.equal(batch[[row]]["positions"], plain[[row]]["positions"])
        else:
            assert batch["steps"][row] < 6
            assert batch["blow_up"][row, 1] > 0.5


def test_the_reason_is_in_the_result():
    systems = [with_velocities(bulk("Cu", cubic=True), i) for i in range(2)]
    batch = batch_from_atoms(systems)
    hooks = [Pump([1.0, 1.5]), EnergyDriftMonitorHook(0.05, "retire")]
    NVE(EMT(), 0.1, hooks=hooks).run(batch, n_steps=6)
    results = Result.of_batch(batch, systems)
    assert results[0].outcome is Outcome.BUDGET
    assert "drifted by" in results[1].reason and "0.05 eV" in results[1].reason


def test_a_warning_comes_once_for_each_system(lines):
    batch = pumped([1.2, 1.0, 1.3], EnergyDriftMonitorHook(0.5, "warn"))
    assert (batch["outcome"] == Outcome.BUDGET).all()
    assert sorted(line.split(":")[0] for line in lines) == ["system 0", "system 2"]


def test_an_error_names_the_system_and_leaves_the_last_finished_step():
    batch = wells(1.0, 1.0)
    batch["velocities"] = torch.ones_like(batch["velocities"])
    hooks = [Pump([1.0, 1.002]), EnergyDriftMonitorHook(0.5, "raise")]
    with pytest.raises(RuntimeError, match="system 1: its energy drifted"):
        NVE(Well(), dt=0.01, hooks=hooks).run(batch, n_steps=9)
    done = int(batch["steps"][1])
    assert 0 < done < 9
    again = wells(1.0, 1.0)
    again["velocities"] = torch.ones_like(again["velocities"])
    NVE(Well(), dt=0.01, hooks=hooks[:1]).run(again, n_steps=done)
    assert torch.equal(batch["positions"], again["positions"])


def test_the_start_stays_with_its_system_when_others_leave(lines):
    # Every system has an energy of its own, so that a start of another one would be noticed.
    batch = wells(0.6, 4.0, 0.7, 5.0, 6.0)
    done = ConvergenceHook.from_fmax(0.5)
    engine = NVE(Well(), 0.1, hooks=[EnergyDriftMonitorHook(0.05)], convergence_hook=done)
    engine.run(batch, n_steps=60)
    assert 0 < int(batch["steps"][0]) < int(batch["steps"][2]) < 60
    assert not lines


def test_systems_that_come_later_start_when_they_come(lines):
    hook = EnergyDriftMonitorHook(0.05)
    engine = NVE(Well(), dt=0.01, hooks=[hook])
    batch = wells(1.0, 2.0)
    with engine.entered_hooks():
        engine.step(batch)
        batch = batch.index_select([1])
        newcomer = wells(7.0)
        newcomer["system_id"] = torch.tensor([[9]])
        newcomer = newcomer.index_select([0])
        for key in ("status", "steps", "evaluations", "outcome"):
            newcomer[key] = torch.zeros(1, 1, dtype=torch.int64)
        for key in set(batch.keys()) - set(newcomer.keys()):
            del batch[key]
        batch.append(newcomer)
        for _ in range(3):
            engine.step(batch)
    assert not lines


def test_a_run_begins_anew(lines):
    batch = wells(1.0)
    engine = NVE(Well(), dt=0.01, hooks=[EnergyDriftMonitorHook(0.05)])
    engine.run(batch, n_steps=3)
    batch["velocities"] = batch["velocities"] + 10.0
    engine.run(batch, n_steps=3)
    assert not lines


@pytest.mark.parametrize(("frequency", "last"), [(1, 2), (4, 5)])
def test_it_is_tested_in_due_steps(frequency, last):
    # Each step adds about 0.24 eV per atom.
    batch = pumped([1.002], EnergyDriftMonitorHook(0.3, "retire", frequency))
    assert batch["outcome"] == Outcome.EXPLODED
    assert batch["steps"] == last


@pytest.mark.parametrize("make", [Bussi, Langevin])
def test_engines_with_heat_of_their_own_are_taken_at_their_word(make):
    structure = with_velocities(bulk("Cu", cubic=True) * (2, 1, 1), 1, 100.0)
    batch = batch_from_atoms([structure])
    more = 5.0 if make is Bussi else 0.5
    hook = EnergyDriftMonitorHook(0.01, "retire")
    make(EMT(), 0.2, 3000.0, more, seed=0, hooks=[hook]).run(batch, n_steps=60)
    conserves = hasattr(make, "conserved_energy")
    assert (batch["outcome"] == (Outcome.BUDGET if conserves else Outcome.EXPLODED)).all()


def test_arguments():
    with pytest.raises(ValueError, match="threshold is 0"):
        EnergyDriftMonitorHook(0.0)
    with pytest.raises(ValueError, match="warn, raise, retire"):
        EnergyDriftMonitorHook(1.0, "stop")
