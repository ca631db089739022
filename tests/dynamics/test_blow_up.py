"""Systems that fly apart leave alone, with their reason, and the others do not notice."""

import re

import numpy as np
import pytest
import torch
from ase import units
from ase.build import bulk
from ase.constraints import FixAtoms

from nvdyn_ase.atoms import Result, batch_from_atoms
from nvdyn_ase.dynamics import (
    FIRE,
    MTKNPT,
    NVE,
    BlowUpHook,
    Hook,
    Langevin,
    NoseHooverChainNVT,
    Outcome,
)
from nvdyn_ase.md import VelocityVerlet
from nvdyn_ase.models import EMT
from tests.dynamics.test_cost import SYNCHRONISING, Still, operations
from tests.systems import with_velocities
from tests.wells import wells

FS = units.fs


def metals(speeds):
    """Return crystals, one per temperature, K."""
    names = ("Cu", "Au", "Pd", "Ag")
    return [with_velocities(bulk(names[i], cubic=True), i, T) for i, T in enumerate(speeds)]


ENGINES = {
    "nve": lambda **more: NVE(EMT(), 2 * FS, **more),
    "langevin": lambda **more: Langevin(EMT(), 2 * FS, 300.0, 0.01, seed=3, **more),
    "nose-hoover": lambda **more: NoseHooverChainNVT(EMT(), 2 * FS, 300.0, 50 * FS, **more),
    "mtk": lambda **more: MTKNPT(EMT(), 2 * FS, 300.0, 0.0, 50 * FS, 500 * FS, **more),
}
engines = pytest.mark.parametrize("name", ENGINES)


def test_it_is_a_hook_with_limits():
    assert isinstance(BlowUpHook(), Hook)
    assert repr(BlowUpHook()) == "BlowUpHook(temperature=20000.0, displacement=1.0, frequency=1)"
    with pytest.raises(ValueError, match="displacement is 0"):
        BlowUpHook(displacement=0)


@engines
@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        ({"temperature": 5000.0, "displacement": None}, r"temperature reached .* K.* 5000 K"),
        ({"temperature": None, "displacement": 0.05}, r"moved 0\.\d+ Å in one step.* 0\.05 Å"),
        ({"temperature": 5000.0, "displacement": 0.05}, r"limit is 0\.05 Å; take a smaller"),
    ],
)
def test_one_leaves_with_its_reason_and_the_others_do_not_notice(name, limits, reason):
    speeds = [300.0, 300_000.0, 400.0, 300.0]
    structures = metals(speeds)
    batch = batch_from_atoms(structures)
    ENGINES[name](hooks=[BlowUpHook(**limits)]).run(batch, n_steps=20)
    ends = [Outcome.BUDGET, Outcome.EXPLODED, Outcome.BUDGET, Outcome.BUDGET]
    assert batch["outcome"].view(-1).tolist() == ends
    results = Result.of_batch(batch, structures)
    assert [bool(result.reason) for result in results] == [False, True, False, False]
    assert re.search(reason, results[1].reason), results[1].reason
    others = batch_from_atoms([structures[i] for i in (0, 2, 3)], indices=[0, 2, 3])
    ENGINES[name]().run(others, n_steps=20)
    for key in ("positions", "velocities", "energy", "steps"):
        assert torch.equal(batch[[0, 2, 3]][key], others[key])


@engines
def test_who_would_move_too_far_stays_as_it_was(name):
    structures = metals([300.0, 300_000.0])
    batch, start = batch_from_atoms(structures), batch_from_atoms(structures)
    engine = ENGINES[name](hooks=[BlowUpHook(None, 0.05)])
    engine.run(batch, n_steps=5)
    fresh = ENGINES[name]()
    fresh.adopt(start)
    for key in ("positions", "velocities", "cell"):
        assert torch.equal(batch[[1]][key], start[[1]][key])
    for key, _ in fresh.state:
        assert torch.equal(engine.state[[1]][key], fresh.state[[1]][key]), key
    assert batch["steps"].view(-1).tolist() == [5, 0]


def test_a_frozen_system_does_not_explode_and_a_late_one_does():
    batch = batch_from_atoms(metals([300.0, 300_000.0, 300.0]))
    engine = NVE(EMT(), 2 * FS, hooks=[BlowUpHook(5000.0, None)])
    engine.adopt(batch)
    engine.retire(batch, torch.tensor([False, True, False]), Outcome.ERROR)
    engine.run(batch, n_steps=2)
    assert batch["outcome"][1] == Outcome.ERROR
    batch["velocities"][8:] *= 20.0
    engine.run(batch, n_steps=2)
    assert batch["outcome"].view(-1).tolist() == [Outcome.BUDGET, Outcome.ERROR, Outcome.EXPLODED]


def test_constraints_count_and_a_method_without_velocities_has_no_temperature():
    hot = metals([4000.0, 4000.0])
    hot[1].set_constraint(FixAtoms([0, 1, 2]))
    kinetic = [0.5 * (a.get_masses()[-1] * a.get_velocities()[-1] ** 2).sum() for a in hot]
    hot[0].set_momenta(np.vstack([np.zeros((3, 3)), hot[0].get_momenta()[-1:]]))
    limit = 2 * min(kinetic) / units.kB / 3 * 0.5  # one atom's share of three, not of twelve
    batch = batch_from_atoms(hot)
    NVE(EMT(), 1e-6, hooks=[BlowUpHook(limit, None)]).run(batch, n_steps=1)
    assert batch["outcome"].view(-1).tolist()[1] == Outcome.EXPLODED
    batch = wells(1.0, 2.0)
    FIRE(Still(batch), hooks=[BlowUpHook(1e-9, 100.0)]).run(batch, n_steps=3)
    assert (batch["outcome"] == Outcome.BUDGET).all()


@pytest.mark.parametrize("make", [NVE, FIRE])
def test_the_host_does_not_wait(make):
    batch = wells(*[3.0] * 8)
    options = {"dt": 0.1} if make is NVE else {}
    engine = make(Still(batch), hooks=[BlowUpHook(1e9, 1e9)], **options)
    assert not SYNCHRONISING & operations(engine, batch).keys()


def test_a_facade_does_as_ase_unless_it_is_told():
    speeds = [300.0, 100_000.0, 300.0]
    for hooks, outcome in (([], Outcome.BUDGET), ([BlowUpHook()], Outcome.EXPLODED)):
        structures = metals(speeds)
        dynamics = VelocityVerlet(structures, 5 * FS, model=EMT())
        for hook in hooks:
            dynamics.engine.register_hook(hook)
        dynamics.run(3)
        assert dynamics.results[1].outcome is outcome
        assert ("limit" in dynamics.results[1].reason) == bool(hooks)
        assert dynamics.results[0].outcome is Outcome.BUDGET
    structures[1].set_momenta(structures[1].get_momenta() / 20)
    dynamics.run(3)
    assert dynamics.results[1].outcome is Outcome.BUDGET
    assert dynamics.results[1].reason == ""
