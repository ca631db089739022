"""Optimizers with a line search, trial for trial what ASE does."""

import contextlib
import io

import ase.optimize
import numpy as np
import pytest
from ase.calculators.emt import EMT

from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.optimize import LBFGS, BFGSLineSearch, LBFGSLineSearch, QuasiNewton
from nvdyn_ase.workflows import relax
from tests.facades.test_lists import metals
from tests.facades.test_parity import PLAIN, SETS, trajectory
from tests.pace import paced
from tests.systems import copper_slab, mixed

METHODS = {
    "LBFGSLineSearch": (LBFGSLineSearch, {}),
    "LBFGSLineSearch, short memory": (
        *(LBFGSLineSearch,),
        {"memory": 4, "alpha": 40.0, "maxstep": 0.05},
    ),
    "BFGSLineSearch": (BFGSLineSearch, {}),
    "BFGSLineSearch, long steps": (
        *(BFGSLineSearch,),
        {"alpha": 3.0, "maxstep": 0.5, "c1": 0.1, "c2": 0.2, "stpmax": 8.0},
    ),
}
methods = pytest.mark.parametrize("method", paced(METHODS))
kinds = pytest.mark.parametrize("kind", [LBFGSLineSearch, BFGSLineSearch])


def pair(make):
    (structures, counting), (batch, _) = make(), make()
    for one, other in zip(structures, batch, strict=True):
        one.calc = counting()
        other.calc = PLAIN[type(one.calc)]()
    return structures, batch


def followed(optimizer, atoms, steps):
    """Return positions and largest force of every step that ASE makes, until there is none."""
    frames = []
    optimizer.attach(lambda: frames.append((atoms.positions.copy(), np.abs(atoms.get_forces()))))
    with contextlib.suppress(RuntimeError), np.errstate(all="ignore"):
        optimizer.run(fmax=0, steps=steps)
    return [(positions, forces.max()) for positions, forces in frames]


@SETS
@methods
def test_every_step_is_ases(make, method):
    kind, options = METHODS[method]
    structures, batch = pair(make)
    optimizer = kind(batch, logfile=None, **options)
    frames = trajectory(optimizer, batch, 20)
    for index, (atoms, result) in enumerate(zip(structures, optimizer.results, strict=True)):
        alone = getattr(ase.optimize, kind.__name__)(atoms, logfile=None, **options)
        expected = followed(alone, atoms, 20)
        for step, (positions, force) in enumerate(expected):
            if not force > 1e-5:
                break  # the last bit of the energy decides about trials, in ASE too
            error = np.abs(frames[step][index] - positions).max()
            assert error < (1e-8 if step < 15 and force > 1e-3 else 2e-7), (index, step, error)
        else:
            assert result.steps == alone.nsteps
            assert result.evaluations == atoms.calc.calls
            assert optimizer.force_calls[index] == alone.force_calls
            if not result.outcome.failed:
                assert optimizer.function_calls[index] == alone.function_calls
        near = [frame for frame, _ in expected[step:] if np.isfinite(frame).all()]
        for place, positions in enumerate(near, start=step):
            np.testing.assert_allclose(frames[place][index], positions, atol=1e-5)


@SETS
@kinds
def test_the_same_converged_step(make, kind):
    structures, batch = pair(make)
    optimizer = kind(batch, logfile=None)
    assert optimizer.run(fmax=0.05, steps=400) is True
    for atoms, result in zip(structures, optimizer.results, strict=True):
        reference = getattr(ase.optimize, kind.__name__)(atoms, logfile=None)
        assert reference.run(fmax=0.05, steps=400)
        assert result.converged
        assert result.steps == reference.nsteps
        assert result.evaluations == atoms.calc.calls
        np.testing.assert_allclose(result.atoms.positions, atoms.positions, atol=1e-8)


@methods
def test_one_atoms_by_the_engine_is_one_atoms_by_ase(method):
    kind, options = METHODS[method]
    frames, logs, ends = [], [], []
    for maker, more in ((kind, {"engine": True}), (getattr(ase.optimize, kind.__name__), {})):
        atoms, log = copper_slab(1), io.StringIO()
        atoms.calc = EMT()
        optimizer = maker(atoms, logfile=log, **options, **more)
        frames.append(trajectory(optimizer, [atoms], 12))
        logs.append([line.split()[:1] + line.split()[-2:] for line in log.getvalue().splitlines()])
        counts = optimizer.force_calls, optimizer.function_calls, optimizer.no_update
        ends.append((*counts, optimizer.maxstep))
        ends[-1] += (optimizer.alpha_k, optimizer.e0, *optimizer.p)
    np.testing.assert_allclose(*frames, atol=1e-8)
    np.testing.assert_allclose(*ends, atol=1e-4)
    assert ends[0][:3] == ends[1][:3]
    assert logs[0] == logs[1]


def test_the_log_tells_force_calls():
    log = io.StringIO()
    optimizer = BFGSLineSearch(metals(1)[0], logfile=log, engine=True)
    optimizer.run(fmax=0.01)
    assert f"[{optimizer.force_calls:3d}]" in log.getvalue().splitlines()[-1]


def test_names():
    assert QuasiNewton is BFGSLineSearch
    structures = metals(3)
    assert LBFGS(structures, logfile=None, use_line_search=True).run(fmax=0.01)
    others = metals(3)
    LBFGSLineSearch(others, logfile=None).run(fmax=0.01)
    assert all(
        np.array_equal(a.positions, b.positions) for a, b in zip(structures, others, strict=True)
    )
    results = list(relax(metals(3), optimizer="BFGSLineSearch", fmax=0.01))
    assert all(result.converged for result in results)


@kinds
def test_parameters_per_system(kind):
    values = {"maxstep": [0.05, 0.2, 0.1], "alpha": [70.0, 30.0, 50.0]}
    structures = metals(3)
    optimizer = kind(structures, logfile=None, **values)
    optimizer.run(fmax=0, steps=4)
    optimizer.maxstep = 0.01
    optimizer.run(fmax=0, steps=2)
    for index, atoms in enumerate(metals(3)):
        own = {name: value[index] for name, value in values.items()}
        alone = getattr(ase.optimize, kind.__name__)(atoms, logfile=None, **own)
        alone.run(fmax=0, steps=4)
        alone.maxstep = 0.01
        alone.run(fmax=0, steps=2)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-10)


def test_numbers_that_no_search_begins_with_are_refused():
    for options in ({"c1": -0.1}, {"c2": [0.1, -0.1]}, {"stpmax": 0.5}):
        with pytest.raises(ValueError, match=next(iter(options))):
            BFGSLineSearch(metals(2), logfile=None, **options)


# -------------------------------------------------------------------------------- failures


def spoiled(kind, atoms, **options):
    """Return an optimizer whose next direction goes uphill: of the second, if there are several."""
    several = isinstance(atoms, list)
    if kind.__name__ == "LBFGSLineSearch":
        alphas = [-70.0 if index == 1 else 70.0 for index in range(4)] if several else -70.0
        return kind(atoms, logfile=None, alpha=alphas, **options)
    optimizer = kind(atoms, logfile=None, **options)
    optimizer.run(fmax=0, steps=2)
    if several:
        matrices = optimizer.H
        matrices[1] = -matrices[1]
        optimizer.H = matrices
    else:
        optimizer.H = -optimizer.H
    return optimizer


@kinds
def test_a_search_that_fails_raises_for_one_atoms_as_in_ase(kind):
    ends = []
    for maker, options in ((kind, {"engine": True}), (getattr(ase.optimize, kind.__name__), {})):
        atoms = metals(2)[1]
        optimizer = spoiled(maker, atoms, **options)
        for _ in range(2 if maker is kind else 1):  # ASE's L-BFGS fails in another way then
            with pytest.raises(RuntimeError, match="LineSearch failed!"):
                optimizer.run(fmax=0, steps=5)
        ends.append((optimizer.nsteps, optimizer.force_calls, *atoms.positions.ravel()))
    np.testing.assert_allclose(*ends, atol=1e-10)


@kinds
def test_in_a_list_it_leaves_with_the_reason_and_the_others_never_notice(kind):
    structures, whole = metals(4), metals(4)
    optimizer = spoiled(kind, structures)
    optimizer.run(fmax=1e-9, steps=3)
    results = optimizer.results
    alone = spoiled(getattr(ase.optimize, kind.__name__), metals(2)[1])
    with pytest.raises(RuntimeError, match="LineSearch failed!"):
        alone.run(fmax=0, steps=5)
    other = kind(whole, logfile=None, **({"alpha": 70.0} if "LBFGS" in kind.__name__ else {}))
    if kind is BFGSLineSearch:
        other.run(fmax=0, steps=2)
    other.run(fmax=1e-9, steps=3)
    assert results[1].outcome is Outcome.ERROR
    assert results[1].reason.startswith("the line search failed")
    assert results[1].steps == alone.nsteps
    assert results[1].evaluations == alone.force_calls + 1
    for index in (0, 2, 3):
        assert np.array_equal(structures[index].positions, whole[index].positions)
        assert not results[index].outcome.failed
        assert results[index].evaluations == other.results[index].evaluations


@kinds
def test_a_structure_whose_forces_are_no_numbers_leaves(kind):
    structures, whole = mixed(9), mixed(9)
    structures[4].positions[0] = structures[4].positions[1]
    first, second = (kind(s, model="emt", logfile=None) for s in (structures, whole))
    first.run(fmax=0.01, steps=20)
    second.run(fmax=0.01, steps=20)
    assert first.results[4].outcome is Outcome.NAN
    for index in set(range(9)) - {4}:
        assert np.array_equal(structures[index].positions, whole[index].positions)


# -------------------------------------------------------------------------------- trajectories


@kinds
def test_a_replayed_trajectory_is_as_in_ase(kind, tmp_path):
    whole, parts = metals(1)[0], metals(1)[0]
    for atoms, engine in ((whole, False), (parts, True)):
        path = str(tmp_path / f"{engine}.traj")
        theirs = getattr(ase.optimize, kind.__name__)
        theirs(atoms, logfile=None, trajectory=path).run(0, steps=4)
        optimizer = kind(atoms, logfile=None, engine=engine)
        optimizer.replay_trajectory(path)
        optimizer.run(fmax=0, steps=3)
    np.testing.assert_allclose(parts.positions, whole.positions, atol=1e-9)


@kinds
def test_a_list_learns_from_a_trajectory_of_each(kind, tmp_path):
    several, alone = metals(3), metals(3)
    theirs = getattr(ase.optimize, kind.__name__)
    for seed, (one, other) in enumerate(zip(several, alone, strict=True)):
        for name, atoms in (("list", one), ("alone", other)):
            path = str(tmp_path / f"{name}-{seed}.traj")
            theirs(atoms, logfile=None, trajectory=path).run(0, steps=3 + seed)
    optimizer = kind(several, logfile=None)
    optimizer.replay_trajectory(str(tmp_path / "list-{index}.traj"))
    optimizer.run(fmax=0, steps=3)
    for seed, atoms in enumerate(alone):
        reference = theirs(atoms, logfile=None)
        reference.replay_trajectory(str(tmp_path / f"alone-{seed}.traj"))
        reference.run(fmax=0, steps=3)
        np.testing.assert_allclose(several[seed].positions, atoms.positions, atol=1e-7)


@kinds
def test_a_search_keeps_no_more_than_its_steps(kind):
    optimizer = kind(metals(3), model="emt", logfile=None)
    optimizer.run(fmax=0, steps=12)
    state = optimizer.engine.state
    if "s" in state:
        assert state["s"].shape[1] <= int(state["pairs"].max()) + 4


@kinds
def test_nobody_pays_for_the_trials_of_others(kind):
    structures = metals(6)
    optimizer = kind(structures, model="emt", logfile=None)
    model, forwards = optimizer.engine.model, []
    original = model.forward
    model.forward = lambda batch: (forwards.append(len(batch)), original(batch))[1]
    optimizer.run(fmax=0.01, steps=30)
    alone = metals(6)
    for atoms, result in zip(alone, optimizer.results, strict=True):
        reference = getattr(ase.optimize, kind.__name__)(atoms, logfile=None)
        reference.run(fmax=0.01, steps=30)
        assert result.steps == reference.nsteps
    assert optimizer.nsteps == max(result.steps for result in optimizer.results)
    counted = [result.evaluations for result in optimizer.results]
    assert len(forwards) == max(counted)


def test_the_inverse_hessian_can_be_read_and_forgotten():
    ours, theirs = copper_slab(1), copper_slab(1)
    ends = []
    for atoms, kind, more in (
        *((ours, BFGSLineSearch, {"engine": True}), (theirs, ase.optimize.BFGSLineSearch, {})),
    ):
        atoms.calc = EMT()
        optimizer = kind(atoms, logfile=None, **more)
        optimizer.run(fmax=0, steps=6)
        ends.append(optimizer.H)
        optimizer.reset()
        optimizer.run(fmax=0, steps=1)
        ends.append(optimizer.H)
        optimizer.run(fmax=0, steps=3)
    np.testing.assert_allclose(ends[0], ends[2], atol=1e-6)
    assert np.array_equal(ends[1], np.eye(len(ends[1])))
    np.testing.assert_allclose(ours.positions, theirs.positions, atol=1e-8)
    several = BFGSLineSearch(metals(2), logfile=None)
    several.run(fmax=0, steps=3)
    assert [len(H) for H in several.H] == [12, 12]
