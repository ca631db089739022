import numpy as np
import pytest
import torch
from ase.build import bulk

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import FIRE, LBFGS, ConvergenceHook
from nvdyn_ase.dynamics.optimizers.lbfgs import LBFGSState, newton_step
from nvdyn_ase.models import LennardJones
from tests.systems import argon
from tests.wells import Well, wells


def model():
    return LennardJones(sigma=3.405, epsilon=0.0104, rc=2.5 * 3.405)


def argon_cells(count):
    def rattled(seed):
        atoms = bulk("Ar", "fcc", a=5.26, cubic=True) * 2
        atoms.rattle(0.15 * (0.3 + 1.4 * ((7919 * seed) % 97) / 97), seed=seed)
        return atoms

    return batch_from_atoms([rattled(seed) for seed in range(count)])


@pytest.mark.parametrize(
    ("scaled", "fmax", "evaluations"),
    [(True, 0.05, 4.7), (True, 0.01, 6.9), (False, 0.05, 11.5), (False, 0.01, 26.3)],
)
def test_a_scaled_hessian_needs_a_third_of_the_evaluations(scaled, fmax, evaluations):
    batch = argon_cells(64)
    hook = ConvergenceHook.from_fmax(fmax, strict=True)
    LBFGS(model(), scaled=scaled, convergence_hook=hook).run(batch)
    assert batch["evaluations"].double().mean() <= evaluations
    assert (batch["fmax"] < fmax).all()


@pytest.mark.parametrize(("fmax", "evaluations"), [(0.05, 19.8), (0.01, 39.0)])
def test_fire_needs_ases_evaluations(fmax, evaluations):
    batch = argon_cells(64)
    FIRE(model(), convergence_hook=ConvergenceHook.from_fmax(fmax, strict=True)).run(batch)
    assert batch["evaluations"].double().mean() == pytest.approx(evaluations, abs=0.05)


def two_loops(forces, s, y, H0):
    """Follow Nocedal and Wright, algorithm 7.4."""
    q, a = forces.copy(), []
    for old_s, old_y in zip(s[::-1], y[::-1], strict=True):
        a.append(np.vdot(old_s, q) / np.vdot(old_s, old_y))
        q -= a[-1] * old_y
    r = H0 * q
    for old_s, old_y in zip(s, y, strict=True):
        b = np.vdot(old_y, r) / np.vdot(old_s, old_y)
        r += old_s * (a.pop() - b)
    return r


@pytest.mark.parametrize(("memory", "steps"), [(100, 30), (5, 30), (1, 6), (100, 1)])
@pytest.mark.parametrize("scaled", [True, False])
def test_the_compact_form_is_the_two_loops(memory, steps, scaled):
    batch = argon_cells(2)
    engine = LBFGS(model(), memory=memory, scaled=scaled)
    engine.run(batch, n_steps=steps)
    state = LBFGSState(*(engine.state[key] for key in LBFGSState._fields))
    ours = newton_step(state.last_forces, state, batch.batch, batch.ptr)
    for row in range(2):
        pairs, slots = int(state.pairs[row]), state.s.shape[1]
        assert pairs == steps - 1
        order = [k % slots for k in range(max(0, pairs - memory), pairs)]
        own = slice(*batch.host_ptr[row : row + 2])
        s, y = (h[own].numpy().transpose(1, 0, 2)[order] for h in (state.s, state.y))
        expected = two_loops(state.last_forces[own].numpy(), s, y, state.H0[row].item())
        np.testing.assert_allclose(ours[own], expected, rtol=0, atol=1e-13)


def test_histories_have_no_more_slots_than_steps_and_memory_ask_for():
    engine = LBFGS(Well(), memory=6)
    batch = wells(1.0, 2.0)
    slots = []
    for _ in range(9):
        engine.run(batch, n_steps=1)
        slots.append(engine.state["s"].shape[1])
    assert slots == [4, 4, 4, 4, 4, 6, 6, 6, 6]


def memory_of(batch):
    engine = LBFGS(Well(), scaled=False, memory=20)
    engine.run(batch, n_steps=25)
    return sum(tensor.numel() * tensor.element_size() for _, tensor in engine.state)


def test_a_large_system_does_not_make_the_small_ones_large():
    sizes = [32] * 15 + [500]
    alone = sum(memory_of(wells(1.0, sizes=[size])) for size in sizes)
    assert memory_of(wells(*[1.0] * 16, sizes=sizes)) <= 1.2 * alone


@pytest.mark.parametrize("memory", [100, 3])
def test_systems_that_join_with_histories_of_other_lengths(memory):
    def engine():
        return LBFGS(model(), memory=memory)

    old, new = batch_from_atoms([argon(0)]), batch_from_atoms([argon(1)], indices=[1])
    first, second = engine(), engine()
    first.run(old, n_steps=9)
    second.run(new, n_steps=1)
    states = [first.state, second.state]
    first.align_states(states)
    joined, state = old.index_select([0]), states[0].index_select([0])
    for whole, part in ((joined, new), (state, states[1])):
        whole.set_edges({}, np.zeros(1, np.int64))
        bare = part.index_select([0])
        bare.set_edges({}, np.zeros(1, np.int64))
        whole.append(bare)
    first.follow(joined, state, None)
    first.run(joined, n_steps=6)
    for row, (seed, steps) in enumerate([(0, 15), (1, 7)]):
        alone = batch_from_atoms([argon(seed)], indices=[row])
        engine().run(alone, n_steps=steps)
        assert torch.equal(joined[[row]]["positions"], alone["positions"])


def test_a_step_that_moved_nothing_is_not_stored():
    batch = wells(0.0, 1.0)
    engine = LBFGS(Well(), scaled=False)
    engine.run(batch, n_steps=3)
    assert engine.state["pairs"].view(-1).tolist() == [0, 2]
    assert torch.isfinite(batch["positions"]).all()


@pytest.mark.parametrize("memory", [0, -3, 2.5])
def test_a_bad_memory_is_refused(memory):
    with pytest.raises(ValueError, match="memory"):
        LBFGS(Well(), memory=memory)
