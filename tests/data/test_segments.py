"""Reductions per system: their order, and their independence of everything else in the batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvdyn_ase.data import segment_dot, segment_max, segment_sum

F64 = torch.float64
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]
SHAPES = [(), (1,), (3,), (3, 3)]

sizes = st.lists(st.sampled_from([0, 1, 2, 3, 7, 33]), min_size=1, max_size=6)


def boundaries(sizes):
    return torch.tensor([0, *np.cumsum(sizes)])


def rows(count, shape, seed, dtype=F64):
    """Return numbers of very different size, so that the order of a sum shows in its bits."""
    generator = torch.Generator().manual_seed(seed)
    mantissa = torch.randn(count, *shape, generator=generator, dtype=F64)
    exponent = torch.randint(-8, 9, (count, *shape), generator=generator)
    return (mantissa * 2.0**exponent).to(dtype)


def first_to_last(values):
    total = torch.zeros(values.shape[1:], dtype=values.dtype)
    for row in values:
        total = total + row
    return total


@pytest.mark.parametrize("shape", SHAPES)
@given(sizes=sizes, seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_sum_goes_from_first_to_last(shape, sizes, seed):
    values, ptr = rows(sum(sizes), shape, seed), boundaries(sizes)
    expected = torch.stack([first_to_last(part) for part in values.split(sizes)])
    assert torch.equal(segment_sum(values, ptr), expected)
    assert torch.equal(segment_sum(values, ptr.int()), expected)


@given(sizes=sizes, seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_dot_goes_component_by_component(sizes, seed):
    a, b, ptr = rows(sum(sizes), (3,), seed), rows(sum(sizes), (3,), seed + 1), boundaries(sizes)
    expected = [
        first_to_last((x * y).view(-1)) for x, y in zip(a.split(sizes), b.split(sizes), strict=True)
    ]
    assert torch.equal(segment_dot(a, b, 3 * ptr), torch.stack(expected).view(-1, 1))


@pytest.mark.parametrize("shape", SHAPES)
@given(sizes=sizes, seed=st.integers(0, 2**16))
@settings(max_examples=15, deadline=None)
def test_max_of_each_segment(shape, sizes, seed):
    values = rows(sum(sizes), shape, seed)
    lowest = torch.full(shape, -float("inf"), dtype=F64)
    expected = [part.amax(0) if len(part) else lowest for part in values.split(sizes)]
    assert torch.equal(segment_max(values, boundaries(sizes)), torch.stack(expected))


@pytest.mark.parametrize("dtype", FLOATS, ids=str)
@pytest.mark.parametrize("large", [1, 1000, 20_000])
def test_bits_do_not_depend_on_the_neighbours(dtype, large):
    """A system alone, first, last, among small and large ones, and beside one of NaN."""
    own = rows(large, (3,), 0, dtype)
    bad = torch.full((5, 3), float("nan"), dtype=dtype)
    reductions = [
        lambda v, ptr: segment_sum(v, ptr),
        lambda v, ptr: segment_sum(v[:, 0].contiguous(), ptr),
        lambda v, ptr: segment_dot(v, v, 3 * ptr),
        lambda v, ptr: segment_max(v, ptr),
    ]
    for reduce in reductions:
        alone = reduce(own, boundaries([large]))
        for before, after in ((1, 0), (0, 1), (13, 7), (2047, 501), (30_001, 0)):
            parts = [rows(before, (3,), 1, dtype), own, rows(after, (3,), 2, dtype), bad]
            sizes = [len(part) for part in parts]
            together = reduce(torch.cat(parts), boundaries(sizes))
            assert torch.equal(together[1:2], alone)
            assert together[3].isnan().all()
            assert together[1:2].dtype is dtype
        crowd = torch.cat([rows(1, (3,), i, dtype) for i in range(50)] + [own])
        assert torch.equal(reduce(crowd, boundaries([1] * 50 + [large]))[-1:], alone)


@pytest.mark.parametrize("shape", SHAPES)
def test_empty_segments_and_batches(shape):
    values = rows(3, shape, 0)
    ptr = torch.tensor([0, 0, 2, 2, 3, 3])
    total, largest = segment_sum(values, ptr), segment_max(values, ptr)
    assert total.shape == largest.shape == (5, *shape)
    for row in (0, 2, 4):
        assert bool((total[row] == 0).all())
        assert bool((largest[row] == -float("inf")).all())
    none = torch.zeros(0, *shape, dtype=F64)
    for reduce in (segment_sum, segment_max):
        assert reduce(none, torch.tensor([0])).shape == (0, *shape)
        assert reduce(none, torch.tensor([0, 0, 0])).shape == (2, *shape)
    vectors = torch.zeros(0, 3, dtype=F64)
    assert segment_dot(vectors, vectors, torch.tensor([0])).shape == (0, 1)
    assert segment_dot(vectors, vectors, torch.tensor([0, 0])).tolist() == [[0]]


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("other", [0.0, float("inf"), -float("inf")])
def test_nan_wins_in_its_own_segment(place, other):
    values = torch.full((6,), other)
    values[place] = float("nan")
    values[5] = 1.0
    ptr = torch.tensor([0, 3, 6])
    assert segment_max(values, ptr).isnan().tolist() == [True, False]
    assert segment_sum(values, ptr)[0].isnan()
    vectors = values.view(2, 3)
    assert segment_dot(vectors, vectors, ptr).isnan().view(-1).tolist() == [True, False]


def test_infinities_pass():
    inf = float("inf")
    ptr = torch.tensor([0, 2, 4])
    values = torch.tensor([1.0, inf, -inf, -inf])
    assert segment_max(values, ptr).tolist() == [inf, -inf]
    assert segment_sum(values, ptr).tolist() == [inf, -inf]
    assert segment_sum(torch.tensor([inf, -inf]), torch.tensor([0, 2])).isnan().all()


def test_any_memory_layout():
    values = rows(3, (8,), 0).T
    ptr = torch.tensor([0, 9, 3, 9, 8, 9])[::2]
    packed = values.contiguous(), ptr.contiguous()
    assert not values.is_contiguous()
    assert torch.equal(segment_sum(values, ptr), segment_sum(*packed))
    assert torch.equal(segment_max(values, ptr), segment_max(*packed))
    expected = segment_dot(packed[0], packed[0], 3 * ptr)
    assert torch.equal(segment_dot(values, values, 3 * ptr), expected)


@pytest.mark.parametrize("shape", [(), (3,)])
def test_gradients(shape):
    values = rows(11, shape, 0).requires_grad_()
    ptr = torch.tensor([0, 3, 3, 8, 11])
    full = torch.tensor([0, 2, 3])
    check = torch.autograd.gradcheck
    assert check(lambda v: segment_sum(v, ptr), values)
    assert check(lambda v: segment_max(v, ptr)[full], values)
    if shape:
        other = rows(11, shape, 1).requires_grad_()
        assert check(lambda a, b: segment_dot(a, b, 3 * ptr), (values, other))


def test_the_gradient_of_a_maximum_is_shared_among_equals():
    values = torch.tensor([1.0, 2.0, 2.0, 5.0], requires_grad=True)
    segment_max(values, torch.tensor([0, 3, 4])).sum().backward()
    assert values.grad.tolist() == [0, 0.5, 0.5, 1]
