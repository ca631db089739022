"""Dynamics, evaluation and engines of one's own over a stream; the order of what comes back."""

import math

import ase
import numpy as np
import pytest
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.md import VelocityVerlet as ASEVerlet

from nvdyn_ase.dynamics import (
    FIRE,
    ConvergenceHook,
    HookStageEnum,
    HostMemory,
    Langevin,
    Outcome,
)
from nvdyn_ase.md import Langevin as LangevinFacade
from nvdyn_ase.models import as_model
from nvdyn_ase.workflows import evaluate, molecular_dynamics, relax, run
from tests.systems import mixed, with_velocities
from tests.wells import Well, wells

FRICTION = 0.02 / units.fs


def moving(count=6):
    return [with_velocities(atoms, seed) for seed, atoms in enumerate(mixed(count))]


def pair(distance):
    return ase.Atoms("Ar2", [[-distance, 0, 0], [distance, 0, 0]])


def bits(results):
    found = [
        (
            *(r.index, r.steps, r.evaluations, r.outcome, r.energy, r.stage_steps),
            *(r.atoms.positions.tobytes(), r.atoms.get_momenta().tobytes()),
        )
        for r in results
    ]
    return sorted(found)


# -------------------------------------------------------------------- molecular dynamics


def test_dynamics_is_that_of_ase():
    structures = moving()
    alone = [atoms.copy() for atoms in structures]
    results = list(
        molecular_dynamics(
            structures, "emt", integrator="VelocityVerlet", steps=25, timestep=2 * units.fs
        )
    )
    assert sorted(r.index for r in results) == list(range(6))
    for result in results:
        reference = alone[result.index]
        reference.calc = EMT()
        with ASEVerlet(reference, 2 * units.fs, logfile=None) as dynamics:
            dynamics.run(25)
        assert (result.outcome, result.steps, result.evaluations) == (Outcome.BUDGET, 25, 26)
        assert result.atoms is structures[result.index]
        np.testing.assert_allclose(result.atoms.positions, reference.positions, atol=1e-9)
        np.testing.assert_allclose(result.atoms.get_momenta(), reference.get_momenta(), atol=1e-9)
        assert result.energy == pytest.approx(reference.get_potential_energy(), abs=1e-9)


def langevin(structures, seed=3, **options):
    settings = {"timestep": 2 * units.fs, "temperature_K": 400, "friction": FRICTION}
    return molecular_dynamics(structures, "emt", steps=12, seed=seed, **settings, **options)


def test_random_numbers_are_of_the_structure_and_the_seed():
    expected = bits(langevin(moving()))
    for options in ({"batch_size": 1}, {"batch_size": 4}, {"max_atoms": 20}, {"ordered": True}):
        assert bits(langevin(moving(), **options)) == expected
    assert bits(langevin(moving(), seed=4)) != expected
    again = moving()
    with LangevinFacade(
        *(again, 2 * units.fs), temperature_K=400, friction=FRICTION, seed=3, model="emt"
    ) as facade:
        facade.run(12)
    assert [row[6] for row in expected] == [atoms.positions.tobytes() for atoms in again]


def test_snapshots_are_of_each_structure_every_so_many_steps():
    sink = HostMemory(1000)
    structures = moving(5)
    results = list(langevin(structures, snapshots=sink, interval=4, batch_size=2))
    frames = sink.read()
    ids = frames["system_id"].view(-1).tolist()
    last = {}
    for row, index in enumerate(ids):
        last[index] = frames.get_data(row).positions.numpy()
    assert set(ids) == set(range(5))
    for index in range(5):
        steps = [int(frames["steps"][row]) for row, own in enumerate(ids) if own == index]
        assert steps == sorted(steps)
        assert steps[-1] == 12
        assert len(steps) >= 3
    for result in results:
        np.testing.assert_array_equal(last[result.index], result.atoms.positions)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"integrator": "Langevinn"}, "VelocityVerlet"),
        ({"steps": -1}, "steps"),
        ({"interval": 0}, "interval"),
        ({"integrator": "Langevin", "temperature_K": -5, "friction": 1}, "temperature_K"),
        ({"integrator": "Langevin", "temperature_K": math.nan, "friction": 1}, "temperature_K"),
        ({"trajectory": "all.traj"}, "trajectory"),
    ],
)
def test_bad_arguments_of_dynamics_are_refused_at_the_call(options, words):
    arguments = {"integrator": "VelocityVerlet", "steps": 1, "timestep": 1.0} | options
    with pytest.raises(ValueError, match=words):
        molecular_dynamics([bulk("Cu")], "emt", **arguments)


# -------------------------------------------------------------------- evaluation


def test_to_evaluate_is_to_ask_the_calculator():
    structures = mixed(9)
    structures[4] = ase.Atoms("Xe")
    before = [atoms.positions.copy() for atoms in structures]
    results = list(evaluate(structures, EMT(), batch_size=3, ordered=True))
    assert [r.index for r in results] == list(range(9))
    assert results[4].outcome is Outcome.REJECTED
    for result in results[:4] + results[5:]:
        assert (result.converged, result.steps, result.evaluations) == (True, 0, 1)
        reference = result.atoms.copy()
        reference.calc = EMT()
        assert result.energy == pytest.approx(reference.get_potential_energy(), abs=1e-10)
        np.testing.assert_allclose(result.atoms.get_forces(), reference.get_forces(), atol=1e-10)
        np.testing.assert_array_equal(result.atoms.positions, before[result.index])


def test_what_is_not_finite_is_no_evaluation():
    class Nowhere(Well):
        def forward(self, batch):
            outputs = super().forward(batch)
            outputs["energy"][batch["system_id"].view(-1) == 1] = math.nan
            return outputs

    results = list(evaluate([pair(1.0), pair(2.0), pair(3.0)], Nowhere(), ordered=True))
    assert [r.outcome for r in results] == [Outcome.CONVERGED, Outcome.NAN, Outcome.CONVERGED]
    assert "not finite" in results[1].reason


# -------------------------------------------------------------------- engines of one's own


def annealing():
    model = as_model("emt")
    first = FIRE(model, convergence_hook={"criteria": {"key": "fmax", "threshold": 0.3}})
    middle = Langevin(model, 2 * units.fs, 300.0, friction=FRICTION, seed=1, n_steps=7)
    last = FIRE(model, convergence_hook={"criteria": {"key": "fmax", "threshold": 0.1}})
    return first + middle + last


def test_an_engine_of_several_stages_tells_the_steps_of_each():
    results = list(run(annealing(), moving(9), batch_size=3))
    assert {r.index for r in results} == set(range(9))
    for result in results:
        assert result.converged
        assert len(result.stage_steps) == 3
        assert result.stage_steps[1] == 7
        assert sum(result.stage_steps) == result.steps
        assert result.fmax <= 0.1
    assert bits(results) == bits(run(annealing(), moving(9), batch_size=1))


def test_steps_limit_an_engine():
    results = list(run(annealing(), moving(4), steps=3))
    assert {r.steps for r in results} == {3}
    assert {r.outcome for r in results} == {Outcome.BUDGET}


@pytest.mark.parametrize("make", [lambda: annealing(), lambda: annealing().stages[0].engine])
def test_an_engine_is_in_one_run_at_a_time_and_free_when_that_is_closed(make):
    engine = make()
    first, second = (run(engine, moving(6), batch_size=2) for _ in range(2))
    indices = [next(first).index]
    with pytest.raises(RuntimeError, match="in a run already"):
        next(second)
    indices += [result.index for result in first]  # it does not notice
    assert sorted(indices) == list(range(6))
    stopped = run(engine, moving(6), batch_size=2)
    next(stopped)
    with pytest.raises(RuntimeError, match="in a run already"):
        engine.run(n_steps=1)
    stopped.close()
    expected = bits(run(make(), moving(6), batch_size=2, ordered=True))
    assert bits(run(engine, moving(6), batch_size=2, ordered=True)) == expected


def test_stages_are_in_the_run_of_the_whole():
    engine = annealing()
    going = run(engine, moving(4), batch_size=2)
    next(going)
    with pytest.raises(RuntimeError, match="in a run already"):
        next(run(engine.stages[0].engine, moving(2)))
    going.close()
    assert len(list(run(engine.stages[0].engine, moving(2)))) == 2


def test_a_run_that_raises_leaves_its_engine_free():
    engine = FIRE(Well(), convergence_hook=ConvergenceHook.from_fmax(0.01))

    def stream():
        yield pair(1.0)
        raise OSError("no more")

    with pytest.raises(OSError, match="no more"):
        list(run(engine, stream()))
    assert len(list(run(engine, [pair(1.0)]))) == 1


def test_a_hook_cannot_run_the_engine_that_calls_it():
    class Again:
        stage, frequency = HookStageEnum.AFTER_STEP, 1

        def __call__(self, batch, dynamics):
            dynamics.run(batch, 1)

    engine = FIRE(Well(), hooks=[Again()], n_steps=2)
    with pytest.raises(RuntimeError, match="in a run already"):
        engine.run(wells(1.0))


def test_what_no_engine_is_and_what_never_ends_is_refused_at_the_call():
    with pytest.raises(TypeError, match="takes an engine"):
        run(EMT(), [bulk("Cu")])
    with pytest.raises(ValueError, match="nothing ends"):
        run(FIRE(Well()), [bulk("Cu")])


# -------------------------------------------------------------------- in which order, how many


def test_they_come_as_they_are_done_or_in_the_order_of_the_input():
    far_and_near = [pair(d) for d in (9.0, 0.1, 5.0, 0.2)]
    order = [r.index for r in relax([a.copy() for a in far_and_near], Well(), fmax=1e-3)]
    assert order[:2] == [1, 3]
    assert sorted(order) == [0, 1, 2, 3]
    ordered = relax([a.copy() for a in far_and_near], Well(), fmax=1e-3, ordered=True)
    assert [r.index for r in ordered] == [0, 1, 2, 3]


def test_a_batch_has_no_more_atoms_than_asked_for():
    sizes = []

    class Counting(Well):
        def forward(self, batch):
            sizes.append(batch.num_nodes)
            return super().forward(batch)

    structures = [pair(1.0 + i) for i in range(12)] + [bulk("Ar", cubic=True) * 3]
    results = list(relax(structures, Counting(), max_atoms=7, fmax=0.01))
    assert not any(r.outcome.failed for r in results)
    assert len(results) == 13
    assert max(sizes) == 108  # the one that is larger than that is moved alone
    assert sorted(sizes)[-1 - sizes.count(108)] == 6
    with pytest.raises(ValueError, match="not both"):
        relax(structures, Well(), max_atoms=7, batch_size=3)
