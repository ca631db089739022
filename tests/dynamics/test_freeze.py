"""Atoms that a hook holds stay where they are, bit for bit, in every method."""

import pytest
import torch
from ase.build import bulk
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.dynamics import (
    BFGS,
    FIRE,
    FIRE2,
    LBFGS,
    MTKNPT,
    NVE,
    BFGSLineSearch,
    ConvergenceHook,
    FreezeAtomsHook,
    Langevin,
    NPTBerendsen,
    filter_cells,
)
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.models import EMT
from tests.systems import mixed, with_velocities
from tests.wells import Well, wells


class Untidy(BaseDynamics):
    """Writes in place, before and after the forces."""

    __needs_keys__ = frozenset({"forces"})

    def pre_update(self, batch):
        batch["positions"] += 0.01
        batch["velocities"] += 0.01

    post_update = pre_update


ENGINES = {
    "nve": lambda **more: NVE(EMT(), 0.3, **more),
    "langevin": lambda **more: Langevin(EMT(), 0.3, 500.0, 0.1, seed=0, **more),
    "berendsen, npt": lambda **more: NPTBerendsen(EMT(), 0.3, 300.0, 0.1, 5.0, 50.0, 1.0, **more),
    "mtk": lambda **more: MTKNPT(EMT(), 0.3, 300.0, 0.0, 10.0, 100.0, **more),
    "fire": lambda **more: FIRE(EMT(), **more),
    "fire2": lambda **more: FIRE2(EMT(), **more),
    "lbfgs": lambda **more: LBFGS(EMT(), **more),
    "bfgs": lambda **more: BFGS(EMT(), **more),
    "line search": lambda **more: BFGSLineSearch(EMT(), **more),
    "untidy": lambda **more: Untidy(EMT(), **more),
}
BULK = ("berendsen, npt", "mtk")


@pytest.mark.parametrize("name", ENGINES)
def test_held_atoms_keep_every_bit_and_the_others_move(name):
    systems = [bulk("Cu", cubic=True) * (1, 1, 2), bulk("Au", cubic=True)]
    for i, atoms in enumerate(systems):
        atoms.rattle(0.1, seed=i)
        with_velocities(atoms, i)
    if name not in BULK:
        systems += mixed(5)
    batch = batch_from_atoms(systems)
    held = torch.rand(batch.num_nodes, generator=torch.Generator().manual_seed(1)) < 0.4
    chosen = {i: held[batch.batch == i].tolist() for i in range(len(batch))}
    start = batch["positions"].clone()
    ENGINES[name](hooks=[FreezeAtomsHook(chosen)]).run(batch, n_steps=8)
    assert torch.equal(batch["positions"][held], start[held])
    moved = (batch["positions"] != start).any(1)
    assert moved[~held].any()
    assert not batch["forces"][held].any()
    if name not in ("fire", "fire2", "lbfgs", "bfgs", "line search"):
        assert not batch["velocities"][held].any()
    free = batch["forces"].norm(dim=1)
    for i in range(2):  # of the others, some have constraints too
        torch.testing.assert_close(batch["fmax"][i, 0], free[batch.batch == i].max())


@pytest.mark.parametrize("method", [FIRE, LBFGS])
def test_held_atoms_stay_where_they_are_while_a_cell_changes(method):
    atoms = bulk("Cu", cubic=True, a=3.8)
    atoms.rattle(0.05, seed=1)
    batch = batch_from_atoms([atoms])
    filter_cells(batch, "unit_cell")
    start, cell = batch["positions"].clone(), batch["cell"].clone()
    method(EMT(), hooks=[FreezeAtomsHook([[1, -1]])]).run(batch, n_steps=5)
    assert torch.equal(batch["positions"][[1, 3]], start[[1, 3]])
    assert not torch.equal(batch["cell"], cell)


@given(
    distances=st.lists(st.floats(0.01, 3.0), min_size=2, max_size=6),
    data=st.data(),
)
@settings(max_examples=8)
def test_the_choice_follows_the_systems_when_others_leave(distances, data):
    batch = wells(*distances)
    sizes = batch.num_nodes_list
    chosen = [data.draw(st.sets(st.integers(0, n - 1)), label="atoms") for n in sizes]
    entries = [sorted(atoms) for atoms in chosen]
    start = batch["positions"].clone()
    done = ConvergenceHook.from_fmax(0.05)
    FIRE(Well(), hooks=[FreezeAtomsHook(entries)], convergence_hook=done).run(batch, n_steps=30)
    held = torch.tensor(
        [i in atoms for n, atoms in zip(sizes, chosen, strict=True) for i in range(n)]
    )
    assert torch.equal(batch["positions"][held], start[held])
    far = start.norm(dim=1) > 0.06
    assert (batch["positions"] != start).any(1)[~held & far].all()


def test_a_field_of_the_batch_says_who_is_held():
    batch = wells(1.0, 2.0)
    held = torch.arange(batch.num_nodes) % 2 == 0
    batch.add_key("held", held, "node")
    start = batch["positions"].clone()
    NVE(Well(), dt=0.1, hooks=[FreezeAtomsHook("held")]).run(batch, n_steps=4)
    assert torch.equal((batch["positions"] == start).all(1), held)


def test_no_evaluation_is_added():
    model = Well()
    NVE(model, dt=0.1, hooks=[FreezeAtomsHook({0: [0]})]).run(wells(1.0, 2.0), n_steps=5)
    assert model.forwards == 6


def test_a_relaxation_leaves_velocities_alone():
    batch = wells(1.0)
    before = batch["velocities"].clone()
    FIRE(Well(), hooks=[FreezeAtomsHook({0: [0]})]).run(batch, n_steps=3)
    assert torch.equal(batch["velocities"], before)


@pytest.mark.parametrize(
    ("atoms", "message"),
    [
        ({0: [5]}, "system 0 has 2 atoms"),
        ({0: [True]}, "system 0 has 2 atoms"),
        ([[0]], "no entry for system 1"),
    ],
)
def test_atoms_that_are_not_there(atoms, message):
    engine = NVE(Well(), dt=0.1, hooks=[FreezeAtomsHook(atoms)])
    batch = wells(1.0, 2.0)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            engine.run(batch, n_steps=1)


@pytest.mark.parametrize("atoms", [[0, 1], torch.tensor([True, False]), {0: 1}])
def test_one_choice_for_all_is_refused(atoms):
    with pytest.raises(TypeError, match="entry for each system"):
        FreezeAtomsHook(atoms)
