"""``OrbModel``: ORB for a batch, from the neighbour list on.

The package comes with ``pip install 'nvdyn_ase[orb]'``; weights are the user's, or downloaded.
"""

import pickle
import warnings
from importlib.util import find_spec
from os import PathLike
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.network import Answer, Bonds, PairNetwork, Part, find_bonds
from nvdyn_ase.neighbors import FlatPairs

try:
    if find_spec("orb_models.common"):  # from version 0.6 on
        from orb_models.common.atoms.batch.graph_batch import AtomGraphs
        from orb_models.forcefield.models.conservative_regressor import (
            ConservativeForcefieldRegressor,
        )
        from orb_models.forcefield.models.direct_regressor import DirectForcefieldRegressor
        from orb_models.forcefield.models.forcefield_heads import EnergyHead
    else:
        from orb_models.forcefield.base import AtomGraphs
        from orb_models.forcefield.conservative_regressor import ConservativeForcefieldRegressor
        from orb_models.forcefield.direct_regressor import DirectForcefieldRegressor
        from orb_models.forcefield.forcefield_heads import EnergyHead
    from orb_models.forcefield.pretrained import ORB_PRETRAINED_MODELS
except ModuleNotFoundError as error:
    raise needs_extra("orb", error) from error

# Its tables have a row for each atomic number below this.
_NUMBERS = 118


class OrbModel(PairNetwork):
    """ORB: message passing without built-in symmetries, conservative or with forces of its own.

    M. Neumann et al., arXiv:2410.22570 (2024); B. Rhodes et al., arXiv:2504.06231 (2025). Vectors
    between atoms are made in float64 and go through the network in its own type; what elements
    contribute to the energy is summed in float64. So the numbers are those of
    ``orb_models.forcefield.calculator.ORBCalculator`` within that type.

    Of a ``ConservativeForcefieldRegressor`` forces and stress are derivatives of the energy; a
    ``DirectForcefieldRegressor`` gives them itself (``model_card.conservative`` is False). It gives
    ``energy``, and ``forces``, ``stress`` and ``free_energy`` (the energy) if asked. A network for
    charged molecules needs ``total_charge`` and ``spin_multiplicity`` of each system. Elements
    beyond Ts and positions that are not finite are failures; see
    :class:`nvdyn_ase.models.pair_model.PairModel`.

    Each atom sends messages to its nearest neighbours only. Where several are equally far and not
    all are taken, as in perfect crystals, rounding decides which, here as in the package.

    A forward pass waits for the device, to learn which pairs are within the cutoff.

    Parameters
    ----------
    module
        The network. It is used as it is and where it is.
    max_num_neighbors
        Most neighbours of an atom: 20 or 120 for the networks that are published. By default what
        the network says, which those of orb-models 0.5 do.
    radius
        How far they reach, Å. By default what the network says, else 6.
    skin
        Of the neighbour list, Å.
    chunk_size, dtype
        See :class:`nvdyn_ase.models.network.PairNetwork`.

    Raises
    ------
    ValueError
        Nothing says ``max_num_neighbors``; the network has charges of its own, or is no potential.
    """

    def __init__(
        self,
        module: ConservativeForcefieldRegressor | DirectForcefieldRegressor,
        *,
        max_num_neighbors: int | None = None,
        radius: float | None = None,
        skin: float = 0.5,
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not _is_plain(module):
            raise ValueError(
                "this network of ORB has electrostatics or is no potential; give its calculator, "
                "which is called system by system"
            )
        config = getattr(module, "system_config", None)
        most = max_num_neighbors or getattr(config, "max_num_neighbors", None)
        if most is None:
            raise ValueError(
                "the network does not say how many neighbours an atom has; give "
                "max_num_neighbors=20 or 120, as its name has it (120 for 'inf' and 'omol')"
            )
        self.max_num_neighbors = int(most)
        self.radius = float(getattr(config, "radius", 6.0) if radius is None else radius)
        elements = tuple(range(1, _NUMBERS))
        super().__init__(module, elements, self.radius, skin, frozenset(), chunk_size, dtype)
        conservative = isinstance(module, ConservativeForcefieldRegressor)
        charged = module.model.conditioner is not None
        needed = ("total_charge", "spin_multiplicity") if charged else ()
        self.fields_given = needed if conservative else (*needed, "positions", "cell")
        self.model_card = self.model_card.model_copy(
            update={
                "forces_via_autograd": conservative,
                "conservative": conservative,
                "supports_stress": conservative or "stress" in module.heads,
            }
        )

    def __repr__(self) -> str:
        """Say how large the network is, and which kind."""
        size = sum(weights.numel() for weights in self.module.parameters())
        kind = "conservative" if self.model_card.conservative else "direct"
        most = self.max_num_neighbors
        return f"OrbModel({size} weights, {kind}, max_num_neighbors={most}, skin={self.skin})"

    def _settings(self) -> tuple[Any, ...]:
        return *super()._settings(), self.max_num_neighbors, self.radius

    def _find_bonds(self, batch: Batch, flat: FlatPairs, half: bool) -> Bonds:
        return find_bonds(batch, flat, half, self.radius)

    def _energies(self, part: Part) -> tuple[Float[Tensor, " B"], Float[Tensor, " V"]]:
        """Return the energies of systems; there are none of atoms."""
        graphs = self._graphs(part)
        features = self.module.model(graphs)["node_features"]
        energy = self._interaction(features, graphs)
        if self.module.pair_repulsion:
            energy = energy + self.module.pair_repulsion_fn(graphs)["energy"]
        return energy.double() + self._references(part), features.new_zeros(len(part.elements))

    def _evaluate(self, batch: Batch, elements: Int[Tensor, " V"], bonds: Bonds) -> Answer:
        """Evaluate a batch: as it is written above, or by what the network says of forces."""
        if self.model_card.conservative:
            return super()._evaluate(batch, elements, bonds)
        nothing = torch.empty(0, dtype=torch.float64, device=batch.device)
        found = [(nothing, nothing.view(0, 3), nothing.view(0, 3, 3))]
        with torch.no_grad():
            found += [self._said_of(part) for part in self._parts(batch, elements, bonds)]
        energy, forces, stress = (torch.cat(values) for values in zip(*found, strict=True))
        direct = {"forces": forces}
        if self.model_card.supports_stress:
            direct["stress"] = stress
        return Answer(energy, torch.zeros_like(bonds.vector), {}, {}, direct)

    def _said_of(
        self, part: Part
    ) -> tuple[Float[Tensor, " B"], Float[Tensor, "V 3"], Float[Tensor, "B 3 3"]]:
        """Return energies, forces and stresses that a network gives itself, in float64."""
        module, graphs = self.module, self._graphs(part)
        features = module.model(graphs)["node_features"]
        energy = self._interaction(features, graphs)
        forces = module.heads["forces"].predict(features, graphs)
        stress = energy.new_zeros(len(energy), 6)
        if self.model_card.supports_stress:
            stress = module.heads["stress"].predict(features, graphs)
        if module.pair_repulsion:
            more = module.pair_repulsion_fn(graphs)
            energy, forces = energy + more["energy"], forces + more["forces"]
            stress = stress + more["stress"] if self.model_card.supports_stress else stress
        rows = torch.tensor([0, 5, 4, 5, 1, 3, 4, 3, 2], device=stress.device)  # of Voigt's
        energy = energy.double() + self._references(part)
        return energy, forces.double(), stress.double()[:, rows].view(-1, 3, 3)

    # ---------------------------------------------------------------- parts of the network

    def _interaction(self, features: Tensor, graphs: AtomGraphs) -> Float[Tensor, " B"]:
        """Return energies without what elements contribute."""
        head = self.module.heads["energy"]
        raw = head(features, graphs)
        if not hasattr(head, "absolute_energy"):  # before version 0.6 it is normalised
            raw = head.normalizer.inverse(raw).view(-1)
            raw = raw * graphs.n_node if head.atom_avg else raw
        return raw.view(-1)

    def _references(self, part: Part) -> Float[Tensor, " B"]:
        """Return what elements contribute to the energy, in float64."""
        by_element = self.module.heads["energy"].reference.linear.weight.detach().view(-1).double()
        return segment_sum(by_element[part.elements + 1], part.ptr)

    def _graphs(self, part: Part) -> AtomGraphs:
        """Return what the network takes."""
        numbers, sizes = part.elements + 1, part.ptr.diff()
        edges, vectors = self._edges(part)
        dtype = vectors.dtype
        one_hot = torch.nn.functional.one_hot(numbers, _NUMBERS).to(dtype)
        positions = part.fields.get("positions", vectors.new_zeros(len(numbers), 3))
        cell = part.fields.get("cell", vectors.new_zeros(len(sizes), 3, 3))
        system = {"cell": cell.detach().to(dtype)}
        if "total_charge" in part.fields:
            system["total_charge"] = part.fields["total_charge"].view(-1).to(dtype)
            spin = part.fields["spin_multiplicity"].view(-1).to(dtype)
            system |= {"total_spin": spin, "spin_multiplicity": spin}  # the latter from 0.6 on
        return AtomGraphs(
            senders=edges[0],
            receivers=edges[1],
            n_node=sizes,
            n_edge=torch.bincount(part.owners[edges[0]], minlength=len(sizes)),
            node_features={
                "positions": positions.detach().to(dtype),
                "atomic_numbers": numbers,
                "atomic_numbers_embedding": one_hot,
            },
            edge_features={"vectors": vectors},
            system_features=system,
            node_targets={},
            edge_targets={},
            system_targets={},
            system_id=None,
            fix_atoms=None,
            tags=None,
            radius=self.radius,
            max_num_neighbors=torch.full_like(sizes, self.max_num_neighbors),
        )

    def _edges(self, part: Part) -> tuple[Int[Tensor, "2 D"], Float[Tensor, "D 3"]]:
        """Return the directed edges, atom by atom, each atom's nearest first and no more."""
        ends, vectors = part.both_ways()
        near = vectors.detach().square().sum(1).argsort(stable=True)
        order = near[ends[0, near].argsort(stable=True)]
        counts = torch.bincount(ends[0], minlength=len(part.elements))
        first = counts.cumsum(0) - counts
        rank = torch.arange(len(order), device=order.device) - first[ends[0, order]]
        kept = order[rank < self.max_num_neighbors]
        return ends[:, kept], vectors[kept]


def from_calculator(calculator: Any, **options: Any) -> OrbModel | None:
    """Return the model of an ``ORBCalculator``.

    None if there is more to its network than ORB, such as D3, or it is asked for what the network
    says of forces although that is conservative.
    """
    module = calculator.model
    if not _is_plain(module):
        return None
    if calculator.conservative is not isinstance(module, ConservativeForcefieldRegressor):
        return None
    config = getattr(calculator, "adapter", None) or calculator.system_config
    settings = {
        "max_num_neighbors": calculator.max_num_neighbors or config.max_num_neighbors,
        "radius": config.radius,
    }
    return OrbModel(module, **{**settings, **options})


def pretrained(
    checkpoint: str = "orb-v3-conservative-inf-omat",
    *,
    weights_path: str | PathLike[str] | None = None,
    dtype: torch.dtype | None = None,
    **options: Any,
) -> OrbModel:
    """Return a model with published weights, on the CPU.

    Parameters
    ----------
    checkpoint
        A name that orb-models knows. The weights are downloaded unless they are there already.
    weights_path
        A file with these weights.
    dtype
        ``torch.float32``, the default, or ``torch.float64``.
    **options
        Arguments of :class:`OrbModel`.

    Raises
    ------
    ValueError
        No such name, or a file that does not hold the weights of that network.
    """
    if checkpoint not in ORB_PRETRAINED_MODELS:
        names = ", ".join(ORB_PRETRAINED_MODELS)
        raise ValueError(f"orb-models knows no {checkpoint!r}; there are {names}")
    load = ORB_PRETRAINED_MODELS[checkpoint]
    path = {} if weights_path is None else {"weights_path": str(weights_path)}
    precision = "float64" if dtype is torch.float64 else "float32-highest"
    before = torch.get_default_dtype(), torch.get_float32_matmul_precision()
    try:
        torch.set_default_dtype(torch.float32)  # that of its constants
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about types of numbers, set back below
            made = load(device="cpu", precision=precision, compile=False, **path)
    except (pickle.UnpicklingError, RuntimeError, EOFError, LookupError, TypeError) as error:
        raise ValueError(
            f"{weights_path or checkpoint} does not hold the weights of {checkpoint}: {error}"
        ) from error
    finally:
        torch.set_default_dtype(before[0])
        torch.set_float32_matmul_precision(before[1])
    module, config = made if isinstance(made, tuple) else (made, made.system_config)
    settings = {"max_num_neighbors": config.max_num_neighbors, "radius": config.radius}
    return OrbModel(module, **{**settings, **options})


def _is_plain(module: Any) -> bool:
    """Say whether a network is ORB itself: an energy, with forces of it or of the network's own."""
    conservative = type(module) is ConservativeForcefieldRegressor
    if not conservative and type(module) is not DirectForcefieldRegressor:
        return False
    heads = module.heads
    if "energy" not in heads or type(heads["energy"]) is not EnergyHead:
        return False
    more = {*module.model.node_feature_names, *module.model.edge_feature_names} - {"feat"}
    charges = getattr(module, "coulomb_module", None)
    return (conservative or "forces" in heads) and charges is None and not more
