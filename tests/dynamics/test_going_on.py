"""Going on from a saved state, and when neighbours were swapped: the same bits, noise included."""

import pickle

import numpy as np
import pytest
import torch

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics.active import put_together
from nvdyn_ase.models import EMT
from tests.dynamics.integrating import INTEGRATORS, integrator
from tests.dynamics.test_parameters import KEYS, same, trios
from tests.pace import paced

integrators = pytest.mark.parametrize("name", paced(INTEGRATORS))
STEPS = 9


def whole_run(name, steps=STEPS):
    batch, engine = batch_from_atoms(trios()), integrator(name, EMT())
    engine.run(batch, n_steps=steps)
    return batch, engine.state


def assert_equal(batch, state, other, its_state):
    for key in (*KEYS, "forces", "energy", "steps"):
        assert torch.equal(batch[key], other[key]), key
    for key, tensor in state:
        assert same(tensor, its_state[key]), key


def random_stops(seed):
    """Return four steps to stop at, and the one to end at: noise is drawn in blocks of steps."""
    return sorted(np.random.default_rng(seed).choice(np.arange(1, 71), 5, replace=False).tolist())


STOPS = [[4, STEPS]]
STOPS += [
    pytest.param(stops, marks=pytest.mark.slow)
    for stops in ([1, 2, STEPS], *map(random_stops, range(3)))
]


@integrators
@pytest.mark.parametrize("stops", STOPS)
def test_a_saved_state_goes_on_bit_for_bit(name, stops):
    batch, engine, done = batch_from_atoms(trios()), integrator(name, EMT()), 0
    for stop in stops:
        engine.run(batch, n_steps=stop - done)
        batch, state = pickle.loads(pickle.dumps((batch, engine.state)))
        engine, done = integrator(name, EMT()), stop
        engine.follow(batch, state, None)
    assert_equal(*whole_run(name, stops[-1]), batch, engine.state)


@integrators
def test_swapping_a_neighbour_changes_nothing_for_the_others(name):
    """The second of three systems leaves for its twin, which is new, and another order."""
    structures, (whole, state) = trios(), whole_run(name)
    batch, engine = batch_from_atoms(structures), integrator(name, EMT())
    engine.run(batch, n_steps=4)
    stays, order = np.array([0, 2]), np.array([2, 0, 1])
    new = batch_from_atoms([structures[1]], indices=[1])
    fresh = integrator(name, EMT(), slice(1, 2))
    fresh.adopt(new)
    states = [engine.state.index_select(stays), fresh.state]
    mixed = put_together([batch.index_select(stays), new], order)
    engine.follow(mixed, put_together(states, order), None)
    engine.run(mixed, n_steps=STEPS - 4)
    kept = np.array([1, 2])
    assert_equal(
        *(whole.index_select(stays), state.index_select(stays)),
        *(mixed.index_select(kept), engine.state.index_select(kept)),
    )
    alone, fresh = (
        batch_from_atoms([structures[1]], indices=[1]),
        integrator(name, EMT(), slice(1, 2)),
    )
    fresh.run(alone, n_steps=STEPS - 4)
    assert_equal(alone, fresh.state, mixed.index_select([0]), engine.state.index_select([0]))
