"""Code of other packages that is handed an optimizer class, as they are written today."""

import contextlib
import io
import pickle
import sys

import ase.optimize
import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.io.trajectory import Trajectory

import nvdyn_ase.optimize
from nvdyn_ase.optimize.optimize import OptimizerFacade

OPTIMIZERS = [
    name
    for name in nvdyn_ase.optimize.__all__
    if issubclass(getattr(nvdyn_ase.optimize, name), OptimizerFacade) and "CellAware" not in name
]


class Observer:
    """Keeps what a trajectory of a relaxation is made of, and pickles it, as chgnet does."""

    def __init__(self, atoms):
        self.atoms = atoms
        self.energies, self.forces, self.stresses = [], [], []
        self.positions, self.cells = [], []

    def __call__(self):
        self.energies.append(self.atoms.get_potential_energy())
        self.forces.append(self.atoms.get_forces())
        self.stresses.append(self.atoms.get_stress())
        self.positions.append(self.atoms.get_positions())
        self.cells.append(self.atoms.get_cell()[:])

    def __len__(self):
        return len(self.energies)

    def save(self, filename):
        contents = {"energy": self.energies, "cell": self.cells, "numbers": self.atoms.numbers}
        with open(filename, "wb") as file:
            pickle.dump(contents, file)


def relax(atoms, optimizer, cell_filter=None, fmax=0.05, steps=200, interval=1, save=None):
    """Relax as a structure optimizer of a machine-learning package does, whatever the class."""
    if isinstance(optimizer, str):
        optimizer = getattr(nvdyn_ase.optimize, optimizer)
    assert issubclass(optimizer, ase.optimize.optimize.Optimizer)
    stream = io.StringIO()
    with contextlib.redirect_stdout(stream):
        observer = Observer(atoms)
        moved = atoms if cell_filter is None else cell_filter(atoms)
        run = optimizer(moved)
        run.attach(observer, interval=interval)
        run.run(fmax=fmax, steps=steps)
        observer()
    if save:
        observer.save(save)
    return observer, stream.getvalue(), run


def relax_with_files(atoms, optimizer, folder, fmax=0.05, steps=200):
    """Relax with an open trajectory and a log file in a ``with`` block, as workflow engines do."""
    log, trajectory = folder / "opt.log", folder / "opt.traj"
    with (
        Trajectory(str(trajectory), "w", atoms=atoms) as frames,
        optimizer(atoms, logfile=str(log), trajectory=frames) as run,
    ):
        for _ in run.irun(fmax=fmax, steps=steps):
            pass
    return log.read_text(), Trajectory(str(trajectory)), run


def lines_of(log, name):
    """Return the words of each step's line, without the time; ASE's GoodOldQuasiNewton has more."""
    lines = [line.split() for line in log.splitlines() if line.startswith(f"{name}:")]
    return [[word for word in line if word.count(":") != 2] for line in lines]


def crystal(seed=0):
    atoms = bulk("Cu", cubic=True)
    atoms.set_cell(atoms.cell * 1.02, scale_atoms=True)
    atoms.rattle(0.05, seed=seed)
    atoms.calc = EMT()
    return atoms


@pytest.fixture(params=["as it comes", "always"])
def mode(request, monkeypatch):
    if request.param == "always":
        monkeypatch.setenv("NVDYN_ASE_ENGINE", "always")
    return request.param


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("cell_filter", [None, FrechetCellFilter])
def test_a_structure_optimizer_that_is_handed_the_class(name, cell_filter, mode, tmp_path):
    theirs, ours = crystal(), crystal()
    expected, log, reference = relax(theirs, getattr(ase.optimize, name), cell_filter)
    observer, own_log, run = relax(ours, name, cell_filter, save=tmp_path / "out.pkl")
    assert (run.engine is not None) == (mode == "always")
    assert len(observer) == len(expected) == reference.nsteps + 2
    assert run.nsteps == reference.nsteps
    for key in ("energies", "forces", "stresses", "positions", "cells"):
        np.testing.assert_allclose(getattr(observer, key), getattr(expected, key), atol=1e-6)

    assert lines_of(own_log, name) == lines_of(log, name)
    assert sys.stdout is not None


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_an_open_trajectory_and_a_with_block(name, mode, tmp_path):
    theirs, ours = crystal(1), crystal(1)
    for folder in ("theirs", "ours"):
        (tmp_path / folder).mkdir()
    log, frames, reference = relax_with_files(
        theirs, getattr(ase.optimize, name), tmp_path / "theirs"
    )
    own_log, own_frames, run = relax_with_files(
        ours, getattr(nvdyn_ase.optimize, name), tmp_path / "ours"
    )
    assert run.todict() == reference.todict()
    assert len(own_frames) == len(frames)
    assert len(lines_of(own_log, name)) == len(lines_of(log, name))
    np.testing.assert_allclose(own_frames[-1].positions, frames[-1].positions, atol=1e-8)
    assert own_frames[-1].get_potential_energy() == pytest.approx(
        frames[-1].get_potential_energy(), abs=1e-8
    )


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_same_code_with_a_list_of_structures(name):
    structures, alone = [crystal(seed) for seed in range(2)], [crystal(seed) for seed in range(2)]
    run = getattr(nvdyn_ase.optimize, name)(
        [FrechetCellFilter(a) for a in structures], logfile=None
    )
    observers = [Observer(atoms) for atoms in structures]
    for observer in observers:
        run.attach(observer, interval=1)
    assert run.run(fmax=0.05, steps=200)
    for observer, atoms, result in zip(observers, alone, run.results, strict=True):
        reference = getattr(ase.optimize, name)(FrechetCellFilter(atoms), logfile=None)
        reference.run(fmax=0.05, steps=200)
        assert result.steps == reference.nsteps
        np.testing.assert_allclose(observer.positions[-1], atoms.positions, atol=1e-6)
        np.testing.assert_allclose(observer.stresses[-1], atoms.get_stress(), atol=1e-6)
