"""How systems that a sampler gives become part of a running batch."""

import sys
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from nvdyn_ase.data import AtomicData, Batch, StructureError
from nvdyn_ase.dynamics.lifecycle import open_batch
from nvdyn_ase.dynamics.memory import MemoryMeter
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import Places


class Intake:
    """Takes systems from a sampler, each once, and makes them ready to be moved.

    Parameters
    ----------
    sampler
        Where they come from; None: nowhere.
    """

    def __init__(self, sampler: Any) -> None:
        self.sampler = sampler
        self.input_fields: frozenset[str] = frozenset()
        # What the sampler has given, and is in no batch yet.
        self._taken: list[AtomicData] = []
        self._edges_counted: dict[int, int] = {}

    @abstractmethod
    def _reject(self, data: AtomicData, reason: str) -> None:
        """Write a system that is not moved, with the reason."""

    @abstractmethod
    def write_rejected(self) -> bool:
        """Write what was passed over; return whether there was room for it."""

    def _from_the_sampler(self) -> tuple[Batch, Batch] | None:
        """Return the first systems that it gives and a state for them; None if there are none."""
        if hasattr(self.sampler, "request_batch"):
            return self._many(())
        self._find_budget()
        admitted = self._admitted()  # what the last run took and could not put into a batch
        while admitted is None and not self.sampler.exhausted:
            try:
                self._taken = self.sampler.build_initial_batch().to_data_list()
            except RuntimeError:
                if not self.sampler.exhausted:
                    raise
            for data in self._taken:
                self._edges(data)
            admitted = self._admitted()
        self.write_rejected()
        return admitted

    def _find_budget(self) -> None:
        """On a GPU, give a sampler without budgets that of its memory, from one forward pass.

        The first system is evaluated for that; it is among the first that are moved.
        """
        engine, sampler = cast(Any, self), self.sampler
        limits = (sampler.max_atoms, sampler.max_edges, sampler.max_batch_size)
        if engine.device.type == "cpu" or limits != (None, None, None) or self._taken:
            return
        first = sampler.request_replacement(None, None)
        if first is None:
            return
        meter, batch = MemoryMeter(), self._prepared([first]).to(engine.device)
        engine.adopt(batch)
        with meter.watching(engine.device, batch.num_nodes):
            engine.compute(batch)
        sampler.max_atoms = meter.atoms_that_fit(engine.device, sampler.max_gpu_memory_fraction)
        self._taken, room = [first], _room(sampler.max_atoms) - first.num_nodes
        while (data := sampler.request_replacement(room, None)) is not None:
            self._taken.append(data)
            room -= data.num_nodes

    def _prepared(self, data: Sequence[AtomicData]) -> Batch:
        """Return systems that the sampler gave as what they are: nothing has happened to them."""
        engine: Any = self
        batch = Batch.from_data_list(data)
        open_batch(batch, engine.entry_status)
        batch["status"] = torch.full_like(batch["status"], engine.entry_status)
        batch["outcome"] = torch.full_like(batch["outcome"], int(Outcome.ACTIVE))
        batch["fmax"] = batch["positions"].new_full((len(batch), 1), float("inf"))
        for host in batch.host:
            host.pop("failure", None)
        return batch

    def _admitted(self) -> tuple[Batch, Batch] | None:
        """Return the systems that were taken, and a state for them; None if there are none.

        Those that the method cannot move are rejected, each with the reason.
        """
        engine: Any = self
        while self._taken:
            batch = self.delivered(self._prepared(self._taken).to(engine.device))
            self.input_fields |= set(batch.keys())
            try:
                return batch, engine.fresh_state(batch)
            except StructureError as error:
                if error.index is None:
                    raise
                self._reject(self._taken.pop(error.index), error.problem)
        return None

    def delivered(self, batch: Batch) -> Batch:
        """Return systems that the sampler has given, as the engine begins with them."""
        engine: Any = self
        if engine.check_coming is not None:
            engine.check_coming(batch)
        return batch

    def _newcomers(self, staying: Batch, rows: np.ndarray) -> tuple[Batch, Batch] | None:
        """Return systems that fit beside those that stay, and a state for them; None for nobody.

        Parameters
        ----------
        staying, rows
            A batch, and who of it stays.
        """
        sampler, admitted = self.sampler, None
        if hasattr(sampler, "request_batch"):
            return self._many(staying["system_id"].view(-1).cpu().numpy()[rows].tolist())
        sizes = np.asarray(staying.num_nodes_list)[rows]
        atoms = _room(sampler.max_atoms) - int(sizes.sum())
        edges = _room(sampler.max_edges) - self._edges_of_staying(staying, rows)
        places = _room(sampler.max_batch_size) - len(rows)
        while admitted is None:
            atoms_left = atoms - sum(data.num_nodes for data in self._taken)
            edges_left = edges - sum(self._edges(data) for data in self._taken)
            while places > len(self._taken) and not sampler.exhausted:
                data = sampler.request_replacement(atoms_left, edges_left)
                if data is None:
                    break
                self._taken.append(data)
                atoms_left, edges_left = atoms_left - data.num_nodes, edges_left - self._edges(data)
            if not self._taken:
                return None
            admitted = self._admitted()
        return admitted

    def _many(self, staying: Sequence[int]) -> tuple[Batch, Batch] | None:
        """Return the next systems of a sampler that hands them out many at a time, and a state.

        It has ``request_batch(staying)``, which returns a batch or None, and ``reject(index,
        reason)`` for those that the method cannot move. ``staying`` are the ``system_id`` of those
        that they have to fit beside.
        """
        engine: Any = self
        while (batch := self.sampler.request_batch(staying)) is not None:
            open_batch(batch, engine.entry_status)
            batch = self.delivered(batch.to(engine.device))
            while len(batch):
                try:
                    return batch, engine.fresh_state(batch)
                except StructureError as error:
                    if error.index is None:
                        raise
                    self.sampler.reject(int(batch["system_id"][error.index]), error.problem)
                    others = np.delete(np.arange(len(batch)), error.index)
                    batch = batch.index_select(others)
        return None

    def _edges(self, data: AtomicData) -> int:
        """Return how many pairs a system counts for: as many as its metadata say, if they do."""
        if self.sampler.max_edges is None:
            return 0
        metadata = getattr(self.sampler.dataset, "get_metadata", None)
        assert data.system_id is not None
        index = int(data.system_id)
        own = data.num_edges if metadata is None else int(metadata(index)[1])
        self._edges_counted[index] = own
        return own

    def _edges_of_staying(self, staying: Batch, rows: np.ndarray) -> int:
        """Return how many pairs those that stay count for, and forget the others."""
        if self.sampler.max_edges is None:
            return 0
        ids = staying["system_id"].view(-1).cpu().numpy()[rows].tolist()
        known = np.asarray(staying.num_edges_list)[rows].tolist()
        counted = self._edges_counted
        self._edges_counted = {i: counted.get(i, n) for i, n in zip(ids, known, strict=True)}
        return sum(self._edges_counted.values())

    def places_in_the_stream(self, batch: Batch) -> Places:
        """Return which of the values given one by one belong to systems of the sampler."""
        rows = batch["system_id"].view(-1).cpu().numpy()
        try:
            return Places(rows, len(self.sampler.dataset))
        except (TypeError, AttributeError):
            return Places(rows, None)

    def refuse_generators(self) -> None:
        """Raise ValueError if random numbers are to come from a generator for each system."""
        noise = getattr(self, "noise", None)
        if noise is not None and noise.wants_generators:
            raise ValueError(
                "rng: generators of numpy, one for each system, do not go with a sampler; give a "
                "seed: each system has a stream of its own then"
            )


def _room(limit: int | None) -> int:
    return sys.maxsize if limit is None else limit
