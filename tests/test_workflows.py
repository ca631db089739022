import gc
import itertools
import math
import weakref
from functools import partial

import ase
import numpy as np
import pytest
from ase.build import bulk, molecule
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.singlepoint import SinglePointCalculator
from ase.optimize import FIRE as ASE_FIRE

from nvdyn_ase import workflows
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.filters import FrechetCellFilter, UnitCellFilter
from nvdyn_ase.models import Harmonic
from nvdyn_ase.optimize import FIRE
from nvdyn_ase.workflows import Result, Summary
from tests.systems import argon, mixed
from tests.wells import Well

relax = partial(workflows.relax, ordered=True)


def bits(results):
    """Everything that must not depend on the company a structure keeps."""
    return [
        (
            r.atoms.positions.tobytes(),
            r.atoms.get_forces().tobytes(),
            (r.steps, r.evaluations, r.energy, r.fmax, r.converged, r.outcome, r.reason),
        )
        for r in results
    ]


def pair(distance=1.0, number=18):
    """Two atoms on both sides of the origin."""
    return ase.Atoms([number] * 2, [[-distance, 0, 0], [distance, 0, 0]])


# -------------------------------------------------------------------- what comes back


def test_results_are_the_users_objects_in_order_with_ases_numbers():
    structures = mixed(9)
    alone = [atoms.copy() for atoms in structures]
    results = list(relax(structures, EMT(), fmax=0.05))
    assert [r.index for r in results] == list(range(9))
    for result, atoms, reference in zip(results, structures, alone, strict=True):
        assert isinstance(result, Result)
        assert result.atoms is atoms
        reference.calc = EMT()
        optimizer = ASE_FIRE(reference, logfile=None)
        optimizer.run(fmax=0.05, steps=500)
        assert result.converged
        assert result.outcome is Outcome.CONVERGED
        assert result.steps == optimizer.nsteps
        assert result.energy == pytest.approx(reference.get_potential_energy(), abs=1e-9)
        assert atoms.get_potential_energy() == result.energy
        assert result.fmax == pytest.approx(np.linalg.norm(atoms.get_forces(), axis=1).max())
        np.testing.assert_allclose(atoms.positions, reference.positions, atol=1e-8)


def test_results_do_not_depend_on_the_batch_size():
    expected = None
    for size in (1, 5, "auto"):
        found = bits(relax(mixed(11), EMT(), batch_size=size, steps=60))
        expected = expected or found
        assert found == expected


def test_each_structure_may_bring_its_own_calculator():
    structures = [bulk("Cu") * 2, argon(1), bulk("Au") * 2, argon(2), molecule("CO")]
    for atoms, calc in zip(structures, [EMT, LennardJones, EMT, LennardJones, EMT], strict=True):
        atoms.rattle(0.05, seed=1)
        atoms.calc = calc(**({"sigma": 3.4, "epsilon": 0.01, "rc": 7.0} if calc is not EMT else {}))
    alone = [atoms.copy() for atoms in structures]
    for atoms, original in zip(alone, structures, strict=True):
        atoms.calc = original.calc
    together = bits(relax(structures, steps=20))
    assert together == bits(relax(alone, steps=20, batch_size=1))
    assert all(row[2][1] > 1 for row in together)


def test_no_steps_is_an_evaluation():
    structures = mixed(3)
    before = [atoms.positions.copy() for atoms in structures]
    for result, start in zip(relax(structures, EMT(), steps=0), before, strict=True):
        np.testing.assert_array_equal(result.atoms.positions, start)
        assert result.steps == 0
        assert result.evaluations == 1
        assert math.isfinite(result.energy)


@pytest.mark.parametrize(
    "cell_filter", ["FrechetCellFilter", partial(UnitCellFilter, scalar_pressure=0.02)]
)
def test_cells_are_relaxed_as_in_ase(cell_filter):
    structures = [bulk(metal) * (1, 1, 2) for metal in ("Cu", "Au", "Ni")]
    for seed, atoms in enumerate(structures):
        atoms.set_cell(atoms.cell * 1.04, scale_atoms=True)
        atoms.rattle(0.03, seed=seed)
    alone = [atoms.copy() for atoms in structures]
    molecules = [molecule("CO")]
    results = list(relax(structures + molecules, EMT(), fmax=0.01, cell_filter=cell_filter))
    kind = FrechetCellFilter if isinstance(cell_filter, str) else cell_filter
    for result, reference in zip(results[:3], alone, strict=True):
        reference.calc = EMT()
        optimizer = ASE_FIRE(kind(reference), logfile=None)
        optimizer.run(fmax=0.01, steps=500)
        assert (result.converged, result.steps) == (True, optimizer.nsteps)
        np.testing.assert_allclose(result.atoms.cell, reference.cell, atol=1e-8)
    assert results[3].outcome is Outcome.REJECTED
    assert "three cell vectors" in results[3].reason


def test_a_cell_filter_needs_a_stress_and_a_name():
    with pytest.raises(ValueError, match="gives no stress"):
        relax([bulk("Cu")], Harmonic(), cell_filter="FrechetCellFilter")
    with pytest.raises(ValueError, match="no cell filter 'frechet'; there are ExpCellFilter"):
        relax([bulk("Cu")], EMT(), cell_filter="frechet")


def test_steps_used_up_is_not_a_failure():
    (result,) = relax([argon(0)], LennardJones(sigma=3.4, epsilon=0.01), steps=2, fmax=1e-6)
    assert result.outcome is Outcome.BUDGET
    assert not result.converged
    assert result.steps == 2


def test_options_and_classes_reach_the_optimizer():
    slow, fast = (
        next(relax([pair()], Well(), optimizer=optimizer, fmax=1e-3, maxstep=maxstep))
        for optimizer, maxstep in (("FIRE", 0.01), (FIRE, 0.2))
    )
    assert slow.steps > fast.steps


# -------------------------------------------------------------------- streams


@pytest.mark.parametrize("form", [list, tuple, iter, lambda items: (i for i in items)])
def test_any_iterable_will_do(form):
    results = list(relax(form([pair(d) for d in (1.0, 2.0, 3.0)]), Well(), batch_size=2))
    assert [r.index for r in results] == [0, 1, 2]
    assert all(r.converged for r in results)


def test_nothing_makes_nothing():
    assert list(relax([], Well())) == []
    assert list(relax(iter([]), Well())) == []


def test_an_endless_stream_is_read_a_batch_at_a_time_and_let_go():
    given, alive = 0, weakref.WeakSet()

    class Tracked(ase.Atoms):
        """An Atoms that a weak set can hold."""

        __hash__ = object.__hash__

    def source():
        nonlocal given
        for given in itertools.count(1):
            atoms = Tracked(pair(1.0 + given % 3))
            alive.add(atoms)
            yield atoms
            del atoms

    results = workflows.relax(source(), Well(), batch_size=3)
    assert given == 0
    for count in range(1, 12):
        result = next(results)
        assert given <= count + 2 * 3
        del result
        gc.collect()
        assert len(alive) <= 2 * 3
    results.close()


class Odd(EMT):
    """A calculator that nothing batched stands for."""


@pytest.mark.parametrize(
    ("model", "calc", "expected"),
    [(Well(), None, 33), (Odd(), None, 3), (None, EMT(), 33), (None, Odd(), 1)],
)
def test_auto_counts_atoms_and_whatever_is_no_structure(model, calc, expected):
    given = 0

    def source():
        nonlocal given
        for given in itertools.count(1):
            if given % 2:
                yield ase.Atoms("Cu1000", np.arange(3000).reshape(-1, 3) * 9.0, calculator=calc)
            else:
                yield ase.Atoms()

    next(workflows.relax(source(), model, steps=0))  # with atoms counted, who is none comes first
    assert given == expected


def test_closing_early_leaves_the_rest_untouched():
    structures = [pair(1.0 + i) for i in range(6)]
    results = workflows.relax(structures, Well(), batch_size=2)
    done = {next(results).index}
    results.close()
    moved = {i for i, atoms in enumerate(structures) if atoms.positions[1, 0] != 1.0 + i}
    assert done < {0, 1, 2} and moved <= {0, 1, 2}
    assert {i for i, atoms in enumerate(structures) if atoms.calc is not None} == {0, 1}


def test_an_error_in_reading_comes_after_what_was_read():
    def source():
        yield pair(1.0)
        yield pair(2.0)
        raise OSError("the disk is gone")

    results = relax(source(), Well(), batch_size=10)
    assert [next(results).converged for _ in range(2)] == [True, True]
    with pytest.raises(OSError, match="the disk is gone"):
        next(results)


def test_interrupt_leaves_everything_at_the_last_finished_step():
    def interrupt(well):
        if well.forwards == 7:
            raise KeyboardInterrupt

    structures = [pair(d) for d in (1.0, 2.0)]
    model = Well()
    model.before = interrupt
    with pytest.raises(KeyboardInterrupt):
        next(relax(structures, model, fmax=1e-6))
    # Seven forward passes are the start and six steps.
    reference = [r.atoms for r in relax([pair(d) for d in (1.0, 2.0)], Well(), fmax=1e-6, steps=6)]
    for atoms, expected in zip(structures, reference, strict=True):
        np.testing.assert_array_equal(atoms.positions, expected.positions)
        np.testing.assert_array_equal(atoms.get_forces(), expected.get_forces())


# -------------------------------------------------------------------- what cannot be used


def bad_structures():
    nan = bulk("Cu")
    nan.positions[0, 1] = np.nan
    flat = ase.Atoms("Cu", cell=[3, 3, 0], pbc=True)
    return {
        "not finite": nan,
        "singular": flat,
        "no atoms": ase.Atoms(),
        "does not know Xe": ase.Atoms("CuXe", [[0, 0, 0], [0, 0, 2.5]]),
        "str": "Cu",
    }


@pytest.mark.parametrize("batch_size", [4, "auto"])
def test_bad_structures_come_back_marked_and_nobody_notices(batch_size):
    bad = bad_structures()
    before = {k: a.positions.tobytes() for k, a in bad.items() if isinstance(a, ase.Atoms)}
    structures = mixed(9)
    for place, item in zip((0, 2, 5, 6, 10), bad.values(), strict=True):
        structures.insert(place, item)
    results = list(relax(structures, EMT(), steps=60, batch_size=batch_size))
    assert [r.index for r in results] == list(range(len(structures)))
    rejected = [r for r in results if r.outcome is Outcome.REJECTED]
    assert [r.index for r in rejected] == [0, 2, 5, 6, 10]
    for result, (words, item) in zip(rejected, bad.items(), strict=True):
        assert words in result.reason
        assert not result.reason.startswith("structure ")
        assert result.atoms is item
        assert (result.converged, result.steps) == (False, 0)
        assert math.isnan(result.energy)
        assert math.isnan(result.fmax)
        if words in before:
            assert item.positions.tobytes() == before[words]
            assert item.calc is None
    others = [r for r in results if r.outcome is not Outcome.REJECTED]
    assert bits(others) == bits(relax(mixed(9), EMT(), steps=60))


def test_any_number_of_bad_structures_may_follow_one_another():
    structures = [bulk("Cu"), *(ase.Atoms("Xe") for _ in range(1500)), bulk("Cu")]
    structures[0].positions += 0.1
    outcomes = [r.outcome for r in workflows.evaluate(structures, "emt", batch_size=1)]
    assert outcomes == [Outcome.CONVERGED, *[Outcome.REJECTED] * 1500, Outcome.CONVERGED]


@pytest.mark.parametrize("is_cheap", [False, True])
def test_a_model_that_is_not_cheap_is_asked_for_nothing_in_vain(is_cheap):
    model, distances = Well(), np.random.default_rng(0).uniform(0.01, 4.0, 60)
    model.is_cheap = is_cheap
    structures = [ase.Atoms("Ar2", [[-d, 0, 0], [d, 0, 0]]) for d in distances]
    needed = sum(r.evaluations for r in relax(structures, model, batch_size=8))
    assert (model.systems == needed) is not is_cheap


def test_a_filter_that_cannot_be_made_is_a_fault_of_its_structure():
    def only_crystals(atoms):
        if not atoms.cell.rank:
            raise ArithmeticError("there is no cell")
        return FrechetCellFilter(atoms)

    structures = [bulk("Cu"), molecule("CO"), bulk("Ni")]
    results = list(relax(structures, EMT(), cell_filter=only_crystals, steps=5))
    assert [r.outcome is Outcome.REJECTED for r in results] == [False, True, False]
    assert results[1].reason == "cell_filter raised ArithmeticError: there is no cell"


def test_a_structure_needs_a_calculator_or_a_model():
    bare, stored, good = (bulk("Cu") for _ in range(3))
    stored.calc = SinglePointCalculator(stored, energy=1.0)
    good.calc = EMT()
    results = list(relax([bare, stored, good]))
    assert [r.outcome for r in results] == [Outcome.REJECTED] * 2 + [Outcome.CONVERGED]
    assert "no calculator" in results[0].reason
    assert "model=" in results[0].reason
    assert "only stores results" in results[1].reason
    assert stored.get_potential_energy() == 1.0


def test_the_same_object_twice_is_not_relaxed_twice():
    atoms = pair()
    results = list(relax([atoms, pair(2.0), atoms], Well()))
    assert [r.converged for r in results] == [True, True, False]
    assert "same object as structure 0" in results[2].reason


def test_coincident_atoms_are_named():
    structures = [argon(i) for i in range(3)]
    structures[1].positions[3] = structures[1].positions[7]
    calc = LennardJones(sigma=3.4, epsilon=0.01, rc=8.0)
    results = list(relax(structures, calc, steps=5))
    assert [r.outcome.failed for r in results] == [False, True, False]
    assert "atoms 3 and 7" in results[1].reason


# -------------------------------------------------------------------- models that fail


class Touchy(Well):
    """Raises, for the whole batch, if there is an atom of this number and it is close enough."""

    def __init__(self, number, closer_than=math.inf):
        super().__init__()
        self.number = number
        self.closer_than = closer_than

    def forward(self, batch):
        close = batch["positions"].abs().amax(1) < self.closer_than
        if (close & (batch["atomic_numbers"] == self.number)).any():
            raise RuntimeError("it went bang")
        return super().forward(batch)


@pytest.mark.parametrize("closer_than", [math.inf, 0.9])
def test_a_model_that_raises_fails_only_who_is_to_blame(closer_than):
    def structures():
        return [pair(1.0 + 0.1 * i, number=10 + i) for i in range(20)]

    model = Touchy(13, closer_than)
    results = list(relax(structures(), model, fmax=0.01))
    (failed,) = (r for r in results if r.outcome is Outcome.ERROR)
    assert failed.index == 3
    assert failed.reason == "RuntimeError: it went bang"
    assert not failed.converged
    assert np.isfinite(failed.atoms.positions).all()
    # What it has is of where it stands, which is where the last step has brought it that went well.
    squares = (failed.atoms.positions**2).sum()
    if closer_than == 0.9:
        assert failed.energy == pytest.approx(0.5 * squares, rel=1e-12)
    else:
        assert math.isnan(failed.energy)
    assert np.abs(failed.atoms.positions).max() <= 1.3
    expected = bits(relax(structures(), Well(), fmax=0.01))
    others = [r for r in results if r is not failed]
    assert all(r.converged for r in others)
    assert bits(others) == [row for index, row in enumerate(expected) if index != 3]
    if closer_than == 0.9:
        assert failed.steps > 0
        assert 0.9 <= np.abs(failed.atoms.positions).max() < 1.3


def test_a_model_that_always_raises_loses_nothing():
    results = list(relax([pair(1.0 + i) for i in range(5)], Touchy(18)))
    assert [(r.index, r.outcome) for r in results] == [(i, Outcome.ERROR) for i in range(5)]


def test_one_failure_among_a_hundred():
    results = list(relax([pair(1.0 + 0.01 * i) for i in range(100)], Well(fail=[40]), fmax=0.01))
    failed = [r for r in results if r.outcome.failed]
    assert [r.index for r in failed] == [40]
    assert "the well is dry" in failed[0].reason
    expected = bits(relax([pair(1.0 + 0.01 * i) for i in range(100)], Well(), fmax=0.01))
    others = bits(r for r in results if not r.outcome.failed)
    assert others == expected[:40] + expected[41:]


# -------------------------------------------------------------------- arguments


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"fmax": 0.0}, "fmax"),
        ({"fmax": -1.0}, "fmax"),
        ({"fmax": math.nan}, "fmax"),
        ({"steps": -1}, "steps"),
        ({"batch_size": 0}, "batch_size"),
        ({"batch_size": "large"}, "batch_size"),
        ({"progress": "sometimes"}, "progress"),
        ({"optimizer": "LBFGSS"}, "FIRE"),
        ({"optimizer": "RestartError"}, "FIRE"),
        ({"trajectory": "all.traj"}, "trajectory"),
        ({"restart": "all.json"}, "restart"),
        ({"dt": [0.1, 0.2]}, "dt"),
    ],
)
def test_bad_arguments_are_refused_at_the_call(options, words):
    with pytest.raises(ValueError, match=words):
        relax([pair()], Well(), **options)


@pytest.mark.parametrize("structures", [pair(), "many.xyz", 3])
def test_what_is_no_stream_is_refused_at_the_call(structures):
    with pytest.raises(TypeError, match="relax"):
        relax(structures, Well())


def test_unknown_options_are_refused_at_the_call():
    with pytest.raises(TypeError, match="maxsteps"):
        relax([pair()], Well(), maxsteps=0.1)


def test_a_plain_object_is_no_model():
    with pytest.raises(TypeError):
        relax([pair()], object())


def test_a_model_has_a_name():
    (result,) = relax([bulk("Cu")], "emt")
    assert result.converged
    with pytest.raises(ValueError, match="emtt"):
        relax([bulk("Cu")], "emtt")


# -------------------------------------------------------------------- what people see


def test_the_bar_is_shown_where_somebody_looks(capfd):
    list(relax([pair(1.0), pair(2.0)], Well()))
    assert capfd.readouterr().err == ""
    bad = ase.Atoms()
    list(relax([pair(1.0), pair(2.0), bad], Well(), batch_size=1, progress="always"))
    shown = capfd.readouterr().err
    assert "3/3" in shown
    assert "failed=1" in shown


def test_the_bar_knows_no_total_of_a_stream(capfd):
    list(relax(iter([pair(1.0), pair(2.0)]), Well(), progress="always"))
    shown = capfd.readouterr().err
    assert "2 structures" in shown
    assert "/2 " not in shown


def test_summary_counts_and_lists():
    summary = Summary(failures_shown=2)
    structures = [pair(1.0), ase.Atoms(), pair(2.0), ase.Atoms(), ase.Atoms()]
    results = list(summary.watch(relax(structures, Well(), fmax=0.01, steps=12)))
    assert (summary.converged, summary.not_converged, summary.failed) == (
        sum(r.outcome is Outcome.CONVERGED for r in results),
        sum(r.outcome is Outcome.BUDGET for r in results),
        3,
    )
    assert summary.total == 5
    assert summary.steps == sum(r.steps for r in results)
    assert summary.evaluations == sum(r.evaluations for r in results)
    text = str(summary)
    assert "rejected: the structure has no atoms" in text
    assert "and 1 more" in text
    assert text.count("rejected") == 2
    assert summary.seconds == summary.seconds


def test_an_empty_summary_can_be_printed():
    assert "structures" in str(Summary())
