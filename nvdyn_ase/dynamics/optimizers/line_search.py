"""The line search of J. J. Moré and D. J. Thuente, as ASE does it, for all systems at once.

J. J. Moré and D. J. Thuente, ACM Trans. Math. Softw. 20, 286 (1994), as in
``ase.utils.linesearch``: without their auxiliary function, so that the two stages are one, and with
a limit on how far an atom goes from one trial to the next. Each system has a search of its own; a
call of :func:`advance` is one trial of each.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

# ASE's numbers: the smallest step, the relative width at which an interval is a point, and how far
# the next step is at least and at most, in units of the last gain, before a minimum is enclosed.
_SMALLEST = 1e-8
_WIDTH = 1e-14
_NEAREST, _FARTHEST = 1.1, 4.0


class Search(NamedTuple):
    """Where the search of each system stands; steps are multiples of its direction.

    ``best`` and ``other`` are points: a step, the value and the slope there. They are the best so
    far, and the other end of the interval in which the minimum is.

    Attributes
    ----------
    step
        The trial.
    best, other
        Two points.
    bounds
        Smallest and largest step that is allowed.
    widths
        Of the interval, now and a trial before.
    value, slope
        At the start.
    longest
        Largest norm among the rows of the direction, Å.
    bracketed
        1 if the minimum is enclosed by ``best`` and ``other``, or 0.
    stuck
        1 if the trial is the longest step and repeats the best, or 0.
    """

    step: Float[Tensor, "B 1"]
    best: Float[Tensor, "B 3"]
    other: Float[Tensor, "B 3"]
    bounds: Float[Tensor, "B 2"]
    widths: Float[Tensor, "B 2"]
    value: Float[Tensor, "B 1"]
    slope: Float[Tensor, "B 1"]
    longest: Float[Tensor, "B 1"]
    bracketed: Float[Tensor, "B 1"]
    stuck: Float[Tensor, "B 1"]

    @classmethod
    def of(cls, packed: Float[Tensor, "B 16"]) -> "Search":
        """Return what :meth:`packed` has made one tensor of."""
        return cls(*packed.split((1, 3, 3, 2, 2, 1, 1, 1, 1, 1), 1))

    def packed(self) -> Float[Tensor, "B 16"]:
        """Return everything as one tensor, as a state keeps it."""
        return torch.cat(self, 1)


class SearchLimits(NamedTuple):
    """The parameters of a search, one number per system.

    Attributes
    ----------
    maxstep
        Longest displacement of an atom from one trial to the next, Å.
    c1
        Decrease of the value that is enough, in units of what the slope at the start promises.
    c2
        Slope that is flat enough, in units of that at the start.
    stpmax
        Longest step, in units of the direction.
    """

    maxstep: Float[Tensor, "B 1"]
    c1: Float[Tensor, "B 1"]
    c2: Float[Tensor, "B 1"]
    stpmax: Float[Tensor, "B 1"]


def start(
    value: Float[Tensor, "B 1"],
    slope: Float[Tensor, "B 1"],
    longest: Float[Tensor, "B 1"],
    limits: SearchLimits,
) -> Search:
    """Return a search at its first trial: the whole direction, or as far as an atom may go.

    Parameters
    ----------
    value, slope
        Where it starts.
    longest
        Largest norm among the rows of the direction, Å.
    limits
        The parameters.
    """
    zero = torch.zeros_like(value)
    point = torch.cat((zero, value, slope), 1)
    width = limits.stpmax - _SMALLEST
    return Search(
        step=(limits.maxstep / longest).clamp(max=1.0),
        best=point,
        other=point,
        bounds=torch.cat((zero, zero + (1.0 + _FARTHEST)), 1),
        widths=torch.cat((width, 2.0 * width), 1),
        value=value,
        slope=slope,
        longest=longest,
        bracketed=zero,
        stuck=zero,
    )


def advance(
    packed: Float[Tensor, "B 16"],
    value: Float[Tensor, "B 1"],
    slope: Float[Tensor, "B 1"],
    limits: SearchLimits,
) -> tuple[Float[Tensor, "B 16"], Bool[Tensor, "B 1"]]:
    """Return the searches at their next trials, and which of them end with the trial that was.

    Those that end stay as they are: their ``step`` is the result.

    Parameters
    ----------
    packed
        The searches, as :meth:`Search.packed` has them.
    value, slope
        At the trial.
    limits
        The parameters.
    """
    search = Search.of(packed)
    ended = _ended(search, value, slope, limits)
    following = _next_trial(search, torch.cat((search.step, value, slope), 1), limits)
    return torch.where(ended, packed, following.packed()), ended


def _ended(
    search: Search, value: Tensor, slope: Tensor, limits: SearchLimits
) -> Bool[Tensor, "B 1"]:
    """Say whose trial is good enough, or as good as it gets.

    A value and a slope that are not numbers end a search too.
    """
    step, (lower, upper) = search.step, search.bounds.split(1, 1)
    promised = limits.c1 * search.slope
    high = value > search.value + step * promised
    steep = slope.abs() > -limits.c2 * search.slope
    pointlike = upper - lower <= _WIDTH * upper
    exhausted = (search.bracketed > 0.0) & ((step <= lower) | (step >= upper) | pointlike)
    longest = (step == limits.stpmax) & ~high & (slope <= promised)
    smallest = (step == _SMALLEST) & (high | (slope >= promised))
    return ~(high | steep) | exhausted | longest | smallest | (search.stuck > 0.0)


def _next_trial(search: Search, trial: Float[Tensor, "B 3"], limits: SearchLimits) -> Search:
    """Return the searches after a trial that was not good enough."""
    step, value, slope = trial.split(1, 1)
    _, best_value, best_slope = search.best.split(1, 1)
    higher = value > best_value
    encloses = higher | (slope * best_slope < 0.0)

    step = _within_reach(
        _interpolated(search, trial, higher, encloses), step, search.longest, limits.maxstep
    )
    best = torch.where(higher, search.best, trial)
    other = torch.where(higher, trial, torch.where(encloses, search.best, search.other))
    bracketed = encloses | (search.bracketed > 0.0)
    best_step, other_step = best[:, :1], other[:, :1]
    interval = other_step - best_step
    width = interval.abs()
    halve = bracketed & (width >= 0.66 * search.widths[:, 1:])
    step = torch.where(halve, best_step + 0.5 * interval, step)

    gain = step - best_step
    ahead = torch.cat((step + _NEAREST * gain, step + _FARTHEST * gain), 1)
    ends = torch.minimum(best_step, other_step), torch.maximum(best_step, other_step)
    bounds = torch.where(bracketed, torch.cat(ends, 1), ahead)
    lower, upper = bounds.split(1, 1)
    step = torch.minimum(step.clamp(min=_SMALLEST), limits.stpmax)
    stuck = (best_step == step) & (step == limits.stpmax) & (lower > limits.stpmax)
    pointlike = (step < lower) | (upper - lower < _WIDTH * upper)
    hopeless = (bracketed & pointlike) | (step >= upper)
    widths = torch.cat((width, search.widths[:, :1]), 1)
    return search._replace(
        step=torch.where(hopeless, best_step, step),
        best=best,
        other=other,
        bounds=bounds,
        widths=torch.where(bracketed, widths, search.widths),
        bracketed=bracketed.to(width),
        stuck=stuck.to(width),
    )


def _interpolated(
    search: Search,
    trial: Float[Tensor, "B 3"],
    higher: Bool[Tensor, "B 1"],
    encloses: Bool[Tensor, "B 1"],
) -> Float[Tensor, "B 1"]:
    """Return where the minimum should be by the values and slopes at the trial and at the best.

    Moré and Thuente, section 4, with its four cases: a ``higher`` value; a slope of the other sign,
    which too ``encloses`` the minimum; a smaller slope; and one that is not smaller, where the
    other end of the interval takes the place of the best. A cubic is laid from the better of the
    two points, and a parabola or a secant beside it.
    """
    step, value, slope = trial.split(1, 1)
    best_step, _, best_slope = search.best.split(1, 1)
    lower, upper = search.bounds.split(1, 1)
    bracketed = search.bracketed > 0.0
    flatter = slope.abs() < best_slope.abs()
    third, fourth = flatter & ~encloses, ~(flatter | encloses)

    end = torch.where(fourth & bracketed, search.other, search.best)
    end_step, end_value, end_slope = end.split(1, 1)
    fall, length = end_value - value, step - end_step
    theta = 3.0 * fall / length + end_slope + slope
    size = torch.maximum(torch.maximum(theta.abs(), end_slope.abs()), slope.abs())
    square = (theta / size) * (theta / size) - (end_slope / size) * (slope / size)
    gamma = size * square.clamp(min=0.0).sqrt()

    origin_step, _, origin_slope = torch.where(higher, search.best, trial).split(1, 1)
    to_step, _, to_slope = torch.where(higher, trial, end).split(1, 1)
    gap = to_step - origin_step
    gamma = torch.copysign(gamma, gap)
    rest = gamma - origin_slope
    ratio = (rest + theta) / (rest + gamma + to_slope)
    cubic = origin_step + ratio * gap
    onward = step > best_step
    usable = torch.where(flatter, (ratio < 0.0) & (gamma != 0.0), bracketed)
    cubic = torch.where(encloses | usable, cubic, torch.where(onward, upper, lower))
    curvature = torch.where(higher, 2.0 * (fall / length + best_slope), slope - best_slope)
    secant = origin_step + origin_slope / curvature * gap

    to_cubic, to_secant = (cubic - origin_step).abs(), (secant - origin_step).abs()
    cautious = higher | (third & bracketed)
    take_cubic = torch.where(cautious, to_cubic < to_secant, to_cubic > to_secant) | fourth
    secant = torch.where(higher, cubic + (secant - cubic) / 2.0, secant)
    found = torch.where(take_cubic, cubic, secant)

    inside = step + 0.66 * (search.other[:, :1] - step)
    nearer = torch.where(onward, torch.minimum(found, inside), torch.maximum(found, inside))
    kept = torch.maximum(torch.minimum(found, upper), lower)
    kept = torch.where(bracketed, nearer, kept)
    return torch.where(third, kept, found)


def _within_reach(
    step: Tensor, last: Tensor, longest: Tensor, maxstep: Tensor
) -> Float[Tensor, "B 1"]:
    """Return a step that is no further from the last than atoms may go."""
    change = step - last
    length = change.abs() * longest
    return last + torch.where(length >= maxstep, change * (maxstep / length), change)
