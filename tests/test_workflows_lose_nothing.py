"""Whatever is wrong with some structures of a stream, every one comes back, once."""

import ase
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.workflows import evaluate, molecular_dynamics, relax
from tests.wells import Well


def usable(distance=1.0):
    return ase.Atoms("Ar2", [[-distance, 0, 0], [distance, 0, 0]])


def nowhere():
    atoms = usable()
    atoms.positions[1, 2] = np.nan
    return atoms


#: What may be in a stream; everything but the first two is refused.
KINDS = {
    "near": lambda: usable(0.3),
    "far": lambda: usable(3.0),
    "no calculator knows it": lambda: ase.Atoms("XeCu", [[0, 0, 0], [0, 0, 2.5]]),
    "nowhere": nowhere,
    "infinite": lambda: usable(np.inf),
    "no atoms": ase.Atoms,
    "nothing": lambda: None,
    "a name": lambda: "in.traj",
    "a number": lambda: 3,
}
GOOD = {"near", "far"}


class ArgonOnly(Well):
    """Knows one element."""

    model_card = Well.model_card.model_copy(update={"supported_elements": frozenset({18})})


def dynamics(structures, model, **options):
    return molecular_dynamics(
        *(structures, model), integrator="VelocityVerlet", steps=3, timestep=0.1, **options
    )


def relaxation(structures, model, **options):
    return relax(structures, model, steps=4, fmax=0.1, **options)


@pytest.mark.parametrize("workflow", [relaxation, evaluate, dynamics])
@given(
    kinds=st.lists(st.sampled_from(sorted(KINDS)), max_size=12),
    failing=st.sets(st.integers(0, 11), max_size=3),
    size=st.integers(1, 6) | st.just("auto"),
    ordered=st.booleans(),
)
@settings(max_examples=25, deadline=None)
def test_every_structure_comes_back_once_and_in_order_if_asked(
    workflow, kinds, failing, size, ordered
):
    given = [KINDS[kind]() for kind in kinds]
    found = list(
        workflow(
            iter(given),
            ArgonOnly(fail=failing),
            batch_size=size,
            ordered=ordered,
            progress=False,
        )
    )
    indices = [result.index for result in found]
    assert sorted(indices) == list(range(len(given)))
    if ordered:
        assert indices == sorted(indices)
    for result in found:
        good, index = kinds[result.index] in GOOD, result.index
        assert result.atoms is given[index]
        assert result.outcome.failed == (not good or index in failing), result
        assert bool(result.reason) == result.outcome.failed
        if not good:
            assert result.outcome is Outcome.REJECTED
            assert (result.steps, result.evaluations) == (0, 0)


@given(
    places=st.sets(st.integers(0, 7), max_size=4),
    size=st.integers(1, 4),
    ordered=st.booleans(),
)
@settings(max_examples=10, deadline=None)
def test_the_same_where_each_has_a_calculator_of_its_own(places, size, ordered):
    given = []
    for index in range(8):
        atoms = bulk("Cu") if index % 2 else bulk("Xe", "fcc", a=6.0)
        if index not in places:
            atoms.calc = EMT()
        given.append(atoms)
    found = list(evaluate(given, batch_size=size, ordered=ordered, progress=False))
    indices = [result.index for result in found]
    assert sorted(indices) == list(range(8))
    assert not ordered or indices == sorted(indices)
    for result in found:
        expected = result.index % 2 == 1 and result.index not in places
        assert result.converged == expected, result
