"""The search itself, against ASE's."""

import numpy as np
import pytest
import torch
from ase.utils.linesearch import LineSearch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nvdyn_ase.dynamics.optimizers.line_search import Search, SearchLimits, advance, start

COUNT, MOST = 150, 30
EPSILON = float(np.finfo(float).eps)


class Curves:
    """Functions of one variable that go downhill at first: polynomials, and waves on them.

    With ``digits``, values and slopes are rounded, so that there are ties and plateaus. With
    ``noise``, a generator, the last digit is another one, so that one sees what it decides.
    """

    def __init__(self, seed, digits):
        self.noise = None
        rng = np.random.default_rng(seed)
        self.factors = rng.normal(size=(4, COUNT)) * rng.choice([0.0, 1.0], size=(4, COUNT))
        self.factors[0] = -(10.0 ** rng.uniform(-4, 2, COUNT))
        self.wave = rng.choice([0.0, 0.1, 1.0], COUNT)
        self.frequency = 10.0 ** rng.uniform(-1, 2, COUNT)
        self.digits = digits
        self.limits = {
            "maxstep": rng.choice([0.01, 0.2, 1.0, 1000.0], COUNT),
            "c1": rng.choice([1e-4, 0.23, 0.6], COUNT),
            "c2": rng.choice([1e-12, 1e-3, 0.46], COUNT),
            "stpmax": rng.choice([1.5, 50.0], COUNT),
        }

    def __call__(self, x, which=slice(None)):
        a, b, c, d = self.factors[:, which]
        wave, angle = self.wave[which], self.frequency[which] * x
        value = x * (a + x * (b + x * (c + x * d))) + wave * np.cos(angle)
        slope = a + x * (2 * b + x * (3 * c + x * 4 * d))
        slope = slope - wave * self.frequency[which] * np.sin(angle)
        if self.digits is not None:
            value, slope = np.round(value, self.digits), np.round(slope, self.digits)
        if self.noise is not None:
            value, slope = (
                own * (1.0 + EPSILON * self.noise.integers(-2, 3)) for own in (value, slope)
            )
        return value, slope


def ases(curves, which):
    """Return the trials that ASE makes, and how they end."""
    trials = []

    def value(x):
        if len(trials) == MOST:
            raise StopIteration
        trials.append(x[0])
        return curves(x[0], which)[0]

    def gradient(x):
        return np.array([curves(x[0], which)[1], 0.0, 0.0])

    origin, direction = np.zeros(3), np.array([1.0, 0.0, 0.0])
    limits = {key: values[which] for key, values in curves.limits.items()}
    try:
        with np.errstate(all="ignore"):
            step, _, _, stuck = LineSearch()._line_search(
                *(value, gradient, origin, direction, gradient(origin)),
                *(curves(0.0, which)[0], None),
                **limits,
            )
    except StopIteration:
        return trials, None, None
    return trials, step, stuck


def column(values):
    return torch.as_tensor(values).view(-1, 1)


def ours(curves):
    """Do all of them together."""
    limits = SearchLimits(**{key: column(values) for key, values in curves.limits.items()})
    value, slope = map(column, curves(np.zeros(COUNT)))
    packed = start(value, slope, torch.ones_like(value), limits).packed()
    trials, ends = [[] for _ in range(COUNT)], [(None, None)] * COUNT
    for _ in range(MOST):
        steps = packed[:, 0].numpy()
        packed, ended = advance(packed, *map(column, curves(steps)), limits)
        search = Search.of(packed)
        for which in range(COUNT):
            if ends[which][0] is not None:
                continue
            trials[which].append(steps[which])
            if ended[which]:
                ends[which] = search.step[which].item(), bool(search.stuck[which])
    return [(own, *end) for own, end in zip(trials, ends, strict=True)]


def decided(curves, which, expected):
    """Return how many of ASE's trials are numbers, and the same whatever the last digits are."""
    finite = np.isfinite(expected)
    count = len(expected) if finite.all() else int(np.argmin(finite))
    for seed in range(20):
        curves.noise = np.random.default_rng(seed)
        other = ases(curves, which)[0][:count]
        curves.noise = None
        same = np.isclose(expected[: len(other)], other, rtol=1e-12, atol=1e-12)
        count = len(other) if same.all() else int(np.argmin(same))
    return count


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 3, 1]))
@example(3009, None)
@example(6681, None)
@example(6682, None)
@example(1053, 1)
def test_the_trials_are_ases(seed, digits):
    curves = Curves(seed, digits)
    for which, (trials, step, stuck) in enumerate(ours(curves)):
        expected, ases_step, ases_stuck = ases(curves, which)
        if ases_step is None and len(expected) < MOST:
            continue  # refused: it went uphill
        count = len(expected)
        if len(trials) != count or not np.allclose(trials, expected, rtol=1e-12, atol=1e-12):
            count = decided(curves, which, expected)
            assert count < max(len(expected), len(trials))
        np.testing.assert_allclose(trials[:count], expected[:count], rtol=1e-12, atol=1e-12)
        if count < len(expected):
            assert np.isfinite(trials).all()  # where ASE's are not, it goes on for ever
            continue
        assert stuck == ases_stuck
        assert step == (None if ases_step is None else pytest.approx(ases_step, abs=1e-12))
