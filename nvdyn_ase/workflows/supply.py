"""Where a workflow's structures come from: a stream of Atoms, taken as there is room."""

import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ase
import numpy as np
import torch

from nvdyn_ase.atoms import Result, batch_from_atoms, partition, unwrapped
from nvdyn_ase.atoms.filters import Filters, why_not
from nvdyn_ase.calculators import unsupported
from nvdyn_ase.calculators.choosing import without_stress
from nvdyn_ase.data import Batch, StructureError
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.dynamics.checkpoint import CheckpointError
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.readings import Readings

#: A structure of the input with its position there.
Numbered = tuple[int, Any]


class AtomsSupply:
    """Gives an engine the structures of a stream, in their order, as there is room for them.

    It stands where an engine has its sampler. What cannot be moved goes to ``results`` at once,
    with the reason. The stream is read no further than to the first structure that does not fit.

    Parameters
    ----------
    structures
        Pairs of a position in the input and an Atoms.
    model
        What evaluates them.
    capacity
        How much a batch holds.
    cell_filter
        Puts a filter on an Atoms; None for cells that stay.
    own_calculators
        Each structure has its own calculator, which the model stands for.
    readings
        What is known already of structures that come; nothing by default.

    Attributes
    ----------
    moving
        The structures that have been given and not been taken back, by position in the input.
    results
        Of those that could not be given.
    problem
        What reading the stream has raised, if anything: it ends there.
    """

    dataset = max_atoms = max_edges = max_batch_size = None

    def __init__(
        self,
        structures: Iterator[Numbered],
        model: BaseModelMixin,
        capacity: Capacity,
        cell_filter: Callable[[ase.Atoms], Any] | None = None,
        own_calculators: bool = False,
        readings: Readings | None = None,
    ) -> None:
        self.structures, self.model, self.capacity = structures, model, capacity
        self.cell_filter, self.own_calculators = cell_filter, own_calculators
        self._readings = readings or Readings()
        self.moving: dict[int, ase.Atoms] = {}
        self.results: deque[Result] = deque()
        self.problem: Exception | None = None
        self._held: deque[Numbered] = deque()
        self._places: dict[int, int] = {}
        self._shares: dict[int, int] = {}
        self._filled = 0
        self._next: Numbered | None = None
        self._ended = False

    # ---------------------------------------------------------------- what an engine asks

    @property
    def exhausted(self) -> bool:
        """Whether the stream has ended; a structure is read to find out."""
        if self._next is None and self._held:
            self._next = self._held.popleft()
        if self._next is None and not self._ended:
            try:
                self._next = next(self.structures)
            except StopIteration:
                self._ended = True
            except Exception as problem:
                self.problem, self._ended = problem, True
        return self._next is None

    def as_saved(self, saved: Batch) -> Batch:
        """Return the structures that were being moved, as they were when they were saved.

        Raises
        ------
        CheckpointError
            One of them is not in the stream.
        """
        wanted = ids(saved)
        missing, found = set(wanted), {}
        others: list[Numbered] = []
        while missing and not self.exhausted:
            assert self._next is not None
            index, atoms = self._next
            self._next = None
            if index in missing:
                missing.remove(index)
                found[index] = atoms
            else:
                others.append((index, atoms))
        self._held.extend(others)
        if missing or any(not isinstance(atoms, ase.Atoms) for atoms in found.values()):
            raise CheckpointError(
                f"structure {min(missing, default=wanted[0])} was being moved and is not in the "
                "input any more; start afresh, without the checkpoint"
            )
        usable = [(index, found[index]) for index in wanted]
        batch = self._converted(usable)
        self._note(usable)
        for key, tensor in saved:
            batch.add_key(key, tensor, saved.level(key), overwrite=True)
        return batch

    def request_batch(self, staying: Sequence[int]) -> Batch | None:
        """Return the next structures that fit beside others, which are being moved; or None."""
        batch = None
        while batch is None and (taken := self._group()):
            batch = self._batch(taken)
        return batch

    def _group(self) -> list[Numbered]:
        """Take the next structures that fit beside those that are being moved."""
        filled = self._filled  # by those that have not been taken back, who are the staying
        taken: list[Numbered] = []
        while not self.exhausted:
            assert self._next is not None
            share = self.capacity.share(self._next[1])
            if (taken or filled) and filled + share > self.capacity.limit:
                break
            taken.append(self._next)
            filled, self._next = filled + share, None
            if filled >= self.capacity.limit:
                break
        return taken

    def reject(self, index: int, reason: str) -> None:
        """Take back a structure that the engine cannot move."""
        self.results.append(failure(self.take(index), index, Outcome.REJECTED, reason))

    # ---------------------------------------------------------------- giving and taking back

    def take(self, index: int) -> ase.Atoms:
        """Return a structure that has been moved, and let it go."""
        atoms = self.moving.pop(index)
        del self._places[id(atoms)]
        self._filled -= self._shares.pop(index)
        return atoms

    def _batch(self, taken: Sequence[Numbered]) -> Batch | None:
        """Return a batch of what can be moved; the others go to the results."""
        reasons = self._unusable(taken)
        for row, reason in reasons.items():
            index, atoms = taken[row]
            self._readings.take(index)
            self.results.append(failure(atoms, index, Outcome.REJECTED, reason))
        usable = [pair for row, pair in enumerate(taken) if row not in reasons]
        while usable:
            try:
                batch = self._converted(usable)
            except StructureError as error:
                index, atoms = usable.pop(error.index or 0)
                self.results.append(failure(atoms, index, Outcome.REJECTED, error.problem))
                continue
            self._note(usable)
            return batch
        return None

    def _note(self, usable: Sequence[Numbered]) -> None:
        for index, atoms in usable:
            self.moving[index] = atoms
            self._places[id(atoms)] = index
            self._shares[index] = self.capacity.share(atoms)
            self._filled += self._shares[index]

    def _converted(self, usable: Sequence[Numbered]) -> Batch:
        systems = [atoms for _, atoms in usable]
        readings = [self._readings.take(index) for index, _ in usable]
        batch = batch_from_atoms(systems, copy_constraints=False, readings=readings)
        if self.cell_filter is not None:
            Filters([self.cell_filter(atoms) for atoms in systems]).put(batch)
        numbers = torch.tensor([[index] for index, _ in usable])
        batch["system_id"] = numbers
        return batch

    def _unusable(self, taken: Sequence[Numbered]) -> dict[int, str]:
        """Return the rows that cannot be moved, with the reason."""
        items = [atoms for _, atoms in taken]
        rows, errors = partition(items)
        errors += unsupported([items[row] for row in rows], self.model, rows)
        reasons = {error.index: error.problem for error in errors if error.index is not None}
        first: dict[int, int] = {}
        for row in rows:
            atoms = items[row]
            known = self._places.get(id(atoms), first.setdefault(id(atoms), taken[row][0]))
            if known != taken[row][0]:
                reasons[row] = f"it is the same object as structure {known}; give copies"
            elif row not in reasons and (problem := self._problem(atoms)) is not None:
                reasons[row] = problem
        return reasons

    def _problem(self, atoms: ase.Atoms) -> str | None:
        if self.own_calculators and atoms.calc is None:
            return "it has no calculator; give it one, or all a model="
        try:
            item = atoms if self.cell_filter is None else self.cell_filter(atoms)
        except Exception as error:
            return f"cell_filter raised {type(error).__name__}: {error}"
        if (problem := why_not(item)) is not None:
            return problem
        if not self.own_calculators:  # of one model for all it was asked before
            return None
        lacking = without_stress([item], None)
        return lacking[0].problem if lacking else None

    def disown(self, atoms: ase.Atoms) -> None:
        """Take away a calculator that the results of another model must not be mixed with."""
        if not self.own_calculators and unwrapped(atoms.calc) is not self.model:
            atoms.calc = None


def ids(batch: Batch) -> list[int]:
    """Return the positions in the input of the systems of a batch."""
    return np.asarray(batch["system_id"].view(-1).cpu()).tolist()


def failure(
    atoms: Any, index: int, outcome: Outcome, reason: str, steps: int = 0, evaluations: int = 0
) -> Result:
    """Return the result of a structure that has none."""
    return Result(atoms, index, False, steps, evaluations, math.nan, math.nan, outcome, reason)
