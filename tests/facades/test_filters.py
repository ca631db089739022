"""Filters in a list: ASE's numbers step for step, alone and among others."""

import ase.optimize
import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.optimize.optimize import RestartError

from nvdyn_ase.constraints import Hookean
from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.filters import (
    ExpCellFilter,
    Filter,
    FrechetCellFilter,
    StrainFilter,
    UnitCellFilter,
)
from nvdyn_ase.md import VelocityVerlet
from nvdyn_ase.optimize import (
    BFGS,
    FIRE,
    FIRE2,
    LBFGS,
    RFO,
    BFGSLineSearch,
    GoodOldQuasiNewton,
    LBFGSLineSearch,
    MDMin,
)
from nvdyn_ase.workflows import relax
from tests.systems import ARGON, alloy_slab

pytestmark = pytest.mark.filterwarnings("ignore:Use FrechetCellFilter")
QUIET = {"logfile": None}
SLOW = pytest.mark.slow


class CountingEMT(EMT):
    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


class CountingLJ(LennardJones):
    calls = 0

    def calculate(self, *args, **kwargs):
        self.calls += 1
        super().calculate(*args, **kwargs)


def strained(atoms, seed, by=0.03):
    rng = np.random.default_rng(seed)
    atoms.set_cell(atoms.cell.array @ (np.eye(3) + by * rng.normal(size=(3, 3))), scale_atoms=True)
    return atoms


def crystals():
    """Return an argon crystal, a slab with held atoms, and a triclinic crystal; and calculators."""
    argon = bulk("Ar", "fcc", a=5.26, cubic=True)
    argon.rattle(0.1, seed=0)
    slab = alloy_slab(1)
    slab.pbc = True
    triclinic = bulk("Au") * (2, 1, 2)
    triclinic.rattle(0.05, seed=2)
    return [strained(argon, 0), slab, strained(triclinic, 2)]


def with_calculators(structures, counting):
    lj, emt = (CountingLJ, CountingEMT) if counting else (LennardJones, EMT)
    for atoms in structures:
        atoms.calc = lj(**ARGON) if atoms.numbers[0] == 18 else emt()
    return structures


def item_calls(item):
    """Return the force calls of an Atoms, or of that behind a filter."""
    return getattr(item, "atoms", item).calc.calls


PRESSURE = {"scalar_pressure": 0.01}
FILTERS = {
    "none": lambda atoms, **pressure: atoms,
    "some atoms": lambda atoms, **pressure: Filter(atoms, indices=range(1, len(atoms))),
    "unit cell": lambda atoms, **pressure: UnitCellFilter(atoms, **pressure),
    "unit cell, mask": lambda atoms, **pressure: UnitCellFilter(
        atoms, mask=[1, 1, 0, 0, 0, 1], cell_factor=7.0, **pressure
    ),
    "frechet": lambda atoms, **pressure: FrechetCellFilter(atoms, **pressure),
    "frechet, hydrostatic": lambda atoms, **pressure: FrechetCellFilter(
        atoms, hydrostatic_strain=True, exp_cell_factor=3.0, **pressure
    ),
    "frechet, constant volume": lambda atoms, **pressure: FrechetCellFilter(
        atoms, constant_volume=True, **pressure
    ),
    "frechet, skewed mask": lambda atoms, **pressure: FrechetCellFilter(
        atoms, mask=[[1, 0, 1], [0, 1, 1], [0, 0, 1]], **pressure
    ),
    "exp": lambda atoms, **pressure: ExpCellFilter(atoms, **pressure),
    "strain": lambda atoms, **pressure: StrainFilter(atoms, mask=[1, 1, 1, 0, 1, 1]),
}
METHODS = {
    "FIRE": (ase.optimize.FIRE, FIRE, {}),
    "FIRE, downhill_check": (
        *(ase.optimize.FIRE, FIRE),
        {"downhill_check": True, "dtmax": 3.0, "maxstep": 0.5},
    ),
    "FIRE2": (ase.optimize.FIRE2, FIRE2, {}),
    "LBFGS": (ase.optimize.LBFGS, LBFGS, {}),
    "MDMin": (ase.optimize.MDMin, MDMin, {"dt": 0.05}),
}


def filtered(structures, name):
    """Put a filter on all structures, under pressure on the last."""
    make = FILTERS[name]
    return [make(a) for a in structures[:-1]] + [make(structures[-1], **PRESSURE)]


def frames_of(optimizer, structures, steps):
    frames = []
    optimizer.attach(
        lambda: frames.append([(a.positions.copy(), a.cell.array.copy()) for a in structures])
    )
    optimizer.run(fmax=0, steps=steps)
    return frames


EVERY = ["unit cell", "frechet", "strain"]
#: One method with each kind of filter, and each other method with one of them.
FAST = {("FIRE", name) for name in FILTERS if "," not in name}
FAST |= {("LBFGS", "frechet"), ("FIRE2", "unit cell"), ("MDMin", "strain")}
PAIRS = [
    pytest.param(method, name, marks=() if (method, name) in FAST else pytest.mark.slow)
    for method in METHODS
    for name in (FILTERS if method == "FIRE" else EVERY)
]


@pytest.mark.parametrize(("method", "name"), PAIRS)
def test_every_step_is_ases(method, name):
    theirs, ours, options = METHODS[method]
    # ASE's L-BFGS divides by zero where nothing is left to move, as a strain soon has.
    steps = 12 if (name, method) == ("strain", "LBFGS") else 40
    structures = with_calculators(crystals(), counting=True)
    batch = with_calculators(crystals() + crystals(), counting=False)
    # Each among free ones, and the metals among each other.
    items = filtered(batch[:3], name) + batch[3:]
    runs = {}
    for rows in ([0, 3], [1, 2, 4, 5]):
        optimizer = ours([items[row] for row in rows], **QUIET, **options)
        frames = frames_of(optimizer, [batch[row] for row in rows], steps)
        for place, row in enumerate(rows):
            runs[row] = [frame[place] for frame in frames], optimizer.results[place]
    for index, item in enumerate(filtered(structures, name)):
        frames, result = runs[index]
        reference = theirs(item, **QUIET, **options)
        expected = frames_of(reference, [structures[index]], steps)
        assert_steps_are_ases(method, name, frames, expected)
        if "downhill_check" not in options and ours is not LBFGS:
            assert result.evaluations == structures[index].calc.calls


def assert_steps_are_ases(method, name, frames, expected):
    tolerance = 1e-10 if name in ("none", "some atoms") else 1e-8
    # MDMin and a slab that moves as a whole amplify the last bit.
    late = max(tolerance, 1e-7) if method == "MDMin" else tolerance
    for step, (own, ((positions, cell),)) in enumerate(zip(frames, expected, strict=True)):
        limit = tolerance if step < 20 else late
        assert np.abs(own[0] - positions).max() < limit, step
        assert np.abs(own[1] - cell).max() < limit, step


HESSIANS = {
    kind.__name__: (getattr(ase.optimize, kind.__name__), kind, {})
    for kind in (BFGS, GoodOldQuasiNewton, RFO)
}
ALONE = [
    pytest.param(method, name, marks=() if method == "FIRE" and name == "frechet" else SLOW)
    for method in (*METHODS, *HESSIANS)
    for name in EVERY
]


@pytest.mark.parametrize("how", ["engine", "list"])
@pytest.mark.parametrize(("method", "name"), ALONE)
def test_one_filter_by_the_engine_is_one_filter_by_ase(method, name, how):
    theirs, ours, options = (METHODS | HESSIANS)[method]
    # ASE's L-BFGS divides by zero where nothing is left to move, as a strain soon has.
    steps = 12 if (name, method) == ("strain", "LBFGS") else 40
    structures = with_calculators(crystals(), counting=True)
    singles = with_calculators(crystals(), counting=False)
    items, references = filtered(singles, name), filtered(structures, name)
    for atoms, item, other, reference in zip(singles, items, structures, references, strict=True):
        if how == "engine":
            optimizer = ours(item, engine=True, **QUIET, **options)
        else:
            optimizer = ours([item], **QUIET, **options)
        assert optimizer.engine is not None
        frames = [frame for (frame,) in frames_of(optimizer, [atoms], steps)]
        expected = frames_of(theirs(reference, **QUIET, **options), [other], steps)
        assert_steps_are_ases(method, name, frames, expected)
        if "downhill_check" not in options and ours is not LBFGS:
            assert optimizer.results[0].evaluations == other.calc.calls
    assert ours(items[0], **QUIET, **options).engine is None


SEARCHES = {"BFGSLineSearch": BFGSLineSearch, "LBFGSLineSearch": LBFGSLineSearch}


@pytest.mark.parametrize(
    ("method", "name"),
    [("BFGSLineSearch", "none"), ("LBFGSLineSearch", "unit cell")]
    + [pytest.param("BFGSLineSearch", name, marks=pytest.mark.slow) for name in EVERY]
    + [
        pytest.param("LBFGSLineSearch", name, marks=pytest.mark.slow)
        for name in ("none", "frechet", "strain")
    ],
)
def test_every_step_of_a_search_is_ases(method, name):
    structures = with_calculators(crystals(), counting=True)
    batch = with_calculators(crystals() + crystals(), counting=False)
    items = filtered(batch[:3], name) + batch[3:]
    runs = {}
    for rows in ([0, 3], [1, 2, 4, 5]):
        optimizer = SEARCHES[method]([items[row] for row in rows], **QUIET)
        frames = frames_of(optimizer, [batch[row] for row in rows], 20)
        for place, row in enumerate(rows):
            runs[row] = [frame[place] for frame in frames], optimizer.results[place]
    for index, item in enumerate(filtered(structures, name)):
        frames, result = runs[index]
        reference, steps = getattr(ase.optimize, method)(item, **QUIET), 0
        for step, _ in enumerate(reference.irun(fmax=0, steps=20)):
            if np.abs(item.get_forces()).max() < 1e-3:
                break  # the last bit of the energy decides about trials, in ASE too
            own = frames[step]
            assert np.abs(own[0] - structures[index].positions).max() < 1e-8, (index, step)
            assert np.abs(own[1] - structures[index].cell).max() < 1e-8, (index, step)
            steps = step
        assert steps > 5
        assert not result.outcome.failed


#: Their steps are compared with ASE's where filters are fields of a batch, in tests/dynamics.
OTHERS = HESSIANS | {
    kind.__name__: (getattr(ase.optimize, kind.__name__), kind, {})
    for kind in (BFGSLineSearch, LBFGSLineSearch)
}
FAST_ENDS = {("FIRE", "some atoms"), ("FIRE", "strain"), ("FIRE2", "unit cell")}
FAST_ENDS |= {(method, "frechet") for method in ("FIRE", "LBFGS", *OTHERS)}
ENDS = [
    pytest.param(method, name, marks=() if (method, name) in FAST_ENDS else pytest.mark.slow)
    for method in (*METHODS, *OTHERS)
    for name in ("some atoms", *EVERY)
]


@pytest.mark.parametrize(("method", "name"), ENDS)
def test_the_same_converged_step(method, name):
    theirs, ours, options = (METHODS | OTHERS)[method]
    structures = with_calculators(crystals(), counting=True)
    batch = with_calculators(crystals(), counting=False)
    items = filtered(batch, name)
    optimizers = [ours(items[:1], **QUIET, **options), ours(items[1:], **QUIET, **options)]
    results = []
    for optimizer in optimizers:
        optimizer.run(fmax=0.03, steps=150)
        results += optimizer.results
    for own, item, result in zip(items, filtered(structures, name), results, strict=True):
        reference = theirs(item, **QUIET, **options)
        converged = reference.run(fmax=0.03, steps=150)
        assert (result.converged, result.steps) == (converged, reference.nsteps)
        if method.endswith("LineSearch"):
            # ASE goes to each trial twice, and computes again where rounding has moved a filter.
            assert result.evaluations <= item_calls(item)
        elif "downhill_check" not in options:
            assert result.evaluations == item_calls(item)
        assert result.fmax == pytest.approx(np.linalg.norm(item.get_forces(), axis=1).max())
        np.testing.assert_allclose(own.get_positions(), item.get_positions(), atol=1e-6)
        np.testing.assert_allclose(own.get_forces(), item.get_forces(), atol=1e-6)


# -------------------------------------------------------------------------------- as a user


def gold(count=3):
    structures = [strained(bulk("Au") * (2, 1, 1), seed) for seed in range(count)]
    for seed, atoms in enumerate(structures):
        atoms.rattle(0.03, seed=seed)
        atoms.calc = EMT()
    return structures


def test_atoms_filters_and_results_are_the_users_own():
    structures = gold()
    items = [FrechetCellFilter(structures[0]), structures[1], StrainFilter(structures[2])]
    optimizer = FIRE(items, **QUIET)
    assert optimizer.atoms == items
    assert optimizer.run(fmax=0.02, steps=300)
    assert [result.atoms for result in optimizer.results] == structures
    for item in items:
        assert np.linalg.norm(item.get_forces(), axis=1).max() < 0.02
        assert item.calc.results["energy"] == item.get_potential_energy()
    assert np.abs(structures[0].get_stress()).max() < 1e-3
    assert np.abs(items[2].strain).max() > 1e-3


@pytest.mark.parametrize("name", FILTERS)
def test_filters_and_calculators_are_left_as_ase_leaves_them(name):
    several, alone = with_calculators(crystals()[1:], True), with_calculators(crystals()[1:], True)
    items, references = (filtered(structures, name) for structures in (several, alone))
    FIRE([*items, gold(1)[0]], **QUIET).run(fmax=0, steps=8)
    for item, reference, own, other in zip(items, references, several, alone, strict=True):
        ase.optimize.FIRE(reference, **QUIET).run(fmax=0, steps=8)
        assert own.calc.results.keys() == other.calc.results.keys()
        for key, value in other.calc.results.items():
            np.testing.assert_allclose(own.calc.results[key], value, atol=1e-9, err_msg=key)
        assert vars(item).keys() == vars(reference).keys()
        told = ["stress", "strain", "cell_factor", "exp_cell_factor", "mask", "orig_cell"]
        for attribute in (*told, "scalar_pressure", "origcell", "index", "n"):
            if hasattr(reference, attribute):
                values = (getattr(each, attribute) for each in (item, reference))
                np.testing.assert_allclose(*values, atol=1e-9, err_msg=attribute)
        asked = ["get_positions", "get_forces", "get_potential_energy", "deform_grad", "copy"]
        before = item_calls(item)
        for method in asked:
            if hasattr(reference, method) and not isinstance(reference, Atoms):
                values = (getattr(each, method)() for each in (item, reference))
                values = (v.positions if isinstance(v, Atoms) else v for v in values)
                np.testing.assert_allclose(*values, atol=1e-9, err_msg=method)
        assert item_calls(item) == before
        if hasattr(reference, "arrays"):
            assert item.arrays is own.arrays


def test_the_optimizable_of_a_list_is_that_of_its_items():
    structures = gold()
    items = [UnitCellFilter(structures[0]), structures[1], StrainFilter(structures[2])]
    optimizer = FIRE(items, **QUIET)
    parts = [item.__ase_optimizable__() for item in items]
    whole = optimizer.optimizable
    assert whole.ndofs() == sum(part.ndofs() for part in parts)
    x = np.concatenate([part.get_x() for part in parts])
    np.testing.assert_allclose(whole.get_x(), x, atol=1e-12)
    gradients = np.concatenate([part.get_gradient() for part in parts])
    np.testing.assert_allclose(whole.get_gradient(), gradients, atol=1e-10)
    assert whole.get_value() == pytest.approx(sum(part.get_value() for part in parts))
    whole.set_x(x + 0.01)
    np.testing.assert_allclose(whole.get_x(), x + 0.01, atol=1e-12)
    np.testing.assert_allclose(items[2].get_positions(), 0.01, atol=1e-12)


def test_a_pressure_that_is_set_on_the_way_is_taken_up():
    one, other = gold(2), gold(2)
    for structures, run in ((one, "list"), (other, "ase")):
        filters = [FrechetCellFilter(atoms) for atoms in structures]
        made = [FIRE(filters, **QUIET)]
        if run == "ase":
            made = [ase.optimize.FIRE(item, **QUIET) for item in filters]
        for optimizer in made:
            optimizer.run(fmax=0, steps=5)
        for item in filters:
            item.scalar_pressure = 0.05
        for optimizer in made:
            optimizer.run(fmax=0, steps=5)
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_allclose(ours.cell, theirs.cell, atol=1e-10)


@pytest.mark.parametrize("make", [FIRE, LBFGS, LBFGSLineSearch])
@pytest.mark.parametrize("log", [None, "run.log"])
def test_a_run_may_go_on_wherever_systems_had_left(make, log, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def items():
        structures = gold(6)
        kinds = [FrechetCellFilter, UnitCellFilter, StrainFilter]
        wrapped = [kind(atoms) for kind, atoms in zip(kinds, structures, strict=False)]
        return structures, wrapped + structures[3:]

    whole, moved = items()
    make(moved, logfile=log).run(fmax=0.08, steps=40)
    for first in (3, 10):
        parts, moved = items()
        optimizer = make(moved, logfile=log)
        optimizer.run(fmax=0.08, steps=first)
        optimizer.run(fmax=0.08, steps=40 - first)
        for own, other in zip(parts, whole, strict=True):
            np.testing.assert_allclose(own.positions, other.positions, atol=1e-9)
            np.testing.assert_allclose(own.cell, other.cell, atol=1e-9)


def test_other_atoms_may_be_shown_on_the_way():
    structures, alone = gold(2), gold(2)
    several = [Filter(atoms, indices=[0]) for atoms in structures]
    optimizer = FIRE([several[0], structures[1]], **QUIET)
    item = Filter(alone[0], indices=[0])
    reference = ase.optimize.FIRE(item, **QUIET)
    for run, shown in ((optimizer, several[0]), (reference, item)):
        run.run(fmax=0, steps=4)
        shown.index, shown.n = np.array([1]), 1
        run.run(fmax=0, steps=4)
    np.testing.assert_allclose(structures[0].positions, alone[0].positions, atol=1e-10)


class NoStress(EMT):
    implemented_properties = ("energy", "forces")


def test_a_cell_needs_a_calculator_with_stress():
    structures = gold(2)
    structures[1].calc = NoStress()
    with pytest.raises(StructureError, match="structure 1: its cell is to move, and NoStress"):
        FIRE([structures[0], FrechetCellFilter(structures[1])], **QUIET)
    FIRE([FrechetCellFilter(structures[0]), structures[1]], **QUIET).run(fmax=0.05, steps=3)
    FIRE([Filter(structures[1], indices=[0])], **QUIET).run(fmax=0.05, steps=3)
    result = next(relax([structures[1]], cell_filter="FrechetCellFilter"))
    assert (result.outcome, "NoStress has no stress" in result.reason) == (Outcome.REJECTED, True)


def test_energies_of_results_and_log_are_those_of_the_atoms(tmp_path):
    structures = gold(2)
    structures[0].set_constraint(Hookean(0, 1, rt=1.0, k=2.0))
    log = tmp_path / "log"
    optimizer = FIRE([FrechetCellFilter(structures[0]), structures[1]], logfile=str(log))
    optimizer.run(fmax=0.05, steps=3)
    energies = [atoms.get_potential_energy() for atoms in structures]
    assert [result.energy for result in optimizer.results] == pytest.approx(energies)
    per_atom = sum(energies) / sum(map(len, structures))
    assert float(log.read_text().split()[-2]) == pytest.approx(per_atom, abs=1e-6)


def test_what_the_engine_cannot_move_is_said():
    structures = gold()

    class Mine(UnitCellFilter):
        pass

    refused = {
        "a Mine is neither": Mine(structures[0]),
        "do not ascend": Filter(structures[0], indices=[1, 0]),
        "shows no atoms": Filter(structures[0], indices=[]),
        "filter on a Filter": Filter(Filter(structures[0], indices=[0, 1]), indices=[0]),
        "include_ideal_gas": StrainFilter(structures[0], include_ideal_gas=True),
    }
    for reason, item in refused.items():
        with pytest.raises(TypeError, match=f"item 1 .*{reason}"):
            FIRE([structures[1], item], **QUIET)
        assert FIRE(item, **QUIET).engine is None
    with pytest.raises(TypeError, match="FrechetCellFilter is not an Atoms"):
        VelocityVerlet([FrechetCellFilter(structures[0])], timestep=1.0)
    with pytest.raises(StructureError, match="same object as structure 0"):
        FIRE([structures[0], FrechetCellFilter(structures[0])], **QUIET)


def test_a_cell_that_collapses_leaves_with_that_reason():
    structures = gold()
    filters = [FrechetCellFilter(a) for a in structures]
    filters[1] = UnitCellFilter(structures[1], scalar_pressure=1e3)
    optimizer = FIRE(filters, maxstep=5.0, **QUIET)
    optimizer.run(fmax=0.02, steps=100)
    assert [r.outcome for r in optimizer.results].count(Outcome.CONVERGED) == 2
    assert "its cell collapsed" in optimizer.results[1].reason


@pytest.mark.parametrize("make", [FIRE, LBFGS, BFGS, RFO, GoodOldQuasiNewton])
def test_a_restart_file_of_filters_goes_on(make, tmp_path):
    structures = gold()
    path = str(tmp_path / "restart.json")

    def filters():
        return [FrechetCellFilter(structures[0]), structures[1], StrainFilter(structures[2])]

    items = filters()
    make(items, restart=path, **QUIET).run(fmax=0, steps=4)
    again = filters()
    make(again, restart=path, **QUIET).run(fmax=0, steps=4)
    expected = gold()
    whole = [FrechetCellFilter(expected[0]), expected[1], StrainFilter(expected[2])]
    make(whole, **QUIET).run(fmax=0, steps=8)
    for own, other in zip(structures, expected, strict=True):
        np.testing.assert_allclose(own.positions, other.positions, atol=1e-10)
        np.testing.assert_allclose(own.cell, other.cell, atol=1e-10)
    other = [UnitCellFilter(structures[0]), structures[1], StrainFilter(structures[2])]
    with pytest.raises(RestartError, match="other filters"):
        make(other, restart=path, **QUIET)
