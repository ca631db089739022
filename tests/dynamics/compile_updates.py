"""Compiles every update rule whole, compares it with itself, and prints its name."""

import torch

from nvdyn_ase.dynamics import FIRE, FIRE2, LBFGS, BFGSLineSearch, MDMin
from nvdyn_ase.dynamics.integrators.andersen import Collisions, collide
from nvdyn_ase.dynamics.integrators.baoab import (
    cell_force,
    friction_matrix,
    ornstein_uhlenbeck,
)
from nvdyn_ase.dynamics.integrators.berendsen import berendsen_scale
from nvdyn_ase.dynamics.integrators.bussi import bussi_scale
from nvdyn_ase.dynamics.integrators.cell_rescaling import (
    shape_drift,
    shape_heat,
    volume_drift,
    volume_heat,
)
from nvdyn_ase.dynamics.integrators.langevin import coefficients, langevin_kick, perturbations
from nvdyn_ase.dynamics.integrators.melchionna import drags, is_upper, triangle
from nvdyn_ase.dynamics.integrators.melchionna import limited as limited_strain
from nvdyn_ase.dynamics.integrators.mtk import dilation_force, flow
from nvdyn_ase.dynamics.integrators.mtk_flexible import along, matrix_flow, strain_force, with_trace
from nvdyn_ase.dynamics.integrators.nose_hoover import Chain, bath, chain_step
from nvdyn_ase.dynamics.integrators.npt_berendsen import berendsen_factor
from nvdyn_ase.dynamics.integrators.nve import kick
from nvdyn_ase.dynamics.optimizers.bfgs import newton_step
from nvdyn_ase.dynamics.optimizers.bfgs_line_search import learned, product
from nvdyn_ase.dynamics.optimizers.fire import FIREConstants, FIREState, fire_step
from nvdyn_ase.dynamics.optimizers.fire2 import FIRE2Constants, FIRE2State, fire2_step
from nvdyn_ase.dynamics.optimizers.gradient_descent import descent_step
from nvdyn_ase.dynamics.optimizers.hessian import bfgs_update, multiple_of_one
from nvdyn_ase.dynamics.optimizers.lbfgs import LBFGSState, learn, limited
from nvdyn_ase.dynamics.optimizers.lbfgs import newton_step as lbfgs_step
from nvdyn_ase.dynamics.optimizers.line_search import advance, start
from nvdyn_ase.dynamics.optimizers.mdmin import MDMinState, mdmin_step
from nvdyn_ase.dynamics.optimizers.oldqn import (
    CHANGES,
    TrustState,
    factors,
    judged,
    trusted_step,
)
from nvdyn_ase.dynamics.optimizers.rfo import augmented, rational_step
from nvdyn_ase.dynamics.optimizers.searching import not_too_short
from nvdyn_ase.dynamics.spectra import spectrum
from nvdyn_ase.dynamics.trust import brackets
from tests.wells import Well, wells


def compare(update, *arguments) -> None:
    """Compile an update without a break in its graph, and compare what it gives."""
    compiled = torch.compile(update, fullgraph=True, backend="eager")(*arguments)
    torch.testing.assert_close(compiled, update(*arguments), rtol=0, atol=0)


def compare_lbfgs(batch) -> None:
    """Compare the update rules of L-BFGS."""
    engine = LBFGS(Well())
    engine.run(batch, n_steps=3)
    state = LBFGSState(*(engine.state[key] for key in LBFGSState._fields))
    forces, atoms = batch["forces"], (batch.batch, batch.ptr)
    for scaled in (False, True):
        compare(learn, batch["positions"], forces, state, 100, scaled, *atoms, batch.ptr3)
    print("learn")
    compare(lbfgs_step, forces, state, *atoms)
    print("newton_step")
    compare(limited, forces, engine.state["maxstep"], engine.state["damping"], *atoms)
    print("limited")


def compare_barostats(row, matrix) -> None:
    """Compare the update rules of chains, and of cells."""
    links = torch.cat([row, -row, row], 1)
    what = bath(300.0 * row, 10.0 * row, 9.0 * row, 9.0 * row)
    for count in (3, 1):
        for loops in (1, 2):
            compare(chain_step, row, Chain(links[:, :count], links[:, :count]), what, row, loops)
    print("chain_step")
    compare(dilation_force, matrix, row, row, row, row)
    print("dilation_force")
    compare(flow, row, row)
    print("flow")
    compare(strain_force, matrix, row, matrix, row, row)
    compare(along, matrix, matrix)
    print("strain_force")
    compare(with_trace, matrix, row)
    compare(matrix_flow, matrix, row)
    print("matrix_flow")
    compare(drags, matrix, matrix, matrix, row, row)
    print("drags")
    compare(berendsen_factor, matrix[:, 0], 0.1, 0.2)
    print("berendsen_factor")
    compare(volume_drift, row, row, row, row, row)
    print("volume_drift")
    compare(volume_heat, row, row, row, row)
    print("volume_heat")
    compare(shape_drift, matrix, row, row)
    print("shape_drift")
    compare(shape_heat, matrix, matrix, row, row, row)
    print("shape_heat")
    compare(triangle, matrix, is_upper(matrix))
    print("triangle")
    compare(limited_strain, matrix, matrix, row)
    print("limited")
    compare(ornstein_uhlenbeck, row, row, row)
    print("ornstein_uhlenbeck")
    compare(cell_force, matrix, matrix, row)
    print("cell_force")
    for nine in (False, True):
        compare(friction_matrix, matrix, row, row, nine)
    print("friction_matrix")


def compare_hessians() -> None:
    """Compare the update rules of the methods with a Hessian, eigensolvers left out."""
    random = torch.Generator().manual_seed(0)
    s, y, forces = torch.randn(3, 2, 6, generator=random, dtype=torch.float64)
    number, moved = torch.tensor([[0.4], [0.5]], dtype=torch.float64), torch.ones(2, 1).bool()
    hessian = bfgs_update(multiple_of_one(number, 6), s, y, moved)
    compare(bfgs_update, hessian, s, y, moved)
    print("bfgs_update")
    compare(newton_step, forces, *spectrum(hessian))
    print("newton_step")
    compare(augmented, hessian, forces, number)
    compare(rational_step, *spectrum(augmented(hessian, forces, number)), number)
    print("rational_step")
    for change in CHANGES.values():
        compare(change, hessian, s, y, moved)
    trust = TrustState(number, number, number, number, moved)
    for forcemin in (True, False):
        compare(judged, 0.5 * number, trust, forcemin, *factors(number.device))
    print("judged")
    compare(trusted_step, forces, *spectrum(hessian), number, brackets(number.device))
    print("trusted_step")


def compare_search(batch) -> None:
    """Compare the update rules of line searches, and of BFGS with one."""
    engine = BFGSLineSearch(Well(), maxstep=0.05)
    engine.run(batch, n_steps=2)
    state, forces = engine.state, batch["forces"]
    limits, atoms = engine.limits(), (batch.batch, batch.ptr3)
    compare(not_too_short, forces, state["shortest"], *atoms)
    print("not_too_short")
    compare(start, batch["energy"], -batch["energy"], batch["energy"], limits)
    print("start")
    compare(advance, state["search"], batch["energy"], batch["energy"], limits)
    print("advance")
    compare(product, state["H"], forces, batch.blocks)
    print("product")
    useful = torch.tensor([[True], [False]])
    compare(learned, state["H"], forces, batch["positions"], useful, *atoms, batch.blocks)
    print("learned")


def main() -> None:
    """Go through all update rules."""
    batch = wells(1.0, 2.0)
    engine = FIRE(Well())
    engine.run(batch, n_steps=2)
    state = FIREState(*(engine.state[key] for key in FIREState._fields))
    constants = FIREConstants(*(engine.state[key] for key in FIREConstants._fields))
    for uphill in (None, torch.tensor([[True], [False]])):
        compare(fire_step, batch["forces"], state, constants, uphill, batch.batch, batch.ptr3)
    print("fire_step")
    fire2 = FIRE2(Well())
    fire2.run(batch, n_steps=2)
    state = FIRE2State(*(fire2.state[key] for key in FIRE2State._fields))
    constants = FIRE2Constants(*(fire2.state[key] for key in FIRE2Constants._fields))
    for use_abc in (False, True):
        compare(fire2_step, batch["forces"], state, constants, use_abc, batch.batch, batch.ptr3)
    print("fire2_step")
    compare_lbfgs(batch)
    compare_search(batch)
    engine = MDMin(Well())
    engine.run(batch, n_steps=2)
    state = MDMinState(*(engine.state[key] for key in MDMinState._fields))
    limits, atoms = (engine.state["dt"], engine.state["maxstep"]), (batch.batch, batch.ptr)
    compare(mdmin_step, batch["forces"], state, *limits, *atoms, batch.ptr3)
    print("mdmin_step")
    limits = engine.state["dt"], engine.state["maxstep"]
    compare(descent_step, batch["forces"], *limits, *atoms)
    print("descent_step")
    compare_hessians()
    masses = batch["atomic_masses"].view(-1, 1)
    compare(kick, batch["velocities"], batch["forces"], masses, 0.1)
    print("kick")
    c = coefficients(0.1, 300.0, 0.01, masses)
    noise = batch["forces"]
    compare(perturbations, noise, noise, c)
    compare(langevin_kick, batch["velocities"], batch["forces"], masses, noise, c)
    print("langevin_kick")
    kinetic, dof = batch["energy"], torch.tensor([[6.0], [9.0]], dtype=torch.float64)
    compare(berendsen_scale, kinetic, dof, 300.0, 0.1)
    print("berendsen_scale")
    compare(bussi_scale, kinetic, kinetic, dof, 0.9 + 0.0 * dof, 0.1 * dof, dof)
    print("bussi_scale")
    random = Collisions(batch["velocities"][:2], batch["velocities"], batch["positions"])
    compare(collide, batch["velocities"], random, masses, 300.0, 0.3)
    print("collide")
    compare_barostats(0.1 * dof, torch.randn(2, 3, 3, dtype=torch.float64))


if __name__ == "__main__":
    main()
