"""Optimizers whose steps are searches: filters, counts, and who goes on when."""

import ase.optimize
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.calculators import emt, lj
from ase.filters import FrechetCellFilter, StrainFilter, UnitCellFilter

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import (
    BFGSLineSearch,
    ConvergenceHook,
    LBFGSLineSearch,
    Outcome,
    filter_cells,
)
from nvdyn_ase.models import EMT, LennardJones
from tests.systems import ARGON, argon, copper_slab, mixed
from tests.wells import Well, wells

ENGINES = {
    "LBFGSLineSearch": lambda model, **options: LBFGSLineSearch(model, scaled=False, **options),
    "BFGSLineSearch": BFGSLineSearch,
}
engines = pytest.mark.parametrize("name", ENGINES)
FILTERS = {"unit_cell": UnitCellFilter, "frechet": FrechetCellFilter, "strain": StrainFilter}


def triclinic(seed):
    atoms = bulk("Cu") * (2, 2, 1)
    strain = np.random.default_rng(seed).uniform(-0.03, 0.03, (3, 3))
    atoms.set_cell(atoms.cell @ (np.eye(3) + strain), scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    return atoms


SETS = {
    "argon": (
        [argon(0), argon(1)],
        lambda: LennardJones(**ARGON),
        lambda: lj.LennardJones(**ARGON),
        0.0,
    ),
    "slabs": ([copper_slab(0), copper_slab(1, None)], EMT, emt.EMT, 0.0),
    "triclinic": ([triclinic(0), triclinic(1)], EMT, emt.EMT, 0.01),
}


@engines
@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("case", SETS)
def test_cells_move_as_in_ase(case, kind, name):
    structures, make, calculator, pressure = SETS[case]
    if case == "slabs":  # which has no third cell vector to move
        structures = [atoms.copy() for atoms in structures]
        for atoms in structures:
            atoms.cell[2] = [0.0, 0.0, 20.0]
            atoms.pbc = True
    batch = batch_from_atoms(structures)
    options = {"scalar_pressure": pressure} if kind != "strain" else {}
    filter_cells(batch, kind, **options)
    # A strain is soon relaxed; then ASE against ASE, one ulp apart, differs by 1e-7 Å.
    steps = 8 if kind == "strain" else 10
    ENGINES[name](make()).run(batch, n_steps=steps)
    for row, atoms in enumerate(structures):
        own = atoms.copy()
        own.calc = calculator()
        optimizer = getattr(ase.optimize, name)(FILTERS[kind](own, **options), logfile=None)
        try:
            optimizer.run(fmax=0, steps=steps)
        except RuntimeError:
            assert batch["outcome"][row] == Outcome.ERROR
            assert batch["steps"][row] == optimizer.nsteps
            continue
        assert batch["steps"][row] == steps
        np.testing.assert_allclose(batch[row].positions, own.positions, rtol=0, atol=1e-8)
        np.testing.assert_allclose(batch[row].cell.squeeze(), own.cell, rtol=0, atol=1e-8)
        if batch["fmax"][row] > 1e-5:  # below, the last bit decides about a trial more or less
            assert batch["evaluations"][row] == optimizer.force_calls + 1


@engines
def test_filtered_and_plain_systems_together(name):
    structures = mixed(6)
    together = batch_from_atoms(structures)
    filter_cells(together, "frechet", systems=[0, 1])
    ENGINES[name](EMT()).run(together, n_steps=8)
    for row in range(6):
        alone = batch_from_atoms([structures[row]], indices=[row])
        if row < 2:
            filter_cells(alone, "frechet")
        ENGINES[name](EMT()).run(alone, n_steps=8)
        for key in ("positions", "cell", "energy", "evaluations"):
            assert torch.equal(together[[row]][key], alone[key]), (row, key)


@engines
def test_every_system_makes_the_steps_asked_for(name):
    batch = batch_from_atoms(mixed(12))
    ENGINES[name](EMT()).run(batch, n_steps=6)
    assert (batch["steps"] == 6).all()
    assert (batch["outcome"] == Outcome.BUDGET).all()
    assert len(set(batch["evaluations"].view(-1).tolist())) > 1


@engines
def test_nobody_converges_within_a_search(name):
    hook = ConvergenceHook.from_fmax(1e9, strict=True)
    engine = ENGINES[name](Well(), maxstep=0.05, convergence_hook=hook)
    batch = wells(3.0)
    engine.adopt(batch)
    searching = []
    for _ in range(20):
        _, converged = engine.step(batch)
        batch["status"] = torch.zeros_like(batch["status"])
        searching.append(engine.state["searching"].item())
        assert (converged is None) == searching[-1]
    assert any(searching)
    assert batch["steps"].item() == 20 - sum(searching)


@engines
def test_forces_of_zero_make_a_step_that_moves_nothing(name):
    batch = wells(0.0, 1.0)
    before = batch["positions"][:2].clone()
    engine = ENGINES[name](Well())
    engine.run(batch, n_steps=3)
    assert torch.equal(batch["positions"][:2], before)
    assert batch["steps"].view(-1).tolist() == [3, 3]


@engines
def test_who_goes_uphill_leaves_with_a_reason(name):
    batch, reference = wells(1.0, 2.0, 3.0), wells(1.0, 2.0, 3.0)
    engine, other = ENGINES[name](Well()), ENGINES[name](Well())
    engine.adopt(batch)
    key = "H0" if name == "LBFGSLineSearch" else "H"
    rows = slice(1, 2) if key == "H0" else slice(*engine.state.host_block_ptr[1:3])
    engine.state[key][rows] *= -1.0
    engine.run(batch, n_steps=3)
    other.run(reference, n_steps=3)
    assert batch["outcome"].view(-1).tolist() == [Outcome.BUDGET, Outcome.ERROR, Outcome.BUDGET]
    assert batch["steps"].view(-1).tolist() == [3, 0, 3]
    assert batch["evaluations"][1] == 1
    assert batch.host[1]["failure"].startswith("the line search failed")
    assert "failure" not in batch.host[0]
    for row in (0, 2):
        assert torch.equal(batch[[row]]["positions"], reference[[row]]["positions"])


def test_numbers_that_no_search_begins_with_are_refused():
    for options in ({"c1": -0.1}, {"c2": [0.1, -0.1]}, {"stpmax": 0.5}):
        for make in ENGINES.values():
            with pytest.raises(ValueError, match=next(iter(options))):
                make(Well(), **options)
