"""What the optimizers with a Hessian have beyond what every optimizer has."""

import ase.optimize
import numpy as np
import pytest
from ase.filters import FrechetCellFilter, UnitCellFilter

import nvdyn_ase.optimize
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.optimize import BFGS, RFO, CellAwareBFGS, GoodOldQuasiNewton
from tests.facades.test_lists import Silent, metals

QUIET = {"logfile": None}


@pytest.mark.parametrize("method", ["BFGS", "RFO"])
@pytest.mark.parametrize("wrap", [lambda atoms: atoms, UnitCellFilter])
def test_restart_files_of_one_go_from_ase_to_the_engine_and_back(method, wrap, tmp_path):
    ours, theirs = getattr(nvdyn_ase.optimize, method), getattr(ase.optimize, method)
    whole = metals(1)[0]
    theirs(wrap(whole), **QUIET).run(fmax=0, steps=9)
    path = str(tmp_path / "restart.json")
    atoms = metals(1)[0]
    for kind, options in ((theirs, {}), (ours, {"engine": True}), (theirs, {})):
        kind(wrap(atoms), restart=path, **QUIET, **options).run(fmax=0, steps=3)
    np.testing.assert_allclose(atoms.positions, whole.positions, atol=1e-10)
    np.testing.assert_allclose(atoms.cell, whole.cell, atol=1e-10)


@pytest.mark.parametrize("kind", [BFGS, RFO])
def test_hessians_are_seen_and_the_first_may_be_set(kind):
    optimizer, reference = kind(metals(1)[0], engine=True, **QUIET), metals(1)[0]
    theirs = getattr(ase.optimize, kind.__name__)(reference, **QUIET)
    for one in (optimizer, theirs):
        assert np.array_equal(one.H0, 70.0 * np.eye(12))
        one.H0 = 30.0 * np.eye(12)
        one.run(fmax=0, steps=5)
    np.testing.assert_allclose(optimizer.H, theirs.H, atol=1e-7)
    np.testing.assert_allclose(optimizer.atoms.positions, reference.positions, atol=1e-12)
    several = kind(metals(2), alpha=[10.0, 20.0], **QUIET)
    assert [matrix[0, 0] for matrix in several.H0] == [10.0, 20.0]
    several.run(fmax=0, steps=2)
    assert [matrix.shape for matrix in several.H] == [(12, 12)] * 2
    for wrong in ([np.eye(12)], [np.eye(12), np.eye(3)]):
        with pytest.raises(ValueError, match="Hessian"):
            several.H0 = wrong


def test_parameters_per_system():
    structures, values = metals(3), {"maxstep": [0.02, 0.2, 0.1], "alpha": [70.0, 30.0, 50.0]}
    optimizer = BFGS(structures, **values, **QUIET)
    assert optimizer.maxstep.tolist() == values["maxstep"]
    optimizer.run(fmax=0, steps=5)
    for index, atoms in enumerate(metals(3)):
        own = {name: value[index] for name, value in values.items()}
        ase.optimize.BFGS(atoms, **own, **QUIET).run(fmax=0, steps=5)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-12)


def test_a_hessian_that_blows_up_is_told_and_leaves_the_others_alone():
    class Flat(Silent):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["forces"] = np.ones_like(self.results["forces"])

    structures, reference = metals(3, Silent), metals(3, Silent)
    structures[1].calc = Flat()
    optimizer = BFGS(structures, **QUIET)
    optimizer.run(fmax=0, steps=6)
    BFGS(reference, **QUIET).run(fmax=0, steps=6)
    result = optimizer.results[1]
    assert result.outcome is Outcome.EXPLODED
    assert "its Hessian is not finite" in result.reason
    for row in (0, 2):
        assert np.array_equal(structures[row].positions, reference[row].positions)


def test_a_transition_state_is_for_one_atoms():
    with pytest.raises(ValueError, match="transitionstate=True is for one Atoms"):
        GoodOldQuasiNewton(metals(2), transitionstate=True, **QUIET)
    assert GoodOldQuasiNewton(metals(1)[0], transitionstate=True, **QUIET).engine is None


def test_the_hessian_of_good_old_quasi_newton_can_be_set():
    optimizer, reference = GoodOldQuasiNewton(metals(2), **QUIET), metals(2)
    optimizer.set_hessian([30.0 * np.eye(12), 50.0 * np.eye(12)])
    optimizer.run(fmax=0, steps=5)
    for atoms, curvature, own in zip(reference, (30.0, 50.0), optimizer.atoms, strict=True):
        alone = ase.optimize.GoodOldQuasiNewton(atoms, **QUIET)
        alone.set_hessian(curvature * np.eye(12))
        alone.run(fmax=0, steps=5)
        np.testing.assert_allclose(own.positions, atoms.positions, atol=1e-12)
    np.testing.assert_allclose(optimizer.get_hessian()[1], alone.get_hessian(), atol=1e-7)


@pytest.mark.parametrize("look", ["nobody", "asked", "read", "set"])
def test_the_diagonal_counts_until_somebody_asks_for_the_hessian_as_in_ase(look):
    several, alone = metals(2), metals(2)
    made = [GoodOldQuasiNewton(several, **QUIET)]
    made += [ase.optimize.GoodOldQuasiNewton(atoms, **QUIET) for atoms in alone]
    for optimizer in made:
        if look == "asked":
            optimizer.get_hessian()
        elif look == "read" and optimizer is made[0]:  # in ASE it is not there yet
            assert optimizer.hessian[0][0, 0] == 20.0
        elif look == "read":
            optimizer.get_hessian()
        elif look == "set":
            own = 35.0 * np.eye(12)
            optimizer.set_hessian([own, own] if optimizer is made[0] else own)
        optimizer.diagonal = 60.0
        optimizer.run(fmax=0, steps=3)
    for own, other in zip(several, alone, strict=True):
        np.testing.assert_allclose(own.positions, other.positions, atol=1e-12)


def test_a_diagonal_has_to_be_a_number():
    with pytest.raises(ValueError, match="diagonal=None"):
        GoodOldQuasiNewton(metals(2), diagonal=None, **QUIET)


def cells(count=3):
    return [FrechetCellFilter(atoms, exp_cell_factor=1.0) for atoms in metals(count)]


@pytest.mark.parametrize("limits", [{"fmax": 0.02, "smax": 0.001}, {"fmax": 0.5, "smax": 2e-4}])
def test_cell_aware_bfgs_ends_where_ases_does(limits):
    items = cells()
    optimizer = CellAwareBFGS(items, **QUIET)
    assert optimizer.run(**limits) is True
    for result, item, own in zip(optimizer.results, cells(), items, strict=True):
        alone = ase.optimize.CellAwareBFGS(item, **QUIET)
        assert alone.run(**limits)
        assert result.converged
        assert result.steps == alone.nsteps
        np.testing.assert_allclose(own.atoms.cell, item.atoms.cell, atol=1e-10)
        forces = np.linalg.norm(item.atoms.get_forces(), axis=1)
        assert result.fmax == pytest.approx(forces.max(), abs=1e-10)


def test_cell_aware_bfgs_takes_limits_and_stiffness_per_system():
    items, moduli = cells(), [0.6, 0.9, 1.2]
    optimizer = CellAwareBFGS(items, bulk_modulus=moduli, **QUIET)
    assert optimizer.run(fmax=0.1, smax=[0.01, 0.001, 0.0005])
    for index, item in enumerate(cells()):
        alone = ase.optimize.CellAwareBFGS(item, bulk_modulus=moduli[index], **QUIET)
        alone.run(fmax=0.1, smax=[0.01, 0.001, 0.0005][index])
        assert optimizer.results[index].steps == alone.nsteps


@pytest.mark.parametrize("item", [lambda a: a, UnitCellFilter, FrechetCellFilter])
def test_cell_aware_bfgs_says_which_filter_it_needs(item):
    with pytest.raises(TypeError, match=r"FrechetCellFilter\(atoms, exp_cell_factor=1\.0"):
        CellAwareBFGS([item(atoms) for atoms in metals(2)], **QUIET)
