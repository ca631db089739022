"""What a system does in the stages of a fused run is what it does in one run after the other."""

import numpy as np
import pytest
import torch
from ase.units import fs

from nvdyn_ase.atoms import batch_from_atoms, from_atoms
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import (
    BFGS,
    FIRE,
    LBFGS,
    MTKNPT,
    NVE,
    BFGSLineSearch,
    BlowUpHook,
    Bussi,
    ConvergenceHook,
    FreezeAtomsHook,
    FusedStage,
    HookStageEnum,
    HostMemory,
    Langevin,
    MaxForceClampHook,
    NaNDetectorHook,
    NoseHooverChainNVT,
    NPTBerendsen,
    Outcome,
    Ramp,
    SizeAwareSampler,
    WrapPeriodicHook,
    filter_cells,
)
from nvdyn_ase.models import EMT
from tests.dynamics.streams import by_identity, check_user_fields, identities, inputs
from tests.dynamics.test_engine import ENGINES, IDS, Downhill, Recorder
from tests.dynamics.test_inflight import constrained_structures
from tests.systems import mixed, with_velocities
from tests.wells import Well, atoms_at, wells

KEYS = ("positions", "velocities", "cell", "energy", "forces", "fmax", "steps", "evaluations")


def fused(engines) -> FusedStage:
    whole = engines[0]
    for engine in engines[1:]:
        whole = whole + engine
    return whole


def one_after_the_other(engines, batch):
    """Run engines one after the other, and note the steps of each system in each."""
    taken = []
    for engine in engines:
        before = batch["steps"].clone() if "steps" in batch else torch.zeros(len(batch), 1)
        if "outcome" in batch:
            failed = batch["outcome"] >= Outcome.NAN
            batch["status"] = torch.where(failed, 99, 0)
            batch["outcome"] = torch.where(failed, batch["outcome"], 0)
        engine.run(batch)
        taken.append(batch["steps"] - before)
    batch["stage_steps"] = torch.cat(taken, 1).long()
    return batch


def assert_same(one, other, keys=(*KEYS, "outcome", "stage_steps")):
    for key in keys:
        a, b = one[key], other[key]
        assert torch.equal(a.isnan(), b.isnan()), key
        assert torch.equal(a[~a.isnan()], b[~b.isnan()]), key


def relax_heat_relax(model):
    return [
        FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.04)),
        Langevin(model, 2 * fs, 300.0, 0.02, seed=3, n_steps=100),
        FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.001)),
    ]


def test_relax_heat_relax():
    atoms = mixed(21)
    together = batch_from_atoms(atoms)
    fused(relax_heat_relax(EMT())).run(together)
    assert (together["stage_steps"][:, 1] == 100).all()
    assert (together["status"] == 3).all()
    assert len(torch.unique(together["stage_steps"][:, 0])) > 5
    reference = batch_from_atoms(atoms)
    assert_same(together, one_after_the_other(relax_heat_relax(EMT()), reference))
    for row in (0, 9, 20):
        alone = batch_from_atoms([atoms[row]], indices=[row])
        fused(relax_heat_relax(EMT())).run(alone)
        assert_same(alone, together[[row]])


@pytest.mark.parametrize("count", [14, pytest.param(200, marks=pytest.mark.slow)])
def test_relax_heat_relax_with_refills(count):
    atoms = mixed(count)
    engine = fused(relax_heat_relax(EMT()))
    engine.sampler = SizeAwareSampler(
        map(from_atoms, atoms), max_batch_size=4 if count < 99 else 16
    )
    engine.sinks = [HostMemory(10**6)]
    assert engine.run() is None
    found = engine.sinks[0].read()
    found = found[np.argsort(identities(found))]
    reference = batch_from_atoms(atoms)
    assert_same(found, one_after_the_other(relax_heat_relax(EMT()), reference))


@pytest.mark.parametrize("make", ENGINES, ids=IDS)
@pytest.mark.parametrize("place", [0, 1])
def test_every_engine_can_be_a_stage(make, place):
    """Before or after another one; some systems are in one and some in the other."""
    criterion = {"convergence_hook": ConvergenceHook.from_fmax(0.6), "n_steps": 7}

    def engines(model):
        if place == 0:
            return [make(model, **criterion), NVE(model, dt=0.1, n_steps=3)]
        first = FIRE(model, **criterion)
        first.outputs = frozenset({"stress"})  # or the second run has to ask for it again
        return [first, make(model, n_steps=5)]

    distances = [0.01, 4.0, 0.5, 2.0, 0.7, 3.0]
    for model in (Well(), Well(fail={4})):
        together, reference = wells(*distances), wells(*distances)
        fused(engines(model)).run(together)
        assert_same(together, one_after_the_other(engines(model), reference))


def test_histories_that_grow_have_room_in_a_stage():
    def engines():
        model = EMT()
        first = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1.0))
        return [first, LBFGS(model, convergence_hook=ConvergenceHook.from_fmax(0.001))]

    atoms = mixed(12, seed=4)
    together, reference = batch_from_atoms(atoms), batch_from_atoms(atoms)
    fused(engines()).run(together)
    assert together["stage_steps"][:, 1].max() > 12  # more than there are slots at first
    assert_same(together, one_after_the_other(engines(), reference))


def test_cells_move_in_some_stages_and_some_systems():
    def engines():
        model = EMT()
        return [
            NVE(model, dt=0.2, n_steps=4),
            FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.1), n_steps=30),
            MTKNPT(model, 0.2, 300.0, 0.0, 100.0, 500.0, n_steps=5),
            BFGS(model, convergence_hook=ConvergenceHook.from_fmax(0.05), n_steps=20),
        ]

    everyone = [with_velocities(atoms, i) for i, atoms in enumerate(mixed(28))]
    everyone = [atoms for atoms in everyone if atoms.cell.rank == 3 and not atoms.constraints][:8]

    def batch():
        own = batch_from_atoms(everyone)
        filter_cells(own, "frechet", systems=[0, 2, 3])
        filter_cells(own, "strain", systems=[5])
        return own

    together = fused(engines()).run(batch())
    reference = one_after_the_other(engines(), batch())
    keys = [key for key in KEYS if key != "evaluations"]
    assert_same(together, reference, (*keys, "stage_steps"))
    # Its runs evaluate again for the stress that the one before did not ask for.
    assert (together["evaluations"] <= reference["evaluations"]).all()
    assert not torch.equal(together["cell"], batch()["cell"])


def test_constraints_hold_in_every_stage():
    def engines():
        model = EMT()
        return [
            FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.2), n_steps=20),
            Langevin(model, 0.2, 300.0, 0.02, seed=3, n_steps=5),
            LBFGS(model, convergence_hook=ConvergenceHook.from_fmax(0.1), n_steps=20),
        ]

    atoms = constrained_structures()
    together, reference = batch_from_atoms(atoms), batch_from_atoms(atoms)
    fused(engines()).run(together)
    assert_same(together, one_after_the_other(engines(), reference))


def test_values_one_by_one_belong_to_the_users_batch_in_later_stages_too():
    temperatures, frictions = [100.0 * i for i in range(1, 9)], [0.01 * i for i in range(1, 9)]

    def engines(rows=slice(None)):
        model = Well()
        ramp = Ramp([10.0 * t for t in temperatures][rows], 5.0, 3.0)
        return [
            FIRE(model, maxstep=frictions[rows], convergence_hook=ConvergenceHook.from_fmax(0.3)),
            Langevin(
                model, 0.2, temperatures[rows], frictions[rows], seed=[7, 5, 3, 1] * 2, n_steps=9
            )
            if rows == slice(None)
            else Langevin(
                model,
                0.2,
                temperatures[rows],
                frictions[rows],
                seed=[[7, 5, 3, 1][rows.start % 4]],
                n_steps=9,
            ),
            Langevin(model, 0.2, ramp, 0.1, seed=1, n_steps=4),
        ]

    distances = [0.01, 4.0, 0.5, 2.0, 0.7, 3.0, 6.0, 0.02]
    together, reference = wells(*distances), wells(*distances)
    engine = fused(engines())
    engine.run(together)
    assert_same(together, one_after_the_other(engines(), reference))
    for row in range(8):
        alone = wells(*distances)[[row]]
        fused(engines(slice(row, row + 1))).run(alone)
        assert_same(alone, together[[row]])
    streamed = fused(engines())
    streamed.sampler = SizeAwareSampler(wells(*distances).to_data_list(), max_batch_size=3)
    streamed.sinks = [HostMemory(9)]
    streamed.run()
    for number, one in by_identity(streamed.sinks[0].read()).items():
        assert_same(one, together[[number]])


def test_generators_of_numpy_stay_with_their_systems():
    def engines(seed):
        model = Well()
        first = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3))
        rng = [np.random.default_rng(seed + i) for i in range(5)]
        return [first, Langevin(model, 0.2, 300.0, 0.1, rng=rng, n_steps=4)]

    distances = [0.01, 4.0, 0.5, 2.0, 0.7]
    together, reference = wells(*distances), wells(*distances)
    fused(engines(3)).run(together)
    assert_same(together, one_after_the_other(engines(3), reference))
    assert not torch.equal(
        together["positions"], fused(engines(4)).run(wells(*distances))["positions"]
    )


def test_user_fields_come_along():
    systems = inputs([0.01, 4.0, 0.5, 2.0, 0.7, 3.0])
    batch = Batch.from_data_list(systems)
    model = Well()
    first = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3))
    (first + NVE(model, dt=0.1, n_steps=5)).run(batch)
    check_user_fields(batch)


# -------------------------------------------------------------------------------- stages apart


class Watch:
    """Notes what the stages know of each system whenever a step ends."""

    def __init__(self):
        self.stage, self.frequency, self.seen = HookStageEnum.AFTER_STEP, 1, []

    def __call__(self, batch, dynamics):
        status = dict(zip(identities(batch), batch["status"].view(-1).tolist(), strict=True))
        fields = {n: one["positions"].clone() for n, one in by_identity(batch).items()}
        states = []
        for stage in dynamics.stages:
            own = {}
            if len(stage):
                for row, number in enumerate(identities(stage.part)):
                    own[number] = {k: t.clone() for k, t in stage.engine.state[[row]]}
            states.append(own)
        self.seen.append((status, fields, states))


def test_states_live_as_long_as_their_systems_are_in_a_stage():
    watch, model = Watch(), Well()
    engines = [
        FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.4)),
        NoseHooverChainNVT(model, 0.3, 5.0, 3.0, n_steps=6),
        FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.01)),
    ]
    whole = fused(engines)
    whole.register_fused_hook(watch)
    whole.run(wells(0.01, 4.0, 0.5, 2.0, 0.7, 3.0))
    moves = stays = 0
    for (before, was, old), (after, now, new) in zip(watch.seen[:-1], watch.seen[1:], strict=True):
        for number, status in after.items():
            assert status - before[number] in (0, 1)  # one stage a step at most
            for k in range(3):
                a, b = old[k].get(number), new[k].get(number)
                if a is None or b is None or k == before[number]:
                    continue
                stays += 1  # it waits, frozen, to be taken to the next stage
                assert all(torch.equal(a[key], b[key]) for key in a)
            moves += not torch.equal(was[number], now[number])
    assert moves > 50
    first = {}
    for status, _, states in watch.seen:
        for number, own in states[2].items():
            first.setdefault(number, (status[number], own))
    assert all((own["downhill_steps"] <= 0).all() for _, own in first.values())


def test_who_meets_the_criterion_on_entering_makes_no_move_and_goes_on_by_one_stage_a_step():
    watch, model = Watch(), Well()
    engines = [FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.1)) for _ in range(4)]
    whole = fused(engines)
    whole.register_fused_hook(watch)
    batch = wells(0.01, 2.0)
    before = batch["positions"][:2].clone()
    whole.run(batch)
    assert torch.equal(batch["positions"][:2], before)
    assert batch["stage_steps"][0].tolist() == [0, 0, 0, 0]
    assert batch["stage_steps"][1].tolist() == [batch["steps"][1].item(), 0, 0, 0]
    path = [status[0] for status, _, _ in watch.seen if 0 in status]
    assert path[0] == 1 and set(np.diff(path).tolist()) <= {0, 1}


@pytest.mark.parametrize("n_steps", [0, 1, 5])
def test_a_stage_does_exactly_its_steps(n_steps):
    model = Well()
    whole = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3)) + NVE(
        model, dt=0.1, n_steps=n_steps
    )
    batch = whole.run(wells(0.01, 4.0, 0.5, 2.0))
    assert (batch["stage_steps"][:, 1] == n_steps).all()
    assert (batch["outcome"] == Outcome.BUDGET).all()


def test_a_stage_that_nothing_ends_is_left_at_small_forces():
    model = Well()
    whole = FIRE(model) + NVE(model, dt=0.1, n_steps=2)
    reference = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.05)).run(wells(1.0, 2.0))
    batch = whole.run(wells(1.0, 2.0))
    assert torch.equal(batch["stage_steps"][:, :1], reference["steps"])
    counted = NVE(model, dt=0.1, n_steps=4) + NVE(model, dt=0.1, n_steps=2)
    batch = counted.run(wells(0.01, 2.0))  # a stage with steps has no criterion
    assert batch["stage_steps"].tolist() == [[4, 2], [4, 2]]


# -------------------------------------------------------------------------------- hooks that act


def test_hooks_of_a_stage_act_on_its_systems():
    def engines(held=None):
        model, hold = Well(), [[0]] * 4
        criterion = ConvergenceHook.from_fmax(0.5)
        clamp, freeze = MaxForceClampHook(0.8), FreezeAtomsHook(hold)
        return [
            FIRE(model, hooks=[clamp], convergence_hook=criterion),
            NVE(model, dt=0.2, n_steps=6, hooks=[freeze, NaNDetectorHook()]),
            FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.1)),
        ]

    together, reference = wells(0.01, 4.0, 0.7, 2.0), wells(0.01, 4.0, 0.7, 2.0)
    fused(engines()).run(together)
    one_after_the_other(engines(), reference)
    keys = [key for key in KEYS if key not in ("forces", "fmax", "evaluations")]
    assert_same(together, reference, (*keys, "stage_steps"))


@pytest.mark.parametrize("where", ["stage", "whole"])
def test_who_blows_up_leaves_at_its_last_good_step(where):
    def engines(hooks):
        model = Well()
        return [
            FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.5)),
            NVE(model, dt=0.2, n_steps=6, hooks=hooks),
        ]

    def batch():
        own = wells(0.01, 2.0, 0.7, 3.0)
        own["velocities"] = own["velocities"].clone()
        own["velocities"][2:5] *= 1e5
        return own

    hooks = [BlowUpHook(temperature=None, displacement=1.0)]
    whole = fused(engines(hooks if where == "stage" else []))
    if where == "whole":
        whole.register_hook(BlowUpHook(temperature=None, displacement=1.0))
    together = whole.run(batch())
    reference = one_after_the_other(engines(hooks), batch())
    assert together["outcome"].view(-1).tolist() == [2, Outcome.EXPLODED, 2, 2]
    assert together["status"].view(-1).tolist() == [2] * 4
    assert_same(together, reference, ("positions", "velocities", "steps", "blow_up"))


@pytest.mark.parametrize("where", ["stage", "whole"])
def test_numbers_that_are_not_finite_retire_a_system(where):
    model = Well()
    hook = NaNDetectorHook()
    first = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.5))
    second = NVE(model, dt=0.2, n_steps=6)
    whole = first + second
    (second if where == "stage" else whole).register_hook(hook)
    batch = wells(0.01, 2.0, 0.7)
    batch["velocities"][2, 0] = float("nan")
    whole.run(batch)
    assert batch["outcome"].view(-1).tolist() == [2, Outcome.NAN, 2]
    reference = wells(0.01, 2.0, 0.7)
    fused(
        [
            FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.5)),
            NVE(model, dt=0.2, n_steps=6),
        ]
    ).run(reference)
    for row in (0, 2):
        assert torch.equal(batch[[row]]["positions"], reference[[row]]["positions"])


@pytest.mark.parametrize("make", [BFGS, LBFGS])
@pytest.mark.parametrize("where", ["stage", "whole"])
def test_atoms_are_wrapped_without_the_stages_noticing(make, where):
    def engines():
        model = EMT()
        return [
            make(model, convergence_hook=ConvergenceHook.from_fmax(0.3)),
            make(model, convergence_hook=ConvergenceHook.from_fmax(0.02)),
        ]

    atoms = [a for a in mixed(21) if a.pbc.all()][:6]
    for own in atoms:
        own.positions += 0.3 * own.cell[0] - 1e-3
    plain, wrapped = batch_from_atoms(atoms), batch_from_atoms(atoms)
    fused(engines()).run(plain)
    whole = fused(engines())
    for engine in (whole,) if where == "whole" else (own for _, own in whole.sub_stages):
        engine.register_hook(WrapPeriodicHook())
    whole.run(wrapped)
    assert torch.equal(plain["steps"], wrapped["steps"])
    assert torch.allclose(plain["energy"], wrapped["energy"], atol=1e-10)
    assert not torch.allclose(plain["positions"], wrapped["positions"])


# -------------------------------------------------------------------------------- two runs


def test_a_second_run_begins_anew_with_other_random_numbers():
    model = Well()
    whole = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3)) + Langevin(
        model, 0.2, 300.0, 0.1, seed=1, n_steps=20
    )
    batch = whole.run(wells(0.01, 4.0, 0.5))
    first = batch["positions"].clone()
    assert batch["stage_steps"][:, 1].tolist() == [20] * 3
    kicks = whole.stages[1].engine.state["rnd_vel"].clone()
    whole.run(batch)
    assert batch["stage_steps"][:, 1].tolist() == [40] * 3
    assert not torch.equal(first, batch["positions"])
    assert not torch.equal(kicks, whole.stages[1].engine.state["rnd_vel"])


@pytest.mark.parametrize("parts", [(3, 5, 100), (1, 1, 1, 1, 100), (0, 9, 100)])
def test_two_runs_are_one_run(parts):
    def engines():
        model = Well()
        return [
            FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3)),
            Langevin(model, 0.2, 300.0, 0.1, seed=1, n_steps=9),
            LBFGS(model, maxstep=0.05, convergence_hook=ConvergenceHook.from_fmax(0.05)),
        ]

    distances = [0.01, 4.0, 0.02, 2.0, 0.04, 3.0, 1.0]
    whole, cut = wells(*distances), wells(*distances)
    fused(engines()).run(whole)
    engine = fused(engines())
    for n_steps in parts:
        count = engine.step_count
        engine.run(cut, n_steps=n_steps)
        assert engine.step_count - count <= n_steps
    assert_same(cut, whole)


def test_the_length_of_a_run_is_that_of_everyone():
    """So that who is alone has not done more by then."""
    distances = [0.4, 4.0, 0.5, 2.0, 0.6, 3.0, 1.0, 5.0] * 8

    def engine():
        model = Well()
        return FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3)) + NVE(
            model, dt=0.1, n_steps=50
        )

    together = wells(*distances)
    engine().run(together, n_steps=30)
    for row in (0, 1, 4, 7):
        alone = wells(*distances)[[row]]
        engine().run(alone, n_steps=30)
        assert_same(alone, together[[row]])


def test_a_batch_of_another_run_keeps_what_it_was_told():
    model = Well()
    engine = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3)) + NVE(
        model, dt=0.1, n_steps=5
    )
    reference = engine.run(wells(0.01, 4.0, 0.5)).clone()
    first, second = wells(0.01, 4.0, 0.5), wells(1.0, 2.0)
    for _ in range(4):
        engine.step(first)
    engine.run(second)
    engine.run(first)
    assert (second["status"] == 2).all() and (first["status"] == 2).all()
    fresh = engine.run(wells(0.01, 4.0, 0.5))
    engine.run(second)
    assert_same(fresh, reference)


def test_an_engine_of_a_stage_can_be_used_alone_in_between():
    model = Well()
    md = Langevin(model, 0.2, [100.0, 200.0, 300.0], 0.1, seed=1, n_steps=5)
    whole = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3)) + md
    batch = whole.run(wells(0.01, 4.0, 0.5))
    alone, reference = wells(1.0, 2.0, 3.0), wells(1.0, 2.0, 3.0)
    md.run(alone)
    Langevin(model, 0.2, [100.0, 200.0, 300.0], 0.1, seed=1, n_steps=5).run(reference)
    assert torch.equal(alone["positions"], reference["positions"])
    steps = batch["steps"].clone()
    whole.run(batch)
    assert (batch["steps"] >= steps + 5).all()
    other = md + FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3))
    other.run(wells(1.0, 2.0, 3.0))
    assert (whole.run(wells(0.01, 4.0, 0.5))["status"] == 2).all()


def test_what_the_user_changes_between_runs_is_taken_up():
    model = Well()
    engine = NVE(model, dt=0.1, n_steps=50) + NVE(model, dt=0.1, n_steps=5)
    reference = NVE(model, dt=0.1)
    batch, other = wells(1.0, 2.0), wells(1.0, 2.0)
    engine.run(batch, n_steps=3)
    reference.run(other, n_steps=3)
    for own in (batch, other):
        own["velocities"] = 2.0 * own["velocities"]
        own["positions"][0] += 0.1
        own["fixed"] = torch.tensor([True] + [False] * (own.num_nodes - 1))
    engine.run(batch, n_steps=4)
    reference.run(other, n_steps=4)
    for key in ("positions", "velocities", "forces", "steps"):
        assert torch.equal(batch[key], other[key]), key
    for own, mover in ((batch, engine), (other, reference)):
        own["velocities"][1] = 0.0
        mover.step(own)
    assert torch.equal(batch["velocities"], other["velocities"])


# -------------------------------------------------------------------------------- statuses


def test_statuses_that_the_caller_sets_say_where_a_system_begins():
    model = Well()
    engine = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3)) + NVE(
        model, dt=0.1, n_steps=5
    )
    batch = wells(2.0, 2.0, 2.0)
    batch["status"] = torch.tensor([0, 1, 2])
    before = batch["positions"].clone()
    engine.run(batch)
    assert batch["status"].tolist() == [2, 2, 2]
    assert batch["stage_steps"][1].tolist() == [0, 5]
    assert batch["stage_steps"][2].tolist() == [0, 0]
    assert torch.equal(batch[[2]]["positions"], before[batch.host_ptr[2] :])
    batch["status"] = torch.tensor([1, 2, 2])
    engine.run(batch)
    assert batch["stage_steps"][0, 1].item() == 10
    batch["status"] = torch.tensor([1, -3, 2])
    with pytest.raises(ValueError, match="system 1 has status -3: no stage has that"):
        engine.run(batch)


@pytest.mark.parametrize("where", ["stage", "whole"])
def test_a_hook_may_move_systems_from_stage_to_stage(where):
    model = Well()
    back = ConvergenceHook({"key": "turns", "threshold": 0.5}, source_status=1, target_status=0)

    class Turn(Recorder):
        def __call__(self, batch, dynamics):
            back(batch, dynamics)
            gone = batch["status"].view(-1, 1) == 0
            batch["turns"] = torch.where(gone & (batch["steps"] > 0), 1.0, batch["turns"])

    engine = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3)) + NVE(
        model, dt=0.1, n_steps=5
    )
    target = engine if where == "whole" else engine.sub_stages[1][1]
    target.register_hook(Turn(back.stage))
    batch = wells(2.0, 1.0)
    batch["turns"] = torch.zeros(2, 1)
    engine.run(batch, n_steps=200)
    assert (batch["turns"] == 1.0).all()
    assert (batch["status"] == 2).all()
    assert (batch["stage_steps"][:, 1] == 5).all()


# -------------------------------------------------------------------------------- oddities


def test_who_a_stage_cannot_move_leaves_alone():
    model = Well()
    first = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3))
    batch = wells(0.01, 2.0, 1.0)
    batch["velocities"][2:5] = 0.0  # of which Bussi can make nothing
    engine = first + Bussi(model, 0.1, 300.0, 5.0, seed=1, n_steps=4)
    engine.run(batch)
    assert batch["outcome"].view(-1).tolist() == [2, Outcome.ERROR, 2]
    assert "kinetic energy is zero" in batch.host[1]["failure"]
    assert batch["stage_steps"][:, 1].tolist() == [4, 0, 4]
    batch = wells(0.01, 2.0, 1.0)
    batch["fixed"] = torch.tensor([True] + [False] * (batch.num_nodes - 1))
    engine = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.3)) + MTKNPT(
        model, 0.3, 300.0, 1e-4, 10.0, 30.0, n_steps=4
    )
    engine.run(batch)
    assert batch["outcome"].view(-1).tolist() == [Outcome.ERROR, 2, 2]
    assert "constraints" in batch.host[0]["failure"]


@pytest.mark.parametrize("in_place", [False, True])
@pytest.mark.parametrize("forward", [0, 1, 4, 6])
def test_a_step_that_raises_is_undone(in_place, forward):
    def engines(model):
        own = Downhill(model, n_steps=6) if in_place else NVE(model, dt=0.2, n_steps=6)
        return [own, FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.2))]

    whole, cut = wells(0.4, 2.0, 0.7), wells(0.4, 2.0, 0.7)
    fused(engines(Well())).run(whole)
    model, sink = Well(), HostMemory(999)
    engine = fused(engines(model))

    def raise_once(model):
        if model.forwards == forward:
            model.before = None
            raise KeyboardInterrupt

    class Compare(Recorder):
        records_last = True

        def __call__(self, batch, dynamics):
            sink.write(batch)
            forces = batch["forces"] if "forces" in batch else -batch["positions"]
            assert torch.equal(forces, -batch["positions"])

    engine.register_hook(Compare(HookStageEnum.AFTER_STEP))
    model.before = raise_once
    with pytest.raises(KeyboardInterrupt):
        engine.run(cut)
    if "forces" in cut:
        assert torch.equal(cut["forces"], -cut["positions"])
    engine.run(cut)
    # What was written in place and undone is another tensor, and evaluated again.
    keys = [key for key in KEYS if key != "evaluations"] if in_place else KEYS
    assert_same(cut, whole, (*keys, "outcome", "stage_steps"))


def test_an_engine_that_writes_in_place_is_a_stage_like_any_other():
    def engines(model):
        return [
            Downhill(model, rate=[0.1, 0.2, 0.3, 0.4], n_steps=4),
            NVE(model, dt=0.2, n_steps=3),
            Downhill(model, convergence_hook=ConvergenceHook.from_fmax(0.1)),
        ]

    together, reference = wells(0.4, 2.0, 0.7, 3.0), wells(0.4, 2.0, 0.7, 3.0)
    fused(engines(Well())).run(together)
    assert_same(together, one_after_the_other(engines(Well()), reference))


def test_engines_whose_steps_take_several_passes():
    def engines(model):
        first = BFGSLineSearch(model, convergence_hook=ConvergenceHook.from_fmax(0.3))
        first.outputs = frozenset({"stress"})  # or the second run has to ask for it again
        return [
            first,
            NPTBerendsen(model, 0.3, 9.0, 1e-3, 3.0, 9.0, 10.0, n_steps=4),
            BFGSLineSearch(model, convergence_hook=ConvergenceHook.from_fmax(0.01)),
        ]

    distances = [0.4, 2.0, 0.7, 3.0]
    together, reference = wells(*distances), wells(*distances)
    fused(engines(Well())).run(together)
    assert_same(together, one_after_the_other(engines(Well()), reference))
    limited = fused(engines(Well())).run(wells(*distances), n_steps=3)
    assert (limited["steps"] <= 3).all()


def test_a_system_at_the_bottom_of_its_well():
    model = Well()
    engine = FIRE(model) + NVE(model, dt=0.1, n_steps=2)
    batch = Batch.from_data_list([atoms_at(0.0, 3), atoms_at(1.0, 2)])
    engine.run(batch)
    assert (batch["status"] == 2).all()
