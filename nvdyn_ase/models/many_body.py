"""Potentials that are more than sums over pairs: from a batch to arrays, and torch operations."""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs, NeighborConfig
from nvdyn_ase.models.mixing import rows_by_number
from nvdyn_ase.models.near_pairs import Results
from nvdyn_ase.models.pair_geometry import are_reversed, vectors
from nvdyn_ase.models.pair_model import Latest, PairModel, as_array
from nvdyn_ase.models.pair_potential import Geometry, Slots
from nvdyn_ase.models.pulls import asked_for, of_pulls
from nvdyn_ase.neighbors import DevicePairs, FlatPairs, Pairs


class Structure(NamedTuple):
    """What of a batch is the same until its list of pairs or its elements change.

    Parameters
    ----------
    flat
        The pairs, each once.
    kinds
        (V,), rows of the atoms in the tables; unknown elements are taken for others.
    failures
        Systems with unknown elements, and the reasons.
    more
        What the potential has made of them for itself.
    """

    flat: FlatPairs
    kinds: Int[Tensor, " V"]
    failures: dict[int, str]
    more: Any


class ManyBodyPotential(PairModel):
    """An energy that depends on the vectors between near atoms in any way; see :class:`PairModel`.

    A subclass has loops of its own for the CPU (:meth:`_run`), and torch operations elsewhere
    (:meth:`_pulls`).

    It gives ``energy``, and ``forces``, ``stress``, ``free_energy`` (the energy) and
    ``atomic_energies`` if asked.

    Parameters
    ----------
    elements
        Atomic numbers, in the order of the tables.
    cutoff, skin
        Å.
    """

    is_cheap = True

    def __init__(self, elements: Sequence[int], cutoff: float, skin: float) -> None:
        super().__init__(rows_by_number(tuple(elements)))
        self.elements, self.skin = tuple(elements), skin
        self._latest: Latest | None = None
        self.model_card = ModelCard(
            supports_stress=True,
            extra_outputs=frozenset({"atomic_energies"}),
            neighbor_config=NeighborConfig(cutoff=cutoff, half_list=True, skin=skin),
            supported_elements=frozenset(elements),
        )

    @property
    def _cutoff(self) -> float:
        config = self.model_card.neighbor_config
        assert config is not None
        return config.cutoff

    @abstractmethod
    def _tables(self) -> tuple[np.ndarray, ...]:
        """Return all numbers that the energy depends on, beyond the elements and the cutoff."""

    @abstractmethod
    def _run(self, geometry: Geometry, slots: Slots, with_forces: bool, results: Results) -> None:
        """Fill the results of a batch on the CPU."""

    @abstractmethod
    def _pulls(
        self, structure: Structure, vector: Float[Tensor, "P 3"]
    ) -> tuple[Float[Tensor, " V"], Float[Tensor, "P 3"]]:
        """Return the energies of atoms, eV, and the derivatives by the vectors of pairs, eV/Å."""

    def _arrange(self, flat: FlatPairs, kinds: Int[Tensor, " V"]) -> Any:
        """Return what :meth:`_pulls` needs and is the same until pairs or elements change."""

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the other is the same potential with the same parameters."""
        if self is other:
            return True
        if not isinstance(other, ManyBodyPotential) or type(self) is not type(other):
            return False
        same = self.elements == other.elements and self._cutoff == other._cutoff
        tables = zip(self._tables(), other._tables(), strict=True)
        return (
            same and self.device == other.device and all(np.array_equal(*both) for both in tables)
        )

    # ---------------------------------------------------------------- loops on the CPU

    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        results = Results.zeros(len(batch), batch.num_nodes)
        kinds = self._kinds_on_host(batch)
        known = np.minimum(kinds, np.uint64(len(self.elements) - 1))
        positions, cell = as_array(batch["positions"]).reshape(-1), as_array(batch["cell"])
        slots = Slots(*(getattr(pairs, name) for name in Slots._fields))
        with_forces = not self.model_config.outputs.isdisjoint({"forces", "stress"})
        self._run(Geometry(batch.host_ptr, positions, cell, known), slots, with_forces, results)
        arrays = (torch.from_numpy(array) for array in results)
        values = asked_for(self.model_config.outputs, *arrays)
        return self._outputs(batch, values, self._failures(batch, kinds))

    # ---------------------------------------------------------------- torch operations

    def _forward_flat(self, batch: Batch, pairs: Pairs | DevicePairs) -> ModelOutputs:
        structure = self._structure(batch, pairs)
        flat = structure.flat
        vector = vectors(batch, flat)
        energies, pulls = self._pulls(structure, vector)
        asked = self.model_config.outputs
        values = of_pulls(batch, flat, vector, energies, pulls, asked)
        return self._outputs(batch, values, structure.failures)

    def _structure(self, batch: Batch, pairs: Pairs | DevicePairs) -> Structure:
        """Return what depends on pairs and elements alone, made anew when either changes."""
        flat, numbers = pairs.flat(), batch["atomic_numbers"]
        latest = self._latest
        if latest is not None and latest.holds(flat, numbers):
            return latest.made
        kinds = self._kinds_on_device(batch)
        assert kinds is not None
        failures = self._failures_on_device(batch, kinds)
        kinds = kinds.clamp(max=len(self.elements) - 1)
        half = flat if pairs.half else _halved(flat)
        made = Structure(half, kinds, failures, self._arrange(half, kinds))
        self._latest = Latest(flat, numbers, numbers._version, made)
        return made


def _halved(flat: FlatPairs) -> FlatPairs:
    """Return the pairs of a full list that a half list has."""
    kept = (~are_reversed(flat)).nonzero().view(-1)

    def before(rows: Int[Tensor, " N"]) -> Int[Tensor, " N"]:
        return torch.searchsorted(kept, rows)

    arrays = flat.i[kept], flat.j[kept], flat.shift[kept], flat.system[kept]
    return FlatPairs(*arrays, before(flat.ptr), before(flat.edge_ptr))
