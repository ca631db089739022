import pytest
import torch
from torch import nn

from nvdyn_ase.data import Level, StructureError
from nvdyn_ase.dynamics import (
    BFGS,
    FIRE,
    FIRE2,
    LBFGS,
    MTKNPT,
    NPH,
    NVE,
    RFO,
    Andersen,
    BaseDynamics,
    BFGSLineSearch,
    Bussi,
    ConvergenceHook,
    GoodOldQuasiNewton,
    GradientDescent,
    HookStageEnum,
    HostMemory,
    InhomogeneousNPTBerendsen,
    IsotropicMTKNPT,
    Langevin,
    LangevinBAOAB,
    LBFGSLineSearch,
    MaskedMTKNPT,
    MDMin,
    MelchionnaNPT,
    NaNDetectorHook,
    NoseHooverChainNVT,
    NPTBerendsen,
    NVTBerendsen,
    Outcome,
    SnapshotHook,
    StochasticCellRescaling,
)
from tests.wells import Well, wells


class Downhill(BaseDynamics):
    """Steepest descent that writes in place and keeps a state, as a careless author might."""

    __needs_keys__ = frozenset({"forces"})
    _per_system = ("rate",)

    def __init__(self, model, rate=0.25, **engine):
        self.rate = rate
        super().__init__(model, **engine)

    def _make_new_state(self, n, template_batch):
        moved = torch.zeros(n, 1, dtype=torch.float64)
        return template_batch.like(system={"moved": moved})

    def pre_update(self, batch):
        batch["positions"] += self.node_parameter("rate") * batch["forces"]

    def post_update(self, batch):
        self.state["moved"] += 1.0


ENGINES = [
    lambda model, **engine: Downhill(model, **engine),
    lambda model, **engine: FIRE(model, **engine),
    lambda model, **engine: FIRE(model, downhill_check=True, **engine),
    lambda model, **engine: FIRE2(model, **engine),
    lambda model, **engine: FIRE2(model, use_abc=True, **engine),
    lambda model, **engine: LBFGS(model, scaled=False, memory=2, **engine),
    lambda model, **engine: LBFGS(model, maxstep=0.05, **engine),
    lambda model, **engine: LBFGSLineSearch(model, scaled=False, memory=2, **engine),
    lambda model, **engine: LBFGSLineSearch(model, maxstep=0.1, **engine),
    lambda model, **engine: BFGSLineSearch(model, maxstep=0.1, **engine),
    lambda model, **engine: MDMin(model, **engine),
    lambda model, **engine: BFGS(model, alpha=2.0, **engine),
    lambda model, **engine: RFO(model, alpha=2.0, damping=0.5, **engine),
    lambda model, **engine: GoodOldQuasiNewton(model, radius=0.1, **engine),
    lambda model, **engine: GoodOldQuasiNewton(model, "Powell", False, diagonal=0.2, **engine),
    lambda model, **engine: GradientDescent(model, step_length=0.3, **engine),
    lambda model, **engine: NVE(model, dt=0.3, **engine),
    lambda model, **engine: Andersen(model, 1.0, 5.0, 0.2, seed=1, **engine),
    lambda model, **engine: NVTBerendsen(model, 1.0, 0.01, 3.0, **engine),
    lambda model, **engine: NPTBerendsen(model, 1.0, 0.01, 1e-4, 3.0, 9.0, 10.0, **engine),
    lambda model, **engine: InhomogeneousNPTBerendsen(
        model, 1.0, 0.01, 1e-4, 3.0, 9.0, 10.0, **engine
    ),
    lambda model, **engine: Bussi(model, 1.0, 0.01, 3.0, seed=1, **engine),
    lambda model, **engine: StochasticCellRescaling(
        model, 0.3, 300.0, 1e-4, 3.0, 30.0, 10.0, seed=1, **engine
    ),
    lambda model, **engine: StochasticCellRescaling(
        model, 0.3, 300.0, 1e-4, 3.0, 30.0, 10.0, False, (1, 0, 1), seed=1, **engine
    ),
    lambda model, **engine: Langevin(model, 1.0, 5.0, 0.2, seed=1, **engine),
    lambda model, **engine: Langevin(model, 1.0, 5.0, 0.2, fixcm=True, seed=1, **engine),
    lambda model, **engine: LangevinBAOAB(model, 1.0, 5.0, T_tau=5.0, seed=1, **engine),
    lambda model, **engine: LangevinBAOAB(
        model, 0.3, 5.0, 0.0, T_tau=5.0, P_mass=1e4, seed=1, **engine
    ),
    lambda model, **engine: LangevinBAOAB(
        model, 0.3, 5.0, 0.0, True, T_tau=5.0, P_mass=1e4, seed=1, **engine
    ),
    lambda model, **engine: NoseHooverChainNVT(model, 0.3, 5.0, 3.0, **engine),
    lambda model, **engine: NoseHooverChainNVT(model, 0.3, 5.0, 3.0, as_ase=True, **engine),
    lambda model, **engine: NPH(model, 0.3, 300.0, 1e-4, 30.0, **engine),
    lambda model, **engine: IsotropicMTKNPT(model, 0.3, 300.0, 1e-4, 10.0, 30.0, **engine),
    lambda model, **engine: MTKNPT(model, 0.3, 300.0, 1e-4, 10.0, 30.0, **engine),
    lambda model, **engine: MaskedMTKNPT(
        model, 0.3, 300.0, 1e-4, 10.0, 30.0, mask=(True, False, True), **engine
    ),
    lambda model, **engine: MelchionnaNPT(model, 0.3, 300.0, 1e-4, 30.0, 90.0, **engine),
]
IDS = [
    "downhill",
    "fire",
    "fire-check",
    "fire2",
    "abc-fire",
    "lbfgs",
    "lbfgs-scaled",
    "lbfgs-line-search",
    "lbfgs-line-search-scaled",
    "bfgs-line-search",
    "mdmin",
    "bfgs",
    "rfo",
    "good-old-quasi-newton",
    "powell",
    "gradient-descent",
    "nve",
    "andersen",
    "berendsen",
    "berendsen-npt",
    "berendsen-inhomogeneous",
    "bussi",
    "rescaling",
    "rescaling-shape",
    "langevin",
    "langevin-fixcm",
    "baoab",
    "baoab-npt",
    "baoab-hydrostatic",
    "nose-hoover",
    "nose-hoover-ase",
    "nph",
    "mtk-isotropic",
    "mtk",
    "mtk-masked",
    "melchionna",
]
engines = pytest.mark.parametrize("make", ENGINES, ids=IDS)


def passes(engine):
    """Return how many forward passes a step takes."""
    return 2 if isinstance(engine, NPTBerendsen) else 1


class Recorder:
    def __init__(self, stage, frequency=1):
        self.stage, self.frequency = stage, frequency
        self.calls, self.entered, self.left = [], 0, 0

    def __call__(self, batch, dynamics):
        self.calls.append((dynamics.current_hook_stage, dynamics.step_count))

    def __enter__(self):
        self.entered += 1
        return self

    def __exit__(self, *exception):
        self.left += 1


# -------------------------------------------------------------------------------- one step


def test_the_stages_of_a_step_come_in_order():
    order = []

    class Everywhere:
        stages = tuple(HookStageEnum)
        frequency = 1

        def __call__(self, batch, dynamics):
            order.append(dynamics.current_hook_stage)

    engine = Downhill(Well(), hooks=[Everywhere()], convergence_hook=ConvergenceHook.from_fmax(10))
    batch = wells(1.0)
    engine.step(batch)
    first_forces = [HookStageEnum.BEFORE_COMPUTE, HookStageEnum.AFTER_COMPUTE]
    assert order == first_forces + list(HookStageEnum)
    assert engine.current_hook_stage is None


@pytest.mark.parametrize("frequency", [1, 2, 3])
def test_hooks_fire_at_multiples_of_their_frequency(frequency):
    hook = Recorder(HookStageEnum.AFTER_STEP, frequency)
    engine = Downhill(Well(), hooks=[hook])
    engine.run(wells(1.0), n_steps=7)
    assert [step for _, step in hook.calls] == list(range(0, 7, frequency))


@pytest.mark.parametrize("frequency", [0, -1, 1.0, True, None])
def test_a_bad_frequency_is_refused(frequency):
    hook = Recorder(HookStageEnum.AFTER_STEP)
    hook.frequency = frequency
    with pytest.raises(ValueError, match="frequency"):
        Downhill(Well()).register_hook(hook)


def test_hooks_are_entered_and_left_once_also_when_a_run_raises():
    hook = Recorder(HookStageEnum.AFTER_STEP)
    engine = Downhill(Well(), hooks=[hook])
    engine.run(wells(1.0), n_steps=2)
    assert (hook.entered, hook.left) == (1, 1)

    def burst(model):
        raise RuntimeError("burst")

    engine.model.before = burst
    with pytest.raises(RuntimeError, match="burst"):
        engine.run(wells(1.0), n_steps=2)
    assert (hook.entered, hook.left) == (2, 2)


def test_step_returns_every_system_that_meets_the_criterion_now():
    engine = Downhill(Well(), convergence_hook=ConvergenceHook.from_fmax(0.05))
    batch, converged = engine.step(wells(0.01, 5.0, 0.02))
    assert converged.tolist() == [0, 2]
    _, converged = engine.step(batch)
    assert converged.tolist() == [0, 2]
    assert engine.step_count == 2


def test_step_without_a_criterion_or_without_anyone_meeting_it_returns_none():
    assert Downhill(Well()).step(wells(1.0))[1] is None
    hook = ConvergenceHook.from_fmax(1e-9)
    assert Downhill(Well(), convergence_hook=hook).step(wells(1.0))[1] is None


# -------------------------------------------------------------------------------- a run


@engines
def test_a_system_that_is_done_at_the_start_makes_no_move(make):
    batch = wells(0.01, 3.0)
    before = batch["positions"].clone()
    engine = make(Well(), convergence_hook=ConvergenceHook.from_fmax(0.05))
    engine.run(batch, n_steps=20)
    assert torch.equal(batch[0].positions, before[:2])
    assert batch["steps"][0] == 0
    assert batch["evaluations"][0] == 1
    assert batch["outcome"][0] == Outcome.CONVERGED


def test_a_run_ends_when_everyone_is_done_and_says_how():
    engine = FIRE(Well(), convergence_hook=ConvergenceHook.from_fmax(0.05))
    batch = engine.run(wells(0.01, 1.0, 4.0))
    assert (batch["outcome"] == Outcome.CONVERGED).all()
    assert (batch["status"] == 1).all()
    assert (batch["fmax"] <= 0.05).all()
    assert batch["steps"].view(-1).tolist() == sorted(batch["steps"].view(-1).tolist())


def test_a_run_whose_steps_are_used_up_says_so():
    engine = FIRE(Well(), convergence_hook=ConvergenceHook.from_fmax(0.05), n_steps=3)
    batch = engine.run(wells(0.01, 4.0))
    assert batch["outcome"].view(-1).tolist() == [Outcome.CONVERGED, Outcome.BUDGET]
    assert batch["steps"].view(-1).tolist() == [0, 3]
    assert batch["evaluations"].view(-1).tolist() == [1, 4]


@engines
def test_two_runs_are_one_run(make):
    whole, parts = wells(1.0, 2.0), wells(1.0, 2.0)
    make(Well()).run(whole, n_steps=10)
    engine = make(Well())
    for n_steps in (3, 0, 6, 1):
        engine.run(parts, n_steps=n_steps)
    assert torch.equal(whole["positions"], parts["positions"])
    assert torch.equal(whole["velocities"], parts["velocities"])
    assert torch.equal(whole["evaluations"], parts["evaluations"])
    assert engine.model.forwards == 11 or engine._tries
    assert parts["steps"].view(-1).tolist() == [10, 10]


def test_a_later_run_reopens_what_this_engine_finished():
    engine = FIRE(Well(), convergence_hook=ConvergenceHook.from_fmax(0.5))
    batch = engine.run(wells(1.0, 2.0))
    steps = batch["steps"].clone()
    engine.convergence_hook = ConvergenceHook.from_fmax(0.01)
    engine.run(batch)
    assert (batch["fmax"] <= 0.01).all()
    assert (batch["steps"] > steps).all()


def test_statuses_that_the_caller_set_stand():
    batch = wells(1.0, 2.0)
    batch["status"] = torch.tensor([7, 0])
    before = batch["positions"].clone()
    FIRE(Well(), convergence_hook=ConvergenceHook.from_fmax(0.05)).run(batch, n_steps=50)
    assert torch.equal(batch["positions"][:2], before[:2])
    assert batch["status"].tolist() == [7, 1]


def test_the_same_engine_on_another_batch():
    engine = FIRE(Well(), convergence_hook=ConvergenceHook.from_fmax(0.05))
    engine.run(wells(1.0, 2.0, 3.0))
    again, fresh = wells(1.5, 2.5), wells(1.5, 2.5)
    engine.run(again)
    FIRE(Well(), convergence_hook=ConvergenceHook.from_fmax(0.05)).run(fresh)
    assert torch.equal(again["positions"], fresh["positions"])
    assert torch.equal(again["steps"], fresh["steps"])


def test_nothing_to_run_or_nothing_that_ends_it():
    with pytest.raises(ValueError, match="batch"):
        FIRE(Well()).run(n_steps=3)
    with pytest.raises(ValueError, match="n_steps"):
        FIRE(Well()).run(wells(1.0))


def test_argument_over_attribute():
    batch = FIRE(Well(), n_steps=7).run(wells(9.0), n_steps=2)
    assert batch["steps"].item() == 2


# -------------------------------------------------------------------------------- frozen systems


@engines
def test_frozen_systems_and_their_state_stay_as_they_are(make):
    batch = wells(1.0, 2.0, 3.0)
    engine = make(Well())
    engine.run(batch, n_steps=4)
    batch["status"] = torch.tensor([0, 1, 2]).view(-1, 1)
    fields = {k: batch[k].clone() for k in ("positions", "velocities")}
    state = {k: t.clone() for k, t in engine.state}
    engine.step(batch)
    still, moved = slice(2, None), slice(0, 2)
    for key, old in fields.items():
        assert torch.equal(batch[key][still], old[still])
    assert not torch.equal(batch["positions"][moved], fields["positions"][moved])
    for key, old in state.items():
        rows = slice({Level.NODE: 2, Level.BLOCK: 36}.get(engine.state.level(key), 1), None)
        assert torch.equal(engine.state[key][rows], old[rows]), key


@engines
def test_masked_update_moves_the_masked_systems_alone(make):
    batch = wells(1.0, 2.0)
    engine = make(Well())
    engine.run(batch, n_steps=2)
    before, forwards = batch["positions"].clone(), engine.model.forwards
    engine.masked_update(batch, torch.tensor([False, True]))
    assert torch.equal(batch["positions"][:2], before[:2])
    assert not torch.equal(batch["positions"][2:], before[2:])
    assert engine.model.forwards == forwards


@engines
@pytest.mark.parametrize("fmax", [0.3, pytest.param(0.05, marks=pytest.mark.slow)])
def test_systems_that_leave_do_not_change_those_that_stay(make, fmax):
    distances = [0.01, 4.0, 0.5, 2.0, 0.02, 1.0]
    together = wells(*distances)
    engine = make(Well(), convergence_hook=ConvergenceHook.from_fmax(fmax))
    engine.run(together, n_steps=40)
    for row in range(len(distances)):
        alone = wells(*distances)[[row]]
        make(Well(), convergence_hook=ConvergenceHook.from_fmax(fmax)).run(alone, n_steps=40)
        for key in ("positions", "velocities", "energy", "forces", "steps", "evaluations"):
            assert torch.equal(together[[row]][key], alone[key]), (row, key)
        assert torch.equal(together["outcome"][row], alone["outcome"][0])


def test_systems_that_are_done_stop_costing():
    model = Well()
    engine = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.05))
    engine.run(wells(*[0.01] * 9, 5.0))
    assert model.systems <= 10 + model.forwards


# -------------------------------------------------------------------------------- forces


@engines
def test_forces_are_made_current_before_the_first_move_and_only_then(make):
    batch, model = wells(2.0), Well()
    batch["forces"] = torch.full((2, 3), 99.0).double()
    engine = make(model)
    engine.run(batch, n_steps=1)
    assert engine._tries or model.forwards == 1 + passes(engine)
    reference = wells(2.0)
    other = make(Well())
    other.run(reference, n_steps=1)
    assert model.forwards == other.model.forwards
    assert torch.equal(batch["positions"], reference["positions"])


@engines
def test_a_geometry_that_the_user_changed_is_evaluated_again(make):
    batch, model = wells(2.0), Well()
    engine = make(model)
    engine.run(batch, n_steps=1)
    forwards = model.forwards
    batch["positions"] = batch["positions"] * 2
    engine.run(batch, n_steps=0)
    assert model.forwards == forwards + 1
    batch["positions"][0] += 1.0
    engine.run(batch, n_steps=0)
    assert model.forwards == forwards + 2
    engine.run(batch, n_steps=1)
    assert engine._tries or model.forwards == forwards + 2 + passes(engine)


def test_a_key_that_the_model_does_not_give_is_named():
    class NeedsParts(BaseDynamics):
        __needs_keys__ = frozenset({"atomic_energies"})

    with pytest.raises(RuntimeError, match=r"needs atomic_energies.*Well gives"):
        NeedsParts(Well()).run(wells(1.0), n_steps=1)


def test_fmax_is_that_of_the_forces_after_hooks():
    class Halve:
        stage, frequency = HookStageEnum.AFTER_COMPUTE, 1

        def __call__(self, batch, dynamics):
            batch["forces"] = batch["forces"] / 2

    batch = wells(1.0)
    batch["fmax"] = torch.zeros(1, 1).double()
    Downhill(Well(), hooks=[Halve()], n_steps=1).run(batch)
    assert batch["fmax"].item() == pytest.approx(batch["forces"].norm(dim=1).max().item())


def test_an_engine_without_forces_leaves_the_users_fmax():
    batch = wells(1.0)
    batch["fmax"] = torch.tensor([[0.01]], dtype=torch.float64)
    engine = BaseDynamics(Well(), convergence_hook=ConvergenceHook(), n_steps=5)
    engine.run(batch)
    assert batch["fmax"].item() == 0.01
    assert batch["steps"].item() == 0


# -------------------------------------------------------------------------------- convergence


def test_on_converge_fires_once_for_each_system():
    seen = []

    class Note:
        stage, frequency = HookStageEnum.ON_CONVERGE, 1

        def __call__(self, batch, dynamics):
            ids = batch["system_id"].view(-1)
            seen.extend(ids[dynamics.newly_converged].tolist())

    engine = FIRE(Well(), hooks=[Note()], convergence_hook=ConvergenceHook())
    engine.run(wells(3.0, 0.01, 1.0))
    assert sorted(seen) == [0, 1, 2]
    assert seen[0] == 1


def test_on_converge_fires_once_in_steps_by_hand():
    hook = Recorder(HookStageEnum.ON_CONVERGE)
    engine = Downhill(Well(), hooks=[hook], convergence_hook=ConvergenceHook.from_fmax(10.0))
    batch = wells(1.0)
    for _ in range(3):
        engine.step(batch)
    assert len(hook.calls) == 1


def test_the_frequency_of_the_test_is_honoured():
    hook = ConvergenceHook.from_fmax(0.05, frequency=4)
    batch = Downhill(Well(), convergence_hook=hook).run(wells(0.2))
    assert batch["steps"].item() == 8


# -------------------------------------------------------------------------------- failures


@engines
def test_a_system_that_the_model_fails_on_leaves_the_others_alone(make):
    distances = [1.0, 2.0, 3.0]
    batch = wells(*distances)
    make(Well(fail={1})).run(batch, n_steps=5)
    reference = wells(*distances)
    make(Well()).run(reference, n_steps=5)
    assert batch["outcome"].view(-1).tolist() == [Outcome.BUDGET, Outcome.ERROR, Outcome.BUDGET]
    assert batch.host[1]["failure"] == "the well is dry"
    assert torch.equal(batch["positions"][:2], reference["positions"][:2])
    assert torch.equal(batch["positions"][5:], reference["positions"][5:])


@engines
def test_numbers_that_are_not_finite_retire_a_system(make):
    distances = [1.0, 2.0, 3.0]
    batch, reference = wells(*distances), wells(*distances)
    batch["positions"][3, 0] = float("nan")
    make(Well(), hooks=[NaNDetectorHook()]).run(batch, n_steps=5)
    make(Well()).run(reference, n_steps=5)
    assert batch["outcome"].view(-1).tolist() == [Outcome.BUDGET, Outcome.NAN, Outcome.BUDGET]
    assert batch["steps"].view(-1).tolist() == [5, 0, 5]
    assert torch.equal(batch["positions"][5:], reference["positions"][5:])


@engines
def test_an_interrupt_leaves_the_last_finished_step(make):
    batch, reference = wells(3.0, 1.0), wells(3.0, 1.0)
    model = Well()

    def interrupt(model):
        if model.forwards == 1 + 3 * passes(engine):
            raise KeyboardInterrupt

    model.before = interrupt
    engine = make(model)
    with pytest.raises(KeyboardInterrupt):
        engine.run(batch, n_steps=10)
    other = make(Well())
    for _ in range(3 * passes(engine)):  # forward passes, of which a step may take several
        other.step(reference)
    for key in ("positions", "velocities", "energy", "forces", "steps", "evaluations"):
        assert torch.equal(batch[key], reference[key]), key
    for key, tensor in other.state:
        assert torch.equal(engine.state[key], tensor), key
    model.before = None
    engine.run(batch, n_steps=2)
    other.run(reference, n_steps=2)
    assert torch.equal(batch["positions"], reference["positions"])


# -------------------------------------------------------------------------------- parameters


@pytest.mark.parametrize("sizes", [[3], [1, 1, 1], [2, 3, 4], [3, 3, 3]])
def test_parameters_per_system_act_on_their_own_system(sizes):
    rates = [0.1, 0.2, 0.3][: len(sizes)]
    distances = [1.0, 2.0, 3.0][: len(sizes)]
    batch = wells(*distances, sizes=sizes)
    Downhill(Well(), rate=rates).run(batch, n_steps=5)
    for row, rate in enumerate(rates):
        alone = wells(*distances, sizes=sizes)[[row]]
        Downhill(Well(), rate=rate).run(alone, n_steps=5)
        assert torch.allclose(batch[[row]]["positions"], alone["positions"], rtol=1e-14)


@pytest.mark.parametrize("values", [[0.1], [0.1] * 4, [[0.1, 0.2, 0.3]] * 3])
def test_a_wrong_number_of_values_is_refused(values):
    with pytest.raises(ValueError, match="rate"):
        Downhill(Well(), rate=values).run(wells(1.0, 2.0, 3.0), n_steps=1)


def test_parameters_can_be_changed_between_steps():
    engine = Downhill(Well(), rate=0.5)
    batch = wells(1.0, 1.0, sizes=[1, 1])
    engine.run(batch, n_steps=1)
    engine.set_parameter("rate", [0.0, 1.0])
    engine.run(batch, n_steps=1)
    distances = batch["positions"].norm(dim=1)
    assert distances.tolist() == pytest.approx([0.5, 0.0])


def test_bookkeeping_keys_are_per_engine_and_per_class():
    def make(n, device):
        return torch.arange(n).view(-1, 1)

    engine, other = Downhill(Well()), Downhill(Well())
    engine.register_bookkeeping_key("number", make)
    for one in (engine, other):
        one.run(wells(1.0, 2.0), n_steps=1)
    assert engine.state["number"].tolist() == [[0], [1]]
    assert "number" not in other.state

    class Counted(Downhill):
        pass

    Counted.register_bookkeeping_key(Counted, "number", make)
    later = Counted(Well())
    later.run(wells(1.0), n_steps=1)
    assert "number" in later.state
    assert "number" not in Downhill(Well())._bookkeeping


# -------------------------------------------------------------------------------- what it refuses


def test_what_is_no_batched_model_is_refused_with_what_to_do():
    with pytest.raises(TypeError, match=r"Linear.*as_model"):
        FIRE(nn.Linear(3, 3))


def test_an_unusable_device_shows_when_it_is_read():
    engine = FIRE(Well(), device_type="cuda")
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="cuda"):
            _ = engine.device
    with pytest.raises(RuntimeError, match="abacus"):
        _ = FIRE(Well(), device_type="abacus").device


def test_two_engines_never_see_each_other():
    model = Well()
    first, second = FIRE(model), Downhill(model)
    a, b = wells(1.0), wells(1.0)
    for _ in range(4):
        first.step(a)
        second.step(b)
    alone = wells(1.0)
    FIRE(Well()).run(alone, n_steps=4)
    assert torch.equal(a["positions"], alone["positions"])


@pytest.mark.parametrize("make", ENGINES, ids=IDS)
def test_a_repr_is_one_line(make):
    engine = make(Well(), convergence_hook=ConvergenceHook(), n_steps=5)
    assert "\n" not in repr(engine)
    assert "fmax <= 0.05" in repr(engine)
    assert "n_steps=5" in repr(engine)


def test_the_last_state_of_every_system_is_recorded():
    sink = HostMemory(100)
    engine = FIRE(
        Well(), hooks=[SnapshotHook(sink, frequency=1000)], convergence_hook=ConvergenceHook()
    )
    batch = engine.run(wells(*[0.5 * i + 0.2 for i in range(10)]))
    written = sink.read()
    last = {int(i): row for row, i in enumerate(written["system_id"])}
    assert sorted(last) == list(range(10))
    for i, row in last.items():
        assert torch.equal(written[[row]]["positions"], batch[[i]]["positions"])


# -------------------------------------------------------------------------------- edited batches


def test_who_meets_the_criterion_makes_no_move_also_when_a_test_is_not_due():
    hook = ConvergenceHook.from_fmax(0.05, frequency=5)
    engine = FIRE(Well(), convergence_hook=hook)
    engine.run(wells(1.0, 2.0), n_steps=7)
    batch = engine.run(wells(0.001, 2.0), n_steps=2)
    assert batch["steps"].view(-1).tolist() == [0, 2]


def test_a_field_that_comes_after_systems_have_left_is_unknown_for_them():
    class Late:
        stage, frequency = HookStageEnum.AFTER_STEP, 1

        def __call__(self, batch, dynamics):
            if len(batch) < 3:
                batch["late"] = torch.ones(len(batch), 1)
                batch["count"] = torch.ones(len(batch), 1, dtype=torch.int64)

    engine = FIRE(Well(), hooks=[Late()], convergence_hook=ConvergenceHook.from_fmax(0.05))
    batch = engine.run(wells(0.01, 3.0, 0.01), n_steps=5)
    torch.testing.assert_close(
        batch["late"].view(-1), torch.tensor([torch.nan, 1.0, torch.nan]), equal_nan=True
    )
    assert batch["count"].view(-1).tolist() == [0, 1, 0]


@engines
@pytest.mark.parametrize("in_place", [False, True])
def test_atoms_that_are_held_between_runs_stay(make, in_place):
    engine, batch = make(Well()), wells(1.0, 2.0)
    batch["fixed"] = torch.zeros(batch.num_nodes, dtype=torch.bool)
    engine.run(batch, n_steps=2)
    if in_place:
        batch["fixed"][:] = True
    else:
        batch["fixed"] = torch.ones(batch.num_nodes, dtype=torch.bool)
    if isinstance(engine, (NPH, StochasticCellRescaling)):  # it moves every atom with the cell
        with pytest.raises(StructureError, match="structure 0: it has constraints"):
            engine.run(batch, n_steps=2)
        return
    engine.run(batch, n_steps=2)
    assert not engine.forces(batch).any()
    assert not batch["fmax"].any()


def test_atoms_that_a_hook_holds_stay():
    class Hold:
        stage, frequency = HookStageEnum.AFTER_STEP, 1

        def __call__(self, batch, dynamics):
            if dynamics.step_count == 2:
                batch["fixed"] = torch.ones(batch.num_nodes, dtype=torch.bool)

    hook = ConvergenceHook.from_fmax(0.05)
    batch = FIRE(Well(), hooks=[Hold()], convergence_hook=hook).run(wells(1.0, 2.0), n_steps=9)
    assert batch["steps"].view(-1).tolist() == [3, 3]
    assert batch["outcome"].view(-1).tolist() == [Outcome.CONVERGED] * 2


def test_a_parameter_set_on_the_engine_acts_on_the_batch_it_moves():
    engine, batch = FIRE(Well()), wells(1.0, 2.0)
    engine.run(batch, n_steps=2)
    engine.maxstep = 0.001
    before = batch["positions"].clone()
    engine.run(batch, n_steps=1)
    steps = (batch["positions"] - before).split(batch.num_nodes_list)
    assert [step.norm().item() for step in steps] == pytest.approx([0.001, 0.001])
    with pytest.raises(ValueError, match="3 values for 2"):
        engine.maxstep = [1, 2, 3]
    assert engine.maxstep == 0.001
