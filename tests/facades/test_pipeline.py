"""``relax | md`` on facades, over ranks: what ``relax + md`` does on one."""

import os

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.units import fs
from torch.distributed import TCPStore

from nvdyn_ase.dynamics import HookStageEnum, PipelineError
from nvdyn_ase.md.langevin import Langevin
from nvdyn_ase.md.verlet import VelocityVerlet
from nvdyn_ase.optimize import FIRE, LBFGS
from nvdyn_ase.optimize.pipeline import Pipeline
from tests.ranks import results, run_ranks
from tests.systems import mixed


def systems(count=5):
    """Return structures of many kinds, all with one calculator."""
    structures, calculator = mixed(count), EMT()
    for atoms in structures:
        atoms.calc = calculator
    return structures


def methods(structures):
    """Return what is done to structures one after the other, with a temperature of each."""
    relax, quench = (kind(structures, logfile=None) for kind in (FIRE, LBFGS))
    hot = np.linspace(100, 700, len(structures))
    options = {"temperature_K": hot, "friction": 0.02 / fs, "fixcm": False, "seed": 4}
    heat = Langevin(structures, 2 * fs, **options)
    return relax, heat, quench


def told(structures, outcome):
    """Return what a user sees of structures after a run, without new calculations."""
    return [
        (
            *(atoms.positions.copy(), atoms.cell.array.copy(), atoms.get_momenta()),
            *(atoms.get_potential_energy(), atoms.get_forces(), atoms.calc.results["energy"]),
            *(result.converged, result.steps, result.energy, result.fmax),
            *(result.outcome, result.reason, result.atoms is atoms),
        )
        for atoms, result in zip(structures, outcome, strict=True)
    ]


def assert_same(found, expected):
    for row, (one, other) in enumerate(zip(found, expected, strict=True)):
        for own, like in zip(one, other, strict=True):
            np.testing.assert_equal(own, like, err_msg=f"structure {row}")


LIMITS = {"fmax": [0.1, 0.1, 0.03], "steps": [30, 9, 25]}


def with_replicas(rank):
    structures = systems()
    relax, heat, quench = methods(structures)
    pipe = Pipeline([relax + heat, quench], replicas={1: 2})
    return pipe.run(**LIMITS), told(structures, pipe.results)


def test_structures_do_what_they_do_on_one_rank_and_come_back_on_every_rank():
    ranks = results(run_ranks(with_replicas, 3, init=False))
    structures = systems()
    relax, heat, quench = methods(structures)
    stages = relax + heat + quench
    done = stages.run(**LIMITS)
    expected = told(structures, stages.results)
    for found in ranks:
        assert found[0] == done
        assert_same(found[1], expected)


def again_and_again(rank, port):
    os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    structures = [bulk("Cu", cubic=True) for _ in range(3)]
    energies = []
    for seed in range(4):
        for atoms in structures:
            atoms.rattle(0.1, seed=seed)
            atoms.calc = EMT()
        relax, quench = (FIRE(structures, logfile=None) for _ in range(2))
        Pipeline([relax, quench], replicas={1: 2}).run(fmax=[0.5, 0.1])
        energies.append([atoms.get_potential_energy() for atoms in structures])
    return energies


def test_one_pipeline_follows_another():
    # The store is the launcher's, as torchrun's is, and does not end with a process group.
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    first, *others = results(run_ranks(again_and_again, 3, str(store.port), init=False))
    assert len(first) == 4
    assert all(other == first for other in others)


def strained():
    structures = [bulk(metal, cubic=True) for metal in ("Cu", "Au", "Ni")]
    for number, atoms in enumerate(structures):
        atoms.set_cell(atoms.cell * (1.02 + 0.01 * number), scale_atoms=True)
        atoms.calc = EMT()
    return structures


def twice(rank):
    """Run, move an atom, and run again."""
    structures, seen = strained(), []
    relax = FIRE([FrechetCellFilter(atoms) for atoms in structures], logfile=None)
    heat = VelocityVerlet(structures, timestep=1 * fs)
    stages = relax + heat if rank is None else relax | heat
    for _ in range(2):
        stages.run(fmax=0.05, steps=[20, 5])
        seen += told(structures, stages.results)
        structures[1].positions[0] += 0.05
    return seen


def test_cells_come_back_and_a_second_run_begins_with_what_the_user_changed():
    expected = twice(None)
    for found in results(run_ranks(twice, 2, init=False)):
        assert_same(found, expected)


class Bomb:
    """A hook that gives up in the third step."""

    stage, frequency = HookStageEnum.AFTER_STEP, 1

    def __call__(self, batch, dynamics):
        if dynamics.step_count == 2:
            raise ArithmeticError("the second rank gave up")


def given_up(rank):
    """Fail on the second rank, and return the error and whether the Atoms are as they were."""
    structures = systems(3)
    before = [atoms.copy() for atoms in structures]
    relax, heat, _ = methods(structures)
    heat._hooks = (Bomb,)
    with pytest.raises((ArithmeticError, PipelineError)) as caught:
        (relax | heat).run(steps=[5, 5])
    same = [own == like for own, like in zip(structures, before, strict=True)]
    return same, str(caught.value)


def test_where_a_rank_fails_the_atoms_are_as_they_were():
    (first, told_first), (second, _) = results(run_ranks(given_up, 2, init=False))
    assert first == second == [True] * 3
    assert "rank 1 of the pipeline has failed: ArithmeticError: the second" in told_first


def test_what_cannot_be_a_pipeline():
    structures = systems(2)
    relax, heat, quench = methods(structures)
    with pytest.raises(TypeError, match="not int"):
        relax | 1
    with pytest.raises(TypeError, match="engine=True"):
        relax | FIRE(structures[0])
    with pytest.raises(ValueError, match="same list"):
        relax | LBFGS(systems(2))
    with pytest.raises(ValueError, match="2 values for 3 stages"):
        (relax | heat | quench).run(steps=[1, 2])
    with pytest.raises(ValueError, match="never ends"):
        (relax | heat).run()
    with pytest.raises(ValueError, match="stage 5"):
        Pipeline([relax, quench], replicas={5: 2}).run()
    with pytest.raises(RuntimeError, match="torchrun --nproc-per-node=2"):
        (relax | quench).run()
    with pytest.raises(AttributeError, match="after run"):
        _ = (relax | quench).results


def test_observers_are_refused_as_no_rank_has_all_atoms():
    structures = systems(2)
    relax, heat, quench = methods(structures)
    heat.attach(print)
    with pytest.raises(ValueError, match="Langevin has observers"):
        relax | heat
    stages = relax + quench
    stages.attach(print)
    with pytest.raises(ValueError, match="Stages has observers"):
        stages | relax


def test_a_pipeline_says_what_it_is_made_of():
    relax, heat, quench = methods(systems(2))
    pipe = relax | (heat | quench)
    assert repr(pipe) == "Pipeline(FIRE | Langevin | LBFGS, 2 structures)"
    more = (relax + heat) | Pipeline([quench, relax], replicas={1: 3})
    assert repr(more) == "Pipeline((FIRE + Langevin) | LBFGS | FIRE x 3, 2 structures)"
    assert more.replicas == {2: 3}
