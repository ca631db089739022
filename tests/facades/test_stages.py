"""``relax + md`` on facades: what three runs one after the other would have done."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.filters import FrechetCellFilter
from ase.units import fs

from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.md.langevin import Langevin
from nvdyn_ase.md.verlet import VelocityVerlet
from nvdyn_ase.optimize import FIRE, LBFGS
from nvdyn_ase.optimize.stages import Stages
from tests.facades.test_lists import metals
from tests.systems import mixed


def systems(count=7):
    structures = mixed(count)
    for atoms in structures:
        atoms.calc = EMT()
    return structures


def methods(structures):
    heat = {"timestep": 2 * fs, "temperature_K": 400, "friction": 0.02 / fs, "fixcm": False}
    relax, quench = (kind(structures, logfile=None) for kind in (FIRE, LBFGS))
    return relax, Langevin(structures, seed=4, **heat), quench


def test_stages_are_runs_one_after_the_other():
    together, apart = systems(), systems()
    relax, heat, quench = methods(together)
    stages = relax + heat + quench
    done = stages.run(fmax=[0.1, 0.1, 0.03], steps=[200, 40, 300])
    relax, heat, quench = methods(apart)
    relax.run(fmax=0.1, steps=200)
    heat.run(40)
    assert done == quench.run(fmax=0.03, steps=300)
    for one, other, result, last in zip(
        together, apart, stages.results, quench.results, strict=True
    ):
        np.testing.assert_array_equal(one.positions, other.positions)
        np.testing.assert_array_equal(one.get_momenta(), other.get_momenta())
        assert one.get_potential_energy() == other.get_potential_energy()
        assert result.stage_steps[1] == 40
        assert result.outcome is last.outcome


def test_a_list_of_temperatures_is_of_the_structures():
    structures = systems(3)
    hot = Langevin(structures, 2 * fs, temperature_K=[1, 300, 2000], friction=0.5 / fs, seed=1)
    (FIRE(structures) + hot).run(fmax=0.05, steps=[200, 60])
    found = [atoms.get_kinetic_energy() / len(atoms) for atoms in structures]
    assert found == sorted(found)


def test_filters_are_for_the_optimizers_and_observers_see_current_atoms():
    structures = [bulk("Cu") * 2, bulk("Au") * 2]
    for atoms in structures:
        atoms.set_cell(atoms.cell * 1.03, scale_atoms=True)
        atoms.calc = EMT()
    seen = []
    relax = FIRE([FrechetCellFilter(atoms) for atoms in structures])
    stages = relax + VelocityVerlet(structures, timestep=1 * fs)
    stages.attach(lambda: seen.append(structures[0].cell.volume), interval=2)
    stages.run(fmax=0.01, steps=[100, 5])
    assert len(seen) == stages.nsteps // 2
    assert seen[-1] == structures[0].cell.volume
    assert [result.stage_steps[1] for result in stages.results] == [5, 5]
    assert {result.outcome for result in stages.results} == {Outcome.BUDGET}


def test_what_cannot_be_stages(tmp_path):
    structures = systems(2)
    relax = FIRE(structures)
    with pytest.raises(TypeError, match="not int"):
        relax + 1
    with pytest.raises(TypeError, match="engine=True"):
        relax + FIRE(structures[0])
    with pytest.raises(ValueError, match="same list"):
        relax + LBFGS(systems(2))
    with pytest.raises(ValueError, match="2 values for 3 stages"):
        (relax + VelocityVerlet(structures, 1 * fs) + LBFGS(structures)).run(steps=[1, 2])
    with pytest.raises(ValueError, match="never ends"):
        (relax + VelocityVerlet(structures, 1 * fs)).run()
    for kind in (FIRE, LBFGS):
        watched = kind(structures)
        watched.attach(print)
        with pytest.raises(ValueError, match=f"{kind.__name__} has observers"):
            relax + watched
    with pytest.raises(ValueError, match="VelocityVerlet has observers"):
        relax + VelocityVerlet(structures, 1 * fs, trajectory=[str(tmp_path / n) for n in "ab"])
    assert repr(relax + LBFGS(structures)) == "Stages(FIRE + LBFGS, 2 structures)"
    assert isinstance(relax + (LBFGS(structures) + LBFGS(structures)), Stages)


@pytest.mark.parametrize("when", ["before", "observer"])
def test_calculators_that_change_before_or_in_a_run(when):
    structures = metals(2)
    stages = FIRE(structures, logfile=None) + FIRE(structures, logfile=None)

    def change():
        for atoms in structures:
            atoms.calc = LennardJones(sigma=2.2, epsilon=0.3, rc=5.0)

    if when == "before":
        change()
    else:
        stages.attach(lambda: change() if stages.nsteps == 2 else None)
    stages.run(fmax=0.0, steps=[3, 3])
    for atoms, result in zip(structures, stages.results, strict=True):
        fresh = atoms.copy()
        fresh.calc = LennardJones(sigma=2.2, epsilon=0.3, rc=5.0)
        assert atoms.get_potential_energy() == pytest.approx(fresh.get_potential_energy())
        assert result.energy == pytest.approx(fresh.get_potential_energy())
