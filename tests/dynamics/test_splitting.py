"""Forward passes in parts: nobody notices, and nobody is lost."""

import pytest
import torch
from ase import units

from nvdyn_ase.atoms import batch_from_atoms
from nvdyn_ase.data import segment_sum
from nvdyn_ase.dynamics import FIRE, NVE, Outcome, SizeAwareSampler
from nvdyn_ase.models import as_model
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs, NeighborConfig
from tests.systems import argon, mixed, with_velocities


class Limited(BaseModelMixin):
    """Another model, where memory ends at some atoms, and which fails on a kind of atom.

    Attributes
    ----------
    sizes
        Atoms of each forward pass, also of those that failed.
    """

    def __init__(self, model, limit=None, error=torch.cuda.OutOfMemoryError, bad=None):
        self.inner, self.limit, self.error, self.bad = model, limit, error, bad
        self.model_card, self.model_config = model.model_card, model.model_config
        self.sizes = []

    def forward(self, batch):
        self.sizes.append(batch.num_nodes)
        if self.limit is not None and batch.num_nodes > self.limit:
            raise self.error("there is no more")
        if self.bad is not None and (batch["atomic_numbers"] == self.bad).any():
            raise ValueError("it went bang")
        return self.inner(batch)


class Pairs(BaseModelMixin):
    """E = sum of exp(-r) over pairs, read from the fields of the batch."""

    model_card = ModelCard(neighbor_config=NeighborConfig(cutoff=5.0), supports_pbc=True)

    def forward(self, batch):
        i, j = batch["edge_index"].unbind(1)
        with torch.enable_grad():
            r = batch["positions"].detach().requires_grad_()
            lengths = (r[j] - r[i] + batch["shifts"]).norm(dim=1)
            rows = torch.exp(-lengths)
            energy = segment_sum(rows, batch.edge_ptr).view(-1, 1)
            (gradient,) = torch.autograd.grad(energy.sum(), r)
        return ModelOutputs({"energy": energy.detach(), "forces": -gradient})


class Tolerant(NVE):
    """Lets systems fail by themselves, as a sampler and sinks would have it."""

    takes_failures = True


def run(model, systems, kind=Tolerant, steps=15):
    batch = batch_from_atoms(systems)
    engine = kind(model, dt=2 * units.fs)
    engine.run(batch, steps)
    return batch, engine


def same(batch, other, keys=("positions", "velocities", "energy", "forces", "evaluations")):
    return all(torch.equal(batch[key], other[key]) for key in keys)


def systems_of(name):
    if name == "emt":
        return [with_velocities(atoms, seed) for seed, atoms in enumerate(mixed(9))]
    return [with_velocities(argon(seed, (1, 1, 1 + seed % 3)), seed) for seed in range(7)]


MODELS = {
    "emt": lambda: as_model("emt"),
    "lj": lambda: as_model("lj", sigma=3.4, epsilon=0.01, rc=8.0),
    "pairs": Pairs,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("error", [torch.cuda.OutOfMemoryError, MemoryError])
def test_parts_have_the_same_bits_as_the_whole(name, error):
    systems = systems_of(name)
    whole, _ = run(MODELS[name](), systems)
    largest = max(len(atoms) for atoms in systems)
    model = Limited(MODELS[name](), largest + 2, error)
    parts, _ = run(model, systems, NVE)
    assert same(parts, whole)
    assert (parts["outcome"] == 0).all() or (parts["outcome"] == int(Outcome.BUDGET)).all()
    assert largest + 2 < sum(len(atoms) for atoms in systems)
    assert len(set(model.sizes[-20:])) < 10


def test_the_size_that_went_well_is_remembered():
    systems = [argon(seed, 1) for seed in range(16)]  # 64 atoms
    model = Limited(MODELS["lj"](), 20)
    _, engine = run(model, systems, steps=10)
    assert model.sizes[0] == 64
    failures = [size for size in model.sizes if size > 20]
    assert failures == [64, 32, 32][: len(failures)]
    assert engine.splitting.max_atoms == 16
    steady = model.sizes[-16:]
    assert steady == [16] * 16  # four parts in each step, and no more


def test_who_needs_more_than_there_is_leaves_and_the_others_go_on():
    systems = [argon(0, 1), argon(1, 2), argon(2, 1)]
    whole, _ = run(MODELS["lj"](), [systems[0], systems[2]])
    parts, _ = run(Limited(MODELS["lj"](), 10), systems)
    assert [Outcome(int(code)) for code in parts["outcome"]][1] is Outcome.ERROR
    assert "more memory than there is" in parts.host[1]["failure"]
    assert same(parts[[0, 2]], whole)


@pytest.mark.parametrize("bad", [[0], [6], [2, 3], [0, 4, 6], [0, 1, 2, 3, 4, 5, 6]])
def test_a_model_that_raises_is_asked_until_it_is_known_on_whom(bad):
    systems = systems_of("lj")
    for row in bad:
        systems[row].numbers[0] = 10
    whole, _ = run(MODELS["lj"](), systems)
    model = Limited(MODELS["lj"](), bad=10)
    parts, _ = run(model, systems)
    good = [row for row in range(7) if row not in bad]
    assert not good or same(parts[good], whole[good])
    for row in range(7):
        failed = Outcome(int(parts["outcome"][row])) is Outcome.ERROR
        assert failed is (row in bad)
        assert (parts.host[row].get("failure") == "ValueError: it went bang") is (row in bad)
    start = torch.from_numpy(systems[bad[0]].positions)
    assert torch.equal(parts[bad[0]].positions, start)


def test_one_forward_where_one_is_enough():
    model = Limited(MODELS["lj"]())
    run(model, systems_of("lj"), steps=10)
    assert len(model.sizes) == 11


def test_without_anywhere_to_go_errors_are_raised():
    with pytest.raises(ValueError, match="bang"):
        run(Limited(MODELS["lj"](), bad=18), systems_of("lj"), NVE)
    with pytest.raises(MemoryError, match="no more"):
        run(Limited(MODELS["lj"](), 3, MemoryError), systems_of("lj"), NVE)


def test_from_a_sampler_who_fails_goes_to_the_sinks_and_the_others_go_on():
    systems = systems_of("lj")
    systems[2].numbers[0] = 10
    data = batch_from_atoms(systems).to_data_list()
    good = [row for row in range(7) if row != 2]
    whole, _ = run(MODELS["lj"](), [systems[row] for row in good], steps=4)
    sampler = SizeAwareSampler(data, max_batch_size=3)
    engine = NVE(Limited(MODELS["lj"](), bad=10), dt=2 * units.fs, n_steps=4, sampler=sampler)
    engine.run()
    found = engine.sinks[0].read()
    found = found[torch.argsort(found["system_id"].view(-1)).tolist()]
    assert found["system_id"].view(-1).tolist() == list(range(7))
    assert found.host[2]["failure"] == "ValueError: it went bang"
    assert Outcome(int(found["outcome"][2])) is Outcome.ERROR
    assert same(found[good], whole)


def test_extra_outputs_are_laid_end_to_end():
    class Extra(Limited):
        def forward(self, batch):
            outputs = dict(super().forward(batch))
            outputs["color"] = batch["system_id"].to(torch.float64) * 2
            return ModelOutputs(outputs)

    systems = systems_of("lj")
    batch = batch_from_atoms(systems)
    engine = FIRE(Extra(MODELS["lj"](), 13))
    engine.run(batch, 3)
    torch.testing.assert_close(batch["color"].view(-1), torch.arange(7.0).double() * 2)


@pytest.mark.parametrize("bad", [None, 10])
def test_outputs_of_atoms_are_declared(bad):
    class Painted(Limited):
        def forward(self, batch):
            outputs = dict(super().forward(batch))
            outputs["paint"] = batch["positions"][:, :2].clone()
            return ModelOutputs(outputs)

    systems = systems_of("lj")
    # As many systems as atoms: the shape would not say what a row belongs to.
    systems = [system[:1] for system in systems] if bad is None else systems
    model = Painted(MODELS["lj"](), 13, bad=bad)
    undeclared, model.model_card = model.model_card, declared(model, {"paint"})
    batch = batch_from_atoms(systems)
    engine = FIRE(model)
    engine.run(batch, 3)
    assert batch.level("paint") == "node"
    for row in range(len(systems)):
        failed = Outcome(int(batch["outcome"][row])) is Outcome.ERROR
        own = batch[[row]]
        assert failed or torch.equal(own["paint"], own["positions"][:, :2])
    if bad is not None:
        model.model_card = undeclared
        with pytest.raises(RuntimeError, match=r"'paint'.*ModelCard\.node_outputs"):
            FIRE(model).run(batch_from_atoms(systems_of("lj")[:1]), 3)


def declared(model, names):
    return model.model_card.model_copy(update={"node_outputs": frozenset(names)})
