"""Methods with a Hessian: ragged in memory, ASE's step for step, and safe when it blows up."""

import contextlib

import ase.calculators.emt
import ase.calculators.lj
import ase.filters
import ase.optimize
import numpy as np
import pytest
import torch
from ase.build import bulk
from ase.optimize.cellawarebfgs import calculate_isotropic_elasticity_tensor
from ase.optimize.oldqn import find_lamda, scale_radius_energy

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.data import segment_sum
from nvdyn_ase.dynamics import (
    BFGS,
    RFO,
    BFGSLineSearch,
    CellAwareBFGS,
    GoodOldQuasiNewton,
    GradientDescent,
    HookStageEnum,
    LBFGSLineSearch,
    NaNDetectorHook,
    Outcome,
    filter_cells,
)
from nvdyn_ase.dynamics.optimizers.cellawarebfgs import isotropic_elasticity
from nvdyn_ase.dynamics.optimizers.oldqn import factors
from nvdyn_ase.dynamics.spectra import spectrum
from nvdyn_ase.dynamics.trust import brackets, trust_shift
from nvdyn_ase.models import EMT, LennardJones
from tests.pace import paced
from tests.systems import ARGON, alloy_slab, argon
from tests.wells import Well, wells

METHODS = {
    "BFGS": (BFGS, ase.optimize.BFGS, {}),
    "RFO": (RFO, ase.optimize.RFO, {}),
    "RFO, damped": (RFO, ase.optimize.RFO, {"damping": 2.0, "alpha": 40.0, "maxstep": 0.1}),
    "GoodOldQuasiNewton": (GoodOldQuasiNewton, ase.optimize.GoodOldQuasiNewton, {}),
    "Powell": (GoodOldQuasiNewton, ase.optimize.GoodOldQuasiNewton, {"hessianupdate": "Powell"}),
    "Bofill": (GoodOldQuasiNewton, ase.optimize.GoodOldQuasiNewton, {"hessianupdate": "Bofill"}),
    "not forcemin": (
        *(GoodOldQuasiNewton, ase.optimize.GoodOldQuasiNewton),
        {"forcemin": False, "radius": 0.2, "diagonal": 5.0},
    ),
}
methods = pytest.mark.parametrize("method", METHODS)


def as_tensors(*arrays):
    return (torch.tensor(np.asarray(array, float))[None] for array in arrays)


# -------------------------------------------------------------------------------- as in ASE


def crystals():
    """Return an argon crystal, a slab with held atoms, and a triclinic crystal."""
    triclinic = bulk("Au") * (2, 1, 2)
    triclinic.rattle(0.05, seed=2)
    slab = alloy_slab(1)
    slab.pbc = True
    return [argon(0, repeat=1), slab, triclinic]


FILTERS = {
    "none": (None, {}),
    "unit_cell": (ase.filters.UnitCellFilter, {}),
    "frechet": (ase.filters.FrechetCellFilter, {}),
    "strain": (ase.filters.StrainFilter, {}),
    "unit_cell, pressed": (ase.filters.UnitCellFilter, {"scalar_pressure": 0.01}),
    "frechet, pressed": (ase.filters.FrechetCellFilter, {"scalar_pressure": 0.01}),
}


class CountingLJ(ase.calculators.lj.LennardJones):
    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


class CountingEMT(ase.calculators.emt.EMT):
    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


def run_of_ase(make, atoms, steps):
    """Return atoms and cell, and the force calls so far, of every step that ASE's solvers survive.

    When nothing is left to move they fail; the last bit decides when.
    """
    atoms.calc = CountingLJ(**ARGON) if atoms.numbers[0] == 18 else CountingEMT()
    optimizer, frames = make(atoms), []
    with contextlib.suppress(ArithmeticError, ValueError, RuntimeError, np.linalg.LinAlgError):
        frames.extend(
            (np.vstack([atoms.positions, atoms.cell.array]), atoms.calc.calls)
            for _ in optimizer.irun(fmax=0, steps=steps)
        )
    return frames


class Frames:
    """A hook that notes atoms and cell of each system after every step."""

    stage, frequency = HookStageEnum.AFTER_STEP, 1

    def __init__(self):
        self.frames = []

    def __call__(self, batch, dynamics):
        cells = batch["cell"].numpy()
        atoms = np.split(batch["positions"].numpy(), batch.host_ptr[1:-1])
        self.frames.append([np.vstack(pair) for pair in zip(atoms, cells, strict=True)])


def assert_every_step_is_ases(own, evaluations, expected, tolerance):
    """Compare the frames of a system, the first one before its first step, and its force calls."""
    assert len(expected) > 20
    for step, (theirs, ours) in enumerate(zip(expected, own, strict=False)):
        assert np.abs(ours - theirs[0]).max() < tolerance, step
    moves = np.abs(np.diff([frame for frame, _ in expected], axis=0)).max((1, 2))
    computed, calls = len(expected), expected[-1][1]
    # ASE does not compute again what has moved by less than 1e-15 Å, at the very end.
    assert computed - (moves < 2e-15).sum() <= calls <= computed
    assert evaluations == len(own)


def _cases():
    """Return every method with every filter.

    Fast are BFGS with each, and with one filter the other methods; but no variants.
    """
    for method in METHODS:
        for filtered in FILTERS:
            other = (method, filtered) in (("RFO", "frechet"), ("GoodOldQuasiNewton", "unit_cell"))
            fast = (method == "BFGS" and "," not in filtered) or other
            yield pytest.param(method, filtered, marks=() if fast else pytest.mark.slow)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("method", "filtered"), list(_cases()))
def test_steps_are_ases_alone_and_among_others(method, filtered):
    ours, theirs, options = METHODS[method]
    kind, more = FILTERS[filtered]
    steps, tolerance = (60, 1e-10) if kind is None else (40, 1e-8)
    expected = [
        run_of_ase(
            lambda atoms: theirs(kind(atoms, **more) if kind else atoms, logfile=None, **options),
            *(atoms, steps),
        )
        for atoms in crystals()
    ]
    # The last one of three is a free companion.
    for rows, model in (([0], LennardJones(**ARGON)), ([1], EMT()), ([1, 2, 1], EMT())):
        own, noted = range(min(len(rows), 2)), Frames()
        batch = batch_from_atoms([crystals()[row] for row in rows])
        if kind is not None:
            filter_cells(batch, filtered.split(",")[0], systems=own, **more)
        noted(batch, None)
        ours(model, hooks=[noted], **options).run(batch, n_steps=steps)
        for place in own:
            frames = [frame[place] for frame in noted.frames]
            assert len(frames) == steps + 1
            evaluations = batch["evaluations"][place]
            assert_every_step_is_ases(frames, evaluations, expected[rows[place]], tolerance)


def cell_aware_of_ase(atoms, mask, pressure):
    item = ase.filters.FrechetCellFilter(
        atoms, mask=mask, exp_cell_factor=1.0, scalar_pressure=pressure
    )
    return ase.optimize.CellAwareBFGS(item, logfile=None)


#: Rows of ``crystals()`` in a batch, with a mask and a pressure for each.
CELL_AWARE = {
    "argon": (LennardJones(**ARGON), [0], [None], [0.0]),
    "argon, pressed": (LennardJones(**ARGON), [0, 0], [None, [1, 1, 0, 0, 0, 1]], [0.01, 0.0]),
    "metals": (EMT(), [1, 2], [[1, 1, 0, 0, 0, 1], None], [0.0, 0.01]),
    "metals, pressed": (EMT(), [2, 1, 2], [None, None, [1, 1, 1, 0, 0, 1]], [0.0, 0.005, 0.02]),
}


def cell_aware_batch(rows, masks, pressures):
    batch = batch_from_atoms([crystals()[row] for row in rows])
    for place, (mask, pressure) in enumerate(zip(masks, pressures, strict=True)):
        options = {"cell_factor": 1.0, "scalar_pressure": pressure}
        filter_cells(batch, "frechet", mask=mask, systems=[place], **options)
    return batch


@pytest.mark.parametrize("case", paced(CELL_AWARE))
def test_steps_with_a_cell_aware_hessian_are_ases(case):
    model, rows, masks, pressures = CELL_AWARE[case]
    batch, noted = cell_aware_batch(rows, masks, pressures), Frames()
    noted(batch, None)
    hook = CellAwareBFGS.criteria(0, 0, strict=True)
    CellAwareBFGS(model, hooks=[noted], convergence_hook=hook).run(batch, 40)
    for place, row in enumerate(rows):
        atoms = crystals()[row]
        atoms.calc = CountingLJ(**ARGON) if row == 0 else CountingEMT()
        optimizer, expected = cell_aware_of_ase(atoms, masks[place], pressures[place]), []
        optimizer.fmax = optimizer.smax = 0
        for _ in ase.optimize.optimize.Dynamics.irun(optimizer, steps=40):
            frame = np.vstack([atoms.positions, atoms.cell.array])
            expected.append((frame, atoms.calc.calls))
        frames = [frame[place] for frame in noted.frames]
        assert len(frames) == 41
        assert_every_step_is_ases(frames, batch["evaluations"][place], expected, 1e-8)
        stress = np.abs(atoms.get_stress(voigt=False) * optimizer.atoms.mask).max()
        assert batch["smax"][place].item() == pytest.approx(stress, abs=1e-9)


@pytest.mark.parametrize("case", paced(CELL_AWARE))
def test_the_criteria_of_a_cell_aware_engine_are_ases(case):
    model, rows, masks, pressures = CELL_AWARE[case]
    batch = cell_aware_batch(rows, masks, pressures)
    hook = CellAwareBFGS.criteria(0.01, 0.0005, strict=True)
    CellAwareBFGS(model, convergence_hook=hook).run(batch, n_steps=100)
    for place, row in enumerate(rows):
        atoms = crystals()[row]
        atoms.calc = CountingLJ(**ARGON) if row == 0 else CountingEMT()
        optimizer = cell_aware_of_ase(atoms, masks[place], pressures[place])
        converged = optimizer.run(0.01, 0.0005, steps=100)
        assert batch["steps"][place] == optimizer.nsteps
        assert batch["evaluations"][place] == atoms.calc.calls
        assert (batch["outcome"][place] == Outcome.CONVERGED) == converged


def test_a_cell_aware_engine_wants_its_filter():
    batch = batch_from_atoms(crystals()[1:])
    for systems, factor in (([0], 1.0), ([0, 1], None)):
        filter_cells(batch, "frechet", cell_factor=factor, systems=systems)
        with pytest.raises(ValueError, match=r"has no Fréchet filter .*cell_factor=1\.0"):
            CellAwareBFGS(EMT()).run(batch, n_steps=1)


def test_the_elasticity_tensor_is_ases():
    numbers = (0.9, 0.2, 70.0)
    ours = isotropic_elasticity(*(torch.tensor([[x]], dtype=torch.float64) for x in numbers))[0]
    theirs = calculate_isotropic_elasticity_tensor(*numbers).reshape(9, 9)
    np.testing.assert_allclose(ours, theirs, atol=1e-13)


# -------------------------------------------------------------------------------- the trust radius


@pytest.mark.parametrize("kind", ["plain", "soft", "hard", "harder", "spread", "scattered"])
def test_a_shift_is_where_ases_bisection_ends(kind):
    rng = np.random.default_rng(len(kind))
    known = brackets(torch.device("cpu"))
    for _ in range(60):
        size = rng.choice([3, 6, 48])
        values = rng.normal(size=size) * 10 ** rng.uniform(-2, 3) + 60 * rng.random()
        gradient = rng.normal(size=size) * 10 ** rng.uniform(-6, 2)
        if kind == "soft":
            values = values - 100
        if kind == "scattered":
            values = 10 ** rng.uniform(-4, 3, size=size) * np.where(rng.random(size) < 0.2, -1, 1)
        values.sort()
        if kind in ("hard", "harder"):
            gradient[0] *= 1e-8 if kind == "hard" else 0
        if kind == "spread":
            gradient *= 10 ** rng.uniform(-8, 2, size=size)
        radius = 10 ** rng.uniform(-4, 0)
        expected = 0.0
        if np.linalg.norm(gradient / values) >= radius:
            expected = find_lamda(min(0, values[0]) - 1e-12, gradient, values, radius)
        ours = trust_shift(*as_tensors(values, gradient, [radius]), known).item()
        assert ours == pytest.approx(expected, rel=1e-10, abs=1e-10)


def test_the_factors_of_the_radius_are_ases():
    limits, table = factors(torch.device("cpu"))
    errors = [0.0, 0.01, 0.02, 0.05, 0.07, 0.1, 0.3, 0.4, 0.45, 0.5, 0.6, 0.7, 0.9, 1.0, 5.0]
    ours = table[torch.bucketize(torch.tensor(errors, dtype=torch.float64), limits, right=True)]
    np.testing.assert_allclose(ours, [scale_radius_energy(e, 1) for e in errors], rtol=1e-15)


def test_a_step_by_which_the_energy_rises_is_taken_back():
    class Rising(Well):
        """A well whose energy jumps, unseen by its forces, outside of what it is told."""

        def forward(self, batch):
            outputs = super().forward(batch)
            if self.forwards == 3:
                outputs["energy"] = outputs["energy"] + 1.0
            return outputs

    engine, batch = GoodOldQuasiNewton(Rising(), radius=0.1), wells(2.0, 3.0)
    engine.run(batch, n_steps=1)
    before, radius = batch["positions"].clone(), engine.state["radius"].clone()
    engine.run(batch, n_steps=1)
    engine.run(batch, n_steps=1)
    assert torch.equal(engine.state["last_coordinates"], before)
    assert (engine.state["radius"] < radius).all()
    assert batch["evaluations"].view(-1).tolist() == [4, 4]


def test_an_update_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match="there are BFGS, Powell, Bofill"):
        GoodOldQuasiNewton(Well(), hessianupdate="DFP")


# -------------------------------------------------------------------------------- what goes wrong


@pytest.mark.parametrize("make", [BFGS, RFO])
def test_a_hessian_that_blows_up_takes_nobody_along(make):
    class Flat(Well):
        """A well, but for system 1, whose forces never change."""

        def forward(self, batch):
            outputs = super().forward(batch)
            flat = (batch["system_id"] == 1)[batch.batch]
            outputs["forces"] = torch.where(flat, 1.0, outputs["forces"])
            return outputs

    batch, reference = wells(1.0, 2.0, 3.0, 0.5), wells(1.0, 2.0, 3.0, 0.5)
    make(Flat(), hooks=[NaNDetectorHook()]).run(batch, n_steps=6)
    make(Well()).run(reference, n_steps=6)
    outcomes = [Outcome(code) for code in batch["outcome"].view(-1).tolist()]
    assert outcomes == [Outcome.BUDGET, Outcome.EXPLODED, Outcome.BUDGET, Outcome.BUDGET]
    assert batch["steps"].view(-1).tolist() == [6, 1, 6, 6]
    assert torch.isfinite(batch["positions"]).all()
    for row in (0, 2, 3):
        assert torch.equal(batch[[row]]["positions"], reference[[row]]["positions"])
    assert "its Hessian is not finite" in batch.host[1]["failure"]


class Steep(Well):
    """A well, but for system 1, an atom whose force after its first step is nearly too large.

    The square of that force is a number, but no more when it is divided by a small curvature.
    """

    def __init__(self, start):
        super().__init__()
        self.start = start

    def forward(self, batch):
        outputs, mine = super().forward(batch), batch["system_id"] == 1
        along = batch["positions"][:, :1] - self.start
        first, then = (along.new_tensor([f]) for f in ([1.0, 0.0, 0.0], [0.4, 1.2e154, 0.0]))
        forces = torch.where(along == 0.0, first, then)
        outputs["forces"] = torch.where(mine[batch.batch], forces, outputs["forces"])
        outputs["energy"] = torch.where(mine, segment_sum(-along, batch.ptr), outputs["energy"])
        if "stress" in outputs:
            outputs["stress"] = torch.where(mine.unsqueeze(2), 0.0, outputs["stress"])
        return outputs


@pytest.mark.parametrize(
    "make", [BFGS, RFO, GoodOldQuasiNewton, CellAwareBFGS, BFGSLineSearch, LBFGSLineSearch]
)
def test_a_curvature_that_is_no_number_ends_its_system_alone(make):
    batch, reference = (wells(1.0, 2.0, 3.0, 0.5, sizes=[2, 1, 3, 4]) for _ in range(2))
    if make is CellAwareBFGS:
        for each in (batch, reference):
            filter_cells(each, "frechet", cell_factor=1.0)
    model = Steep(batch[1].positions[0, 0].clone())
    make(model, hooks=[NaNDetectorHook()]).run(batch, n_steps=6)
    make(Well()).run(reference, n_steps=6)
    outcomes = [Outcome(code) for code in batch["outcome"].view(-1).tolist()]
    assert outcomes == [Outcome.BUDGET, Outcome.EXPLODED, Outcome.BUDGET, Outcome.BUDGET]
    assert batch["steps"].view(-1).tolist() == [6, 1, 6, 6]
    assert torch.isfinite(batch["positions"]).all()
    for row in (0, 2, 3):
        assert torch.equal(batch[[row]]["positions"], reference[[row]]["positions"])
    assert "its Hessian is not finite" in batch.host[1]["failure"]


def test_a_matrix_that_is_not_finite_disturbs_no_other():
    matrices = torch.randn(3, 6, 6, dtype=torch.float64)
    matrices = matrices + matrices.transpose(1, 2)
    whole = spectrum(matrices)
    matrices[1, 2, 3] = torch.inf
    broken = spectrum(matrices)
    assert broken.values[1].isnan().all()
    for row in (0, 2):
        assert torch.equal(broken.values[row], whole.values[row])
        assert torch.equal(broken.vectors[row], whole.vectors[row])


@pytest.mark.parametrize("d", [3, 12, 15, 21, 33])
def test_a_spectrum_does_not_depend_on_where_the_matrix_lies(d):
    matrices = torch.randn(7, d, d, dtype=torch.float64)
    matrices = matrices + matrices.transpose(1, 2)
    whole = spectrum(matrices)
    for offset, matrix in enumerate(matrices):
        place = torch.empty(d * d + 8, dtype=torch.float64)[offset : offset + d * d].view(1, d, d)
        alone = spectrum(place.copy_(matrix))
        assert torch.equal(alone.values[0], whole.values[offset])
        assert torch.equal(alone.vectors[0], whole.vectors[offset])


# -------------------------------------------------------------------------------- gradient descent


def test_gradient_descent_goes_along_the_force_no_further_than_it_may():
    batch = wells(1.0, 8.0, sizes=[1, 2])
    before = batch["positions"].clone()
    GradientDescent(Well(), step_length=[0.1, 0.3], maxstep=0.5).run(batch, n_steps=1)
    moved = (batch["positions"] - before).norm(dim=1)
    assert moved.tolist() == pytest.approx([0.1, 0.5, 0.5])
    factors = batch["positions"].norm(dim=1) / before.norm(dim=1)
    assert torch.allclose(batch["positions"], factors[:, None] * before)
