"""What L-BFGS has beyond what every optimizer has."""

import ase.optimize
import numpy as np
import pytest
from ase.io import read

import nvdyn_ase.optimize
from nvdyn_ase.optimize import LBFGS
from nvdyn_ase.workflows import relax
from tests.facades.test_lists import metals


def test_scaled_needs_fewer_evaluations():
    def evaluations(**options):
        optimizer = LBFGS(metals(6), logfile=None, **options)
        assert optimizer.run(fmax=0.01, steps=300)
        return sum(result.evaluations for result in optimizer.results)

    assert evaluations(scaled=True) < 0.6 * evaluations()


def test_scaled_moves_one_atoms_by_the_engine():
    one, several = metals(1), metals(2)
    optimizer = LBFGS(one[0], logfile=None, scaled=True)
    assert optimizer.engine is not None
    optimizer.run(fmax=0.01)
    LBFGS(several, logfile=None, scaled=True).run(fmax=0.01)
    assert np.array_equal(one[0].positions, several[0].positions)


def test_parameters_per_system():
    values = {"maxstep": [0.05, 0.2, 0.1], "damping": [0.9, 0.7, 1.0], "alpha": [70.0, 30.0, 50.0]}
    structures = metals(3)
    optimizer = LBFGS(structures, logfile=None, **values)
    assert optimizer.maxstep.tolist() == values["maxstep"]
    optimizer.run(fmax=0, steps=8)
    optimizer.maxstep = 0.01
    optimizer.run(fmax=0, steps=2)
    for index, atoms in enumerate(metals(3)):
        own = {name: value[index] for name, value in values.items()}
        alone = ase.optimize.LBFGS(atoms, logfile=None, **own)
        alone.run(fmax=0, steps=8)
        alone.maxstep = 0.01
        alone.run(fmax=0, steps=2)
        np.testing.assert_allclose(structures[index].positions, atoms.positions, atol=1e-12)
    assert optimizer.force_calls == alone.force_calls == 10


def test_too_large_a_step_is_refused_as_in_ase():
    for atoms in (metals(1)[0], metals(2)):
        with pytest.raises(ValueError, match="too large"):
            LBFGS(atoms, maxstep=1.5)
    with pytest.raises(ValueError, match="too large"):
        LBFGS(metals(2), maxstep=[0.1, 1.5])


@pytest.mark.parametrize("memory", [100, 4])
def test_a_replayed_trajectory_is_as_in_ase(memory, tmp_path):
    whole, parts = metals(1)[0], metals(1)[0]
    for atoms, engine in ((whole, False), (parts, True)):
        path = str(tmp_path / f"{engine}.traj")
        ase.optimize.LBFGS(atoms, logfile=None, trajectory=path, memory=memory).run(0, steps=7)
        optimizer = LBFGS(atoms, logfile=None, memory=memory, engine=engine)
        optimizer.replay_trajectory(path)
        optimizer.run(fmax=0, steps=5)
    np.testing.assert_allclose(parts.positions, whole.positions, atol=1e-12)


@pytest.mark.parametrize("method", ["LBFGS", "BFGS", "RFO"])
@pytest.mark.parametrize("form", ["pattern", "names", "images"])
def test_each_system_of_a_list_is_replayed(method, form, tmp_path):
    ours, theirs = getattr(nvdyn_ase.optimize, method), getattr(ase.optimize, method)
    structures, references = metals(3), metals(3)
    names = [str(tmp_path / f"{index}.traj") for index in range(3)]
    for atoms, reference, name in zip(structures, references, names, strict=True):
        theirs(reference, logfile=None, trajectory=name).run(fmax=0, steps=6)
        atoms.positions[:] = reference.positions
        alone = theirs(reference, logfile=None)
        alone.replay_trajectory(name)
        alone.run(fmax=0, steps=5)
    optimizer = ours(structures, logfile=None)
    given = {"pattern": str(tmp_path / "{index}.traj"), "names": names}
    optimizer.replay_trajectory(given[form] if form in given else [read(n, ":") for n in names])
    optimizer.run(fmax=0, steps=5)
    for atoms, reference in zip(structures, references, strict=True):
        np.testing.assert_allclose(atoms.positions, reference.positions, atol=1e-12)
    with pytest.raises(ValueError, match="2 trajectories for 3"):
        optimizer.replay_trajectory(names[:2])


def test_streams_find_it_by_name():
    structures = metals(3)
    results = list(relax(structures, optimizer="LBFGS", fmax=0.01, scaled=True))
    assert all(result.converged for result in results)
