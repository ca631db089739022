"""``relax | md`` over ranks: what a system does, and that each arrives once."""

import re
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from ase import Atoms
from ase.build import bulk

from nvdyn_ase.data import AtomicData, Batch
from nvdyn_ase.dynamics import (
    FIRE,
    NVE,
    BufferConfig,
    ConvergenceHook,
    DistributedPipeline,
    HostMemory,
    Langevin,
    Outcome,
    SizeAwareSampler,
)
from nvdyn_ase.models import LennardJones
from tests.data.strategies import same_bits
from tests.dynamics.streams import by_identity, check_user_fields, identities, inputs, user_fields
from tests.ranks import results, run_ranks
from tests.systems import ARGON
from tests.wells import Well, atoms_at

DISTANCES = [0.02, 1.5, 0.3, 0.9, 0.01, 2.2, 0.5, 1.1]
MODEL = Well()
ROOM = BufferConfig(num_systems=3, num_nodes=9, num_edges=0)


def relax(sampler=None, **options):
    """Return an optimizer that lets systems go early or late."""
    return FIRE(
        MODEL,
        convergence_hook=ConvergenceHook.from_fmax(0.05),
        n_steps=40,
        sampler=sampler,
        **options,
    )


def heat(steps=7, **options):
    """Return an integrator with random numbers."""
    return Langevin(MODEL, 0.2, 300.0, 0.1, seed=3, n_steps=steps, **options)


def sampler(distances=DISTANCES, **budget):
    return SizeAwareSampler(inputs(distances), **(budget or {"max_batch_size": 3}))


def outcome_of(batch):
    """Return what must be the same however systems got where they are."""
    keys = ("positions", "velocities", "forces", "energy", "steps", "outcome", "atomic_numbers")
    return {number: {key: own[key] for key in keys} for number, own in by_identity(batch).items()}


def assert_same_outcome(found, expected, case=None, widened=False):
    """Check that systems did the same, bit for bit if they did not begin with fewer bits."""
    assert found.keys() == expected.keys()
    for number, own in expected.items():
        for key, tensor in own.items():
            if widened and tensor.is_floating_point():
                limits = {"rtol": 1e-5, "atol": 1e-5, "equal_nan": True}
                torch.testing.assert_close(found[number][key].double(), tensor.double(), **limits)
            else:
                assert same_bits(found[number][key], tensor), (case, number, key)


def run_pipe(rank, make, mode):
    """Run a pipeline, and return on the last rank what the sink has."""
    pipe = make(mode)
    with pipe:
        assert pipe.run() is None
        stage = pipe.local_stage
        assert stage.done and stage.active_batch is None
        if stage.is_final_stage:
            return stage.sinks[0].read() if len(stage.sinks[0]) else None
    return None


def relax_then_heat(mode):
    options = {"buffer_config": ROOM, "comm_mode": mode, "max_batch_size": 3}
    return relax(sampler(), **options) | heat(**options)


def fused_then_heat(mode):
    options = {"buffer_config": ROOM, "comm_mode": mode, "max_batch_size": 2}
    return (relax(sampler(), **options) + heat(3)) | heat(5, **options)


@pytest.mark.parametrize("mode", ["sync", "async_recv", "fully_async"])
def test_on_two_ranks_systems_do_what_they_do_on_one(mode):
    _, found = results(run_ranks(run_pipe, 2, relax_then_heat, mode))
    one = relax(sampler()) + heat()
    one.run()
    check_user_fields(found)
    assert sorted(identities(found)) == list(range(len(DISTANCES)))
    assert_same_outcome(outcome_of(found), outcome_of(one.sinks[0].read()))


class Raising(Well):
    """A model that raises for two systems, whoever is with them."""

    def forward(self, batch):
        if set(batch["system_id"].view(-1).tolist()) & {1, 5}:
            raise ValueError("the well has fallen in")
        return super().forward(batch)


def with_a_model_that_raises(rank, source):
    """Run a pipeline whose first stage fails on two systems, and return what the sink has."""
    data, ends = inputs(DISTANCES), ConvergenceHook.from_fmax(0.05)
    own = SizeAwareSampler(data, max_batch_size=3) if source == "sampler" else None
    options = {"sampler": own, "n_steps": 40, "convergence_hook": ends, "buffer_config": ROOM}
    with FIRE(Raising(), **options) | heat(buffer_config=ROOM) as pipe:
        pipe.run(None if own else Batch.from_data_list(data))
        return pipe.local_stage.sinks[0].read() if rank else None


@pytest.mark.parametrize("source", ["sampler", "batch"])
def test_who_a_model_raises_for_goes_to_the_sinks_and_the_others_go_on(source):
    _, found = results(run_ranks(with_a_model_that_raises, 2, source))
    one = relax(sampler()) + heat()
    one.run()
    expected = outcome_of(one.sinks[0].read())
    outcomes = outcome_of(found)
    assert sorted(outcomes) == list(range(len(DISTANCES)))
    reasons = {
        int(i): own.get("failure") for i, own in zip(identities(found), found.host, strict=True)
    }
    for bad in (1, 5):
        assert Outcome(int(outcomes.pop(bad)["outcome"])) is Outcome.ERROR
        assert reasons[bad] == "ValueError: the well has fallen in"
        del expected[bad]
    assert_same_outcome(outcomes, expected)


@pytest.mark.parametrize(
    ("devices", "gpus", "backend"),
    [
        (("cpu", "cpu"), 2, "gloo"),
        (("cuda", "cuda"), 2, "cpu:gloo,cuda:nccl"),
        (("cuda", "cuda"), 1, "gloo"),
        (("cpu", "cuda"), 2, "gloo"),
    ],
)
def test_nccl_is_for_ranks_that_have_a_gpu_each(devices, gpus, backend, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    stages = [heat(device_type=device, buffer_config=ROOM) for device in devices]
    assert DistributedPipeline(dict(enumerate(stages)))._backend() == backend


def test_a_stage_may_be_several_on_one_rank():
    _, found = results(run_ranks(run_pipe, 2, fused_then_heat, "async_recv"))
    one = relax(sampler()) + heat(3) + heat(5)
    one.run()
    check_user_fields(found)
    assert_same_outcome(outcome_of(found), outcome_of(one.sinks[0].read()))


def from_a_first_stage_on_two_ranks(rank, kind):
    """Run a pipeline whose first stage has replicas, from a list, a stream or a batch."""
    data = inputs(DISTANCES)
    source = None if kind == "batch" else iter(data) if kind == "stream" else data
    own = source and SizeAwareSampler(source, max_batch_size=3)
    stages = {0: relax(own, buffer_config=ROOM), 1: heat(buffer_config=ROOM)}
    with DistributedPipeline(stages, replicas={0: 2}) as pipe:
        pipe.run(Batch.from_data_list(data) if kind == "batch" else None)
        stage = pipe.local_stage
        return stage.sinks[0].read() if stage.is_final_stage else None


@pytest.mark.parametrize("kind", ["list", "stream", "batch"])
def test_replicas_of_a_first_stage_share_its_input(kind):
    *_, found = results(run_ranks(from_a_first_stage_on_two_ranks, 3, kind))
    assert sorted(identities(found)) == list(range(len(DISTANCES)))
    one = relax(sampler()) + heat()
    one.run()
    assert_same_outcome(outcome_of(found), outcome_of(one.sinks[0].read()))


# ---------------------------------------------------------------- any pipeline, any input


def bonded(data, random):
    """Give a system pairs of the user's, which travel with it."""
    pairs = [[random.randrange(data.num_nodes) for _ in "ij"] for _ in range(random.randint(0, 3))]
    data.edge_index = torch.tensor(pairs, dtype=torch.int64).view(-1, 2)
    data.add_edge_property("order", torch.tensor([sum(p) / 3 for p in pairs]))
    return data


def argon(random, number):
    """Return a cell of a crystal or a molecule of argon, without pairs: the model finds them."""
    atoms = bulk("Ar", a=5.26, cubic=random.random() < 0.5)
    atoms.rattle(random.choice([0.01, 0.1, 0.4]), seed=number)
    if random.random() < 0.4:
        atoms = Atoms("Ar3", positions=[[0, 0, 0], [3.6 + random.random(), 0, 0], [1, 3.9, 0]])
    return AtomicData.from_atoms(atoms)


def well(random, number, distance):
    """Return a system in a well, with cell or without."""
    data = atoms_at(distance(), random.randint(1, 4), number)
    if random.random() < 0.5:
        data.pbc, data.cell = False, torch.zeros(3, 3)
    return bonded(data, random)


def drawn(seed):
    """Draw what a pipeline is made of: the same on every rank, as they draw alike."""
    random = Random(seed)
    count = random.randint(0, 9)
    distance = random.choice([lambda: 0.01, lambda: 3.0 * random.random(), lambda: 50.0])
    dtype = random.choice([torch.float32, torch.float64])
    is_real = random.random() < 0.3
    data = []
    for number in range(count):
        own = argon(random, number) if is_real else well(random, number, distance)
        data.append(user_fields(own.to(dtype=dtype), number))
    kinds = [random.choice(list(KINDS)) for _ in range(3)]
    fused = [random.choice([None, None, *KINDS]) for _ in range(3)]
    return {
        "data": data,
        # By the first step with other numbers in it, in whose company a system takes it.
        "widened": dtype is torch.float32 and (is_real or {*kinds, *fused} - {"move", None}),
        "is_real": is_real,
        "room": BufferConfig(
            random.randint(1, 4),
            max([own.num_nodes for own in data], default=1) + random.choice([0, 0, 3]),
            max([own.num_edges for own in data], default=0) + random.choice([0, 0, 3]),
        ),
        "modes": [random.choice(["sync", "async_recv", "fully_async"]) for _ in range(3)],
        "batches": [random.randint(1, 4) for _ in range(3)],
        "kinds": kinds,
        "fused": fused,
        "steps": [random.randint(0, 4) for _ in range(3)],
        "frequency": random.randint(1, 3),
        "failing": set() if is_real else {n for n in range(count) if random.random() < 0.1},
    }


LIMIT = ConvergenceHook.from_fmax(0.05)
KINDS = {
    "relax": lambda model, **options: FIRE(model, convergence_hook=LIMIT, **options),
    "heat": lambda model, **options: Langevin(model, 0.2, 300.0, 0.1, seed=5, **options),
    "move": lambda model, **options: NVE(model, dt=0.1, **options),
}


def stages_of(case, size):
    """Return the engines of so many ranks; some are several, one after the other."""
    model = LennardJones(**ARGON) if case["is_real"] else Well(fail=case["failing"])
    source = SizeAwareSampler(case["data"], max_batch_size=case["batches"][0])
    engines = []
    for number in range(min(size, 3)):
        options = {
            "buffer_config": case["room"],
            "comm_mode": case["modes"][number],
            "max_batch_size": case["batches"][number],
        }
        options |= {"sampler": source, "refill_frequency": case["frequency"]} if not number else {}
        engine = KINDS[case["kinds"][number]](model, n_steps=case["steps"][number], **options)
        more = case["fused"][number]
        engines.append(engine + KINDS[more](model, n_steps=2) if more else engine)
    return engines


def alone(case, size):
    """Return what the same engines make of each system, one after the other, on one rank."""
    found, engines = {}, stages_of(case, size)
    engines[0].run()
    done = engines[0].sinks[0].read() if len(engines[0].sinks[0]) else None
    for engine in engines[1:]:
        if done is None:
            break
        moves = (done["outcome"].view(-1) < 3).nonzero().view(-1)
        failed = done.index_select((done["outcome"].view(-1) >= 3).nonzero().view(-1))
        found |= outcome_of(failed)
        rest = done.index_select(moves)
        for key in {"status", "stage_steps"} & set(rest.keys()):  # as if it had just come
            del rest[key]
        rest["outcome"] = torch.zeros(len(rest), 1, dtype=torch.int64)
        done = engine.run(rest) if len(rest) else None
    return found | (outcome_of(done) if done is not None else {})


def check_pairs(batch, data):
    """Check that every system has the user's pairs it came with."""
    for number, own in by_identity(batch).items():
        if data[number].num_edges:
            assert same_bits(own["edge_index"], data[number].edge_index), number
            assert same_bits(own["order"], data[number].order), number


def any_pipeline(rank, size, seeds):
    """Run many pipelines over the same ranks, and compare what arrives with one rank's work."""
    for seed in seeds:
        case = drawn(seed)
        replicas = {1: 2} if size == 4 else None
        engines = dict(enumerate(stages_of(case, size)))
        with DistributedPipeline(engines, replicas=replicas) as pipe:
            assert pipe.run() is None
            stage, here = pipe.local_stage, None
            if stage.is_final_stage and len(stage.sinks[0]):
                here = stage.sinks[0].read()
                check_user_fields(here)
                check_pairs(here, case["data"])
        arrived = [None] * size
        torch.distributed.all_gather_object(arrived, here and outcome_of(here))
        ids = [number for own in arrived if own for number in own]
        assert sorted(ids) == list(range(len(case["data"]))), seed
        if rank == 0:
            found = {number: own for part in arrived if part for number, own in part.items()}
            assert_same_outcome(found, alone(case, size), seed, case["widened"])


# Pairs of the user's, a model that finds its own, several stages on a rank, both types of numbers.
@pytest.mark.parametrize(("size", "seeds"), [(2, (5, 8)), (3, (9,)), (4, (10,))])
def test_every_system_arrives_once_and_bit_for_bit(size, seeds):
    results(run_ranks(any_pipeline, size, size, seeds, limit=100))


@pytest.mark.slow
@pytest.mark.parametrize("size", [2, 3, 4])
def test_every_system_arrives_once_and_bit_for_bit_in_many_cases(size):
    results(run_ranks(any_pipeline, size, size, range(150), limit=1200))


# ---------------------------------------------------------------- ways to run one


def two_chains(rank):
    """Run two chains side by side; the sink of one has some of its systems from before."""
    stages = {}
    for first, distances in ((0, DISTANCES), (2, DISTANCES[:5])):
        stages[first] = relax(sampler(distances), buffer_config=ROOM)
        stages[first + 1] = heat(buffer_config=ROOM)
    stages[1].next_rank = None
    before = Batch.from_data_list(inputs(DISTANCES))
    before["system_id"] = torch.arange(len(before)).view(-1, 1)
    stages[1].sinks = [HostMemory(99)]
    if rank == 1:
        stages[1].sinks[0].write(before[[1, 4]])
    with DistributedPipeline(stages) as pipe:
        pipe.run(resume=True)
        return identities(pipe.local_stage.sinks[0].read()) if rank % 2 else None


def test_chains_go_on_by_themselves_each_where_it_was_cut_off():
    found = results(run_ranks(two_chains, 4))
    assert found[1][:2] == [1, 4]
    assert sorted(found[1]) == list(range(len(DISTANCES)))
    assert sorted(found[3]) == list(range(5))


def in_step_and_from_a_batch(rank):
    """Run from a batch, in step with the other rank, and again turn by turn."""
    arrived, distances = [], DISTANCES[:4]
    for turn_by_turn in (False, True):
        data = inputs(distances)
        source = SizeAwareSampler(data, max_batch_size=2) if turn_by_turn else None
        stages = [
            relax(source, buffer_config=ROOM, max_batch_size=2),
            heat(buffer_config=ROOM, max_batch_size=2),
        ]
        pipe = DistributedPipeline(dict(enumerate(stages)), synchronized=not turn_by_turn)
        with pipe:
            if turn_by_turn:
                while pipe.step():
                    continue
            else:
                pipe.run(Batch.from_data_list(data))
            if pipe.local_stage.is_final_stage:
                arrived.append(outcome_of(pipe.local_stage.sinks[0].read()))
        assert torch.distributed.is_initialized()  # whoever made the group ends it
    return arrived


def test_however_a_pipeline_is_run_systems_do_the_same():
    _, (first, second) = results(run_ranks(in_step_and_from_a_batch, 2))
    assert_same_outcome(first, second)
    assert len(first) == 4


@pytest.mark.slow
def test_the_script_of_the_page_runs(tmp_path):
    page = (Path(__file__).parents[2] / "docs" / "pipeline.md").read_text()
    pattern = r"^```py\n(.*?)^```.*?script.py\n(.*?)\n```"
    script, output = re.search(pattern, page, re.DOTALL | re.MULTILINE).groups()
    (tmp_path / "script.py").write_text(script)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "script.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == output, done.stderr
