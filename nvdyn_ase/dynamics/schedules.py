"""Parameters that are functions of time."""

from collections.abc import Callable, Mapping
from numbers import Real
from typing import Any, Self

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Row = Float[Tensor, "B 1"]


class Schedule:
    """A parameter as a function of time: ``temperature=Schedule(cooling, start=[300.0, 600.0])``.

    Time is each system's own, in ASE units, from when the system came to the engine, or from when
    the schedule was set if that was later. A step takes the value at its beginning. So a system has
    the same values alone and among others, in any order, and after a restart. A sequence of numbers
    that is no schedule is always one value per system, however long it is.

    Where a schedule is in force an integrator's ``conserved_energy`` is not conserved.

    Parameters
    ----------
    function
        Called at every step as ``function(time, **columns)`` with tensors (B, 1), a row for each
        system, on the device of the batch; returns (B, 1). Operations of torch, row by row, that
        do not wait for the device: ``torch.where`` instead of ``if``.
    **columns
        What else the function is given: numbers, or one per system, which stay with their systems.
    """

    def __init__(self, function: Callable[..., Any], **columns: Any) -> None:
        if not callable(function):
            raise TypeError(f"{function!r} is not a function of time")
        self.function = function
        self.columns: Mapping[str, Any] = columns
        self.factor = 1.0

    def __repr__(self) -> str:
        """Say the function, and what else it is given."""
        name = getattr(self.function, "__name__", repr(self.function))
        parts = [name, *(f"{key}={value!r}" for key, value in self.columns.items())]
        return f"{self._times()}Schedule({', '.join(parts)})"

    def _times(self) -> str:
        return "" if self.factor == 1.0 else f"{self.factor!r} * "

    def __call__(self, time: Row, columns: Mapping[str, Row]) -> Row:
        """Return the values at a time of each system, (B, 1).

        Raises
        ------
        ValueError
            The function returns something of another shape.
        """
        values = torch.as_tensor(self.function(time, **columns)).to(time)
        if values.shape not in ((), time.shape):
            raise ValueError(
                f"{self!r} returns values of shape {tuple(values.shape)} for times of shape "
                f"{tuple(time.shape)}; use operations that act row by row"
            )
        values = values if self.factor == 1.0 else self.factor * values
        return values.expand_as(time)

    def __mul__(self, factor: Any) -> Self:
        """Return the schedule in other units."""
        if not isinstance(factor, Real):
            return NotImplemented
        scaled = object.__new__(type(self))
        scaled.__dict__.update(self.__dict__, factor=self.factor * float(factor))
        return scaled

    __rmul__ = __mul__

    def __truediv__(self, divisor: Any) -> Self:
        """Return the schedule in other units."""
        if not isinstance(divisor, Real):
            return NotImplemented
        scaled = self * 1.0
        scaled.factor = self.factor / float(divisor)
        return scaled

    def todict(self) -> dict[str, str]:
        """Return what a file says of it."""
        return {"schedule": repr(self)}


class Ramp(Schedule):
    """A parameter that goes from one value to another at a constant rate, and then stays there.

    Parameters
    ----------
    start, stop
        The first and the last value; numbers, or one per system.
    duration
        From when to when, in ASE units of time, as ``10000 * ase.units.fs``; a number or one per
        system.

    Raises
    ------
    ValueError
        A duration that is not above zero.
    """

    def __init__(self, start: Any, stop: Any, duration: Any) -> None:
        self.start, self.stop, self.duration = start, stop, duration
        times = duration.cpu() if isinstance(duration, Tensor) else duration
        if not (np.asarray(times, float) > 0.0).all():
            raise ValueError(f"duration is {duration}; it must be above zero")
        super().__init__(linear, start=start, stop=stop, duration=duration)

    def __repr__(self) -> str:
        """Say from where to where, and how long it takes."""
        return f"{self._times()}Ramp({self.start!r}, {self.stop!r}, {self.duration!r})"


def linear(time: Row, start: Row, stop: Row, duration: Row) -> Row:
    """Return what is between two values after a part of a duration; the second value after it."""
    share = time / duration
    return torch.where(share < 1.0, start + (stop - start) * share, stop)
