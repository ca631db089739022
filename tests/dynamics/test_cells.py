"""Cells that optimizers move: forces and coordinates, and that no system notices another's."""

import numpy as np
import pytest
import torch
from ase.build import bulk, molecule

from nvdyn_ase.atoms import HostConstraint, Result, batch_from_atoms
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import (
    BFGS,
    FIRE,
    FIRE2,
    LBFGS,
    RFO,
    BFGSLineSearch,
    CellAwareBFGS,
    ConvergenceHook,
    GoodOldQuasiNewton,
    GradientDescent,
    HookStageEnum,
    LBFGSLineSearch,
    MDMin,
    NaNDetectorHook,
    Outcome,
)
from nvdyn_ase.dynamics.cell_filters import CELL_FIELDS, filter_cells
from nvdyn_ase.models import EMT, Harmonic
from nvdyn_ase.models.base import ModelOutputs
from tests.pace import paced

OPTIMIZERS = [FIRE, FIRE2, MDMin, LBFGS, LBFGSLineSearch, GradientDescent]
HESSIANS = [BFGS, RFO, GoodOldQuasiNewton, BFGSLineSearch]
KINDS = ("none", "unit_cell", "frechet", "exp", "strain")


# -------------------------------------------------------------------------------- coordinates


def crystals():
    structures = [bulk("Cu", cubic=True), bulk("Au") * (2, 1, 1), bulk("Ni") * (1, 2, 2)]
    for seed, atoms in enumerate(structures):
        rng = np.random.default_rng(seed)
        strain = np.eye(3) + 0.05 * rng.normal(size=(3, 3))
        atoms.set_cell(atoms.cell.array @ strain, scale_atoms=True)
        atoms.rattle(0.05, seed=seed)
    return structures


def filtered(kinds, structures=None, **options):
    batch = batch_from_atoms(crystals() if structures is None else structures)
    for row, kind in enumerate(kinds):
        filter_cells(batch, kind, systems=[row], **options)
    return batch


def deformed(engine, batch, seed=0, by=0.02):
    """Go away from the reference, so that nothing is the identity."""
    engine.adopt(batch)
    x = engine.coordinates(batch)
    generator = torch.Generator().manual_seed(seed)
    engine.put(batch, x + by * torch.randn(x.shape, generator=generator, dtype=x.dtype))


OPTIONS = [
    {},
    {"scalar_pressure": 0.03},
    {"mask": [1, 0, 1, 1, 0, 0]},
    {"hydrostatic_strain": True},
    {"cell_factor": 2.5, "scalar_pressure": [0.01]},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("kind", ["unit_cell", "frechet"])
def test_forces_are_minus_the_derivative_of_the_enthalpy(kind, options):
    batch, engine = filtered([kind] * 3, **options), FIRE(EMT())
    # A mask makes the map of ASE's unit cell filter exact at the reference only.
    deformed(engine, batch, by=0.0 if kind == "unit_cell" or "mask" in options else 0.02)
    if "hydrostatic_strain" in options:
        return _hydrostatic_forces(engine, batch)
    engine.prime(batch)
    forces, x = engine.forces(batch).clone(), engine.coordinates(batch).clone()
    rows = engine.rows(batch)
    for row in (0, 3, 4, 5, 6, rows.num_nodes - 3, rows.num_nodes - 1):
        for component in range(3):
            step = torch.zeros_like(x)
            step[row, component] = 1e-5
            energies = []
            for sign in (1, -1):
                engine.put(batch, x + sign * step)
                engine.prime(batch)
                energies.append(float(engine.energy(batch)[rows.batch[row]]))
            slope = (energies[0] - energies[1]) / 2e-5
            assert float(forces[row, component]) == pytest.approx(-slope, abs=2e-6)
    return None


def _hydrostatic_forces(engine, batch):
    engine.prime(batch)
    forces, rows = engine.forces(batch), engine.rows(batch)
    cells = rows.of_deformed(forces)
    one = torch.eye(3, dtype=cells.dtype)
    torch.testing.assert_close(cells, cells[:, :1, :1] * one, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_putting_coordinates_back_moves_nothing(kind):
    batch, engine = filtered([kind] * 3), FIRE(EMT())
    deformed(engine, batch)
    before = {key: batch[key].clone() for key in ("positions", "cell", "strain")}
    engine.put(batch, engine.coordinates(batch))
    for key, tensor in before.items():
        torch.testing.assert_close(batch[key], tensor, rtol=1e-13, atol=1e-12)
    x = engine.coordinates(batch)
    nowhere = torch.zeros(3, 1, dtype=torch.bool)
    engine.put(batch, x + 1.0, where=nowhere)
    assert torch.equal(engine.coordinates(batch), x)


def test_hidden_atoms_have_no_row_and_do_not_move():
    batch = batch_from_atoms(crystals())
    hidden = torch.zeros(batch.num_nodes, dtype=torch.bool)
    hidden[[1, 4, 5]] = True
    batch["hidden"] = hidden
    before = batch["positions"].clone()
    engine = FIRE(EMT())
    engine.run(batch, n_steps=5)
    assert engine.rows(batch).num_nodes_list == [3, 0, 4]
    moved = (batch["positions"] != before).any(1)
    assert torch.equal(moved, ~hidden)


@pytest.mark.parametrize("make", [*OPTIMIZERS, *HESSIANS])
def test_a_system_of_hidden_atoms_is_done_at_once_and_disturbs_no_other(make):
    batch, reference = batch_from_atoms(crystals()), batch_from_atoms(crystals())
    batch["hidden"] = (batch.batch == 1).view(-1)
    for each in (batch, reference):
        make(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.01)).run(each, n_steps=3)
    assert batch["outcome"][1] == Outcome.CONVERGED
    assert (batch["steps"][1], batch["fmax"][1]) == (0, 0.0)
    for row in (0, 2):
        assert batch["outcome"][row] == reference["outcome"][row]
        assert torch.equal(batch[[row]]["positions"], reference[[row]]["positions"])
    # Also where nobody asks whether it is done.
    make(EMT()).run(batch, n_steps=2)
    assert batch["outcome"].view(-1).tolist() == [Outcome.BUDGET] * 3


# -------------------------------------------------------------------------------- a system alone

ENGINES = {
    "fire": lambda: FIRE(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "fire, checked": lambda: FIRE(EMT(), downhill_check=True, dtmax=3.0),
    "lbfgs": lambda: LBFGS(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "mdmin": lambda: MDMin(EMT(), dt=0.05),
    "cell aware": lambda: CellAwareBFGS(
        EMT(), convergence_hook=CellAwareBFGS.criteria(0.05, 0.001)
    ),
    "fire2, converging": lambda: FIRE2(EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)),
    "fire2, abc": lambda: FIRE2(EMT(), use_abc=True),
    "bfgs, all steps": lambda: BFGS(EMT()),
    "rfo, all steps": lambda: RFO(EMT()),
    "good old quasi-newton, converging": lambda: GoodOldQuasiNewton(
        EMT(), convergence_hook=ConvergenceHook.from_fmax(0.05)
    ),
    "good old quasi-newton, powell": lambda: GoodOldQuasiNewton(EMT(), hessianupdate="Powell"),
    "lbfgs line search, converging": lambda: LBFGSLineSearch(
        EMT(), convergence_hook=ConvergenceHook.from_fmax(0.002)
    ),
    "bfgs line search, converging": lambda: BFGSLineSearch(
        EMT(), convergence_hook=ConvergenceHook.from_fmax(0.002)
    ),
}
KEYS = ("positions", "cell", "strain", "forces", "energy", "steps", "evaluations", "fmax")


@pytest.mark.parametrize("name", paced(ENGINES))
def test_alone_together_and_in_any_order(name):
    everyone = [crystals()[i % 3] for i in range(15)]
    kinds = [KINDS[i % 5] for i in range(15)]
    options = {"scalar_pressure": 0.01}
    if name == "cell aware":  # it takes no other
        kinds, options = ["frechet"] * 15, {"cell_factor": 1.0}

    def ran(order):
        batch = filtered([kinds[i] for i in order], [everyone[i] for i in order], **options)
        batch["system_id"] = torch.tensor(order).view(-1, 1)
        ENGINES[name]().run(batch, n_steps=40)
        return batch

    order = np.random.default_rng(0).permutation(15).tolist()
    together, shuffled = ran(list(range(15))), ran(order)
    for row in range(15):
        alone = ran([row])
        for key in KEYS:
            expected = together[[row]][key]
            assert torch.equal(expected, shuffled[[order.index(row)]][key]), (row, key)
            assert torch.equal(expected, alone[key]), (row, key)


def test_a_cell_far_from_its_first_does_not_know_the_filters_of_others():
    def ran(rows):
        structures = [crystals()[0] for _ in rows]
        kinds = ["unit_cell", "unit_cell", "frechet"]
        batch = filtered([kinds[row] for row in rows], structures)
        for place, row in enumerate(rows):
            batch["cell_mask"][place, 0, 0] = float(row != 1)
            batch["orig_cell"][place] *= 2.9  # as after a restart
            batch["orig_cell"][place, 1] += 0.1
        FIRE(EMT()).run(batch, n_steps=5)
        return batch

    together = ran([0, 1, 2])
    for row in range(3):
        alone = ran([row])
        for key in KEYS:
            assert torch.equal(together[[row]][key], alone[key]), (row, key)


def test_a_frozen_system_keeps_its_cell_and_its_state():
    batch, engine = filtered(["frechet", "strain", "unit_cell"]), FIRE(EMT())
    engine.run(batch, n_steps=3)
    batch["status"] = torch.tensor([[0], [1], [1]])
    before = {key: tensor.clone() for key, tensor in batch}
    state = {key: tensor.clone() for key, tensor in engine.state}
    engine.step(batch)
    for key in ("cell", "strain", "orig_cell"):
        assert torch.equal(batch[key][1:], before[key][1:])
    assert not torch.equal(batch["cell"][0], before["cell"][0])
    rows = engine.rows(batch).host_ptr[1]
    assert torch.equal(engine.state["velocity"][rows:], state["velocity"][rows:])
    assert not torch.equal(engine.state["velocity"][:rows], state["velocity"][:rows])


def test_a_frozen_system_keeps_its_hessian_of_atoms_and_cell():
    batch, engine = filtered(["frechet"] * 3, cell_factor=1.0), CellAwareBFGS(EMT())
    engine.run(batch, n_steps=3)
    batch["status"] = torch.tensor([[0], [1], [1]])
    before = {key: tensor.clone() for key, tensor in batch}
    state = {key: tensor.clone() for key, tensor in engine.state[[1]]}
    engine.step(batch)
    for key in ("positions", "cell", "strain"):
        others = batch[[1, 2]][key]
        assert torch.equal(others, before[key][-len(others) :])
    assert not torch.equal(batch["cell"][0], before["cell"][0])
    for key, tensor in engine.state[[1]]:
        assert torch.equal(tensor, state[key]), key


def test_a_cell_that_collapses_leaves_the_rest_alone():
    kinds, structures = ["frechet", "unit_cell", "strain"], crystals()
    reference = filtered(kinds, structures)
    broken = filtered(kinds, structures)
    broken["scalar_pressure"][1] = 1e3  # turns it inside out within a step or two
    for batch in (reference, broken):
        FIRE(EMT(), hooks=[NaNDetectorHook()], maxstep=5.0).run(batch, n_steps=30)
    assert int(broken["outcome"][1]) == Outcome.NAN
    assert "its cell collapsed" in Result.of_batch(broken, structures)[1].reason
    for row in (0, 2):
        for key in KEYS:
            assert torch.equal(reference[[row]][key], broken[[row]][key]), (row, key)


@pytest.mark.parametrize("make", [FIRE, LBFGS, MDMin])
def test_systems_that_get_another_filter_begin_anew_and_the_others_go_on(make):
    batch, engine = filtered(["none", "unit_cell", "none"]), make(EMT())
    reference, same = filtered(["none", "unit_cell", "none"]), make(EMT())
    engine.run(batch, n_steps=3)
    same.run(reference, n_steps=6)
    filter_cells(batch, "frechet", systems=[1])
    filter_cells(batch, "frechet", systems=[2])
    alone = batch.index_select([1, 2])
    engine.run(batch, n_steps=3)
    make(EMT()).run(alone, n_steps=3)
    assert engine.state.num_nodes_list == [4, 2 + 3, 4 + 3]
    for key in ("positions", "cell"):
        assert torch.equal(batch[[0]][key], reference[[0]][key])
        assert torch.equal(batch[[1, 2]][key], alone[key])


def test_a_hook_may_change_the_pressure_on_the_way():
    class Press:
        stage, frequency = HookStageEnum.AFTER_STEP, 1

        def __call__(self, batch, dynamics):
            if dynamics.step_count == 4:
                batch["scalar_pressure"] = torch.full((3, 1), 0.05, dtype=torch.float64)

    batch, reference = filtered(["frechet"] * 3), filtered(["frechet"] * 3)
    FIRE(EMT(), hooks=[Press()]).run(batch, n_steps=10)
    engine = FIRE(EMT())
    engine.run(reference, n_steps=5)
    reference["scalar_pressure"] = torch.full((3, 1), 0.05, dtype=torch.float64)
    engine.run(reference, n_steps=5)
    assert torch.equal(batch["cell"], reference["cell"])


class SinglePrecisionEMT(EMT):
    """A model that computes in single precision, as most learned ones do."""

    def forward(self, batch):
        outputs = super().forward(batch)
        return ModelOutputs({key: tensor.float() for key, tensor in outputs.items()})


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", [FIRE, LBFGS, MDMin])
def test_a_model_may_compute_in_single_precision(kind, make):
    batch = filtered([kind] * 3)
    make(SinglePrecisionEMT()).run(batch, n_steps=5)
    assert batch["positions"].dtype == batch["forces"].dtype == torch.float64
    reference = filtered([kind] * 3)
    make(EMT()).run(reference, n_steps=5)
    torch.testing.assert_close(batch["cell"], reference["cell"], rtol=1e-4, atol=1e-4)


class Watching(HostConstraint):
    """An object with a say in the cell that counts how often it is asked."""

    has_potential, adjusts_stress, adjusts_cell = False, False, True

    def __init__(self):
        self.asked = 0

    def adjust_cell(self, old, new, positions):
        self.asked += 1
        return new

    def adjust_positions(self, old, new, cell):
        return new

    def adjust_forces(self, positions, cell, forces, md):
        return forces

    def removed_dof(self):
        return 0


def test_constraints_of_a_cell_that_nobody_moves_are_not_asked_about_it():
    batch, watching = filtered(["none", "frechet", "strain"]), [Watching(), Watching()]
    batch.constraints[:2] = [(watching[0],), (watching[1],)]
    before = batch["cell"][0].clone()
    FIRE(EMT()).run(batch, n_steps=5)
    assert [own.asked for own in watching] == [0, 5]
    assert torch.equal(batch["cell"][0], before)


# -------------------------------------------------------------------------------- errors


def test_fields_are_declared_and_others_keep_theirs():
    batch = filtered(["frechet", "none", "none"], cell_factor=3.0)
    filter_cells(batch, "strain", systems=[2])
    assert batch["cell_filter"].view(-1).tolist() == [2, 0, 4]
    assert batch["cell_factor"].view(-1).tolist() == [3.0, 3.0, 1.0]
    assert all(batch.level(key) == "system" for key in CELL_FIELDS)
    joined: Batch = batch.index_select([0, 2])
    joined.append(batch_from_atoms(crystals()[:1]))
    assert joined["cell_filter"].view(-1).tolist() == [2, 4, 0]


def test_what_cannot_be_filtered_is_refused():
    with pytest.raises(ValueError, match="no cell filter 'cell'; there are none, unit_cell"):
        filter_cells(batch_from_atoms(crystals()), "cell")
    with pytest.raises(ValueError, match="mask of strains"):
        filter_cells(batch_from_atoms(crystals()), mask=[1, 1])
    with pytest.raises(ValueError, match="system 1 does not have three cell vectors"):
        filter_cells(batch_from_atoms([bulk("Cu"), molecule("CO")]), systems=[1])
    with pytest.raises(ValueError, match="float64 only"):
        filter_cells(batch_from_atoms(crystals(), dtype=torch.float32))
    with pytest.raises(ValueError, match="scalar_pressure"):
        filter_cells(batch_from_atoms(crystals()), scalar_pressure=[0.0, 0.1])


def test_a_model_without_stress_is_refused():
    batch = filtered(["frechet"] * 3)
    with pytest.raises(RuntimeError, match="FIRE needs stress"):
        FIRE(Harmonic()).run(batch, n_steps=1)
