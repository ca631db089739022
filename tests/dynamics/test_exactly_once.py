"""Whatever happens, every system of an input is in one place afterwards, as it came."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.dynamics import (
    FIRE,
    NVE,
    BFGSLineSearch,
    ConvergenceHook,
    HookStageEnum,
    HostMemory,
    Langevin,
    NaNDetectorHook,
    Outcome,
    SinkError,
    SizeAwareSampler,
)
from nvdyn_ase.models.base import ModelOutputs
from tests.dynamics.streams import Moody, check_user_fields, identities, inputs
from tests.wells import Well

DISTANCES = st.floats(0.0, 3.0).map(lambda d: round(d, 3))
FAILED = {"fails": Outcome.ERROR, "is nan": Outcome.NAN, "is large": Outcome.REJECTED}


def stages(draw, model):
    """Draw one to three engines."""
    makers = [
        lambda: FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3), n_steps=15),
        lambda: FIRE(
            model, convergence_hook=ConvergenceHook.from_fmax(0.1, frequency=3), n_steps=20
        ),
        lambda: NVE(model, dt=0.2, n_steps=draw(st.integers(0, 4))),
        lambda: Langevin(model, 0.2, 300.0, 0.1, seed=1, n_steps=draw(st.integers(1, 5))),
        lambda: BFGSLineSearch(model, convergence_hook=ConvergenceHook.from_fmax(0.05), n_steps=9),
    ]
    return [make() for make in draw(st.lists(st.sampled_from(makers), min_size=1, max_size=3))]


def poisoned(draw, distances):
    """Draw what is wrong with some systems, and return the systems and that."""
    wrongs = st.sampled_from([None, None, None, *FAILED])
    wrong = draw(st.lists(wrongs, min_size=len(distances), max_size=len(distances)))
    sizes = [draw(st.integers(1, 4)) for _ in distances]
    sizes = [9 if why == "is large" else n for n, why in zip(sizes, wrong, strict=True)]
    systems = inputs(distances, sizes)
    for data, why in zip(systems, wrong, strict=True):
        if why == "is nan":
            data.velocities[0, 0] = float("nan")
            data.positions[0, 0] = float("nan")
    return systems, wrong


def sinks_of(draw, count):
    """Draw sinks: of any capacity, some of whose writes fail."""
    capacities = draw(st.lists(st.integers(1, count), min_size=1, max_size=3))
    return [Moody(own, draw(st.sets(st.integers(0, 3), max_size=2))) for own in capacities]


def run_to_the_end(engine, sinks):
    """Run until nothing is left; return what came back and not to the sinks."""
    returned = []
    for _ in range(100):
        try:
            left = engine.run()
        except SinkError as error:
            left = error.unwritten
        if left is not None:
            returned.append(left)
        assert engine.active_batch is None
        if left is None and engine.done:
            return returned
        sinks.append(HostMemory(100))  # the user makes room
        engine.sinks = sinks
    raise AssertionError("it does not end")


@settings(max_examples=80)
@given(data=st.data(), distances=st.lists(DISTANCES, min_size=1, max_size=12))
def test_every_system_is_in_one_place(data, distances):
    draw = data.draw
    systems, wrong = poisoned(draw, distances)
    model = Well(fail={i for i, why in enumerate(wrong) if why == "fails"})
    engines = stages(draw, model)
    engine = engines[0]
    for following in engines[1:]:
        engine = engine + following
    engine.register_hook(NaNDetectorHook())
    source = iter(systems) if draw(st.booleans()) else systems
    budgets = draw(st.integers(4, 12)), draw(st.integers(1, 5))
    budgets = (8, budgets[1]) if "is large" in wrong else budgets
    engine.sampler = SizeAwareSampler(source, max_atoms=budgets[0], max_batch_size=budgets[1])
    engine.sinks = sinks = sinks_of(draw, len(systems))
    engine.refill_frequency = draw(st.integers(1, 3))
    parts = run_to_the_end(engine, sinks)
    parts += [sink.read() for sink in sinks if len(sink)]
    found = [number for part in parts for number in identities(part)]
    assert sorted(found) == list(range(len(systems)))
    for part in parts:
        check_user_fields(part)
        for row, number in enumerate(identities(part)):
            outcome = Outcome(part["outcome"][row].item())
            expected = FAILED.get(wrong[number])
            assert outcome == expected if expected else not outcome.failed, (number, wrong)
            assert ("failure" in part.host[row]) == (outcome in (Outcome.ERROR, Outcome.REJECTED))
            assert (part["status"][row] >= engine.exit_status).all()
    assert engine.run() is None


def relaxation(systems, sinks=None, **sampler):
    model = Well()
    return FIRE(
        model,
        convergence_hook=ConvergenceHook.from_fmax(0.05),
        sampler=SizeAwareSampler(systems, **{"max_batch_size": 3, **sampler}),
        sinks=sinks,
    )


def test_all_goes_to_memory_by_default_and_the_run_returns_none():
    engine = relaxation(inputs([0.5, 1.0, 2.0, 0.01, 3.0]))
    assert engine.run() is None
    assert engine.done and engine.active_batch is None and engine.sampler.exhausted
    assert sorted(identities(engine.sinks[0].read())) == [0, 1, 2, 3, 4]
    assert engine.run() is None


def test_sinks_are_filled_one_after_the_other():
    sinks = [HostMemory(2), HostMemory(1), HostMemory(9)]
    relaxation(inputs([1.0] * 5), sinks).run()
    assert [len(sink) for sink in sinks] == [2, 1, 2]


def test_full_sinks_stop_the_intake_and_what_is_in_flight_comes_back():
    engine = relaxation(inputs([0.5, 1.0, 2.0, 0.01, 3.0, 1.5, 2.5]), [HostMemory(2)])
    left = engine.run()
    assert len(engine.sinks[0]) == 2
    assert (left["outcome"] == Outcome.CONVERGED).all()
    assert len(left) <= 3 and not engine.done
    assert len(engine.sampler) == 7 - 2 - len(left)


def test_a_sink_that_fails_says_so_with_all_that_is_not_written():
    engine = relaxation(inputs([0.5, 1.0, 2.0, 0.01, 3.0]), [Moody(9, {1})])
    with pytest.raises(SinkError, match="could not be written: the disk is on fire") as caught:
        engine.run()
    unwritten = identities(caught.value.unwritten)
    assert isinstance(caught.value.__cause__, OSError)
    assert engine.run() is None
    written = identities(engine.sinks[0].read())
    assert sorted(written + unwritten) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("forward", [0, 1, 2, 5, 9, 14])
def test_a_run_that_is_cut_off_goes_on_where_it_was(forward, error):
    distances = [0.5, 1.0, 2.0, 0.01, 3.0, 1.5, 2.5]
    undisturbed = relaxation(inputs(distances))
    undisturbed.run()
    engine = relaxation(inputs(distances))

    def cut(model):
        if model.forwards == forward:
            model.before = None
            raise error("cut")

    engine.model.before = cut
    with pytest.raises(error):
        engine.run()
    assert engine.active_batch is not None
    with pytest.raises(ValueError, match="in flight"):
        engine.run(engine.active_batch.clone())
    assert engine.run() is None
    assert engine.model.forwards == undisturbed.model.forwards
    ours, theirs = engine.sinks[0].read(), undisturbed.sinks[0].read()
    order = [identities(ours).index(i) for i in identities(theirs)]
    for key in ("positions", "energy", "steps", "evaluations", "outcome", "status"):
        assert torch.equal(ours[order][key], theirs[key]), key


def test_a_budget_of_steps_is_that_of_a_system_also_when_a_run_is_cut_off():
    engine = NVE(Well(), dt=0.1, n_steps=6, sampler=SizeAwareSampler(inputs([1.0] * 5)))
    engine.sampler.max_batch_size = 2

    def cut(model):
        if model.forwards in (4, 9):
            model.forwards += 1
            raise KeyboardInterrupt("cut")

    engine.model.before = cut
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt, match="cut"):
            engine.run()
    engine.run()
    done = engine.sinks[0].read()
    assert done["steps"].view(-1).tolist() == [6] * 5
    assert done["evaluations"].view(-1).tolist() == [7] * 5


def test_what_is_too_large_is_written_with_the_reason_and_what_cannot_be_read_is_noted():
    class Dataset:
        def __len__(self):
            return 4

        def __getitem__(self, index):
            if index == 2:
                raise OSError("torn")
            return inputs([1.0] * 4, [2, 9, 2, 3])[index], {"name": f"n{index}"}

        def get_metadata(self, index):
            return [2, 9, 2, 3][index], 0

    engine = relaxation(Dataset(), max_atoms=5)
    assert engine.run() is None
    done = engine.sinks[0].read()
    rows = {number: row for row, number in enumerate(identities(done))}
    assert sorted(rows) == [0, 1, 3]
    assert done["outcome"][rows[1]] == Outcome.REJECTED
    assert "9 atoms" in done.host[rows[1]]["failure"]
    assert done.host[rows[3]]["metadata"] == {"name": "n3"}
    assert [one.index for one in engine.unread] == [2]


@pytest.mark.parametrize("stream", [False, True])
def test_an_input_of_nothing_but_poison_ends_with_the_reasons(stream):
    systems = inputs([1.0, 2.0], [8, 9])
    engine = relaxation(iter(systems) if stream else systems, max_atoms=5)
    assert engine.run() is None
    assert (engine.sinks[0].read()["outcome"] == Outcome.REJECTED).all()
    assert engine.done


def test_an_empty_input_is_done_at_once():
    engine = relaxation([])
    assert engine.run() is None and engine.done
    assert engine.model.forwards == 0


def test_no_step_is_done_with_nobody():
    engine = relaxation(inputs([0.01, 0.02]))
    engine.run()
    assert engine.step_count == 0
    assert engine.model.forwards == 1


def test_what_comes_with_marks_of_an_earlier_run_begins_anew():
    engine = relaxation(inputs([0.5, 1.0, 2.0, 3.0]))
    engine.run()
    first = engine.sinks[0].read()
    again = relaxation(first.to_data_list(), max_batch_size=1)
    again.convergence_hook = ConvergenceHook.from_fmax(0.001)
    again.run()
    done = again.sinks[0].read()
    assert (done["fmax"] <= 0.001).all()
    assert (done["steps"] > 0).all()
    assert (done["outcome"] == Outcome.CONVERGED).all()


def test_a_sampler_may_come_later():
    engine = NVE(Well(), dt=0.1, n_steps=2)
    assert engine.sinks == []
    engine.sampler = SizeAwareSampler(inputs([1.0, 2.0]))
    assert engine.run() is None
    assert sorted(identities(engine.sinks[0].read())) == [0, 1]


def test_what_a_run_has_made_is_unknown_of_who_had_left_before_or_never_came():
    class Charged(Well):
        def forward(self, batch):
            outputs = super().forward(batch)
            return ModelOutputs({**outputs, "charge": 2.0 * outputs["energy"]}, outputs.failures)

    class Late:
        stage, frequency = HookStageEnum.AFTER_STEP, 1

        def __call__(self, batch, dynamics):
            if dynamics.step_count >= 3:
                batch["late"] = torch.ones(len(batch), 1, dtype=torch.int64)

    engine = relaxation(inputs([0.001, 2.0, 0.001, 3.0], [2, 3, 9, 2]), max_atoms=6)
    engine.model, engine.sinks = Charged(), [HostMemory(9)]
    engine.register_hook(Late())
    assert engine.run() is None
    done = engine.sinks[0].read()
    rows = {number: row for row, number in enumerate(identities(done))}
    assert done["charge"][rows[2]].isnan() and not done["charge"][rows[0]].isnan()
    assert done["late"].view(-1)[[rows[i] for i in range(4)]].tolist() == [0, 1, 0, 1]
    check_user_fields(done)
