"""Hooks that change what a method sees or does: what they promise, and to each system alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.data import segment_sum
from nvdyn_ase.dynamics import (
    FIRE,
    LBFGS,
    NVE,
    BiasedPotentialHook,
    ConvergedSnapshotHook,
    ConvergenceHook,
    EnergyDriftMonitorHook,
    FreezeAtomsHook,
    Hook,
    HookStageEnum,
    HostMemory,
    Langevin,
    MaxForceClampHook,
    Outcome,
    ProfilerHook,
    WrapPeriodicHook,
    filter_cells,
)
from nvdyn_ase.models import EMT
from tests.dynamics.test_cost import SYNCHRONISING, Still, operations
from tests.systems import mixed, with_velocities
from tests.wells import Well, wells


def pull(batch):
    """Return a spring along x, so weak that every system keeps its shape."""
    x = batch["positions"][:, 0]
    forces = torch.zeros_like(batch["positions"])
    forces[:, 0] = -0.02 * x
    return segment_sum(0.01 * x * x, batch.ptr).view(-1, 1), forces


def pull_energy(batch):
    x = batch["positions"][:, 0]
    return 0.01 * segment_sum(x * x, batch.ptr)


HOOKS = {
    "clamp": lambda: MaxForceClampHook(0.3),
    "freeze": lambda: FreezeAtomsHook({i: [0, 1] for i in range(9)}),
    "bias": lambda: BiasedPotentialHook(pull),
    "bias, autograd": lambda: BiasedPotentialHook(pull_energy, autograd=True),
    "wrap": WrapPeriodicHook,
    "drift": lambda: EnergyDriftMonitorHook(1e-3, "retire"),
    "profiler": ProfilerHook,
    "converged": lambda: ConvergedSnapshotHook(HostMemory(100)),
}
hooks = pytest.mark.parametrize("name", HOOKS)

ENGINES = {
    "nve": lambda hook: NVE(EMT(), 0.5, hooks=[hook]),
    "langevin": lambda hook: Langevin(EMT(), 0.5, 300.0, 0.05, seed=1, hooks=[hook]),
    "fire": lambda hook: FIRE(EMT(), hooks=[hook]),
    "lbfgs": lambda hook: LBFGS(EMT(), hooks=[hook]),
}
engines = pytest.mark.parametrize("engine", ENGINES)


def structures():
    return [with_velocities(atoms, i) for i, atoms in enumerate(mixed(7))]


@hooks
def test_what_ships_is_a_hook_with_a_one_line_repr(name):
    hook = HOOKS[name]()
    assert isinstance(hook, Hook)
    assert repr(hook).startswith(type(hook).__name__ + "(")
    assert "\n" not in repr(hook)


@hooks
@engines
def test_a_system_does_not_know_its_neighbours(name, engine):
    systems = structures()
    batch = batch_from_atoms(systems)
    ENGINES[engine](HOOKS[name]()).run(batch, n_steps=12)
    for row in (0, 2, 3, 5):
        alone = batch_from_atoms([systems[row]], indices=[row])
        ENGINES[engine](HOOKS[name]()).run(alone, n_steps=12)
        for key in ("positions", "velocities", "energy", "forces", "fmax", "steps", "outcome"):
            assert torch.equal(batch[[row]][key], alone[key]), (row, key)


@hooks
@pytest.mark.parametrize("engine", ["langevin", "fire"])
def test_a_system_that_is_done_is_not_touched(name, engine):
    batch = batch_from_atoms(structures())
    hook = HOOKS[name]()
    dynamics = ENGINES[engine](hook)
    dynamics.adopt(batch)
    batch["positions"] += batch["cell"].sum(1).index_select(0, batch.batch)  # out of the cell
    kept = {key: batch[[3]][key] for key in ("positions", "velocities")}
    dynamics.retire(batch, torch.arange(len(batch)) == 3, Outcome.ERROR)
    dynamics.run(batch, n_steps=3)
    for key, tensor in kept.items():
        assert torch.equal(batch[[3]][key], tensor)
    assert batch["steps"][3] == 0


@hooks
@pytest.mark.parametrize("engine", [NVE, FIRE])
def test_the_host_does_not_wait(name, engine):
    if name == "converged":
        pytest.skip("it has to know who converges")
    batch = wells(*[3.0] * 9)
    options = {"dt": 0.1} if engine is NVE else {}
    hooks = [HOOKS[name]()]
    if name == "drift":  # so far that nobody leaves
        hooks = [EnergyDriftMonitorHook(1e9, action) for action in ("warn", "raise", "retire")]
    counts = operations(engine(Still(batch), hooks=hooks, **options), batch)
    assert not SYNCHRONISING & counts.keys()
    assert not any(key.startswith("index.Tensor") for key in counts)


# -------------------------------------------------------------------- converged snapshots


@given(distances=st.lists(st.floats(0.01, 3.0), min_size=1, max_size=8))
@settings(max_examples=8)
def test_each_system_is_written_once_as_it_converged(distances):
    sink = HostMemory(100)
    batch = wells(*distances)
    done = ConvergenceHook.from_fmax(0.05)
    FIRE(Well(), hooks=[ConvergedSnapshotHook(sink)], convergence_hook=done).run(batch)
    written = sink.read()
    order = written["system_id"].view(-1).argsort()
    assert written["system_id"].view(-1)[order].tolist() == list(range(len(batch)))
    for key in ("positions", "energy", "steps"):
        assert torch.equal(written[order][key], batch[key])


# -------------------------------------------------------------------- clamped forces


@given(
    rows=st.lists(st.tuples(*[st.floats(-1e200, 1e200)] * 3), min_size=1, max_size=5),
    limit=st.floats(1e-3, 1e3),
)
def test_forces_are_at_most_the_limit_and_keep_their_direction(rows, limit):
    batch = wells(1.0, sizes=[len(rows)])
    forces = torch.tensor(rows, dtype=torch.float64)
    batch["forces"] = forces
    MaxForceClampHook(limit)(batch, None)
    for before, after in zip(forces, batch["forces"], strict=True):
        scale = before.abs().max()
        length = scale * (before / scale).norm() if scale else scale
        if length <= limit * (1 - 1e-15):
            assert torch.equal(before, after)
        else:
            assert after.norm() <= limit * (1 + 1e-14)
            direction = before / scale
            torch.testing.assert_close(after / after.norm(), direction / direction.norm())


def test_forces_that_are_no_numbers_stay_so():
    batch = wells(1.0, sizes=[3])
    forces = torch.tensor([[float("nan"), 1, 1], [float("inf"), 1, 1], [9, 0, 0]]).double()
    batch["forces"] = forces
    MaxForceClampHook(1.0)(batch, None)
    assert torch.equal(batch["forces"][:2].isfinite(), forces[:2].isfinite())
    assert batch["forces"][2].tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="max_force is -1"):
        MaxForceClampHook(-1)


@pytest.mark.parametrize("frequency", [1, 2])
def test_forces_are_clamped_in_due_steps(frequency):
    seen = []

    class Note:
        stage, frequency = HookStageEnum.BEFORE_POST_UPDATE, 1

        def __call__(self, batch, dynamics):
            seen.append(bool((batch["forces"].norm(dim=1) <= 0.1 * (1 + 1e-14)).all()))

    hooks = [MaxForceClampHook(0.1, frequency), Note()]
    batch = NVE(Well(), dt=0.01, hooks=hooks).run(wells(3.0), n_steps=4)
    assert seen == [step % frequency == 0 for step in range(4)]
    if frequency == 1:
        assert float(batch["fmax"]) == pytest.approx(0.1)


# -------------------------------------------------------------------- a bias


@pytest.mark.parametrize("hook", [HOOKS["bias"], HOOKS["bias, autograd"]])
@pytest.mark.parametrize("method", [FIRE, LBFGS, NVE])
def test_a_bias_is_as_a_model_that_has_it(hook, method):
    class Both(Well):
        def forward(self, batch):
            outputs = super().forward(batch)
            energy, forces = pull(batch)
            outputs["energy"], outputs["forces"] = (
                outputs["energy"] + energy,
                outputs["forces"] + forces,
            )
            outputs["free_energy"] = outputs["energy"]
            return outputs

    class Free(Well):
        def forward(self, batch):
            outputs = super().forward(batch)
            outputs["free_energy"] = outputs["energy"]
            return outputs

    options = {"dt": 0.1} if method is NVE else {}
    biased, whole = wells(1.0, 2.0), wells(1.0, 2.0)
    method(Free(), hooks=[hook()], **options).run(biased, n_steps=10)
    method(Both(), **options).run(whole, n_steps=10)
    for key in ("positions", "energy", "free_energy", "forces", "fmax"):
        torch.testing.assert_close(biased[key], whole[key], rtol=1e-13, atol=1e-13)


def test_a_bias_costs_no_evaluation_and_a_field_that_is_old_is_left_alone():
    batch = wells(1.0)
    batch["free_energy"] = torch.tensor([[7.0]]).double()
    model = Well()
    hook = BiasedPotentialHook(pull_energy, autograd=True)
    NVE(model, dt=0.1, hooks=[hook]).run(batch, n_steps=5)
    assert model.forwards == 6
    assert batch["free_energy"] == 7.0


def test_the_stress_of_a_bias_is_added_where_there_is_one():
    more = 1e-3 * torch.eye(3).double().expand(1, 3, 3)
    for bias in (pull, lambda batch: (*pull(batch), more)):
        batch = wells(1.0)
        filter_cells(batch, "unit_cell")
        FIRE(Well(), hooks=[BiasedPotentialHook(bias)]).run(batch, n_steps=0)
        plain = wells(1.0)
        filter_cells(plain, "unit_cell")
        FIRE(Well()).run(plain, n_steps=0)
        added = more if bias is not pull else torch.zeros_like(more)
        assert torch.equal(batch["stress"], plain["stress"] + added)


@pytest.mark.parametrize(
    ("bias", "autograd", "message"),
    [
        (pull_energy, False, "autograd=True"),
        (lambda batch: (torch.zeros(3, 1), torch.zeros(3, 3)), False, "energy of shape"),
        (lambda batch: (torch.zeros(1, 1), torch.zeros(1, 3)), False, "forces of shape"),
        (lambda batch: torch.zeros(1, 1), True, "differentiable"),
        (pull, True, "differentiable"),
    ],
)
def test_a_bias_of_another_form_is_refused(bias, autograd, message):
    batch = wells(1.0)
    positions = batch["positions"]
    with pytest.raises(ValueError, match=message):
        NVE(Well(), dt=0.1, hooks=[BiasedPotentialHook(bias, autograd)]).run(batch, n_steps=1)
    assert batch["positions"] is positions
