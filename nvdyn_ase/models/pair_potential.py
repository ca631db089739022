"""What the pair potentials share: from a batch to arrays and back, and the torch operations."""

from abc import abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from ase.data import chemical_symbols
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.models.base import BaseModelMixin, ModelOutputs, NeighborConfig
from nvdyn_ase.neighbors import DevicePairs, FlatPairs, Pairs

#: Torch operations have this many pairs in memory at once, unless one system has more.
PAIRS_AT_ONCE = 2**21


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


class PairPotential(BaseModelMixin):
    """An energy that is a sum over pairs of atoms.

    On the CPU a subclass runs loops of its own (:meth:`_run`); elsewhere its terms are torch
    operations (:meth:`_terms`) on the flat pairs. All is computed in float64 and given in the type
    of the positions. The list of pairs may be half or full and reach further than the cutoff: the
    bits are the same.

    It gives ``stress``, ``atomic_energies`` and ``atomic_stresses`` if asked: each atom has half of
    what its pairs have. The energy of a system with a position that is not finite is NaN.

    Parameters
    ----------
    kinds
        Row in the tables of each atomic number, unsigned, its last entry for all that are larger;
        the largest row is that of unknown elements. None if every element is the same.

    Attributes
    ----------
    any_neighbor_list
        It takes half and full lists, and leaves out what is beyond its cutoff.
    """

    any_neighbor_list = True

    def __init__(self, kinds: np.ndarray | None = None) -> None:
        self._kinds = kinds
        self._tensors: dict[tuple[str, torch.device], Tensor] = {}

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

    def forward(self, batch: Batch) -> ModelOutputs:
        """Compute energy and forces, and what else is asked for.

        Raises
        ------
        ValueError
            The batch has no pairs, or they do not reach far enough.
        """
        pairs = pairs_of(batch, self.model_card.neighbor_config)
        if isinstance(pairs, Pairs):
            return self._forward_slots(batch, pairs)
        return self.forward_torch(batch)

    def _asked(self) -> Asked:
        outputs = self.model_config.outputs
        return Asked(*(name in outputs for name in Asked._fields))

    # ---------------------------------------------------------------- loops on the CPU

    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        positions, cell = batch["positions"].detach(), batch["cell"].detach()
        ptr, asked = batch.host_ptr, self._asked()
        results = Results.zeros(len(ptr) - 1, len(positions), asked)
        kinds = self._kinds_on_host(batch)
        geometry = Geometry(ptr, _flat(positions), _flat(cell).reshape(-1, 3, 3), kinds)
        slots = Slots(*(getattr(pairs, name) for name in Slots._fields))
        self._run(geometry, slots, results)
        failures = self._fail_unknown(batch, kinds, results)
        values = {
            "energy": torch.from_numpy(results.energy.reshape(-1, 1)),
            "forces": torch.from_numpy(results.forces.reshape(-1, 3)),
        }
        values |= {
            name: torch.from_numpy(getattr(results, name))
            for name, wanted in zip(Asked._fields, asked, strict=True)
            if wanted
        }
        return ModelOutputs(_typed(values, positions.dtype), failures)

    def _kinds_on_host(self, batch: Batch) -> np.ndarray:
        if self._kinds is None:
            return np.empty(0, np.uint64)
        return self._kinds.take(batch["atomic_numbers"].numpy(), mode="clip")

    def _fail_unknown(self, batch: Batch, kinds: np.ndarray, results: Results) -> dict[int, str]:
        """Make the numbers of systems with an unknown element NaN, and return the reasons."""
        if self._kinds is None or not (unknown := kinds == self._kinds.max()).any():
            return {}
        ptr, numbers, failures = batch.host_ptr, batch["atomic_numbers"].numpy(), {}
        for row in np.unique(np.searchsorted(ptr, np.flatnonzero(unknown), side="right") - 1):
            atoms = slice(ptr[row], ptr[row + 1])
            names = sorted({_symbol(number) for number in numbers[atoms][unknown[atoms]]})
            failures[int(row)] = f"{type(self).__name__} has no parameters for {', '.join(names)}"
            results.energy[row] = np.nan
            results.forces[3 * ptr[row] : 3 * ptr[row + 1]] = np.nan
        return failures

    # ---------------------------------------------------------------- torch operations

    def forward_torch(self, batch: Batch) -> ModelOutputs:
        """Compute the same with torch operations, on any device; see :meth:`forward`."""
        pairs = pairs_of(batch, self.model_card.neighbor_config)
        asked, dtype = self._asked(), batch["positions"].dtype
        sums = torch.cat([self._sums(batch, pairs, *part) for part in _parts(pairs.num_pairs)])
        outputs = {
            "energy": segment_sum(sums[:, 0].contiguous(), batch.ptr).view(-1, 1),
            "forces": sums[:, 1:4].contiguous(),
        }
        if asked.atomic_energies:
            outputs["atomic_energies"] = sums[:, 0].contiguous()
        volume = _volume(batch["cell"].detach().double())
        if asked.stress:
            virial = segment_sum(sums[:, 4:].contiguous(), batch.ptr)
            outputs["stress"] = _matrices(virial / volume)
        if asked.atomic_stresses:
            outputs["atomic_stresses"] = _matrices(sums[:, 4:] / volume[batch.batch])
        return ModelOutputs(_typed(outputs, dtype))

    def _sums(self, batch: Batch, pairs: Pairs | DevicePairs, first: int, last: int) -> Tensor:
        """Return energy, forces and, if there is use for it, virial of the atoms of some systems.

        Returns
        -------
        Tensor
            (V, 4 or 10) of systems ``first`` to ``last - 1``.
        """
        flat, asked = pairs.flat(), self._asked()
        edges = slice(*boundaries(pairs.num_pairs)[[first, last]].tolist())
        atoms = slice(*batch.host_ptr[[first, last]].tolist())
        i, j = flat.i[edges], flat.j[edges]
        vectors = _vectors(batch, flat, edges)
        x, y, z = vectors.unbind(1)
        kinds = self._kinds_on_device(batch)
        beyond, energy, slope = self._terms(
            x * x + y * y + z * z, None if kinds is None else (kinds[i], kinds[j])
        )
        if not pairs.half:
            beyond = beyond | _reversed(i, j, flat.shift[edges])
        energy, slope = (torch.where(beyond, 0.0, term) for term in (energy, slope))
        pulls = slope[:, None] * vectors
        columns = [0.5 * energy[:, None], pulls]
        if asked.stress or asked.atomic_stresses:
            px, py, pz = pulls.unbind(1)
            virial = [px * x, py * y, pz * z, py * z, px * z, px * y]
            columns.append(0.5 * torch.stack(virial, 1))
        sums = _to_atoms(torch.cat(columns, 1), flat, edges, atoms)
        positions = batch["positions"].detach().double()[atoms]
        sums[:, :4] += (positions - positions).sum(1, keepdim=True)
        if kinds is not None and self._kinds is not None:
            unknown = kinds[atoms] == int(self._kinds.max())
            sums[:, :4] = torch.where(unknown[:, None], torch.nan, sums[:, :4])
        return sums

    def _kinds_on_device(self, batch: Batch) -> Int[Tensor, " V"] | None:
        if self._kinds is None:
            return None
        table = self._on(batch.device, "_kinds")
        return table[batch["atomic_numbers"].clamp(0, len(table) - 1)]

    def _on(self, device: torch.device, name: str) -> Tensor:
        """Return a table as a tensor on a device, copied there once."""
        if (name, device) not in self._tensors:
            table = getattr(self, name)
            table = table.astype(np.int64) if table.dtype == np.uint64 else table
            self._tensors[name, device] = torch.as_tensor(table).to(device)
        return self._tensors[name, device]


def pairs_of(batch: Batch, config: NeighborConfig | None) -> Pairs | DevicePairs:
    """Return the pairs of a batch.

    Raises
    ------
    ValueError
        There are none, or not those that the model needs.
    """
    pairs = batch.neighbors
    assert config is not None
    if pairs is None:
        raise ValueError(
            "the batch has no neighbour list; engines and calculators keep one, and elsewhere "
            "NeighborList(**dict(model.model_card.neighbor_config)).update(batch) makes it"
        )
    if pairs.cutoff < config.cutoff:
        raise ValueError(
            f"the neighbour list reaches {pairs.cutoff} Å and the model needs {config.cutoff} Å"
        )
    if isinstance(pairs, Pairs) and len(pairs.start) != batch.num_nodes:
        raise ValueError("the neighbour list is that of another batch; update it")
    return pairs


def _flat(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.numpy(), np.float64).reshape(-1)


def _typed(outputs: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    if dtype is torch.float64:
        return outputs
    return {name: values.to(dtype) for name, values in outputs.items()}


def _symbol(number: int) -> str:
    known = 0 <= number < len(chemical_symbols)
    return chemical_symbols[number] if known else f"element {number}"


def _parts(num_pairs: np.ndarray) -> Iterator[tuple[int, int]]:
    """Cut a batch into systems that have no more than so many pairs together."""
    first, total = 0, 0
    for row, count in enumerate(num_pairs.tolist()):
        if total and total + count > PAIRS_AT_ONCE:
            yield first, row
            first, total = row, 0
        total += count
    yield first, len(num_pairs)


def _vectors(batch: Batch, flat: FlatPairs, edges: slice) -> Float[Tensor, "E 3"]:
    """Return the vectors of pairs, Å."""
    positions, cell = batch["positions"].detach().double(), batch["cell"].detach().double()
    s, h = flat.shift[edges].double(), cell[flat.system[edges]]
    image = s[:, 0:1] * h[:, 0] + s[:, 1:2] * h[:, 1] + s[:, 2:3] * h[:, 2]
    return positions[flat.j[edges]] - positions[flat.i[edges]] + image


def _reversed(
    i: Int[Tensor, " E"], j: Int[Tensor, " E"], shift: Int[Tensor, "E 3"]
) -> Bool[Tensor, " E"]:
    """Say which pairs of a full list are those of the half list the other way round."""
    x, y, z = shift.unbind(1)
    back = (x < 0) | ((x == 0) & ((y < 0) | ((y == 0) & (z < 0))))
    return (j < i) | ((j == i) & back)


def _to_atoms(
    columns: Float[Tensor, "E K"], flat: FlatPairs, edges: slice, atoms: slice
) -> Float[Tensor, "V K"]:
    """Add the columns of pairs to both of their atoms; forces, columns 1 to 3, are opposite."""
    ptrs = slice(atoms.start, atoms.stop + 1)
    order = flat.transpose[edges] - edges.start
    own = segment_sum(columns, flat.ptr[ptrs] - edges.start)
    others = segment_sum(columns[order], flat.transpose_ptr[ptrs] - edges.start)
    others[:, 1:4].neg_()
    return own + others


def _volume(cell: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 1"]:
    """Return volumes, Å³; infinite where there is none, so that stresses vanish."""
    volume = (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(1, keepdim=True).abs()
    return torch.where(volume == 0, torch.inf, volume)


def _matrices(virial: Float[Tensor, "N 6"]) -> Float[Tensor, "N 3 3"]:
    """Return symmetric matrices out of their xx, yy, zz, yz, xz, xy."""
    xx, yy, zz, yz, xz, xy = virial.unbind(1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], 1).view(-1, 3, 3)
