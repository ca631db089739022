"""Potentials that are sums over pairs: from a batch to arrays and back, and torch operations."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.models.base import ModelOutputs
from nvdyn_ase.models.pair_geometry import are_reversed, sums_by_atom, vectors, volumes
from nvdyn_ase.models.pair_model import PairModel, as_array
from nvdyn_ase.neighbors import DevicePairs, Pairs

#: Torch operations have this many pairs in memory at once, unless one system has more.
PAIRS_AT_ONCE = 2**21

#: What a pair potential gives beyond energy, forces and stress: each atom has half of its pairs.
PER_ATOM = frozenset({"atomic_energies", "atomic_stresses"})


class Geometry(NamedTuple):
    """A batch as the loops take it.

    Parameters
    ----------
    ptr
        (B + 1,), first atom of each system, and the end.
    positions
        (3 V,), Å.
    cell
        (B, 3, 3), Å.
    kinds
        (V,) uint64, row of each atom in the tables; no rows if there is one kind only.
    """

    ptr: np.ndarray
    positions: np.ndarray
    cell: np.ndarray
    kinds: np.ndarray


class Slots(NamedTuple):
    """The arrays of ``Pairs`` as the loops take them, and whether each pair is there once."""

    start: np.ndarray
    stop: np.ndarray
    neighbor: np.ndarray
    image: np.ndarray
    image_slot: np.ndarray
    images: np.ndarray
    half: bool


class Asked(NamedTuple):
    """What is wanted beyond energy and forces."""

    stress: bool
    atomic_energies: bool
    atomic_stresses: bool


class Results(NamedTuple):
    """What the loops fill: zeros at first, and no rows where nothing is wanted.

    Parameters
    ----------
    energy
        (B,), eV.
    forces
        (3 V,), eV/Å.
    stress
        (B, 3, 3), eV/Å³.
    atomic_energies
        (V,), eV.
    atomic_stresses
        (V, 3, 3), eV/Å³.
    """

    energy: np.ndarray
    forces: np.ndarray
    stress: np.ndarray
    atomic_energies: np.ndarray
    atomic_stresses: np.ndarray

    @classmethod
    def zeros(cls, systems: int, atoms: int, asked: Asked) -> "Results":
        """Make room for a batch."""
        return cls(
            np.zeros(systems),
            np.zeros(3 * atoms),
            np.zeros((systems if asked.stress else 0, 3, 3)),
            np.zeros(atoms if asked.atomic_energies else 0),
            np.zeros((atoms if asked.atomic_stresses else 0, 3, 3)),
        )


class PairPotential(PairModel):
    """An energy that is a sum over pairs of atoms; see :class:`PairModel`.

    A subclass has loops of its own for the CPU (:meth:`_run`), and torch operations for its terms
    elsewhere (:meth:`_terms`).

    It gives ``stress``, ``atomic_energies`` and ``atomic_stresses`` if asked: each atom has half of
    what its pairs have.
    """

    is_cheap = True

    @abstractmethod
    def _run(self, geometry: Geometry, slots: Slots, results: Results) -> None:
        """Fill the results of a batch on the CPU."""

    @abstractmethod
    def _terms(
        self, r2: Float[Tensor, " E"], kinds: tuple[Int[Tensor, " E"], Int[Tensor, " E"]] | None
    ) -> tuple[Bool[Tensor, " E"], Float[Tensor, " E"], Float[Tensor, " E"]]:
        """Return which pairs are beyond the cutoff, the energies, eV, and the slopes, eV/Å².

        A slope is the derivative of a pair's energy by its distance, over the distance.

        Parameters
        ----------
        r2
            Squared distances, Å².
        kinds
            Rows of both atoms in the tables; None if there is one kind only.
        """

    def _asked(self) -> Asked:
        outputs = self.model_config.outputs
        return Asked(*(name in outputs for name in Asked._fields))

    # ---------------------------------------------------------------- loops on the CPU

    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        ptr, asked = batch.host_ptr, self._asked()
        results = Results.zeros(len(ptr) - 1, batch.num_nodes, asked)
        kinds = self._kinds_on_host(batch)
        positions, cell = as_array(batch["positions"]).reshape(-1), as_array(batch["cell"])
        slots = Slots(*(getattr(pairs, name) for name in Slots._fields))
        self._run(Geometry(ptr, positions, cell, kinds), slots, results)
        values = {
            "energy": torch.from_numpy(results.energy.reshape(-1, 1)),
            "forces": torch.from_numpy(results.forces.reshape(-1, 3)),
        }
        values |= {
            name: torch.from_numpy(getattr(results, name))
            for name, wanted in zip(Asked._fields, asked, strict=True)
            if wanted
        }
        return self._outputs(batch, values, self._failures(batch, kinds))

    # ---------------------------------------------------------------- torch operations

    def _forward_flat(self, batch: Batch, pairs: Pairs | DevicePairs) -> ModelOutputs:
        asked, kinds = self._asked(), self._kinds_on_device(batch)
        parts = _parts(pairs.num_pairs)
        sums = torch.cat([self._sums(batch, pairs, kinds, *part) for part in parts])
        values = {
            "energy": segment_sum(sums[:, 0].contiguous(), batch.ptr).view(-1, 1),
            "forces": sums[:, 1:4].contiguous(),
        }
        if asked.atomic_energies:
            values["atomic_energies"] = sums[:, 0].contiguous()
        volume = volumes(batch["cell"].detach().double())
        if asked.stress:
            virial = segment_sum(sums[:, 4:].contiguous(), batch.ptr)
            values["stress"] = _matrices(virial / volume)
        if asked.atomic_stresses:
            values["atomic_stresses"] = _matrices(sums[:, 4:] / volume[batch.batch])
        return self._outputs(batch, values, self._failures_on_device(batch, kinds))

    def _sums(
        self,
        batch: Batch,
        pairs: Pairs | DevicePairs,
        kinds: Int[Tensor, " V"] | None,
        first: int,
        last: int,
    ) -> Tensor:
        """Return energy, forces and, if there is use for it, virial of the atoms of some systems.

        Returns
        -------
        Tensor
            (V, 4 or 10) of systems ``first`` to ``last - 1``.
        """
        flat, asked = pairs.flat(), self._asked()
        edges = slice(*boundaries(pairs.num_pairs)[[first, last]].tolist())
        atoms = slice(*batch.host_ptr[[first, last]].tolist())
        d = vectors(batch, flat, edges)
        x, y, z = d.unbind(1)
        both = None if kinds is None else (kinds[flat.i[edges]], kinds[flat.j[edges]])
        beyond, energy, slope = self._terms(x * x + y * y + z * z, both)
        if not pairs.half:
            beyond = beyond | are_reversed(flat, edges)
        energy, slope = (torch.where(beyond, 0.0, term) for term in (energy, slope))
        pulls = slope[:, None] * d
        columns = [0.5 * energy[:, None], pulls]
        if asked.stress or asked.atomic_stresses:
            px, py, pz = pulls.unbind(1)
            virial = [px * x, py * y, pz * z, py * z, px * z, px * y]
            columns.append(0.5 * torch.stack(virial, 1))
        whole = torch.cat(columns, 1)
        own, others = sums_by_atom(flat, whole, whole, edges, atoms)
        others[:, 1:4].neg_()  # forces on the two are opposite
        sums = own + others
        positions = batch["positions"].detach().double()[atoms]
        sums[:, :4] += (positions - positions).sum(1, keepdim=True)
        return sums


def _parts(num_pairs: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cut a batch into systems that have no more than so many pairs together."""
    first, total = 0, 0
    for row, count in enumerate(num_pairs.tolist()):
        if total and total + count > PAIRS_AT_ONCE:
            yield first, row
            first, total = row, 0
        total += count
    yield first, len(num_pairs)


def _matrices(virial: Float[Tensor, "N 6"]) -> Float[Tensor, "N 3 3"]:
    """Return symmetric matrices out of their xx, yy, zz, yz, xz, xy."""
    xx, yy, zz, yz, xz, xy = virial.unbind(1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], 1).view(-1, 3, 3)
