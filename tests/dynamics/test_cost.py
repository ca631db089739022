"""What a steady step costs, counted: the one cost that shows on any machine."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from ase.build import bulk
from torch.profiler import ProfilerActivity, profile

from nvdyn_ase.atoms import batch_from_atoms
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
    BFGSLineSearch,
    Bussi,
    ConvergenceHook,
    GoodOldQuasiNewton,
    GradientDescent,
    InhomogeneousNPTBerendsen,
    IsotropicMTKNPT,
    Langevin,
    LangevinBAOAB,
    LBFGSLineSearch,
    MaskedMTKNPT,
    MDMin,
    MelchionnaNPT,
    NoseHooverChainNVT,
    NPTBerendsen,
    NVTBerendsen,
    SizeAwareSampler,
    StochasticCellRescaling,
    filter_cells,
)
from nvdyn_ase.dynamics.run import Run
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs
from tests.atoms.constrained import constrained, free_molecule, symmetric
from tests.wells import wells

ROOT = Path(__file__).parents[2]
VIEWS = {
    *("view", "as_strided", "slice", "select", "expand", "t", "transpose", "unsqueeze", "squeeze"),
    *("reshape", "permute", "detach", "alias", "_unsafe_view", "lift_fresh", "detach_"),
    *("unflatten", "flatten", "resolve_conj", "resolve_neg", "_reshape_alias", "view_as"),
}
SYNCHRONISING = {
    *("_local_scalar_dense", "nonzero", "unique", "_unique2", "unique_dim", "bincount"),
    *("masked_select", "item", "is_nonzero", "repeat_interleave"),
}


class Still(BaseModelMixin):
    """Answers without doing anything, so that what is counted is the engine's."""

    model_card = ModelCard(supports_stress=True)

    def __init__(self, batch):
        generator = torch.Generator().manual_seed(0)
        forces = torch.randn(batch.num_nodes, 3, generator=generator, dtype=torch.float64)
        energy = torch.zeros(len(batch), 1, dtype=torch.float64)
        stress = 1e-6 * torch.randn(len(batch), 3, 3, generator=generator, dtype=torch.float64)
        outputs = {"energy": energy, "forces": forces, "stress": stress}
        self.outputs = {key: tensor.to(batch.device) for key, tensor in outputs.items()}
        # Hessians are learned from forces that change.
        self.next = {**self.outputs, "forces": 0.9 * self.outputs["forces"]}

    def forward(self, batch):
        self.outputs, self.next = self.next, self.outputs
        return ModelOutputs(self.outputs)


def solves(event):
    """Say whether an operation is part of an eigensolver, which may wait for its answer."""
    while event is not None and event.name != "aten::linalg_eigh":
        event = event.cpu_parent
    return event is not None


def operations(engine, batch, steps=10):
    """Count the leaf operations per forward pass of a long run, eigensolvers apart."""

    def counted(forwards):
        run = Run(engine, batch, n_steps=10**9)
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for _ in range(forwards):
                run.settle()
                run.advance()
        run.close()
        leaves = (e for e in profiler.events() if not e.cpu_children and not solves(e))
        names = (e.name.removeprefix("aten::") for e in leaves if e.name.startswith("aten::"))
        return Counter(name for name in names if name not in VIEWS)

    counted(3)
    short, long = counted(5), counted(5 + steps)
    return {name: (long[name] - short[name]) / steps for name in long if long[name] > short[name]}


ENGINES = {
    "nve": (12, lambda model: NVE(model, dt=0.1)),
    "nve, a time step per system": (12, lambda model: NVE(model, dt=[0.1, 0.2, 0.3, 0.4])),
    "andersen": (60, lambda model: Andersen(model, 0.1, 300.0, 0.01, seed=0)),
    "berendsen": (40, lambda model: NVTBerendsen(model, 0.1, 300.0, 10.0)),
    "berendsen, npt": (
        60,
        lambda model: NPTBerendsen(model, 0.1, 300.0, 0.0, 10.0, 100.0, 1.0),
    ),
    "berendsen, inhomogeneous": (
        80,
        lambda model: InhomogeneousNPTBerendsen(model, 0.1, 300.0, 0.0, 10.0, 100.0, 1.0),
    ),
    "bussi": (60, lambda model: Bussi(model, 0.1, 300.0, 10.0, seed=0)),
    "bussi, everything per system": (
        60,
        lambda model: Bussi(model, [0.1, 0.2, 0.3, 0.4], [1.0] * 4, [10.0] * 4, seed=[1, 2, 3, 4]),
    ),
    "cell rescaling": (
        150,
        lambda model: StochasticCellRescaling(model, 0.1, 300.0, 0.0, 10.0, 100.0, 1.0, seed=0),
    ),
    "cell rescaling, any shape": (
        150,
        lambda model: StochasticCellRescaling(
            model, 0.1, 300.0, 0.0, 10.0, 100.0, 1.0, isotropic=False, seed=0
        ),
    ),
    "langevin": (35, lambda model: Langevin(model, 0.1, 300.0, 0.01, seed=0)),
    "langevin, a temperature per system": (
        35,
        lambda model: Langevin(model, 0.1, [100.0, 200.0, 300.0, 400.0], 0.01, seed=0),
    ),
    "langevin, fixcm": (60, lambda model: Langevin(model, 0.1, 300.0, 0.01, fixcm=True, seed=0)),
    "baoab": (60, lambda model: LangevinBAOAB(model, 0.1, 300.0, T_tau=10.0, seed=0)),
    "baoab, nve": (60, lambda model: LangevinBAOAB(model, 0.1)),
    "baoab, npt": (
        200,
        lambda model: LangevinBAOAB(model, 0.1, 300.0, 0.0, T_tau=10.0, P_tau=100.0, seed=0),
    ),
    "baoab, hydrostatic": (
        200,
        lambda model: LangevinBAOAB(model, 0.1, 300.0, 0.0, True, T_tau=10.0, seed=0),
    ),
    "nose-hoover": (350, lambda model: NoseHooverChainNVT(model, 0.1, 300.0, 10.0)),
    "mtk-isotropic": (800, lambda model: IsotropicMTKNPT(model, 0.1, 300.0, 0.0, 10.0, 100.0)),
    "mtk": (800, lambda model: MTKNPT(model, 0.1, 300.0, 0.0, 10.0, 100.0)),
    "mtk-masked": (
        800,
        lambda model: MaskedMTKNPT(model, 0.1, 300.0, 0.0, 10.0, 100.0, mask=(True, True, False)),
    ),
    "nph": (120, lambda model: NPH(model, 0.1, 300.0, 0.0, 100.0)),
    "melchionna": (350, lambda model: MelchionnaNPT(model, 0.1, 300.0, 0.0, 10.0, 1000.0)),
    "fire": (
        80,
        lambda model: FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1e-9, strict=True)),
    ),
    "fire with a check": (80, lambda model: FIRE(model, downhill_check=True)),
    "fire2": (80, FIRE2),
    "abc-fire": (80, lambda model: FIRE2(model, use_abc=True)),
    "lbfgs": (100, LBFGS),
    "lbfgs line search": (350, LBFGSLineSearch),
    "bfgs line search": (345, BFGSLineSearch),
    "mdmin": (60, MDMin),
    "gradient descent": (30, GradientDescent),
    "bfgs": (80, BFGS),
    "rfo": (90, RFO),
    "good old quasi-newton": (310, GoodOldQuasiNewton),
    "lbfgs, as in ase": (100, lambda model: LBFGS(model, scaled=False)),
    "lbfgs with a short memory": (100, lambda model: LBFGS(model, memory=3)),
}


@pytest.mark.parametrize("name", ENGINES)
def test_a_steady_step_is_a_few_operations_and_never_waits(name):
    budget, make = ENGINES[name]
    batch = wells(*[3.0] * 4, sizes=[3] * 4)
    engine = make(Still(batch))
    if name == "lbfgs":
        engine.run(batch, n_steps=105)  # its history of 100 steps is full
    counts = operations(engine, batch)
    assert sum(counts.values()) <= budget, counts
    assert not counts.keys() & SYNCHRONISING
    assert not any(key.startswith("index.Tensor") for key in counts)


# For each kind, how many operations more a step of NVE may take than without constraints.
CONSTRAINTS = {
    "FixAtoms": 7,
    "FixCartesian": 7,
    "FixScaled": 60,
    "FixedLine": 30,
    "FixedPlane": 30,
    "FixedMode": 25,
    "FixCom": 30,
    "FixSubsetCom": 30,
    "FixBondLengths": 100,
    "Hookean": 60,
    "Hookean, a plane": 40,
    "ExternalForce": 90,
    "FixSymmetry": 60,
}


@pytest.mark.parametrize("kind", CONSTRAINTS)
def test_constraints_cost_the_same_for_any_number_of_systems_and_never_wait(kind):
    costs = []
    for systems in (0, 1, 4):
        of_kind = [
            symmetric(1) if kind == "FixSymmetry" else constrained(kind, 4 * seed)
            for seed in range(systems)
        ]
        structures = [free_molecule(), *of_kind]
        batch = batch_from_atoms(structures)
        counts = operations(NVE(Still(batch), dt=0.01), batch)
        costs.append(sum(counts.values()))
        assert not counts.keys() & SYNCHRONISING, counts
        assert not any(key.startswith("index.Tensor") for key in counts)
    assert costs[1] == costs[2]
    assert costs[1] - costs[0] <= CONSTRAINTS[kind], costs


@pytest.mark.parametrize("make", [FIRE, MDMin, LBFGS])
@pytest.mark.parametrize(
    ("kind", "budget"), [("unit_cell", 40), ("frechet", 80), ("exp", 120), ("strain", 50)]
)
def test_a_cell_that_moves_adds_a_few_operations(make, kind, budget):
    batch = batch_from_atoms([bulk("Cu") * (2, 1, 1) for _ in range(4)])
    plain = operations(make(Still(batch)), batch)
    filter_cells(batch, kind)
    counts = operations(make(Still(batch)), batch)
    assert sum(counts.values()) - sum(plain.values()) <= budget, counts
    assert not counts.keys() & SYNCHRONISING


@pytest.mark.parametrize(
    ("status", "budget"), [([0] * 4, 75), ([1] * 4, 50), ([0, 0, 1, 1], 125), ([1, 0, 1, 0], 125)]
)
def test_a_steady_step_of_stages_is_that_of_each_and_a_little_more(status, budget):
    """Beside 56 operations of FIRE and 25 of Langevin's, a status is told and parts are joined."""
    batch = wells(*[3.0] * 4, sizes=[3] * 4)
    batch["status"] = torch.tensor(status)
    model = Still(batch)
    relax = FIRE(model, convergence_hook=ConvergenceHook.from_fmax(1e-9, strict=True))
    counts = operations(relax + Langevin(model, 0.1, 300.0, 0.01, seed=0, n_steps=10**9), batch)
    assert sum(counts.values()) <= budget, counts
    assert not counts.keys() & SYNCHRONISING
    assert not any(key.startswith("index.Tensor") for key in counts)


def test_a_steady_step_of_systems_that_come_and_go_is_a_few_operations_more():
    batch = wells(*[3.0] * 4, sizes=[3] * 4)
    plain = operations(NVE(Still(batch), dt=0.1), batch)
    batch = wells(*[3.0] * 4, sizes=[3] * 4)
    sampler = SizeAwareSampler(wells(1.0).to_data_list())
    counts = operations(NVE(Still(batch), dt=0.1, sampler=sampler), batch)
    assert sum(counts.values()) - sum(plain.values()) <= 15, counts
    assert not counts.keys() & SYNCHRONISING


def test_the_operations_are_counted_at_all():
    batch = wells(*[3.0] * 4)
    counts = operations(NVE(Still(batch), dt=0.1), batch)
    assert sum(counts.values()) >= 4


@pytest.mark.slow  # those of integrators are in the half-steps of test_compiled
def test_update_rules_compile_whole():
    # In a process of its own: here, the run-time check of shapes is wrapped around every function.
    command = [sys.executable, "-m", "tests.dynamics.compile_updates"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = ["fire_step", "fire2_step", "learn", "newton_step", "limited"]
    names += ["not_too_short", "start", "advance", "product", "learned", "mdmin_step"]
    names += ["descent_step", "bfgs_update", "newton_step", "rational_step", "judged"]
    names += ["trusted_step"]
    names += ["kick", "langevin_kick", "berendsen_scale", "bussi_scale", "collide"]
    names += ["chain_step", "dilation_force", "flow", "strain_force", "matrix_flow", "drags"]
    names += ["berendsen_factor"]
    names += ["volume_drift", "volume_heat", "shape_drift", "shape_heat"]
    names += ["triangle", "limited", "ornstein_uhlenbeck", "cell_force", "friction_matrix"]
    assert done.stdout.split() == names
