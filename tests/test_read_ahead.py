import threading

import ase
import numpy as np
import pytest
from ase.constraints import FixAtoms

from nvdyn_ase.atoms.convert import read
from nvdyn_ase.models import as_model
from nvdyn_ase.progress import Bar
from nvdyn_ase.workflows.ahead import ReadAhead
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.flow import flow
from nvdyn_ase.workflows.methods import relaxation
from nvdyn_ase.workflows.readings import Readings
from tests.systems import copper_slab, mixed


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
@pytest.mark.parametrize("depth", [1, 3, 64])
def test_everything_comes_once_and_in_order(count, depth):
    assert list(ReadAhead(iter(range(count)), depth)) == list(range(count))


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33])
@pytest.mark.parametrize("error", [OSError("gone"), KeyboardInterrupt()])
def test_an_error_comes_behind_what_was_read(count, error):
    def items():
        yield from range(count)
        raise error

    reading = ReadAhead(items())
    assert [next(reading) for _ in range(count)] == list(range(count))
    with pytest.raises(type(error)):
        next(reading)
    assert list(reading) == []


@pytest.mark.parametrize("depth", [1, 16, 256])
def test_it_reads_a_bounded_way_ahead_and_stops_when_closed(depth):
    given = 0

    def items():
        nonlocal given
        while True:
            given += 1
            yield given

    reading = ReadAhead(items(), depth)
    for expected in range(1, 500):
        assert next(reading) == expected
        assert given <= expected + depth + 2 * max(depth // 8, 1)
    reading.close()
    reading._thread.join(10)
    assert not reading._thread.is_alive()
    assert list(reading) == []


def test_one_thread_reads_all_of_it():
    threads = set()

    def items():
        for index in range(100):
            threads.add(threading.get_ident())
            yield index

    assert len(list(ReadAhead(items()))) == 100
    assert len(threads) == 1
    assert threading.get_ident() not in threads


def test_what_is_there_is_not_held_back_until_there_is_more():
    more = threading.Event()

    def items():
        yield 1
        more.wait(10)
        yield 2

    reading = ReadAhead(items())
    assert next(reading) == 1
    more.set()
    assert list(reading) == [2]


# -------------------------------------------------------------------- what is known ahead


def poisoned():
    """Return structures of all kinds, and among them what cannot be used."""
    systems = [*mixed(6), copper_slab(0), ase.Atoms(), "no structure", ase.Atoms("U")]
    lost, held = ase.Atoms("Cu"), ase.Atoms("Cu2", [(0, 0, 0), (2.4, 0, 0)])
    lost.positions[0] = np.nan
    held.constraints = [FixAtoms([7])]
    systems += [lost, held, *mixed(4)]
    systems[0].set_momenta(np.full((len(systems[0]), 3), 0.5))
    systems[1].arrays["weight"] = np.arange(len(systems[1]))
    return systems


def relaxed(batch_size, structures, readings=None):
    """Relax them; return by index how each ended and where."""
    model, numbered = as_model("emt"), enumerate(structures)
    if readings is not None:
        numbered = ReadAhead(readings.of(numbered), 5)
    results = flow(
        *(numbered, model, relaxation("FIRE", 0.05, None, {}), 20),
        capacity=Capacity(batch_size, model),
        bar=Bar([], False),
        readings=readings,
    )
    return {own.index: own for own in results}


@pytest.mark.parametrize("batch_size", [1, 3, "auto"])
def test_what_is_found_out_ahead_changes_nothing(batch_size):
    readings = Readings()
    expected = relaxed(batch_size, poisoned())
    found = relaxed(batch_size, poisoned(), readings)
    assert found.keys() == expected.keys() == set(range(len(poisoned())))
    for index, own in found.items():
        other = expected[index]
        assert (own.steps, own.evaluations) == (other.steps, other.evaluations)
        assert own.outcome is other.outcome and own.reason == other.reason
        if not own.outcome.failed:
            assert own.energy == other.energy
            np.testing.assert_array_equal(own.atoms.positions, other.atoms.positions)
            assert own.atoms.arrays.keys() == other.atoms.arrays.keys()
    assert not readings._found


def test_it_is_found_out_by_the_thread_that_reads(monkeypatch):
    slabs = [copper_slab(seed) for seed in range(7)]
    callers = []

    def recorded(atoms, *arguments, **options):
        if any(atoms is slab for slab in slabs):  # an engine is made with an Atoms of its own
            callers.append(threading.current_thread().name)
        return read(atoms, *arguments, **options)

    monkeypatch.setattr("nvdyn_ase.workflows.readings.read", recorded)
    monkeypatch.setattr("nvdyn_ase.atoms.convert.read", recorded)
    assert len(relaxed(3, slabs, Readings())) == 7
    assert callers == ["nvdyn_ase reader"] * 7
