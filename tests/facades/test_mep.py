"""``ase.mep`` with the import changed."""

import inspect

import ase.mep
import ase.optimize
import numpy as np
import pytest
from ase.build import add_adsorbate, fcc100
from ase.calculators.emt import EMT
from ase.constraints import FixAtoms

import nvdyn_ase.mep
import nvdyn_ase.mep.neb
import nvdyn_ase.optimize
from tests.facades.test_lists import metals

ONE = [nvdyn_ase.mep.MinModeAtoms, nvdyn_ase.mep.MinModeTranslate, nvdyn_ase.mep.neb.NEBOptimizer]


def hollow():
    """Return an atom in a hollow of a held layer."""
    atoms = fcc100("Pt", size=(2, 2, 1), vacuum=10.0)
    add_adsorbate(atoms, "Pt", 1.611, "hollow")
    atoms.set_constraint(FixAtoms(mask=atoms.get_tags() > 0))
    atoms.calc = EMT()
    atoms.get_potential_energy()
    return atoms


def saddle(mep):
    """Return positions, barrier and curvature where the dimer of a module finds a saddle point."""
    displacement = np.zeros((5, 3))
    displacement[-1, 1] = -0.1
    method = {"initial_eigenmode_method": "displacement", "displacement_method": "vector"}
    with mep.DimerControl(logfile=None, mask=[0, 0, 0, 0, 1], **method) as control:
        atoms = mep.MinModeAtoms(hollow(), control, random_seed=1)
        atoms.displace(displacement_vector=displacement)
        with mep.MinModeTranslate(dimeratoms=atoms, logfile=None) as search:
            search.run(fmax=0.001)
    return *atoms.get_positions().ravel(), atoms.get_barrier_energy(), atoms.get_curvature()


def test_a_saddle_point_is_where_ase_finds_it():
    found = saddle(nvdyn_ase.mep)
    assert found == saddle(ase.mep)
    assert found[-1] < 0 < found[-2]


@pytest.mark.parametrize("kind", ONE)
def test_a_list_is_refused_with_who_takes_one(kind):
    first = next(iter(inspect.signature(kind).parameters))
    who = rf"{kind.__name__} .*BFGS, .*FIRE, FIRE2, .*MDMin.* of nvdyn_ase.optimize take a list"
    with pytest.raises(TypeError, match=who):
        kind(metals(2))
    with pytest.raises(TypeError, match=who):
        kind(**{first: metals(2)})


def test_a_band_is_relaxed_as_in_ase():
    bands = []
    for mep, optimizer in ((nvdyn_ase.mep, nvdyn_ase.optimize.BFGS), (ase.mep, ase.optimize.BFGS)):
        images = [hollow() for _ in range(4)]
        images[-1].positions[-1, 0] += images[0].cell[0, 0] / 2
        band = mep.NEB(images, climb=True, method="improvedtangent")
        mep.interpolate(images)
        optimizer(band, logfile=None).run(fmax=0.05, steps=4)
        bands.append(band.get_positions())
    assert np.array_equal(*bands)
