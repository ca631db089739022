"""``MatterSimModel``: MatterSim for a batch, from the neighbour list on.

The package comes with ``pip install 'nvdyn_ase[mattersim]'``; weights are the user's, or
downloaded.
"""

import pickle
from os import PathLike
from typing import Any

import torch
from ase.units import GPa
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.chgnet_graph import find_angles
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.network import Bonds, PairNetwork, Part, find_bonds
from nvdyn_ase.neighbors import FlatPairs

try:
    from mattersim.forcefield.m3gnet.m3gnet import M3Gnet
    from mattersim.forcefield.potential import Potential
except ModuleNotFoundError as error:
    raise needs_extra("mattersim", error) from error

# How far from -1 and 1 the cosine of an angle is kept, as in the package.
_MARGIN = 1e-7


class MatterSimModel(PairNetwork):
    """MatterSim: M3GNet trained over elements, temperatures and pressures.

    H. Yang et al., arXiv:2405.04967 (2024); C. Chen and S. P. Ong, Nat. Comput. Sci. 2, 718 (2022).
    Vectors between atoms are made in float64 and go through the network's own layers in the
    network's own type; energies of atoms are summed in float64. So the numbers are those of
    ``mattersim.forcefield.MatterSimCalculator`` within that type, but for the stress of a
    left-handed cell, which has the wrong sign there, and of a system that is not periodic, which is
    per volume of a larger cell there.

    It gives ``energy``, and ``forces``, ``stress``, ``free_energy`` (the energy) and
    ``atomic_energies`` if asked. A system need not be periodic or have a cell. Elements that the
    network was not made for and positions that are not finite are failures; see
    :class:`nvdyn_ase.models.pair_model.PairModel`.

    A forward pass waits for the device, to learn which pairs are within the cutoff.

    Parameters
    ----------
    module
        A ``mattersim.forcefield.m3gnet.m3gnet.M3Gnet``, or the ``Potential`` around it. It is used
        as it is and where it is.
    stress_weight
        What the calculator multiplies a stress in GPa with; by default that makes it eV/Å³.
    skin
        Of the neighbour list, Å.
    chunk_size, dtype
        See :class:`nvdyn_ase.models.network.PairNetwork`.
    """

    def __init__(
        self,
        module: M3Gnet | Potential,
        *,
        stress_weight: float = GPa,
        skin: float = 0.5,
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        module = module.model if isinstance(module, Potential) else module
        self.stress_weight, self.stress_factor = stress_weight, stress_weight / GPa
        self._reach = float(module.model_args["cutoff"])
        self._angles_within = float(module.model_args["threebody_cutoff"])
        elements = tuple(range(1, module.max_z + 1))
        given = frozenset({"atomic_energies"})
        super().__init__(module, elements, self._reach, skin, given, chunk_size, dtype)

    def __repr__(self) -> str:
        """Say how large the network is."""
        size = sum(weights.numel() for weights in self.module.parameters())
        return f"MatterSimModel({size} weights, cutoff={self._reach}, skin={self.skin})"

    def _settings(self) -> tuple[Any, ...]:
        own = self._reach, self._angles_within, self.stress_weight
        return *super()._settings(), *own

    def _find_bonds(self, batch: Batch, flat: FlatPairs, half: bool) -> Bonds:
        return find_bonds(batch, flat, half, self._reach)

    def _energies(self, part: Part) -> tuple[Float[Tensor, " B"], Float[Tensor, " V"]]:
        """Go through the layers as ``M3Gnet.forward`` does, which only takes float32."""
        module, numbers = self.module, part.elements + 1
        ends, vectors = part.both_ways()
        lengths = vectors.norm(dim=1)
        one, other = self._triplets(ends, lengths)
        cosines = (vectors[one] * vectors[other]).sum(1) / (lengths[one] * lengths[other])
        angles = torch.acos(cosines.clamp(_MARGIN - 1.0, 1.0 - _MARGIN))
        one_hot = torch.nn.functional.one_hot(numbers, module.max_z + 1).to(vectors.dtype)
        atoms, bases = module.atom_embedding(one_hot), module.rbf(lengths)
        edges = module.edge_encoder(bases)
        angular = module.sbf(lengths[other], angles)
        for layer in module.graph_conv:
            atoms, edges = layer(
                atoms,
                edges,
                bases,
                ends,
                angular,
                torch.stack([one, other], 1),
                lengths[:, None],
                num_edges=None,  # it needs no counts if it is told the totals
                num_triple_ij=one,
                num_atoms=None,
                total_num_atoms=len(numbers),
                total_num_bonds=len(lengths),
                three_body_edge_map=one,
            )
        atomic = module.normalizer(module.final(atoms).view(-1), numbers).double()
        return segment_sum(atomic, part.ptr), atomic

    def _triplets(
        self, ends: Int[Tensor, "2 D"], lengths: Float[Tensor, " D"]
    ) -> tuple[Int[Tensor, " A"], Int[Tensor, " A"]]:
        """Return the directed edges of each angle, both shorter than the cutoff of these."""
        short = (lengths.detach() <= self._angles_within).nonzero().view(-1)
        return find_angles(ends[0], short)


def from_calculator(calculator: Any, **options: Any) -> MatterSimModel | None:
    """Return the model of a ``MatterSimCalculator``; None if another network is inside."""
    module = calculator.potential.model
    if type(module) is not M3Gnet:
        return None
    return MatterSimModel(module, **{"stress_weight": calculator.stress_weight, **options})


def pretrained(
    checkpoint: str | PathLike[str] = "MatterSim-v1.0.0-1M", **options: Any
) -> MatterSimModel:
    """Return a model with published weights or those in a file, on the CPU.

    Parameters
    ----------
    checkpoint
        ``"MatterSim-v1.0.0-1M"`` or ``"MatterSim-v1.0.0-5M"``, which MatterSim downloads unless
        they are there already, or a file that it has written.
    **options
        Arguments of :class:`MatterSimModel`.

    Raises
    ------
    ValueError
        No such name or file, or a file that holds something else.
    """
    before = torch.backends.cuda.matmul.allow_tf32
    try:
        potential = Potential.from_checkpoint(
            str(checkpoint), device="cpu", load_training_state=False
        )
    except (
        *(pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ImportError),
        *(AssertionError, LookupError, TypeError, ValueError),
    ) as error:
        raise ValueError(f"{checkpoint} is not a checkpoint of MatterSim: {error}") from error
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before  # it sets that for the whole process
    return MatterSimModel(potential, **options)
