"""``EMT``: the effective medium potential of ASE, for a batch."""

from typing import NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_max
from nvdyn_ase.models.base import ModelCard, ModelOutputs, NeighborConfig
from nvdyn_ase.models.emt_kernel import Slots, evaluate
from nvdyn_ase.models.emt_parameters import PARAMETERS, make_tables
from nvdyn_ase.models.mixing import rows_by_number
from nvdyn_ase.models.near_pairs import Results
from nvdyn_ase.models.pair_geometry import are_reversed, sums_by_atom, vectors
from nvdyn_ase.models.pair_model import Latest, PairModel, as_array
from nvdyn_ase.models.pulls import asked_for, of_pulls
from nvdyn_ase.neighbors import DevicePairs, Pairs

# The row that unknown elements are given to have some; what comes of it is thrown away.
_LAST = np.uint64(len(PARAMETERS) - 1)


class EMT(PairModel):
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
    ``atomic_energies`` if asked. On pairs, elements without parameters and positions that are not
    finite see :class:`PairModel`.

    Parameters
    ----------
    asap_cutoff
        The cutoff of a system depends on the largest of its elements, as in ASAP. By default it
        depends on the largest of all elements, 5.88 Å.
    skin
        Of the neighbour list, Å.
    """

    is_cheap = True

    def __init__(self, asap_cutoff: bool = False, *, skin: float = 1.0) -> None:
        super().__init__(rows_by_number(tuple(atomic_numbers[symbol] for symbol in PARAMETERS)))
        self.asap_cutoff, self.skin = asap_cutoff, skin
        self._tables = make_tables(asap_cutoff)
        self._latest: Latest | None = None
        reach = float(self._tables.cutoff[:, 2].max())
        self.model_card = ModelCard(
            supports_stress=True,
            extra_outputs=frozenset({"atomic_energies"}),
            neighbor_config=NeighborConfig(cutoff=reach, half_list=True, skin=skin),
            supported_elements=frozenset(atomic_numbers[symbol] for symbol in PARAMETERS),
        )

    def __repr__(self) -> str:
        """Say the parameters."""
        return f"EMT(asap_cutoff={self.asap_cutoff}, skin={self.skin})"

    # ---------------------------------------------------------------- loops on the CPU

    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        atoms, systems = batch.num_nodes, len(batch)
        results = Results(
            np.empty(atoms), np.empty((atoms, 3)), np.empty(systems), np.empty((systems, 3, 3))
        )
        kinds = self._kinds_on_host(batch)
        evaluate(
            batch.host_ptr,
            as_array(batch["positions"]),
            np.minimum(kinds, _LAST),
            as_array(batch["cell"]),
            Slots(*(getattr(pairs, name) for name in Slots._fields)),
            self._tables,
            not self.model_config.outputs.isdisjoint({"forces", "stress"}),
            results,
        )
        arrays = (torch.from_numpy(array) for array in results)
        values = asked_for(self.model_config.outputs, *arrays)
        return self._outputs(batch, values, self._failures(batch, kinds))

    # ---------------------------------------------------------------- torch operations

    def _forward_flat(self, batch: Batch, pairs: Pairs | DevicePairs) -> ModelOutputs:
        flat, constants = pairs.flat(), self._constants(batch, pairs)
        d = vectors(batch, flat)
        terms, slopes = _terms(d, constants)
        sigma = torch.add(*sums_by_atom(flat, terms[0], terms[1]))
        energies, slope = _embed(sigma, constants.atom)
        shared = 0.5 * (terms[2] + terms[3])
        energies = energies + torch.add(*sums_by_atom(flat, shared, shared))
        pulls = slope[flat.i] * slopes[0] + slope[flat.j] * slopes[1] + slopes[2] + slopes[3]
        pulls = pulls[:, None] * d
        values = of_pulls(batch, flat, d, energies, pulls, self.model_config.outputs)
        return self._outputs(batch, values, constants.failures)

    def _constants(self, batch: Batch, pairs: Pairs | DevicePairs) -> "_Constants":
        """Return what depends on pairs and elements alone, made anew when either changes."""
        flat, numbers = pairs.flat(), batch["atomic_numbers"]
        latest = self._latest
        if latest is not None and latest.holds(flat, numbers):
            return latest.made
        rate, pair, atom, cutoff = (torch.as_tensor(t).to(batch.device) for t in self._tables)
        kinds = self._kinds_on_device(batch)
        assert kinds is not None
        element = kinds.clamp(max=int(_LAST))
        largest = segment_max(element.double(), batch.ptr).clamp(min=0.0).long()
        own, other, system = element[flat.i], element[flat.j], largest[flat.system]
        factor = pair[system, own, other]
        if not pairs.half:
            factor = torch.where(are_reversed(flat)[:, None], 0.0, factor)
        rates = torch.stack([rate[other, 0], rate[own, 0], rate[other, 1], rate[own, 1]])
        atoms = atom[largest[batch.batch], element].T.contiguous()
        cut = cutoff[system].T.contiguous()
        failures = self._failures_on_device(batch, kinds)
        made = _Constants(failures, factor.T.contiguous(), -rates, cut, atoms)
        self._latest = Latest(flat, numbers, numbers._version, made)
        return made


class _Constants(NamedTuple):
    """What does not depend on the geometry; one column for each pair or atom.

    Parameters
    ----------
    failures
        Systems with unknown elements, which are taken for others here.
    factor, decay
        Of the terms in sigma1 of i and of j and of both in the pair energy, eV, with the negative
        rates, 1/Å. Factors are zero for a pair that is there the other way round.
    cut
        Middle, slope and end of the cutoff function.
    atom
        Columns of ``Tables.atom``.
    """

    failures: dict[int, str]
    factor: Float[Tensor, "4 E"]
    decay: Float[Tensor, "4 E"]
    cut: Float[Tensor, "3 E"]
    atom: Float[Tensor, "6 V"]


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
