"""Whatever is wrong with some structures of a stream, every one comes back, once."""

import ase
import ase.io
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.cli import main
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.reading import structures
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


#: What some structures of a stream may have, and others not.
EXTRAS = {
    "charges": lambda atoms: atoms.set_initial_charges([0.5, -0.5]),
    "moments": lambda atoms: atoms.arrays.update(initial_magmoms=np.array([2.0, -1.0])),
    "moments that are vectors": lambda atoms: atoms.arrays.update(initial_magmoms=np.eye(2, 3)),
    "tags": lambda atoms: atoms.set_tags([3, 4]),
    "masses": lambda atoms: atoms.set_masses([39.0, 41.0]),
    "momenta": lambda atoms: atoms.set_momenta([[0.1, 0.0, 0.0], [-0.1, 0.0, 0.0]]),
    "an array": lambda atoms: atoms.arrays.update(weight=np.array([0.25, 0.75])),
    "the same with other rows": lambda atoms: atoms.arrays.update(weight=np.eye(2, 3)),
    "the same of another type": lambda atoms: atoms.arrays.update(weight=np.array([7, 2**40])),
    "a mask": lambda atoms: atoms.arrays.update(chosen=np.array([True, False])),
    "words": lambda atoms: atoms.arrays.update(site=np.array(["top", "hollow"])),
    "a name of a field": lambda atoms: atoms.arrays.update(status=np.array([5, 6])),
    "charge and spin": lambda atoms: atoms.info.update(charge=-1, spin=2),
    "a charge that is none": lambda atoms: atoms.info.update(charge="unknown"),
    "lists": lambda atoms: atoms.info.update(path=[1, [2.5, "three"]], energy_of_source=-3.5),
    "names of fields": lambda atoms: atoms.info.update(system_id=99, steps="many", cell=[1.0]),
    "held": lambda atoms: atoms.set_constraint(FixAtoms([0])),
}


def with_extras(names):
    atoms = usable(0.3)
    for name in sorted(names):
        EXTRAS[name](atoms)
    return atoms


def assert_has_what_it_had(found, before):
    assert found.info == before.info
    moved = {"positions", "momenta"}
    assert found.arrays.keys() - moved == before.arrays.keys() - moved
    for name in before.arrays.keys() - moved:
        assert found.arrays[name].dtype.kind == before.arrays[name].dtype.kind, name
        np.testing.assert_array_equal(found.arrays[name], before.arrays[name], name)
    assert repr(found.constraints) == repr(before.constraints)


@pytest.mark.parametrize("workflow", [relaxation, evaluate, dynamics])
@given(
    extras=st.lists(st.sets(st.sampled_from(sorted(EXTRAS)), max_size=4), min_size=1, max_size=7),
    size=st.integers(1, 4),
)
@settings(max_examples=8, deadline=None)
def test_what_only_some_structures_have_comes_back_with_them(workflow, extras, size):
    given = [with_extras(names) for names in extras]
    found = workflow(given, Well(), batch_size=size, progress=False)
    moved = {result.index: result for result in found}
    for index, names in enumerate(extras):
        assert not moved[index].outcome.failed, moved[index].reason
        assert_has_what_it_had(given[index], with_extras(names))
        alone = with_extras(names)
        (own,) = workflow([alone], Well(), progress=False)
        assert own.steps == moved[index].steps
        np.testing.assert_array_equal(alone.positions, given[index].positions)
        assert alone.arrays.keys() == given[index].arrays.keys()


@pytest.mark.parametrize("form", ["traj", "db", "json", "extxyz"])
def test_what_only_some_structures_have_goes_through_files(form, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = [with_extras([name]) for name in EXTRAS] + [usable(0.3)]
    ase.io.write("in.traj", given)
    line = f"relax in.traj -o out.{form} --model harmonic --batch-size 4 --quiet"
    assert main(line.split()) == 0
    found = [atoms for _, atoms in structures([f"out.{form}"])]
    assert len(found) == len(given)
    read = ase.io.read("in.traj", ":")
    for atoms in found:
        pairs, data = (atoms.info.pop(key, {}) for key in ("key_value_pairs", "data"))
        atoms.info |= pairs | data
        index = atoms.info["input_index"]
        own = {key for key in atoms.info if key.startswith(("relax_", "input_", "unique_"))}
        atoms.info = {key: value for key, value in atoms.info.items() if key not in own}
        atoms.arrays.pop("momenta", None)
        assert_has_what_it_had(atoms, read[index])
