"""``NequIPModel``: NequIP and Allegro for a batch, from the neighbour list on.

The package comes with ``pip install 'nvdyn_ase[nequip]'``; weights are the user's.
"""

from collections.abc import Mapping
from typing import Any

import torch
from ase.data import atomic_numbers
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.network import Bonds, PairNetwork, Part, find_bonds
from nvdyn_ase.neighbors import FlatPairs

try:
    from nequip.nn import ForceStressOutput, GraphModel
except ModuleNotFoundError as error:
    raise needs_extra("nequip", error) from error


class NequIPModel(PairNetwork):
    """A network of the NequIP framework that is not compiled: NequIP, Allegro and others.

    S. Batzner et al., Nat. Commun. 13, 2453 (2022); A. Musaelian et al., Nat. Commun. 14, 579
    (2023). Vectors between atoms are made in float64 and given to the network in its own type,
    which also gives their derivatives. So the numbers are those of
    ``nequip.integrations.ase.NequIPCalculator`` within that type.

    It gives ``energy``, and ``forces``, ``stress``, ``free_energy`` (the energy) and
    ``atomic_energies`` if asked. A system need not be periodic or have a cell. Elements that the
    network was not made for and positions that are not finite are failures; see
    :class:`nvdyn_ase.models.pair_model.PairModel`.

    A forward pass waits for the device, to learn which pairs are within the cutoff.

    Parameters
    ----------
    module
        A ``nequip.nn.GraphModel`` that makes forces of its energy. It is used where it is.
    types
        The network's type of each atomic number. By default its types are named as elements.
    skin
        Of the neighbour list, Å.
    chunk_size, dtype
        See :class:`nvdyn_ase.models.network.PairNetwork`.

    Raises
    ------
    ValueError
        Its forces are not derivatives of its energy, or its types are not elements and ``types``
        is not given.
    """

    def __init__(
        self,
        module: GraphModel,
        *,
        types: Mapping[int, int] | None = None,
        skin: float = 0.5,
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not _is_conservative(module):
            raise ValueError(
                "this network of NequIP does not make forces of its energy; give its calculator, "
                "which is called system by system"
            )
        types = _types_by_name(list(module.type_names)) if types is None else types
        self._types = torch.tensor(list(types.values()))
        self._reach = float(module.metadata["r_max"])
        given = frozenset({"atomic_energies"})
        super().__init__(module, tuple(types), self._reach, skin, given, chunk_size, dtype)

    def __repr__(self) -> str:
        """Say how large the network is."""
        size = sum(weights.numel() for weights in self.module.parameters())
        return f"NequIPModel({size} weights, cutoff={self._reach}, skin={self.skin})"

    def _settings(self) -> tuple[Any, ...]:
        return *super()._settings(), self.model_card.supported_elements, self._types.tolist()

    def _find_bonds(self, batch: Batch, flat: FlatPairs, half: bool) -> Bonds:
        return find_bonds(batch, flat, half, self._reach)

    def _energies(self, part: Part) -> tuple[Float[Tensor, " B"], Float[Tensor, " V"]]:
        edges, given = part.both_ways()
        data = {
            "edge_index": edges,
            "edge_vectors": given,
            "atom_types": self._types.to(edges.device)[part.elements],
            "batch": part.owners,
            "num_atoms": part.ptr.diff(),
            "pos": given.new_zeros(len(part.elements), 3),  # all in one place
        }
        found = self.module.model.func(data)
        return found["total_energy"].view(-1), found["atomic_energy"].view(-1)


def from_calculator(calculator: Any, **options: Any) -> NequIPModel | None:
    """Return the model of a ``NequIPCalculator``.

    None if its network is compiled or not conservative, has units of its own, or is given anything
    but elements and neighbours up to one cutoff.
    """
    own_units = (calculator.energy_units_to_eV, calculator.length_units_to_A) != (1.0, 1.0)
    if own_units or type(calculator.model) is not GraphModel:
        return None
    by_kind = {type(one).__name__: one for one in calculator.transforms}
    if set(by_kind) != {"ChemicalSpeciesToAtomTypeMapper", "NeighborListTransform"}:
        return None
    if by_kind["NeighborListTransform"].per_edge_type_cutoff is not None:
        return None
    if not _is_conservative(calculator.model):
        return None
    table = by_kind["ChemicalSpeciesToAtomTypeMapper"].lookup_table.tolist()
    types = {number: kind for number, kind in enumerate(table) if kind >= 0}
    return NequIPModel(calculator.model, **{"types": types, **options})


def _is_conservative(module: Any) -> bool:
    return type(module.model) is ForceStressOutput and module.model.do_derivatives


def _types_by_name(names: list[str]) -> dict[int, int]:
    if unknown := [name for name in names if name not in atomic_numbers]:
        raise ValueError(
            f"the network's types {', '.join(unknown)} are not elements; say which type each "
            "atomic number has, types={29: 0}"
        )
    return {atomic_numbers[name]: place for place, name in enumerate(names)}
