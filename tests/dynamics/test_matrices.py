"""Functions of small matrices: scipy's numbers, and bits that no other matrix has a say in."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from nvdyn_ase.dynamics.matrices import (
    applied,
    determinant,
    exponential,
    exponential_and_integral,
    exponential_derivative,
    inverse,
    logarithm,
    squares,
    symmetric,
    trace,
)


def matrices(count, scale=1.0, seed=0):
    return scale * np.random.default_rng(seed).normal(size=(count, 3, 3))


@given(st.integers(0, 1000), st.sampled_from([0.0, 1e-9, 1e-3, 0.05, 0.4]))
def test_exponentials_and_logarithms_are_scipys(seed, scale):
    log, direction = matrices(5, scale, seed), matrices(5, 1.0, seed + 1)
    F = np.stack([scipy.linalg.expm(a) for a in log])
    pairs = zip(log, direction, strict=True)
    frechet = [scipy.linalg.expm_frechet(a, b, compute_expm=False) for a, b in pairs]
    a, b = torch.from_numpy(log), torch.from_numpy(direction)
    np.testing.assert_allclose(exponential(a), F, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(exponential_derivative(a, b), frechet, rtol=1e-12, atol=1e-12)
    found = logarithm(torch.from_numpy(F))
    np.testing.assert_allclose(found.matrix, log, atol=1e-13)
    np.testing.assert_allclose(found.inverse, np.linalg.inv(F), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(found.determinant.ravel(), np.linalg.det(F), rtol=1e-12)


@pytest.mark.parametrize("size", [0.0, 1e-9, 1e-4, 0.01, 0.2])
def test_the_exponential_and_its_integral_have_all_digits(size):
    log = matrices(20, size)
    for matrix, one, other in zip(
        log, *exponential_and_integral(torch.from_numpy(log)), strict=True
    ):
        block = np.zeros((6, 6))
        block[:3, :3], block[:3, 3:] = matrix, np.eye(3)
        expected = scipy.linalg.expm(block)
        np.testing.assert_allclose(one, expected[:3, :3], rtol=0, atol=2e-15)
        np.testing.assert_allclose(other, expected[:3, 3:], rtol=0, atol=2e-15)


@pytest.mark.parametrize("scale", [1e-3, 0.3, 0.7])
def test_the_logarithm_undoes_large_deformations_too(scale):
    stretched = np.diag([1 + scale, 1.0, 1 / (1 + 4 * scale)])
    rotation = scipy.linalg.expm(scale * np.array([[0, 1, 0], [-1, 0, 2], [0, -2, 0]]))
    F = torch.from_numpy(rotation @ stretched).unsqueeze(0)
    torch.testing.assert_close(exponential(logarithm(F).matrix), F, rtol=1e-12, atol=1e-12)


def test_geometry_is_numpys():
    many = torch.from_numpy(matrices(50))
    expected = np.linalg.det(many)
    np.testing.assert_allclose(determinant(many).view(-1), expected, rtol=1e-13)
    np.testing.assert_allclose(inverse(many).determinant.view(-1), expected, rtol=1e-13)
    one = np.eye(3)[None].repeat(50, 0)
    np.testing.assert_allclose(inverse(many).matrix @ many, one, atol=1e-11)
    np.testing.assert_allclose(trace(many).view(-1), np.trace(many, axis1=1, axis2=2))
    np.testing.assert_allclose(squares(many).view(-1), (many**2).sum((1, 2)))
    rows = torch.from_numpy(matrices(50, seed=1))[:, 0]
    np.testing.assert_allclose(applied(rows, many), np.einsum("ni,nij->nj", rows, many))


FUNCTIONS = {
    "determinant": determinant,
    "inverse": lambda m: inverse(m).matrix,
    "trace": trace,
    "squares": squares,
    "symmetric": symmetric,
    "applied": lambda m: applied(m[:, 0], m),
    "product": lambda m: m @ m,
    "exponential": exponential,
    "derivative": lambda m: exponential_derivative(m, m @ m),
    "integral": lambda m: exponential_and_integral(m)[1],
    "logarithm": lambda m: logarithm(exponential(m)).matrix,
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_matrix_does_not_know_the_others(name):
    function = FUNCTIONS[name]
    many = torch.from_numpy(matrices(200, 0.2))
    whole = function(many)
    broken = many.clone()
    broken[5] = float("nan")
    assert torch.equal(function(broken)[6:], whole[6:])
    for first in (0, 7, 100):
        for count in (1, 2, 3, 5, 16, 17, 100):
            part = slice(first, first + count)
            assert torch.equal(function(many[part].clone()), whole[part])
