"""What a fused engine is, says, refuses and calls."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import (
    FIRE,
    NVE,
    BaseDynamics,
    ConvergedSnapshotHook,
    ConvergenceHook,
    FusedStage,
    HookStageEnum,
    HostMemory,
    Langevin,
    LoggingHook,
    NeighborListHook,
    Outcome,
    ProgressHook,
    Ramp,
    SizeAwareSampler,
    SnapshotHook,
)
from nvdyn_ase.models import LennardJones
from nvdyn_ase.models.base import NeighborConfig
from tests.dynamics.streams import by_identity, identities, inputs
from tests.dynamics.test_engine import Recorder
from tests.wells import Well, wells

ROOT = Path(__file__).parents[2]


def relax(model, fmax=0.3, **engine):
    return FIRE(model, convergence_hook=ConvergenceHook.from_fmax(fmax), **engine)


def move(model, n_steps=4, **engine):
    return NVE(model, dt=0.1, n_steps=n_steps, **engine)


class Everywhere:
    """Notes stage, step and systems of every call."""

    stages, frequency = tuple(HookStageEnum), 1

    def __init__(self):
        self.calls, self.batches, self.entered, self.left = [], [], 0, 0

    def __call__(self, batch, dynamics):
        self.calls.append((dynamics.current_hook_stage, dynamics.step_count))
        self.batches.append(identities(batch))

    def __enter__(self):
        self.entered += 1

    def __exit__(self, *exception):
        self.left += 1


# -------------------------------------------------------------------------------- making one


def test_what_is_put_together_is_flat_and_in_order():
    model = Well()
    a, b, c, d = relax(model), move(model), relax(model), move(model)
    for whole in (((a + b) + c) + d, a + (b + (c + d)), (a + b) + (c + d)):
        assert [engine for _, engine in whole.sub_stages] == [a, b, c, d]
        assert [status for status, _ in whole.sub_stages] == [0, 1, 2, 3]
        assert (whole.entry_status, whole.exit_status) == (0, 4)
        assert repr(whole).startswith("FusedStage(FIRE(") and "\n" not in repr(whole)


def test_what_is_put_together_keeps_what_was_said():
    model, sink, other, hook = Well(), HostMemory(5), HostMemory(6), Everywhere()
    sampler = SizeAwareSampler(inputs([1.0]))

    def init_fn(batch):
        pass

    first = FusedStage([(0, relax(model, sampler=sampler, sinks=[sink]))], init_fn=init_fn)
    first.compile_step, first.compile_kwargs = True, {"dynamic": False}
    first.register_fused_hook(hook)
    first.convergence_check_frequency = 3
    first.sampler, first.sinks, first.n_steps = sampler, [sink], 77
    whole = first + move(model, sinks=[other]) + move(model)
    assert whole.sampler is sampler
    assert whole.sinks == [sink, other]
    assert whole.init_fn is init_fn and whole.n_steps == 77
    assert whole.hooks[HookStageEnum.AFTER_STEP] == [hook]
    assert whole.compile_step and whole.compile_kwargs == {"dynamic": False}
    assert whole.convergence_check_frequency == 3
    assert not (relax(model) + move(model)).compile_step
    engine = relax(model, sampler=sampler, sinks=[sink]) + move(model)
    assert engine.sampler is sampler and engine.sinks == [sink]
    with pytest.raises(ValueError, match="both have sampler"):
        engine + move(model, sampler=SizeAwareSampler(inputs([1.0])))


def test_what_cannot_be_put_together():
    model = Well()
    for other in (None, 3, model, print):
        with pytest.raises(TypeError, match="an engine can be followed by an engine"):
            relax(model) + other
    with pytest.raises(ValueError, match="model"):
        relax(model) + relax(Well())
    with pytest.raises(ValueError, match="device"):
        relax(model) + FIRE(model, device_type="meta")
    engine = relax(model)
    with pytest.raises(ValueError, match="one stage only"):
        engine + engine


def test_what_cannot_be_fused():
    model = Well()
    with pytest.raises(ValueError, match="at least one stage"):
        FusedStage([])
    with pytest.raises(TypeError, match="not Well"):
        FusedStage([(0, model)])
    with pytest.raises(ValueError, match="same status"):
        FusedStage([(0, relax(model)), (0, move(model))])
    with pytest.raises(ValueError, match="fused itself"):
        FusedStage([(0, relax(model) + move(model))])
    with pytest.raises(ValueError, match="status 7 of a stage is not below exit_status 2"):
        FusedStage([(0, relax(model)), (7, move(model))])
    with pytest.raises(ValueError, match="no stage has the entry_status 1"):
        FusedStage([(0, relax(model))], entry_status=1)
    with pytest.raises(ValueError, match="no criterion"):
        FusedStage([(0, relax(model))], convergence_hook=ConvergenceHook())


def test_constructor_parameters_are_attributes():
    model, sub_stages = Well(), None
    sub_stages = [(2, relax(model)), (5, move(model))]
    whole = FusedStage(
        sub_stages, entry_status=2, exit_status=9, compile_kwargs={"mode": "default"}, n_steps=50
    )
    assert whole.sub_stages == sub_stages
    assert (whole.entry_status, whole.exit_status, whole.n_steps) == (2, 9, 50)
    assert whole.compile_step is False and whole.init_fn is None
    batch = whole.run(wells(0.01, 1.0))
    assert batch["status"].view(-1).tolist() == [9, 9]
    assert (batch["stage_steps"][:, 1] == 4).all()


def test_needs_and_gives_are_those_of_all_stages():
    class Tells(BaseDynamics):
        __provides_keys__ = frozenset({"told"})

    model = Well()
    whole = Tells(model, n_steps=1) + relax(model) + move(model)
    assert whole.__needs_keys__ == {"energy", "forces"}
    assert whole.__provides_keys__ == {"told"}
    assert not Tells(model, n_steps=1).__needs_keys__


@pytest.mark.parametrize("first", [0, 1])
def test_stages_share_what_comes_for_several(first):
    """A run with one forward pass a step."""
    model = Well()
    whole = relax(model) + move(model, 10)
    whole.run(wells(0.01, 1.0, 2.0))
    assert model.forwards == whole.step_count + 1


# -------------------------------------------------------------------------------- what ends a run


def test_a_last_stage_that_nothing_ends_needs_a_limit():
    model = Well()
    whole = relax(model) + FIRE(model)
    with pytest.raises(ValueError, match="nothing ends"):
        whole.run(wells(1.0))
    batch = whole.run(wells(1.0), n_steps=30)
    assert batch["outcome"].item() == Outcome.BUDGET and batch["status"].item() == 1
    assert whole.step_count == 30
    whole.n_steps = 4
    assert whole.run(wells(9.0))["steps"].item() == 4


def test_a_run_ends_by_itself():
    model = Well()
    whole = move(model) + relax(model, 0.01)
    batch = whole.run(wells(1.0, 2.0))
    assert whole.all_complete(batch, 2) and whole.all_complete(batch)
    assert (batch["outcome"] == Outcome.CONVERGED).all()
    assert not whole.all_complete(wells_in(whole, 1.0))


def wells_in(engine, *distances):
    batch = wells(*distances)
    engine.adopt(batch)
    return batch


def test_step_returns_who_newly_graduated_however_it_did():
    model = Well(fail={3})
    whole = relax(model, 0.3) + relax(model, 0.1, n_steps=2)
    batch = wells(0.01, 2.0, 0.25, 1.0)
    for call in (whole.step, whole):
        seen = {}
        own = batch.clone()
        own["system_id"] = batch["system_id"]
        for step in range(60):
            returned, graduated = call(own)
            assert returned is own
            if graduated is not None:
                seen.update({int(row): step for row in graduated})
            done = own["status"].view(-1) >= whole.exit_status
            assert sorted(seen) == torch.nonzero(done).view(-1).tolist()
        assert sorted(seen) == [0, 1, 2, 3]
        outcomes = [Outcome(code).name for code in own["outcome"].view(-1).tolist()]
        assert outcomes[0] == "CONVERGED" and outcomes[3] == "ERROR"
        assert {outcomes[1], outcomes[2]} <= {"BUDGET", "CONVERGED"}
        assert seen[0] == 1  # at the start it goes on by one stage, then by the other


@pytest.mark.parametrize("count", [1, 2])
def test_steps_by_hand_are_those_of_a_run(count):
    model = Well()
    whole = relax(model) + Langevin(model, 0.2, 300.0, 0.1, seed=1, n_steps=6) + relax(model, 0.02)
    for distances in ([0.01, 2.0, 0.25, 1.0], [0.5, 0.02])[:count]:
        batch, reference = wells(*distances), wells(*distances)
        while not whole.all_complete(batch) if "status" in batch else True:
            whole.step(batch)
        model = Well()
        other = relax(model) + Langevin(model, 0.2, 300.0, 0.1, seed=1, n_steps=6)
        (other + relax(model, 0.02)).run(reference)
        for key in ("positions", "velocities", "steps", "evaluations", "outcome", "stage_steps"):
            assert torch.equal(batch[key], reference[key]), key


@pytest.mark.parametrize("frequency", [2, 5])
def test_criteria_may_be_looked_at_more_rarely(frequency):
    def engine():
        model = Well()
        whole = relax(model) + relax(model, 0.01)
        whole.convergence_check_frequency = frequency
        return whole

    distances = [0.01, 2.0, 0.25, 1.0]
    batch = engine().run(wells(*distances))
    for row in range(4):
        alone = engine().run(wells(*distances)[[row]])
        assert torch.equal(alone["stage_steps"], batch["stage_steps"][[row]])
        assert (alone["steps"] % frequency == 0).all()
    rarely = relax(Well())
    rarely.convergence_hook.frequency = frequency
    stage = FusedStage([(0, rarely)]).run(wells(*distances))
    alone = FIRE(Well(), convergence_hook=ConvergenceHook.from_fmax(0.3, frequency=frequency))
    assert torch.equal(stage["steps"], alone.run(wells(*distances))["steps"])


def test_one_stage_is_an_engine_too_and_runs_twice():
    model = Well()
    whole = FusedStage([(0, move(model, 5))])
    batch, reference = wells(1.0, 2.0), wells(1.0, 2.0)
    for n in (5, 10):
        whole.run(batch)
        assert (batch["steps"] == n).all()
    NVE(model, dt=0.1).run(reference, n_steps=10)
    assert torch.equal(batch["positions"], reference["positions"])


def test_masked_update_moves_the_masked_systems_each_by_its_stage():
    model = Well()
    whole = move(model) + relax(model)
    batch = wells(1.0, 2.0, 3.0)
    batch["status"] = torch.tensor([0, 1, 1])
    whole.step(batch)
    before, forwards = batch["positions"].clone(), model.forwards
    whole.masked_update(batch, torch.tensor([True, False, True]))
    assert model.forwards == forwards
    first, held, last = batch["positions"].split(batch.num_nodes_list)
    was = before.split(batch.num_nodes_list)
    assert torch.equal(held, was[1])
    assert not torch.equal(first, was[0]) and not torch.equal(last, was[2])


# -------------------------------------------------------------------------------- hooks


def test_all_stages_of_a_step_are_told_to_all_stages_with_the_whole_batch():
    model, hooks = Well(), [Everywhere() for _ in range(4)]
    engines = [relax(model), move(model), relax(model, 0.01)]
    whole = engines[0] + engines[1] + engines[2]
    for engine, hook in zip((*engines, whole), hooks, strict=True):
        engine.register_hook(hook)
    batch = whole.run(wells(0.01, 2.0, 1.0))
    moments = [m for m in HookStageEnum if m is not HookStageEnum.ON_CONVERGE]
    for hook in hooks:
        own = [call for call in hook.calls if call[0] is not HookStageEnum.ON_CONVERGE]
        assert own[:2] == [(HookStageEnum.BEFORE_COMPUTE, 0), (HookStageEnum.AFTER_COMPUTE, 0)]
        assert own[2:] == [(m, n) for n in range(whole.step_count) for m in moments]
        assert (hook.entered, hook.left) == (1, 1)
        converged = [call for call in hook.calls if call[0] is HookStageEnum.ON_CONVERGE]
        assert bool(converged) is (hook is not hooks[1])
    assert all(own == hooks[0].batches[0] for own in hooks[1].batches[:4])
    assert {tuple(own) for own in hooks[0].batches} == {tuple(own) for own in hooks[3].batches}
    assert [engine.step_count for engine in engines] == [whole.step_count] * 3
    assert (batch["status"] == 3).all()


def test_who_converges_is_told_once_to_its_stage_and_to_the_whole():
    model, seen = Well(), {}

    class Note(Recorder):
        def __init__(self, name):
            super().__init__(HookStageEnum.ON_CONVERGE)
            self.name = name

        def __call__(self, batch, dynamics):
            ids = batch["system_id"].view(-1)[dynamics.newly_converged]
            seen.setdefault(self.name, []).extend(ids.tolist())

    whole = relax(model, hooks=[Note("first")]) + relax(model, 0.1, hooks=[Note("second")])
    whole.register_hook(Note("whole"))
    sink = HostMemory(99)
    whole.register_hook(ConvergedSnapshotHook(sink))
    batch = whole.run(wells(0.01, 2.0, 0.2))
    assert {name: sorted(ids) for name, ids in seen.items()} == {
        "first": [0, 1, 2],
        "second": [0, 1, 2],
        "whole": [0, 0, 1, 1, 2, 2],
    }
    for number, one in by_identity(sink.read()).items():
        assert torch.equal(one["positions"], batch[[number]]["positions"])


@pytest.mark.parametrize("frequency", [1, 4, 1000])
def test_the_last_state_of_every_system_is_recorded(frequency):
    model, sinks = Well(), [HostMemory(999) for _ in range(2)]
    whole = relax(model, hooks=[SnapshotHook(sinks[0], frequency)]) + move(model)
    whole.register_hook(SnapshotHook(sinks[1], frequency))
    batch = whole.run(wells(*[0.3 * i + 0.01 for i in range(8)]))
    for sink in sinks:
        written = by_identity(sink.read())
        assert sorted(written) == list(range(8))
        for number, one in written.items():
            for key in ("positions", "steps", "stage_steps"):
                assert torch.equal(one[key], batch[[number]][key]), key


def test_what_hooks_read_is_current():
    class Read:
        stages, frequency = tuple(HookStageEnum), 1

        def __call__(self, batch, dynamics):
            after = dynamics.current_hook_stage >= HookStageEnum.AFTER_COMPUTE
            if after:
                assert torch.equal(batch["forces"], -batch["positions"])
                largest = torch.stack(
                    [f.norm(dim=1).max() for f in batch["forces"].split(batch.num_nodes_list)]
                )
                assert torch.allclose(batch["fmax"].view(-1), largest)
            assert torch.equal(batch["stage_steps"].sum(1, keepdim=True), batch["steps"])

    model = Well()
    whole = relax(model, hooks=[Read()]) + move(model) + relax(model, 0.01)
    whole.register_hook(Read())
    whole.run(wells(0.01, 2.0, 0.2, 1.0))
    engine = relax(model, hooks=[Read()]) + move(model)
    engine.sampler = SizeAwareSampler(wells(0.01, 2.0, 0.2, 1.0).to_data_list(), max_batch_size=4)
    engine.run()


def test_what_hooks_write_is_taken_up():
    class Halve:
        stage, frequency = HookStageEnum.AFTER_COMPUTE, 1

        def __call__(self, batch, dynamics):
            batch["forces"] = batch["forces"] / 2
            batch["velocities"] *= 0.5

    def run(register):
        model = Well()
        engine = NVE(model, dt=0.1, n_steps=6)
        batch = wells(1.0, 2.0)
        register(engine).run(batch)
        return batch

    def in_stage(engine):
        engine.register_hook(Halve())
        return FusedStage([(0, engine)])

    def in_whole(engine):
        whole = FusedStage([(0, engine)])
        whole.register_hook(Halve())
        return whole

    def alone(engine):
        engine.register_hook(Halve())
        return engine

    reference = run(alone)
    for register in (in_stage, in_whole):
        batch = run(register)
        for key in ("positions", "velocities", "forces", "fmax"):
            assert torch.equal(batch[key], reference[key]), key


def test_hooks_that_count_who_moves(tmp_path, capsys):
    model = Well()
    log = LoggingHook(tmp_path / "log.txt")
    stage_log = LoggingHook(tmp_path / "stage.txt")
    whole = relax(model) + move(model, hooks=[stage_log])
    whole.register_hook(log)
    whole.register_hook(ProgressHook())
    whole.run(wells(0.01, 2.0))
    moving = [int(line.split()[1]) for line in (tmp_path / "log.txt").read_text().splitlines()[1:]]
    in_stage = [
        int(line.split()[1]) for line in (tmp_path / "stage.txt").read_text().splitlines()[1:]
    ]
    assert moving[0] == 2 and max(in_stage) == 1 and len(moving) == len(in_stage)
    assert "moving" in capsys.readouterr().err


def test_a_neighbour_list_of_the_users_own():
    model = LennardJones(sigma=1.0, epsilon=0.1, rc=3.0)
    config = NeighborConfig(
        cutoff=3.0, skin=0.7, half_list=model.model_card.neighbor_config.half_list
    )
    hook = NeighborListHook(config)
    whole = relax(model, hooks=[hook], n_steps=3) + move(model)
    batch = whole.run(wells(1.0, 1.2, sizes=[4, 5]))
    assert whole._neighbors is hook.neighbor_list
    assert hook.neighbor_list.rebuilds.sum() < 2 * whole.step_count
    assert batch["energy"].isfinite().all()


# -------------------------------------------------------------------------------- with a sampler


def test_init_fn_is_called_on_everything_that_the_sampler_delivers():
    seen, model = [], Well()

    def init_fn(batch):
        seen.append(identities(batch))
        assert (batch["status"] == 0).all()
        batch["velocities"] = torch.full_like(batch["velocities"], 0.25)

    first = FusedStage([(0, move(model, 0))], init_fn=init_fn)
    systems = inputs([0.01, 2.0, 0.2, 1.0, 3.0])
    engine = first + move(model, 2)
    engine.sampler = SizeAwareSampler(systems, max_batch_size=2, bin_width=99)
    engine.sinks = [HostMemory(9)]
    assert engine.run() is None
    assert sorted(number for own in seen for number in own) == [0, 1, 2, 3, 4]
    assert len(seen) > 1
    for number, one in by_identity(engine.sinks[0].read()).items():
        reference = Batch.from_data_list([systems[number]])
        reference["velocities"] = torch.full_like(reference["velocities"], 0.25)
        NVE(Well(), dt=0.1).run(reference, n_steps=2)
        assert torch.equal(one["positions"], reference["positions"])


def test_a_budget_for_the_whole_is_that_of_each_system():
    model = Well()
    engine = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1e-9)) + move(model)
    systems = inputs([0.5, 2.0, 0.2, 1.0, 3.0])
    engine.sampler = SizeAwareSampler(systems, max_batch_size=2)
    engine.sinks = [HostMemory(9)]
    assert engine.run(n_steps=7) is None
    done = engine.sinks[0].read()
    assert (done["steps"] == 7).all() and (done["outcome"] == Outcome.BUDGET).all()


def test_generators_of_a_stage_are_refused_at_once():
    model = Well()
    md = Langevin(model, 0.1, 300.0, 0.1, rng=[torch.Generator()] * 2, n_steps=3)
    engine = relax(model) + md
    engine.sampler = SizeAwareSampler(inputs([1.0, 2.0]), max_batch_size=2)
    with pytest.raises(ValueError, match="rng"):
        engine.run()
    assert model.forwards == 0


WRONG = {
    "temperature: 2 values for 3": {"temperature": [1.0, 2.0], "seed": 1},
    "stop of temperature: 2 values for 3": {"temperature": Ramp(1.0, [2.0, 3.0], 1.0), "seed": 1},
    "seed: 2 values for 3": {"temperature": 1.0, "seed": [1, 2]},
    "rng: 2 generators for 3": {"temperature": 1.0, "rng": [torch.Generator()] * 2},
}


@pytest.mark.parametrize("message", WRONG)
def test_what_a_later_stage_lacks_is_said_before_the_first_step(message):
    model = Well()
    engine = relax(model) + Langevin(model, 0.1, friction=0.1, n_steps=3, **WRONG[message])
    with pytest.raises(ValueError, match=message):
        engine.run(wells(1.0, 2.0, 3.0))
    assert model.forwards == 0


def test_refill_check_by_hand():
    model = Well()
    engine = move(model, 2) + relax(model, 0.1)
    engine.sampler = SizeAwareSampler(inputs([0.1, 0.2, 0.01, 0.3]), max_batch_size=2, bin_width=99)
    engine.sinks = [HostMemory(9)]
    batch = engine.sampler.build_initial_batch()
    for _ in range(200):
        engine.step(batch)
        batch = engine.refill_check(batch, engine.exit_status)
        if batch is None:
            break
    assert engine.done
    done = engine.sinks[0].read()
    assert sorted(identities(done)) == [0, 1, 2, 3]
    for number, one in by_identity(done).items():
        other = Well()
        reference = Batch.from_data_list([inputs([0.1, 0.2, 0.01, 0.3])[number]])
        (move(other, 2) + relax(other, 0.1)).run(reference)
        for key in ("positions", "steps", "evaluations", "stage_steps", "outcome"):
            assert torch.equal(one[key], reference[key]), key


# -------------------------------------------------------------------------------- compiling


def test_options_of_compiling_are_merged_and_moves_are_the_same(monkeypatch):
    given = []

    def compiler(function, **options):
        given.append(options)
        return function

    monkeypatch.setattr(torch, "compile", compiler)
    model = Well()
    whole = relax(model) + move(model)
    assert whole.compile(fullgraph=False) is whole
    assert given == [{"dynamic": True, "fullgraph": False}] * 3  # FIRE has no post_update
    whole.compile(mode="default")
    assert given[3:] == [{"dynamic": True, "fullgraph": False, "mode": "default"}] * 3
    batch, reference = whole.run(wells(0.01, 2.0)), wells(0.01, 2.0)
    other = Well()
    (relax(other) + move(other)).run(reference)
    assert torch.equal(batch["positions"], reference["positions"])
    given.clear()
    lazy = FusedStage([(0, move(model))], compile_step=True, compile_kwargs={"dynamic": False})
    assert not given
    for _ in range(2):
        with lazy as entered:
            assert entered is lazy
    assert given == [{"dynamic": False}] * 2


@pytest.mark.slow
def test_compiled_moves_are_those_of_any_other():
    # In a process of its own: here, the run-time check of shapes is wrapped around every function.
    command = [sys.executable, "-m", "tests.dynamics.compile_stages"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_stages_share_the_stream():
    model = Well()
    whole = relax(model) + move(model)
    with whole as entered:
        assert entered is whole
        assert all(engine.stream is whole.stream for _, engine in whole.sub_stages)
        whole.run(wells(1.0))
    assert all(engine.stream is None for _, engine in whole.sub_stages)


def test_names_of_the_contract_are_where_it_says():
    import nvdyn_ase.dynamics.base as base

    for name in ("FusedStage", "BaseDynamics", "Hook", "HookStageEnum", "ConvergenceHook"):
        assert getattr(base, name).__name__ == name
    assert base.FusedStage is FusedStage
