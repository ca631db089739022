"""``EMT``: the effective medium potential of ASE, for a batch."""

from typing import NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_max, segment_sum
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs, NeighborConfig
from nvdyn_ase.models.emt_kernel import Results, Slots, evaluate
from nvdyn_ase.models.emt_parameters import PARAMETERS, make_tables
from nvdyn_ase.models.pair_potential import pairs_of
from nvdyn_ase.neighbors import DevicePairs, FlatPairs, Pairs


class EMT(BaseModelMixin):
    """Effective medium theory for Al, Cu, Ag, Au, Ni, Pd, Pt, with toy parameters for H, C, N, O.

    Equal to ``ase.calculators.emt.EMT``. K. W. Jacobsen, P. Stoltze and J. K. Nørskov, Surf. Sci.
    366, 394 (1996). Energies are relative to the bulk metals; an atom without neighbours has minus
    its E0, and any other

    .. code-block:: text

        E_i = E0 (1 + λ s) exp(-λ s) - E0                 cohesion
            + 6 V0 exp(-κ s) - V0 σ2 / (2 γ2)             atomic spheres beyond those of the metal
        s   = -ln(σ1 / (12 γ1)) / (β η2)                  growth of the neutral sphere
        σ1  = Σ_j n0_j / n0_i exp(-η2_j (r - β s0_j)) θ(r)
        σ2  = Σ_j n0_j / n0_i exp(-κ_j / β (r - β s0_j)) θ(r)
        θ   = 1 / (1 + exp(a (r - r_c)))

    where the σ2 terms of a pair, one of each atom, are shared between the two.

    It gives ``energy``, and ``forces``, ``stress``, ``free_energy`` (the energy) and
    ``atomic_energies`` if asked. All is computed in float64 and given in the type of the positions.
    The list of pairs may be half or full and reach further than the cutoff: the bits are the same.

    Parameters
    ----------
    asap_cutoff
        The cutoff of a system depends on the largest of its elements, as in ASAP. By default it
        depends on the largest of all elements, 5.88 Å.
    skin
        Of the neighbour list, Å.

    Attributes
    ----------
    any_neighbor_list
        It takes half and full lists, and leaves out what is beyond its cutoff.
    """

    any_neighbor_list = True

    def __init__(self, asap_cutoff: bool = False, *, skin: float = 1.0) -> None:
        self.asap_cutoff, self.skin = asap_cutoff, skin
        self._tables = make_tables(asap_cutoff)
        self._latest: _Latest | None = None
        reach = float(self._tables.cutoff[:, 2].max())
        self.model_card = ModelCard(
            supports_stress=True,
            neighbor_config=NeighborConfig(cutoff=reach, half_list=True, skin=skin),
            supported_elements=frozenset(atomic_numbers[symbol] for symbol in PARAMETERS),
        )

    def __repr__(self) -> str:
        """Say the parameters."""
        return f"EMT(asap_cutoff={self.asap_cutoff}, skin={self.skin})"

    def forward(self, batch: Batch) -> ModelOutputs:
        """Compute what ``model_config.outputs`` asks for.

        Raises
        ------
        ValueError
            An element has no parameters; the batch has no pairs, or they do not reach far enough.
        """
        pairs = pairs_of(batch, self.model_card.neighbor_config)
        if isinstance(pairs, Pairs):
            return self._forward_slots(batch, pairs)
        return self.forward_torch(batch)

    # ---------------------------------------------------------------- loops on the CPU

    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        atoms, systems = batch.num_nodes, len(batch)
        results = Results(
            np.empty(atoms), np.empty((atoms, 3)), np.empty(systems), np.empty((systems, 3, 3))
        )
        unknown = evaluate(
            batch.host_ptr,
            _array(batch["positions"]),
            _array(batch["atomic_numbers"]),
            _array(batch["cell"]),
            Slots(*(getattr(pairs, name) for name in Slots._fields)),
            self._tables,
            not self.model_config.outputs.isdisjoint({"forces", "stress"}),
            results,
        )
        if unknown >= 0:
            raise self._refusal(batch, unknown)
        return self._outputs(batch, *(torch.from_numpy(array) for array in results))

    def _refusal(self, batch: Batch, atom: int) -> ValueError:
        number = int(batch["atomic_numbers"][atom])
        system = int(np.searchsorted(batch.host_ptr, atom, side="right")) - 1
        known = 0 <= number < len(chemical_symbols)
        symbol = chemical_symbols[number] if known else f"atomic number {number}"
        return ValueError(
            f"EMT has no parameters for {symbol}, in system {system} of the batch; "
            f"it knows {', '.join(sorted(PARAMETERS))}"
        )

    def _outputs(
        self,
        batch: Batch,
        energies: Float[Tensor, " V"],
        forces: Float[Tensor, "V 3"],
        energy: Float[Tensor, " B"],
        stress: Float[Tensor, "B 3 3"],
    ) -> ModelOutputs:
        energy = energy.view(-1, 1)
        values = {
            "energy": energy,
            "free_energy": energy.clone(),  # a hook may add to the energy in place
            "atomic_energies": energies,
            "forces": forces,
            "stress": stress,
        }
        asked, dtype = self.model_config.outputs | {"energy"}, batch["positions"].dtype
        return ModelOutputs({key: t.to(dtype) for key, t in values.items() if key in asked})

    # ---------------------------------------------------------------- torch operations

    def forward_torch(self, batch: Batch) -> ModelOutputs:
        """Compute the same with torch operations, on any device; see :meth:`forward`."""
        pairs = pairs_of(batch, self.model_card.neighbor_config)
        flat, constants = pairs.flat(), self._constants(batch, pairs)
        positions, cell = batch["positions"].detach().double(), batch["cell"].detach().double()
        vectors = _vectors(flat, constants.shift, positions, cell)
        terms, slopes = _terms(vectors, constants)
        sigma = _to_atoms(flat, terms[0], terms[1])
        energies, slope = _embed(sigma, constants.atom)
        shared = 0.5 * (terms[2] + terms[3])
        energies = energies + _to_atoms(flat, shared, shared) + (positions - positions).sum(1)
        energy = segment_sum(energies, batch.ptr) + (cell - cell).sum((1, 2))

        pulls = slope[flat.i] * slopes[0] + slope[flat.j] * slopes[1] + slopes[2] + slopes[3]
        pulls = pulls[:, None] * vectors
        zero = (energy - energy)[batch.batch, None]
        forces = _to_atoms(flat, pulls, -pulls) + zero
        stress = torch.zeros_like(cell)
        if "stress" in self.model_config.outputs:
            virial = segment_sum((pulls[:, :, None] * vectors[:, None]).view(-1, 9), flat.ptr)
            stress = _per_volume(segment_sum(virial + zero, batch.ptr).view(-1, 3, 3), cell)
        return self._outputs(batch, energies, forces, energy, stress)

    def _constants(self, batch: Batch, pairs: Pairs | DevicePairs) -> "_Constants":
        """Return what depends on pairs and elements alone, made anew when either changes.

        That all elements are known is asked only then, as it waits for the device.
        """
        flat, numbers = pairs.flat(), batch["atomic_numbers"]
        latest = self._latest
        if latest is not None and latest.holds(flat, numbers):
            return latest.constants
        tables = [torch.as_tensor(table).to(batch.device) for table in self._tables]
        row, rate, pair, atom, cutoff = tables
        element = row[numbers.clamp(0, len(row) - 1)]
        unknown = (element < 0) | (numbers < 0) | (numbers >= len(row))
        if bool(unknown.any()):
            raise self._refusal(batch, int(unknown.nonzero()[0, 0]))
        largest = segment_max(element.double(), batch.ptr).clamp(min=0.0).long()
        own, other, system = element[flat.i], element[flat.j], largest[flat.system]
        factor = pair[system, own, other]
        if not pairs.half:
            factor = torch.where(_backward(flat)[:, None], 0.0, factor)
        rates = torch.stack([rate[other, 0], rate[own, 0], rate[other, 1], rate[own, 1]])
        atoms = atom[largest[batch.batch], element].T.contiguous()
        cut = cutoff[system].T.contiguous()
        made = _Constants(flat.shift.double(), factor.T.contiguous(), -rates, cut, atoms)
        self._latest = _Latest(flat, numbers, numbers._version, made)
        return made


class _Constants(NamedTuple):
    """What does not depend on the geometry; one column for each pair or atom.

    Parameters
    ----------
    shift
        Multiples of the cell vectors.
    factor, decay
        Of the terms in sigma1 of i and of j and of both in the pair energy, eV, with the negative
        rates, 1/Å. Factors are zero for a pair that is there the other way round.
    cut
        Middle, slope and end of the cutoff function.
    atom
        Columns of ``Tables.atom``.
    """

    shift: Float[Tensor, "E 3"]
    factor: Float[Tensor, "4 E"]
    decay: Float[Tensor, "4 E"]
    cut: Float[Tensor, "3 E"]
    atom: Float[Tensor, "6 V"]


class _Latest(NamedTuple):
    """Constants, and the very pairs and atomic numbers that they were made for."""

    flat: FlatPairs
    numbers: Tensor
    version: int
    constants: _Constants

    def holds(self, flat: FlatPairs, numbers: Tensor) -> bool:
        """Say whether they are those of these pairs and numbers."""
        same = self.flat is flat and self.numbers is numbers
        return same and self.version == numbers._version


def _terms(
    vectors: Float[Tensor, "E 3"], constants: _Constants
) -> tuple[Float[Tensor, "4 E"], Float[Tensor, "4 E"]]:
    """Return the terms of each pair, and their derivatives by the distance over the distance."""
    middle, fall, limit = constants.cut
    x, y, z = vectors.unbind(1)
    r = (x * x + y * y + z * z).sqrt()
    weight = torch.sigmoid(fall * (middle - r))
    terms = constants.factor * torch.exp(constants.decay * r) * weight
    terms = torch.where(r >= limit, 0.0, terms)
    return terms, terms * (fall * (weight - 1.0) + constants.decay) / r


def _embed(
    sigma: Float[Tensor, " V"], atom: Float[Tensor, "6 V"]
) -> tuple[Float[Tensor, " V"], Float[Tensor, " V"]]:
    """Return the energy that each atom has from sigma1, and the derivative by sigma1."""
    e0, lamda, kappa, six_v0, scale, length = atom
    s = -torch.log(sigma * scale) * length
    cohesion = e0 * torch.exp(-lamda * s)
    repulsion = six_v0 * torch.exp(-kappa * s)
    energies = cohesion * (1.0 + lamda * s) + repulsion
    slope = (cohesion * lamda * lamda * s + kappa * repulsion) * length / sigma
    alone = sigma == 0
    return torch.where(alone, 0.0, energies) - e0, torch.where(alone, 0.0, slope)


def _per_volume(
    virial: Float[Tensor, "B 3 3"], cell: Float[Tensor, "B 3 3"]
) -> Float[Tensor, "B 3 3"]:
    """Return stresses, eV/Å³; zero without a volume."""
    volume = (cell[:, 0] * torch.linalg.cross(cell[:, 1], cell[:, 2])).sum(1).abs()
    return torch.where(volume == 0, 0.0, virial.permute(1, 2, 0) / volume).permute(2, 0, 1)


def _array(tensor: Tensor) -> np.ndarray:
    """Return numbers as the loops take them."""
    tensor = tensor.detach().contiguous()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()


def _vectors(
    flat: FlatPairs,
    s: Float[Tensor, "E 3"],
    positions: Float[Tensor, "V 3"],
    cell: Float[Tensor, "B 3 3"],
) -> Float[Tensor, "E 3"]:
    """Return the vectors of pairs, Å; s are their shifts."""
    h = cell[flat.system]
    image = s[:, 0:1] * h[:, 0] + s[:, 1:2] * h[:, 1] + s[:, 2:3] * h[:, 2]
    return positions[flat.j] - positions[flat.i] + image


def _backward(flat: FlatPairs) -> Bool[Tensor, " E"]:
    """Say which pairs of a full list are those of the half list the other way round."""
    x, y, z = flat.shift.unbind(1)
    negative = (x < 0) | ((x == 0) & ((y < 0) | ((y == 0) & (z < 0))))
    return (flat.j < flat.i) | ((flat.j == flat.i) & negative)


def _to_atoms(
    flat: FlatPairs, own: Float[Tensor, "E ..."], other: Float[Tensor, "E ..."]
) -> Float[Tensor, "V ..."]:
    """Sum what pairs give to their atoms i and to their atoms j."""
    return segment_sum(own, flat.ptr) + segment_sum(other[flat.transpose], flat.transpose_ptr)
