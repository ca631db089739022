"""A system that comes into a running batch ends as it would have alone: bit for bit."""

import numpy as np
import pytest
import torch
from ase.constraints import FixAtoms, FixBondLengths, Hookean

from nvdyn_ase.atoms import from_atoms
from nvdyn_ase.data import Batch, StructureError
from nvdyn_ase.dynamics import (
    BFGS,
    FIRE,
    LBFGS,
    NPH,
    NVE,
    BaseDynamics,
    BFGSLineSearch,
    BlowUpHook,
    Bussi,
    ConvergenceHook,
    EnergyDriftMonitorHook,
    HookStageEnum,
    HostMemory,
    InhomogeneousNPTBerendsen,
    Langevin,
    MelchionnaNPT,
    NaNDetectorHook,
    Outcome,
    Ramp,
    SizeAwareSampler,
    SnapshotHook,
    filter_cells,
)
from nvdyn_ase.dynamics.inflight import SinkError
from nvdyn_ase.dynamics.parameters import PerAtom
from nvdyn_ase.models import EMT
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs
from tests.dynamics.streams import by_identity, check_user_fields, identities, inputs
from tests.dynamics.test_engine import engines
from tests.systems import copper_slab, mixed, with_velocities
from tests.wells import Well, atoms_at

KEYS = ("positions", "velocities", "cell", "energy", "forces", "fmax")
COUNTS = ("steps", "evaluations", "outcome")
DISTANCES = [0.01, 4.0, 0.5, 2.0, 0.02, 3.0, 1.0, 0.04, 0.9, 6.0, 1.7, 0.3]


def alone(engine, data, number):
    """Return a system after a run of its own."""
    batch = Batch.from_data_list([data])
    batch["system_id"] = torch.tensor([[number]])
    engine.run(batch)
    return batch


def inflight(engine, systems, **sampler):
    """Run an engine over an input, and return each system as it came out."""
    engine.sampler, engine.sinks = SizeAwareSampler(systems, **sampler), [HostMemory(10**6)]
    assert engine.run() is None
    return by_identity(engine.sinks[0].read())


def assert_same(one, other, keys=KEYS + COUNTS):
    for key in keys:
        same = torch.equal(one[key], other[key]) or torch.equal(
            one[key].isnan(), other[key].isnan()
        )
        assert same and (one[key] == other[key]).logical_or(one[key] != one[key]).all(), key


@engines
def test_who_comes_later_moves_as_alone(make):
    systems, hook = inputs(DISTANCES), ConvergenceHook.from_fmax(0.3)
    options = {"convergence_hook": hook, "n_steps": 12}
    engine = make(Well(), **options)
    found = inflight(engine, systems, max_batch_size=4)
    for number, data in enumerate(systems):
        assert_same(found[number], alone(make(Well(), **options), data, number))
        check_user_fields(found[number])
    evaluations = sum(int(own["evaluations"]) for own in found.values())
    assert engine.model.systems >= evaluations


def relaxed(model):
    return {
        "fire": lambda: FIRE(model, convergence_hook=ConvergenceHook.from_fmax(0.05)),
        "lbfgs": lambda: LBFGS(model, convergence_hook=ConvergenceHook.from_fmax(0.05)),
        "bfgs line search": lambda: BFGSLineSearch(
            model, convergence_hook=ConvergenceHook.from_fmax(0.05)
        ),
        "bfgs": lambda: BFGS(model, convergence_hook=ConvergenceHook.from_fmax(0.05)),
        "langevin": lambda: Langevin(model, 0.3, 300.0, 0.02, seed=7, n_steps=12),
        "bussi": lambda: Bussi(model, 0.3, 300.0, 5.0, seed=7, n_steps=12),
    }


@pytest.mark.parametrize(
    ("name", "count"),
    [
        *(
            (name, 24)
            for name in ("fire", "lbfgs", "bfgs line search", "bfgs", "langevin", "bussi")
        ),
        *(pytest.param(name, 200, marks=pytest.mark.slow) for name in ("fire", "lbfgs", "bussi")),
    ],
)
def test_structures_of_all_kinds_end_as_alone_after_as_many_evaluations(name, count):
    everyone = [with_velocities(atoms, i) for i, atoms in enumerate(mixed(count))]
    systems, sink = [from_atoms(atoms) for atoms in everyone], HostMemory(10**6)
    engine = relaxed(EMT())[name]()
    engine.register_hook(SnapshotHook(sink))
    found = inflight(engine, iter(systems), max_batch_size=16 if count > 100 else 5)
    history = {}
    for row in sink.read().to_data_list():
        history.setdefault(int(row.system_id), {})[int(row.evaluations)] = row.positions
    total = 0
    for number, data in enumerate(systems):
        own = HostMemory(10**6)
        engine = relaxed(EMT())[name]()
        engine.register_hook(SnapshotHook(own))
        reference = alone(engine, data, number)
        assert_same(found[number], reference)
        total += int(reference["evaluations"])
        for frame in own.read().to_data_list():
            assert torch.equal(history[number][int(frame.evaluations)], frame.positions)
        assert max(history[number]) == int(reference["evaluations"])
    assert total == sum(int(one["evaluations"]) for one in found.values())


class Counting(EMT):
    """Counts the systems that it is given."""

    systems = 0

    def forward(self, batch):
        self.systems += len(batch)
        return super().forward(batch)


@pytest.mark.parametrize("name", ["fire", "lbfgs", "bfgs line search", "langevin"])
def test_nobody_is_evaluated_who_is_done(name):
    model = Counting()
    engine, systems = relaxed(model)[name](), [from_atoms(atoms) for atoms in mixed(30)]
    found = inflight(engine, systems, max_batch_size=16)
    assert model.systems == sum(int(one["evaluations"]) for one in found.values())


# -------------------------------------------------------------------------------- what comes along


def constrained_structures():
    """Return structures with constraints of all sorts, and without."""
    everyone = [with_velocities(atoms, i) for i, atoms in enumerate(mixed(14))]

    class Sideways:
        """A constraint of the user's own, which no batch knows."""

        def adjust_positions(self, atoms, new):
            new[0, 2] = atoms.positions[0, 2]

        def adjust_forces(self, atoms, forces):
            forces[0, 2] = 0.0

        def get_removed_dof(self, atoms):
            return 1

        def todict(self):
            return {"name": "Sideways", "kwargs": {}}

    for number, atoms in enumerate(everyone):
        kind = number % 5
        if kind == 0:
            atoms.set_constraint(FixAtoms([0]))
        elif kind == 1:
            atoms.set_constraint(FixBondLengths([[0, 1]]))
        elif kind == 2:
            atoms.set_constraint(Hookean(a1=0, a2=1, rt=1.0, k=2.0))
        elif kind == 3:
            atoms.set_constraint(Sideways())
        else:
            atoms.set_constraint()
    return everyone


@pytest.mark.parametrize("name", ["fire", "lbfgs", "langevin", "bfgs line search"])
def test_constraints_come_along(name):
    systems = [from_atoms(atoms) for atoms in constrained_structures()]
    found = inflight(with_limit(relaxed(EMT())[name]()), systems, max_batch_size=3)
    for number, data in enumerate(systems):
        assert_same(found[number], alone(with_limit(relaxed(EMT())[name]()), data, number))


def with_limit(engine):
    engine.n_steps = 15
    return engine


@pytest.mark.parametrize("name", ["fire", "lbfgs", "bfgs", "bfgs line search"])
def test_filters_come_along(name):
    everyone = [atoms for atoms in mixed(28) if atoms.cell.rank == 3 or len(atoms) == 2][:10]
    systems = []
    for number, atoms in enumerate(everyone):
        batch = Batch.from_data_list([from_atoms(atoms)])
        if atoms.cell.rank == 3 and number % 2:
            filter_cells(batch, ["frechet", "strain", "unit_cell"][number % 3])
        systems.append(batch[0])
    assert sum("cell_filter" in dict(Batch.from_data_list([data])) for data in systems) >= 3
    for order in (systems, systems[::-1]):
        found = inflight(with_limit(relaxed(EMT())[name]()), iter(order), max_batch_size=2)
        for number, data in enumerate(order):
            reference = alone(with_limit(relaxed(EMT())[name]()), data, number)
            assert_same(found[number], reference)


def test_constraints_are_those_of_the_structures_and_not_of_their_places():
    systems = [from_atoms(copper_slab(i, "O" if i % 2 else None)) for i in range(6)]
    found = inflight(relaxed(EMT())["fire"](), systems, max_batch_size=2)
    for number, data in enumerate(systems):
        held = data.fixed
        assert held.any()
        assert torch.equal(found[number]["positions"][held], data.positions[held])


def test_a_field_that_nobody_else_has_gets_its_default_or_is_named():
    systems = inputs([0.001, 5.0, 0.001, 3.0])
    systems[3].add_system_property("colour", torch.tensor([[3]]), default=7)

    def make():
        sampler = SizeAwareSampler(systems, max_batch_size=2, bin_width=100)
        hook = ConvergenceHook.from_fmax(0.05)
        return FIRE(Well(), convergence_hook=hook, sampler=sampler, sinks=[HostMemory(9)])

    engine = make()
    assert engine.run() is None
    done = engine.sinks[0].read()
    assert dict(zip(identities(done), done["colour"].view(-1).tolist(), strict=True))[3] == 3
    assert done["colour"][identities(done).index(1)] == 7
    del systems[3]._defaults["colour"]
    engine = make()
    with pytest.raises(ValueError, match="colour"):
        engine.run()
    seen = [*identities(engine.sinks[0].read()), *identities(engine.active_batch)]
    assert len(seen) == len(set(seen))
    engine.active_batch.add_key("colour", torch.zeros(engine.active_batch_size, 1).long(), "system")
    # Those that the sink has already have no colour, so that it takes none that has.
    with pytest.raises(SinkError, match="colour") as caught:
        engine.run()
    seen = [*identities(engine.sinks[0].read()), *identities(caught.value.unwritten)]
    engine.sinks = [HostMemory(9)]
    assert engine.run() is None  # nobody was let in after that
    assert sorted([*seen, *identities(engine.sinks[0].read())]) == [0, 1, 2, 3]


class Springs(BaseModelMixin):
    """Pulls along the pairs that the user gives."""

    model_card = ModelCard()

    def forward(self, batch):
        i, j = batch["edge_index"].unbind(1)
        r, k = batch["positions"], batch["stiffness"].view(-1, 1)
        along = k * (r[j] - r[i])
        forces = torch.zeros_like(r).index_add(0, i, along).index_add(0, j, -along)
        return ModelOutputs({"energy": torch.zeros(len(batch), 1).double(), "forces": forces})


def test_pairs_of_the_users_own_come_along():
    systems = []
    for number, size in enumerate([3, 2, 4, 3, 5, 2, 3]):
        data = atoms_at(1.0 + number, size, seed=number)
        data.edge_index = torch.tensor([[k, k + 1] for k in range(size - 1)])
        data.add_edge_property("stiffness", 0.1 + 0.1 * torch.arange(size - 1).double() + number)
        systems.append(data)
    found = inflight(NVE(Springs(), dt=0.05, n_steps=4), systems, max_batch_size=2)
    for number, data in enumerate(systems):
        reference = alone(NVE(Springs(), dt=0.05, n_steps=4), data, number)
        assert_same(found[number], reference)
        for key in ("edge_index", "stiffness"):
            assert torch.equal(found[number][key], reference[key])
            assert torch.equal(getattr(data, key), reference[key])


def test_pairs_of_the_users_own_survive_others_that_are_done():
    systems = []
    for number, distance in enumerate([0.001, 2.0, 0.001, 3.0, 0.001]):
        data = atoms_at(distance, 3, seed=number)
        data.edge_index = torch.tensor([[0, 1], [1, 2]])
        data.add_edge_property("stiffness", torch.tensor([1.0, 2.0]).double() + number)
        systems.append(data)
    batch = Batch.from_data_list(systems)
    before = {key: batch[key].clone() for key in ("edge_index", "stiffness")}
    FIRE(Springs(), convergence_hook=ConvergenceHook.from_fmax(0.1), n_steps=9).run(batch)
    for key, tensor in before.items():
        assert torch.equal(batch[key], tensor)


# -------------------------------------------------------------------------------- parameters


def test_values_one_by_one_belong_to_the_places_in_the_input():
    systems, temperatures = inputs([1.0 + i for i in range(7)]), [100.0 * (1 + i) for i in range(7)]
    ramps = [10.0 * (1 + i) for i in range(7)]

    def make(temperature, seed, stop):
        return Langevin(Well(), 0.2, Ramp(temperature, stop, 2.0), 0.1, seed=seed, n_steps=5)

    seeds = [11 * i for i in range(7)]
    found = inflight(make(temperatures, seeds, ramps), systems, max_atoms=9)
    for number, data in enumerate(systems):
        own = make(temperatures[number], seeds[number], ramps[number])
        assert_same(found[number], alone(own, data, number))


def test_masks_and_stresses_one_by_one_belong_to_the_places_in_the_input():
    systems = [atoms_at(2.0 + 0.1 * i, 3, seed=i) for i in range(5)]
    masks = [[1, 0, 1], [0, 1, 1], [1, 1, 1], [0, 0, 1], [1, 1, 0]]
    pressures = [0.001 * i for i in range(5)]

    def berendsen(mask):
        return InhomogeneousNPTBerendsen(
            Well(), 0.3, 9.0, 1e-3, 3.0, 9.0, 10.0, mask=mask, n_steps=4
        )

    def melchionna(stress):
        return MelchionnaNPT(Well(), 0.3, 9.0, stress, 30.0, 90.0, n_steps=4)

    for make, values in ((berendsen, masks), (melchionna, pressures)):
        found = inflight(make(values), systems, max_batch_size=2)
        for number, data in enumerate(systems):
            assert_same(found[number], alone(make(values[number]), data, number))
        with pytest.raises(ValueError, match="stream"):
            inflight(make(values), iter(systems), max_batch_size=2)


UNKNOWN = {
    "temperature": {"temperature": [300.0, 300.0], "seed": 1},
    "seed": {"temperature": 300.0, "seed": [1, 2]},
    "stop of temperature": {"temperature": Ramp(300.0, [1.0, 2.0], 5.0), "seed": 1},
}


@pytest.mark.parametrize("name", UNKNOWN)
def test_values_one_by_one_are_refused_at_once_where_nobody_knows_how_many(name):
    engine = Langevin(Well(), 0.1, friction=0.1, n_steps=3, **UNKNOWN[name])
    engine.sampler = SizeAwareSampler(iter(inputs([1.0] * 6)), max_batch_size=2)
    with pytest.raises(ValueError, match=f"{name}: 2 values"):
        engine.run()
    assert engine.model.forwards == 0
    engine.temperature, engine.noise.seed = 300.0, 1
    engine.sinks = [HostMemory(9)]
    assert engine.run() is None
    assert sorted(identities(engine.sinks[0].read())) == list(range(6))


def test_generators_and_values_for_atoms_are_refused_at_once():
    rng = [np.random.default_rng(i) for i in range(3)]
    sampler = SizeAwareSampler(inputs([1.0] * 3), max_batch_size=3)
    engine = Langevin(Well(), 0.1, 300.0, 0.1, rng=rng, n_steps=3, sampler=sampler)
    with pytest.raises(ValueError, match="rng"):
        engine.run()
    friction = PerAtom(torch.ones(9, 1))
    engine = Langevin(Well(), 0.1, 300.0, friction, seed=1, n_steps=3, sampler=sampler)
    with pytest.raises(ValueError, match="friction: values for single atoms"):
        engine.run()


# -------------------------------------------------------------------------------- tests and budgets


@pytest.mark.parametrize("frequency", [2, 3, 7])
def test_a_test_that_is_not_made_at_every_step_is_made_at_steps_of_the_system(frequency):
    systems = inputs(DISTANCES)

    def make():
        hook = ConvergenceHook.from_fmax(0.05, frequency=frequency)
        return FIRE(Well(), convergence_hook=hook)

    found = inflight(make(), systems, max_batch_size=3)
    for number, data in enumerate(systems):
        assert_same(found[number], alone(make(), data, number))
        assert int(found[number]["steps"]) % frequency == 0


@pytest.mark.parametrize("frequency", [1, 2, 5])
def test_looking_more_rarely_changes_nothing(frequency):
    systems = inputs(DISTANCES)
    engine = FIRE(Well(), convergence_hook=ConvergenceHook(), refill_frequency=frequency)
    found = inflight(engine, systems, max_batch_size=3)
    for number, data in enumerate(systems):
        reference = alone(FIRE(Well(), convergence_hook=ConvergenceHook()), data, number)
        assert_same(found[number], reference)


def test_no_steps_at_all_is_an_evaluation_of_everyone():
    systems = inputs(DISTANCES)
    engine = FIRE(Well(), n_steps=0)
    found = inflight(engine, systems, max_batch_size=3)
    for number, data in enumerate(systems):
        one = found[number]
        assert torch.equal(one["positions"], data.positions)
        assert torch.equal(one["forces"], -data.positions)
        assert [int(one[key]) for key in COUNTS] == [0, 1, Outcome.BUDGET]
        assert one["fmax"].item() > 0


def test_an_engine_that_needs_no_forces_makes_nobody_wait():
    systems = inputs([1.0] * 5)
    for number, data in enumerate(systems):
        data.add_system_property("left", torch.tensor([[float(number % 3)]]))

    class Countdown(BaseDynamics):
        _mutable_fields = ("left",)

        def pre_update(self, batch):
            batch["left"] = batch["left"] - 1.0

    def make():
        hook = ConvergenceHook({"key": "left", "threshold": 0.0}, frequency=1)
        return Countdown(Well(), convergence_hook=hook)

    found = inflight(make(), systems, max_batch_size=2)
    for number, data in enumerate(systems):
        reference = alone(make(), data, number)
        assert_same(found[number], reference, ("left", *COUNTS))
        assert int(found[number]["steps"]) == number % 3


# -------------------------------------------------------------------------------- hooks


def test_on_converge_is_told_once_of_everyone():
    seen = []

    class Note:
        stage, frequency = HookStageEnum.ON_CONVERGE, 1

        def __call__(self, batch, dynamics):
            seen.extend(batch["system_id"].view(-1)[dynamics.newly_converged].tolist())

    engine = FIRE(Well(), hooks=[Note()], convergence_hook=ConvergenceHook())
    inflight(engine, inputs(DISTANCES), max_batch_size=3)
    assert sorted(seen) == list(range(len(DISTANCES)))


def test_hooks_never_see_forces_that_are_none():
    class Look:
        stages, frequency = tuple(HookStageEnum)[4:8], 1

        def __call__(self, batch, dynamics):
            assert torch.equal(batch["forces"], -batch["positions"])

    class Careful(NVE):
        def pre_update(self, batch):
            moving = self.moving(batch)
            wrong = batch["forces"] != -batch["positions"]
            assert not (wrong if moving is None else wrong & moving.node).any()
            super().pre_update(batch)

    engine = Careful(Well(), dt=0.1, n_steps=3, hooks=[Look()])
    inflight(engine, inputs([1.0 + i for i in range(9)]), max_batch_size=2)


def test_watching_hooks_judge_newcomers_as_everyone():
    systems = [atoms_at(1.0 + i % 2, 3, seed=i) for i in range(6)]
    systems[4].velocities = 1e6 * systems[4].velocities

    def make():
        hooks = [EnergyDriftMonitorHook(1e-2, "retire"), NaNDetectorHook()]
        hooks.append(BlowUpHook(temperature=1e9, displacement=None))
        return NVE(Well(), dt=0.05, n_steps=6, hooks=hooks)

    found = inflight(make(), systems, max_batch_size=2)
    for number, data in enumerate(systems):
        assert_same(found[number], alone(make(), data, number))
    outcomes = [int(found[number]["outcome"]) for number in range(6)]
    assert outcomes.count(Outcome.EXPLODED) == 1 and outcomes[4] == Outcome.EXPLODED


# -------------------------------------------------------------------------------- one by one fails


def test_who_cannot_be_moved_leaves_alone():
    systems = [atoms_at(1.0, 2, seed=i) for i in range(6)]
    for number in (0, 3):
        systems[number].velocities = torch.zeros(2, 3).double()  # of which Bussi can make nothing
    found = inflight(Bussi(Well(), 0.1, 300.0, 5.0, seed=1, n_steps=3), systems, max_batch_size=2)
    outcomes = [Outcome(int(found[number]["outcome"])).name for number in range(6)]
    assert outcomes == ["REJECTED", "BUDGET", "BUDGET", "REJECTED", "BUDGET", "BUDGET"]
    assert "kinetic energy is zero" in found[3].host[0]["failure"]


def test_who_turns_out_not_to_be_movable_leaves_alone():
    systems = [atoms_at(1.0, 2, seed=i) for i in range(5)]
    for number in (1, 4):
        systems[number].fixed = torch.tensor([True, False])
    engine = NPH(Well(), 0.1, 300.0, 0.0, 30.0, n_steps=3)
    found = inflight(engine, systems, max_batch_size=2)
    outcomes = [Outcome(int(found[number]["outcome"])).name for number in range(5)]
    assert outcomes == ["BUDGET", "ERROR", "BUDGET", "BUDGET", "ERROR"]
    assert "constraints" in found[4].host[0]["failure"]
    with pytest.raises(StructureError, match="structure 1: it has constraints"):
        NPH(Well(), 0.1, 300.0, 0.0, 30.0).run(Batch.from_data_list(systems), n_steps=1)


# -------------------------------------------------------------------------------- by hand


def by_hand(**options):
    systems = inputs([1.0, 2.0, 3.0, 4.0, 5.0])
    sampler = SizeAwareSampler(systems, max_batch_size=2, bin_width=100)
    return NVE(Well(), dt=0.1, sampler=sampler, sinks=[HostMemory(9)], **options)


def test_refill_check_puts_newcomers_behind_those_that_remain():
    engine = by_hand()
    batch = engine.sampler.build_initial_batch()
    engine.step(batch)
    assert engine.refill_check(batch, 1) is batch
    state = {key: tensor.clone() for key, tensor in engine.state}
    batch["status"] = torch.tensor([[1], [0]])
    new = engine.refill_check(batch, 1)
    assert identities(new) == [1, 2]
    assert identities(engine.sinks[0].read()) == [0]
    assert new["status"].view(-1).tolist() == [0, 0]
    assert torch.isinf(new["fmax"][1]) and not torch.isinf(new["fmax"][0])
    assert new["steps"].view(-1).tolist() == [1, 0]
    assert len(engine.state) == 2 and state.keys() == dict(engine.state).keys()
    before = new["positions"].clone()
    engine.step(new)
    held = slice(new.host_ptr[1], None)
    assert torch.equal(new["positions"][held], before[held])  # it has had no forces
    assert torch.equal(new["forces"], -new["positions"])
    engine.step(new)
    assert not torch.equal(new["positions"][held], before[held])
    assert new["steps"].view(-1).tolist() == [3, 1]
    check_user_fields(new)


def test_refill_check_before_any_step():
    engine = by_hand()
    batch = engine.sampler.build_initial_batch()
    batch["status"] = torch.tensor([[1], [0]])
    new = engine.refill_check(batch, 1)
    assert identities(new) == [1, 2]
    assert torch.isinf(new["fmax"][1])
    engine.step(new)
    assert new["steps"].view(-1).tolist() == [1, 0] or new["steps"].view(-1).tolist() == [1, 1]


def test_refill_check_returns_none_when_all_is_done():
    engine, seen = by_hand(), []
    batch = engine.sampler.build_initial_batch()
    while batch is not None:
        assert not engine.done
        engine.step(batch)
        batch["status"] = torch.ones_like(batch["status"])
        seen += identities(batch)
        batch = engine.refill_check(batch, 1)
    assert engine.done and engine.active_batch is None
    assert sorted(seen) == sorted(identities(engine.sinks[0].read())) == [0, 1, 2, 3, 4]


def test_refill_check_keeps_states_with_their_systems():
    systems = inputs([1.0, 2.0, 3.0, 4.0])
    sampler = SizeAwareSampler(systems, max_batch_size=2, bin_width=100)
    engine = LBFGS(Well(), maxstep=0.05, sampler=sampler)
    batch = engine.sampler.build_initial_batch()
    for _ in range(7):
        engine.step(batch)
    batch["status"] = torch.tensor([[1], [0]])
    batch = engine.refill_check(batch, 1)
    for _ in range(9):
        engine.step(batch)
    reference = Batch.from_data_list([systems[1]])
    other = LBFGS(Well(), maxstep=0.05)
    other.run(reference, n_steps=16)
    assert torch.equal(batch[[0]]["positions"], reference["positions"])
    reference = Batch.from_data_list([systems[2]])
    other.run(reference, n_steps=8)
    assert torch.equal(batch[[1]]["positions"], reference["positions"])


def test_what_needs_a_sampler_says_so():
    engine = NVE(Well(), dt=0.1)
    with pytest.raises(RuntimeError, match="sampler"):
        engine.refill_check(Batch.from_data_list([atoms_at(1.0)]), 1)
    with pytest.raises(ValueError, match="sampler"):
        engine.run(n_steps=3)
    with pytest.raises(ValueError, match="nothing ends"):
        by_hand().run()


def test_what_an_engine_says_of_its_batch():
    engine = by_hand(max_batch_size=3)
    assert engine.inflight_mode and not NVE(Well(), dt=0.1).inflight_mode
    assert (engine.active_batch_size, engine.room_in_active_batch) == (0, 3)
    batch = engine.sampler.build_initial_batch()
    batch["status"] = torch.tensor([[1], [0]])
    engine.refill_check(batch, 1)
    assert (engine.active_batch_size, engine.room_in_active_batch) == (2, 1)
    assert engine.active_batch_has_room
    for name in ("refill_frequency", "max_batch_size"):
        with pytest.raises(ValueError, match=name):
            NVE(Well(), dt=0.1, **{name: 0})


def test_a_batch_of_the_users_own_begins_a_run_with_a_sampler():
    engine = by_hand(n_steps=3)
    batch = Batch.from_data_list(inputs([9.0]))
    batch["system_id"] = torch.tensor([[77]])
    assert engine.run(batch) is None
    assert sorted(identities(engine.sinks[0].read())) == [0, 1, 2, 3, 4, 77]
    assert (engine.sinks[0].read()["steps"] == 3).all()
