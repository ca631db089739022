"""Every system of an input is delivered once, never over budget, or passed over with a reason."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import AtomicData
from nvdyn_ase.dynamics import SizeAwareSampler
from nvdyn_ase.dynamics.sampler_input import ERRORS_IN_A_ROW


def system(atoms, edges=None):
    pairs = {} if edges is None else {"edge_index": torch.zeros(edges, 2, dtype=torch.int64)}
    return AtomicData(positions=torch.zeros(atoms, 3), atomic_numbers=[1] * atoms, **pairs)


class Sizes:
    """A dataset of systems of these atoms and edges; some cannot be read."""

    def __init__(self, sizes, poison=(), unknown=()):
        self.sizes, self.poison, self.unknown = sizes, set(poison), set(unknown)
        self.reads = []

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.poison:
            raise OSError(f"record {index} is torn")
        return system(self.sizes[index][0]), {"name": index}

    def get_metadata(self, index):
        if index in self.unknown:
            raise OSError(f"record {index} is gone")
        return self.sizes[index]


class Torn:
    """An iterator that raises at some places, and goes on."""

    def __init__(self, sizes, poison=()):
        self.sizes, self.poison, self.place = sizes, set(poison), -1

    def __iter__(self):
        return self

    def __next__(self):
        self.place += 1
        if self.place >= len(self.sizes):
            raise StopIteration
        if self.place in self.poison:
            raise OSError(f"record {self.place} is torn")
        return system(*self.sizes[self.place])


def source(kind, sizes, poison=()):
    if kind == "dataset":
        return Sizes(sizes, poison)
    if kind == "list":
        return [system(*size) for size in sizes]
    return Torn(sizes, poison)


kinds = pytest.mark.parametrize("kind", ["dataset", "list", "stream"])
sizes_of = st.lists(st.tuples(st.integers(1, 12), st.integers(0, 20)), min_size=1, max_size=25)


def identity(data):
    return int(data.system_id)


@kinds
@settings(max_examples=60)
@given(sizes=sizes_of, data=st.data())
def test_each_is_delivered_once_or_passed_over_and_no_budget_is_exceeded(kind, sizes, data):
    poison = set() if kind == "list" else data.draw(st.sets(st.integers(0, len(sizes) - 1)))
    max_atoms = data.draw(st.integers(1, 20))
    max_edges = data.draw(st.none() | st.integers(1, 30))
    most = data.draw(st.none() | st.integers(1, 5))
    width = data.draw(st.integers(1, 4))
    given_input = source(kind, sizes, poison)
    sampler = SizeAwareSampler(given_input, max_atoms, max_edges, most, bin_width=width)
    edge_limit = max_edges or 10**9
    large = {i for i, (n, e) in enumerate(sizes) if n > max_atoms or e > edge_limit} - poison
    poisoned_large = {i for i in poison if sizes[i][0] > max_atoms or sizes[i][1] > edge_limit}
    good = set(range(len(sizes))) - large - poison
    if not good:
        with pytest.raises(RuntimeError, match="no system is left"):
            sampler.build_initial_batch()
        assert {one.index for one in sampler.take_rejected()} == set(range(len(sizes)))
        assert sampler.exhausted
        return
    batch = sampler.build_initial_batch()
    inside = {identity(one): sizes[identity(one)] for one in batch.to_data_list()}
    delivered = list(inside)
    assert len(batch) <= (most or 10**9)
    while True:
        atoms, edges = (sum(column) for column in zip(*inside.values(), strict=True))
        assert atoms <= max_atoms and edges <= edge_limit
        leaving = data.draw(st.sampled_from(sorted(inside)))
        del inside[leaving]
        room = max_atoms - sum(n for n, _ in inside.values())
        edge_room = edge_limit - sum(e for _, e in inside.values())
        if kind != "stream":
            remaining = set(sampler)
            assert len(sampler) == len(remaining)
            assert not remaining & set(delivered)
        while (one := sampler.request_replacement(room, edge_room)) is not None:
            number = identity(one)
            assert one.num_nodes == sizes[number][0]
            delivered.append(number)
            inside[number] = sizes[number]
            room, edge_room = room - sizes[number][0], edge_room - sizes[number][1]
        if not inside:
            break
    assert sampler.exhausted
    assert sorted(delivered) == sorted(good)
    rejected = {one.index: one for one in sampler.take_rejected()}
    assert rejected.keys() == large | poison
    for index in large:
        assert f"{sizes[index][0]} atoms" in rejected[index].reason
        assert rejected[index].data.num_nodes == sizes[index][0]
        assert rejected[index].error is None
    for index in poison - poisoned_large:
        assert f"record {index} is torn" in rejected[index].reason
        assert isinstance(rejected[index].error, OSError)
    assert not list(sampler.take_rejected())


@given(sizes=sizes_of, width=st.integers(1, 5), budget=st.integers(1, 30))
def test_the_largest_bin_that_fits_comes_first_and_a_bin_is_in_order(sizes, width, budget):
    sampler = SizeAwareSampler(Sizes(sizes), bin_width=width)
    while len(sampler):
        remaining = list(sampler)
        fitting = [i for i in remaining if sizes[i][0] <= budget]
        one = sampler.request_replacement(budget, None)
        if not fitting:
            assert one is None
            return
        key = max(sizes[i][0] // width for i in fitting)
        assert identity(one) == min(i for i in fitting if sizes[i][0] // width == key)


@given(sizes=sizes_of, seed=st.integers(0, 100))
def test_shuffling_follows_the_seed_and_keeps_bins(sizes, seed):
    orders = []
    for _ in range(2):
        np.random.seed(seed)
        sampler = SizeAwareSampler(Sizes(sizes), bin_width=3, shuffle=True)
        order = []
        while (one := sampler.request_replacement(None, None)) is not None:
            order.append(identity(one))
        orders.append(order)
    assert orders[0] == orders[1]
    assert sorted(orders[0]) == list(range(len(sizes)))
    keys = [sizes[i][0] // 3 for i in orders[0]]
    assert keys == sorted(keys, reverse=True)


def test_shuffling_shuffles():
    np.random.seed(0)
    sampler = SizeAwareSampler(Sizes([(3, 0)] * 50), shuffle=True)
    batch = sampler.build_initial_batch()
    ids = batch["system_id"].view(-1).tolist()
    assert sorted(ids) == list(range(50)) and ids != list(range(50))


def test_a_dataset_is_read_when_a_system_is_delivered():
    dataset = Sizes([(5, 0), (3, 0), (9, 0)])
    sampler = SizeAwareSampler(dataset, max_atoms=8)
    assert dataset.reads == []
    batch = sampler.build_initial_batch()
    assert dataset.reads == [0, 1]
    assert [own["metadata"] for own in batch.host] == [{"name": 0}, {"name": 1}]


def test_a_stream_is_not_read_further_than_needed(monkeypatch):
    monkeypatch.setattr("nvdyn_ase.dynamics.sampler.LOOK_AHEAD", ahead := 20)
    read = []

    def stream():
        for number in range(10 * ahead):
            read.append(number)
            yield system(5 if number else 1)

    sampler = SizeAwareSampler(stream(), max_batch_size=3)
    assert read == []
    order = sampler.build_initial_batch()["system_id"].view(-1).tolist()
    while not sampler.exhausted:
        held = len(read) - len(order)
        assert held <= ahead
        order.append(identity(sampler.request_replacement(None, None)))
    assert sorted(order) == list(range(10 * ahead))
    late = [place - number for place, number in enumerate(order)]
    assert max(map(abs, late)) <= ahead  # the small one is not left until the end
    small = SizeAwareSampler(stream(), max_atoms=20)
    read.clear()
    small.build_initial_batch()
    assert len(read) <= 2 * 20


def test_a_stream_has_no_length_and_needs_a_budget():
    sampler = SizeAwareSampler(iter([system(1)]))
    with pytest.raises(TypeError, match="exhausted"):
        len(sampler)
    with pytest.raises(TypeError, match="exhausted"):
        iter(sampler)
    with pytest.raises(ValueError, match="max_atoms"):
        sampler.build_initial_batch()
    sampler.max_batch_size = 4
    assert len(sampler.build_initial_batch()) == 1
    assert sampler.exhausted
    with pytest.raises(ValueError, match="shuffled"):
        SizeAwareSampler(iter([]), shuffle=True)


def test_a_stream_that_only_fails_ends():
    class Broken:
        def __iter__(self):
            return self

        def __next__(self):
            raise OSError("torn")

    sampler = SizeAwareSampler(Broken(), max_atoms=5)
    with pytest.raises(RuntimeError, match=f"{ERRORS_IN_A_ROW} could not be read"):
        sampler.build_initial_batch()
    *_, last = sampler.take_rejected()
    assert "in a row" in last.reason


def test_a_generator_that_fails_has_delivered_what_came_before():
    def stream():
        yield system(2)
        yield "no system"
        yield system(3), {"name": "c"}
        raise OSError("truncated")

    sampler = SizeAwareSampler(stream(), max_batch_size=9)
    batch = sampler.build_initial_batch()
    assert batch["system_id"].view(-1).tolist() == [2, 0]
    assert batch.host[0] == {"metadata": {"name": "c"}}
    assert [one.index for one in sampler.take_rejected()] == [1, 3]


def test_the_smallest_is_named_when_nothing_fits():
    sampler = SizeAwareSampler(Sizes([(9, 1), (7, 50), (8, 2)]), max_atoms=7, max_edges=10)
    with pytest.raises(RuntimeError, match=r"system 1, with 7 atoms and 50 edges.*max_edges=10"):
        sampler.build_initial_batch()
    with pytest.raises(RuntimeError, match="no system is left"):
        SizeAwareSampler([]).build_initial_batch()


def test_budgets_may_shrink():
    sampler = SizeAwareSampler(Sizes([(9, 0), (4, 0), (5, 0)]), max_atoms=9)
    sampler.max_atoms = 5
    assert sampler.build_initial_batch()["system_id"].view(-1).tolist() == [2]
    sampler.max_atoms = 3
    assert sampler.exhausted
    assert [one.index for one in sampler.take_rejected()] == [0, 1]


def test_metadata_that_cannot_be_had_or_are_wrong():
    dataset = Sizes([(3, 0), (4, 0), (2, 0)], unknown=[1])
    dataset.sizes[2] = (1, 0)
    dataset.__class__ = type("Lying", (Sizes,), {"__getitem__": lambda self, i: (system(3), {})})
    sampler = SizeAwareSampler(dataset, max_atoms=3)
    assert sampler.build_initial_batch()["system_id"].view(-1).tolist() == [0]
    assert sampler.request_replacement(3, None) is None
    reasons = {one.index: one.reason for one in sampler.take_rejected()}
    assert "is gone" in reasons[1] and "says 1 atoms, and the system has 3" in reasons[2]


class NoMetadata:
    def __len__(self):
        return 1

    def __getitem__(self, index):
        return system(1), {}


@pytest.mark.parametrize("wrong", [NoMetadata(), object(), 3, {}, [1, 2], "ab", [None]])
def test_what_is_no_dataset(wrong):
    with pytest.raises(TypeError):
        SizeAwareSampler(wrong)


@pytest.mark.parametrize("name", ["max_atoms", "max_edges", "max_batch_size", "bin_width"])
def test_limits_below_one(name):
    with pytest.raises(ValueError, match=name):
        SizeAwareSampler([], **{name: 0})


def test_parameters_are_attributes_and_the_input_is_left_alone():
    data = [system(2)]
    sampler = SizeAwareSampler(data, 5, 6, 7, 2, True, 0.5)
    assert sampler.dataset is data
    names = ("max_atoms", "max_edges", "max_batch_size", "bin_width", "shuffle")
    assert [getattr(sampler, name) for name in names] == [5, 6, 7, 2, True]
    assert sampler.max_gpu_memory_fraction == 0.5
    assert "1 systems, max_atoms=5" in repr(sampler)
    sampler.build_initial_batch()
    assert data[0].system_id is None
    assert bool(sampler) and len(sampler) == 0
    with pytest.raises(ValueError, match="fraction"):
        SizeAwareSampler([], max_gpu_memory_fraction=0.0)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 5), st.just(0)), max_size=12),
    st.sets(st.integers(0, 14)),
    st.sets(st.integers(0, 11)),
    st.integers(1, 3),
    st.sampled_from(["dataset", "stream"]),
)
def test_what_is_left_out_is_neither_delivered_nor_rejected(sizes, done, torn, parts, kind):
    whole = set(range(len(sizes))) - done
    given_out = set()
    for part in range(parts):
        items = source(kind, sizes, torn)
        sampler = SizeAwareSampler(items, max_atoms=4)
        sampler.share(part, parts)
        sampler.leave_out(done)
        while (data := sampler.request_replacement(None, None)) is not None:
            given_out.add(int(data.system_id))
        assert sampler.exhausted
        given_out |= {one.index for one in sampler.take_rejected()}
        assert not set(getattr(items, "reads", ())) & done
    assert given_out == whole
