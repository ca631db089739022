"""``ase.md.velocitydistribution``, for one Atoms or a list of them."""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import ase.md.velocitydistribution as theirs
import numpy as np
from ase import Atoms
from ase.md.velocitydistribution import PhononHarmonics, UnitError, n_BE, phonon_harmonics

from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = [
    "MaxwellBoltzmannDistribution",
    "PhononHarmonics",
    "Stationary",
    "UnitError",
    "ZeroRotation",
    "force_temperature",
    "n_BE",
    "phonon_harmonics",
    "thermalize_momenta",
]


def _several(theirs: Callable[..., None]) -> Callable[..., None]:
    """Let a function of ASE's take several Atoms, each with its own values and random numbers.

    Momenta of one Atoms are set as in ASE, with its numbers.
    """
    parameters = inspect.signature(theirs).parameters

    @functools.wraps(theirs)
    def function(atoms: Atoms | Sequence[Atoms], *args: Any, **kwargs: Any) -> None:
        if isinstance(atoms, Atoms) or not isinstance(atoms, (list, tuple)):
            theirs(atoms, *args, **kwargs)
            return
        names = [name for name, p in parameters.items() if p.kind is p.POSITIONAL_OR_KEYWORD]
        given = dict(zip(names[1:], args, strict=False)) | kwargs
        seed = given.pop("seed", None)
        columns = {key: _column(key, value, len(atoms)) for key, value in given.items()}
        if "rng" in parameters:
            columns["rng"] = _generators(given.get("rng"), seed, len(atoms))
        for row, system in enumerate(atoms):
            theirs(system, **{key: values[row] for key, values in columns.items()})

    function.__doc__ = f"{_DOC.format(name=theirs.__name__)}"
    return function


_DOC = """As ``ase.md.velocitydistribution.{name}``, for one Atoms or a list of them.

    Parameters
    ----------
    atoms
        The Atoms whose momenta are set, or a list of them.
    args, kwargs
        As in ASE. For a list numbers may be one per system. ``rng`` is then a sequence with one
        numpy generator per system; otherwise each system has a stream of its own, which follows
        from its place in the list and from ``seed`` or, without one, from a number that is drawn
        from ``rng`` or ``numpy.random``.

    Raises
    ------
    ValueError
        Not one value, or one generator, per system.
    """


def _column(name: str, value: Any, count: int) -> Sequence[Any]:
    if name == "rng" or np.ndim(value) == 0:
        return [value] * count
    if len(value) != count:
        raise ValueError(f"{name}: {len(value)} values for {count} systems; give one or one each")
    return list(value)


def _generators(rng: Any, seed: int | None, count: int) -> Sequence[Any]:
    """Return a source of random numbers for each system."""
    if isinstance(rng, (list, tuple)):
        if len(rng) != count:
            raise ValueError(f"rng: {len(rng)} generators for {count} systems; give one each")
        return rng
    if seed is None:
        source = np.random if rng is None else rng
        seed = int(np.frombuffer(source.bytes(8), np.uint64)[0])
    streams = (np.random.SeedSequence(seed, spawn_key=(row,)) for row in range(count))
    return [np.random.default_rng(stream) for stream in streams]


MaxwellBoltzmannDistribution = _several(theirs.MaxwellBoltzmannDistribution)
thermalize_momenta = _several(theirs.thermalize_momenta)
Stationary = _several(theirs.Stationary)
ZeroRotation = _several(theirs.ZeroRotation)
force_temperature = _several(theirs.force_temperature)

__getattr__ = rest_of_module(__name__)
