"""One stream of random numbers per system, whatever else is in the batch."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.parameters import PerSystemParameters, Places
from nvdyn_ase.dynamics.philox import Rows, normal, uniform, words

KEY, POSITION = "noise_key", "noise_position"

# Counters of numbers that belong to a whole system, out of the way of those of its first atom.
_PER_SYSTEM = 1 << 24

Draw = Callable[[Any, int, int], tuple[np.ndarray, ...]]


class Noise:
    """Random numbers for a batch, each a function of its system's stream and of how far that is.

    The stream of a system follows from the seed, its ``system_id`` and the purpose; how far it has
    got is a field of the engine's state. So the numbers are the same alone and among others, in any
    order, after others have left, and after a restart. With generators of numpy they are drawn from
    these as ASE does, which reads the state on the host at every step.

    Parameters
    ----------
    purpose
        What the numbers are for: engines of different purpose have different streams.
    seed
        A whole number, not negative, or one per system; drawn from ``numpy.random`` by default, so
        that ``numpy.random.seed`` decides.
    rng
        Instead of a seed: a sequence of numpy generators, one per system, that are drawn from
        directly. A single generator gives the seed.

    Attributes
    ----------
    broadcast
        Called with every array that is drawn on the host, to make it that of the first process.

    Raises
    ------
    TypeError
        Both a seed and a generator, or a seed that is no whole number.
    ValueError
        A negative seed.
    """

    def __init__(self, purpose: str, seed: Any = None, rng: Any = None) -> None:
        if seed is not None and rng is not None:
            raise TypeError("give a seed or rng, not both")
        self.purpose = purpose
        self.rng = rng
        self.seed = None if seed is None else _checked_seed(seed)
        self.broadcast: Callable[[np.ndarray], Any] | None = None
        self._hosted: list[_Recorded] | None = None
        self._rows: tuple[Batch, Rows, Rows] | None = None

    # ---------------------------------------------------------------- the streams of a batch

    def fields(self, batch: Batch, places: Places) -> dict[str, Tensor]:
        """Return the system fields of an engine's state that say where new systems are.

        Parameters
        ----------
        batch
            The new systems.
        places
            Which of the seeds or generators are theirs.

        Raises
        ------
        ValueError
            Not one seed or generator per system.
        """
        generators = self._generators(places)
        if generators is None:
            self._hosted = None
            ids = batch["system_id"].view(-1).cpu().numpy()
            keys = stream_keys(self._seeds(places), ids, self.purpose)
        else:
            if self._hosted is None or len(self._hosted) != len(generators):
                self._hosted = [_Recorded(rng) for rng in generators]
            for row in places.rows.tolist():
                self._hosted[row] = _Recorded(generators[row])
            keys = places.rows
        key = torch.from_numpy(np.array(keys)).view(-1, 1).to(batch.device)
        return {KEY: key, POSITION: torch.zeros_like(key)}

    @property
    def wants_generators(self) -> bool:
        """Whether numbers are to come from one generator of numpy for each system."""
        return _is_sequence(self.rng)

    def check(self, places: Places) -> None:
        """Raise ValueError if there is not one seed or generator for each of the systems."""
        self._generators(places)
        if isinstance(self.seed, list) and len(self.seed) != places.total:
            count = "a stream of" if places.total is None else places.total
            raise ValueError(
                f"seed: {len(self.seed)} values for {count} systems; give one or one each"
            )

    def _generators(self, places: Places) -> list[Any] | None:
        if not self.wants_generators:
            return None
        generators = list(self.rng)
        if len(generators) != places.total:
            raise ValueError(
                f"rng: {len(generators)} generators for {places.total} systems; give one each"
            )
        return generators

    def _seeds(self, places: Places) -> list[int]:
        if self.seed is None:
            source = np.random if self.rng is None else self.rng
            drawn = np.frombuffer(source.bytes(8), np.uint64).copy()
            self._share(drawn)
            self.seed = int(drawn[0])
        if not isinstance(self.seed, list):
            return [self.seed] * len(places.rows)
        self.check(places)
        return [self.seed[row] for row in places.rows]

    def _share(self, array: np.ndarray) -> None:
        if self.broadcast is not None:
            self.broadcast(array)

    # ---------------------------------------------------------------- numbers

    @property
    def is_hosted(self) -> bool:
        """Whether the numbers come from generators of numpy."""
        return self._hosted is not None

    def normals(self, batch: Batch, state: Batch, count: int) -> list[Float[Tensor, "V 3"]]:
        """Return fields of normal numbers of mean 0 and variance 1 for the atoms.

        Parameters
        ----------
        batch, state
            The systems, and the state that holds the fields of their streams.
        count
            How many fields. From a generator one is drawn after the other.
        """
        if self.is_hosted:
            return self.drawn(batch, state, lambda rng, n, _: _standard_normals(rng, n, count))
        rows = self._places(batch)[0]
        whole = normal(state[KEY], state[POSITION], rows, 3 * count, 0)
        return [whole[:, 3 * i : 3 * i + 3] for i in range(count)]

    def uniforms(self, batch: Batch, state: Batch, first: int) -> Float[Tensor, "V 3"]:
        """Return uniform numbers in [0, 1) for the atoms, independent of any before ``first``."""
        return uniform(state[KEY], state[POSITION], self._places(batch)[0], 3, first)

    def system_normals(self, batch: Batch, state: Batch, columns: int) -> Float[Tensor, "B n"]:
        """Return normal numbers for the systems, independent of those for the atoms."""
        rows = self._places(batch)[1]
        return normal(state[KEY], state[POSITION], rows, columns, _PER_SYSTEM)

    def drawn(self, batch: Batch, state: Batch, draw: Draw) -> list[Tensor]:
        """Return arrays drawn from the generators, those of all systems end to end.

        Parameters
        ----------
        batch, state
            The systems, and the state that holds the fields of their streams.
        draw
            Called as ``draw(rng, atoms, row)``; returns arrays.
        """
        assert self._hosted is not None
        keys, positions = (state[name].view(-1).tolist() for name in (KEY, POSITION))
        found = []
        for row, (key, position) in enumerate(zip(keys, positions, strict=True)):
            size = batch.num_nodes_list[row]
            own = self._hosted[key].at(position, lambda rng, n=size, r=row: draw(rng, n, r))
            for array in own:
                self._share(array)
            found.append(own)
        joined = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
        return [torch.from_numpy(array).to(batch.device) for array in joined]

    def advance(self, state: Batch) -> None:
        """Go on to the numbers of the next step."""
        state[POSITION] = state[POSITION] + 1

    def look_up(self, batch: Batch) -> None:
        """Find the rows of the atoms, and those of the systems."""
        self._places(batch)

    def _places(self, batch: Batch) -> tuple[Rows, Rows]:
        """Return the rows of the atoms, and those of the systems."""
        if self._rows is None or self._rows[0] is not batch:
            atoms = Rows(batch.host_ptr, batch.device)
            self._rows = batch, atoms, Rows(np.arange(len(batch) + 1), batch.device)
        return self._rows[1:]


class HasNoise(PerSystemParameters):
    """What integrators with random numbers have in common: where those come from."""

    noise: Noise

    def check_parameters(self, batch: Batch, places: Places) -> None:
        """Raise ValueError if there are not as many parameters, seeds or generators as systems."""
        super().check_parameters(batch, places)
        self.noise.check(places)

    def look_up(self, batch: Batch) -> None:
        """Find what the host has to know of a batch before it is moved."""
        super().look_up(batch)
        self.noise.look_up(batch)

    @property
    def seed(self) -> Any:
        """What the streams follow from; None before it was drawn, or with numpy's generators."""
        return self.noise.seed

    @property
    def rng(self) -> Any:
        """Generators of numpy, if they were given."""
        return self.noise.rng


class _Recorded:
    """A generator that gives the numbers of a step again until the next step asks.

    A system that is frozen, or a step that was undone, does not use numbers up.
    """

    def __init__(self, rng: Any) -> None:
        self.rng = rng
        self._last: tuple[int, tuple[np.ndarray, ...]] | None = None

    def at(self, position: int, draw: Callable[[Any], tuple[np.ndarray, ...]]) -> Any:
        """Return what was drawn for this step, or draw it."""
        if self._last is None or self._last[0] != position:
            self._last = position, draw(self.rng)
        return self._last[1]


def stream_keys(seeds: Sequence[int], ids: np.ndarray, purpose: str) -> np.ndarray:
    """Return the keys of streams, (B,) int64.

    Parameters
    ----------
    seeds, ids
        Of each system.
    purpose
        What the numbers are for.
    """
    tag = np.uint64(zlib.crc32(purpose.encode()))
    low = np.uint64(0xFFFFFFFF)
    roots: dict[int, tuple[np.uint64, np.uint64]] = {}
    keys = np.empty(len(ids), np.uint64)
    for row, (seed, own) in enumerate(zip(seeds, ids.astype(np.uint64), strict=True)):
        if seed not in roots:
            a, b = np.random.SeedSequence(seed).generate_state(2, np.uint32)
            roots[seed] = np.uint64(a), np.uint64(b)
        first, second, _, _ = words(
            own & low, own >> np.uint64(32), tag, np.uint64(0), *roots[seed]
        )
        keys[row] = (np.uint64(first) << np.uint64(32)) | np.uint64(second)
    return keys.view(np.int64)


def _checked_seed(seed: Any) -> int | list[int]:
    values = list(seed) if _is_sequence(seed) else [seed]
    whole = [int(value) for value in values]
    if any(value != given for value, given in zip(whole, values, strict=True)):
        raise TypeError(f"seed: {seed!r} is not made of whole numbers")
    if min(whole, default=0) < 0:
        raise ValueError(f"seed: {min(whole)} is negative")
    return whole if _is_sequence(seed) else whole[0]


def _is_sequence(value: Any) -> bool:
    return isinstance(value, (list, tuple, np.ndarray, Tensor)) and np.ndim(value) > 0


def _standard_normals(rng: Any, size: int, count: int) -> tuple[np.ndarray, ...]:
    return tuple(rng.standard_normal(size=(size, 3)) for _ in range(count))
