"""What a run would be, before it is one: how much there is, what it takes, whether batches pay."""

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import timedelta

import ase
import numpy as np
import torch
from ase.data import chemical_symbols

from nvdyn_ase.atoms import batch_from_atoms, validate
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.neighbors import NeighborList
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.supply import Numbered

#: Structures, and atoms, of the sample that is timed.
SAMPLE = 50
SAMPLE_ATOMS = 4096
#: Forward passes are repeated until so long has passed, s.
_LONG_ENOUGH = 0.3


@dataclass
class Plan:
    """What there is to do, and what it will take.

    Attributes
    ----------
    structures, atoms
        How many can be read, and their atoms in all.
    smallest, largest
        Atoms of single structures.
    unknown
        Elements that the model does not know, with the number of structures that have them.
    unusable
        Structures that would be rejected for another reason, by reason.
    batches
        How many batches there are one after the other, as full as they may be.
    fullest
        Structures and atoms of the largest of them.
    sampled
        How many structures were timed.
    together, alone
        Time of a forward pass for one structure, in a batch of the sample and one by one, s.
    memory
        Of the largest batch, bytes.
    """

    structures: int = 0
    atoms: int = 0
    smallest: int = 0
    largest: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    unusable: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    fullest: tuple[int, int] = (0, 0)
    sampled: int = 0
    together: float = float("nan")
    alone: float = float("nan")
    memory: float = float("nan")

    @property
    def usable(self) -> int:
        """Structures that would be moved."""
        return self.structures - sum(self.unusable.values())

    @property
    def gain(self) -> float:
        """How many times faster a batch is than one after the other."""
        return self.alone / self.together


def plan(numbered: Iterable[Numbered], model: BaseModelMixin, capacity: Capacity) -> Plan:
    """Read structures, and time a sample of them.

    Parameters
    ----------
    numbered
        Structures with their positions in the input; one at a time is held, and the sample.
    model
        What evaluates them.
    capacity
        How much a batch holds.
    """
    found, sample = Plan(), _Sample()
    share, batch = 0, (0, 0)
    for _, atoms in numbered:
        _count(found, atoms)
        if not _is_usable(found, atoms, model):
            continue
        own = capacity.share(atoms)
        if batch[0] and share + own > capacity.limit:
            share, batch = 0, (0, 0)
        found.batches += not batch[0]
        share, batch = share + own, (batch[0] + 1, batch[1] + len(atoms))
        found.fullest = max(found.fullest, batch, key=lambda pair: pair[1])
        sample.offer(atoms)
    if sample.taken:
        _measure(found, sample.taken, model)
    return found


def _count(found: Plan, atoms: ase.Atoms) -> None:
    size = len(atoms)
    found.smallest = min(found.smallest, size) if found.structures else size
    found.largest = max(found.largest, size)
    found.structures, found.atoms = found.structures + 1, found.atoms + size


def _is_usable(found: Plan, atoms: ase.Atoms, model: BaseModelMixin) -> bool:
    """Say whether a structure would be moved, and count why not."""
    known = model.model_card.supported_elements
    foreign = set() if known is None else set(atoms.numbers.tolist()) - set(known)
    found.unknown.update(chemical_symbols[number] for number in foreign)
    problem = "an element that the model does not know" if foreign else validate(atoms)
    if problem is None:
        return True
    found.unusable[str(problem)] += 1
    return False


class _Sample:
    """Structures taken at random, each with the same chance, from a stream of any length.

    J. S. Vitter, ACM Trans. Math. Softw. 11, 37 (1985), algorithm R.
    """

    def __init__(self) -> None:
        self.taken: list[ase.Atoms] = []
        self._offered = 0
        self._rng = np.random.default_rng(0)

    def offer(self, atoms: ase.Atoms) -> None:
        """Take it, or not."""
        self._offered += 1
        place = int(self._rng.integers(self._offered))
        if len(self.taken) < SAMPLE:
            self.taken.append(atoms)
        elif place < SAMPLE:
            self.taken[place] = atoms


def _measure(found: Plan, sample: list[ase.Atoms], model: BaseModelMixin) -> None:
    """Time forward passes, and say what they hold."""
    sizes = np.cumsum([len(atoms) for atoms in sample])
    sample = sample[: max(int((sizes <= SAMPLE_ATOMS).sum()), 1)]
    device = model.device
    whole = _Forward(model, sample)
    singles = [_Forward(model, [atoms]) for atoms in sample]
    found.sampled = len(sample)
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    found.together = _seconds(whole, device) / len(sample)
    if device.type == "cuda":
        held = float(torch.cuda.max_memory_allocated(device))
    else:
        held = float(sum(tensor.nbytes for _, tensor in whole.batch))
    found.memory = held / whole.batch.num_nodes * found.fullest[1]

    def one_by_one() -> None:
        for single in singles:
            single()

    found.alone = _seconds(one_by_one, device) / len(sample)


class _Forward:
    """A forward pass of some structures, with what is done for their pairs before it."""

    def __init__(self, model: BaseModelMixin, structures: list[ase.Atoms]) -> None:
        config = model.model_card.neighbor_config
        self.model = model
        self.batch = batch_from_atoms(structures).to(model.device)
        self._neighbors = None if config is None else NeighborList(**dict(config))

    def __call__(self) -> None:
        """Do it, as if somebody had moved."""
        self.batch["positions"] = self.batch["positions"].clone()
        if self._neighbors is not None:
            self._neighbors.update(self.batch)
        with self.model.computing(frozenset({"energy", "forces"})):
            self.model(self.batch)


def _seconds(work: Callable[[], None], device: torch.device) -> float:
    """Return how long something takes when it has been done before, s: the shortest of some."""
    work()
    times: list[float] = []
    while not times or sum(times) < _LONG_ENOUGH:
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.perf_counter() - start)
    return min(times)


# -------------------------------------------------------------------- as people read it


def table(found: Plan, unreadable: dict[int, str], steps: int | None, device: torch.device) -> str:
    """Return what people see of a plan.

    Parameters
    ----------
    found
        The plan.
    unreadable
        What could not be read, by position.
    steps
        Steps of each structure at most; None if each is evaluated once.
    device
        Where it would be done.
    """
    mean = found.atoms / max(found.structures, 1)
    lines = [
        f"structures       {found.structures:8d}",
        f"atoms            {found.atoms:8d}   "
        f"{found.smallest} to {found.largest} in a structure, {mean:.1f} on average",
        f"unreadable       {len(unreadable):8d}",
    ]
    lines += [f"  {index:6d}  {why}" for index, why in list(unreadable.items())[:20]]
    lines.append(f"cannot be used   {sum(found.unusable.values()):8d}")
    lines += [f"  {count:6d}  {why}" for why, count in found.unusable.most_common(20)]
    lines += [f"  {count:6d}  have {name}" for name, count in found.unknown.most_common()]
    if not found.sampled:
        return "\n".join(lines)
    where = "on the device" if device.type == "cuda" else "fields and pairs of a batch"
    lines += [
        f"batches          {found.batches:8d}   "
        f"the largest of {found.fullest[0]} structures, {found.fullest[1]} atoms",
        f"memory           {found.memory / 1e6:8.0f} MB  {where}",
        "",
        f"forward passes of {found.sampled} structures, per structure:",
        f"  in one batch   {found.together * 1e3:8.3f} ms",
        f"  one by one     {found.alone * 1e3:8.3f} ms",
        _advice(found.gain),
        "",
        _duration(found, steps),
    ]
    return "\n".join(lines)


def _advice(gain: float) -> str:
    if gain < 1.2:
        return f"batches do not pay for this model here: {gain:.1f} times as fast"
    return f"batches pay: {gain:.1f} times as fast"


def _duration(found: Plan, steps: int | None) -> str:
    seconds = found.usable * found.together * (1 if steps is None else steps + 1)
    told = timedelta(seconds=max(round(seconds), 1))
    many = "" if steps is None else f", if each does {steps} steps"
    return f"time             {told} in forward passes{many}"
