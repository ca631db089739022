"""``MACEModel``: MACE for a batch, from the neighbour list on.

The package comes with ``pip install 'nvdyn_ase[mace]'``; weights are the user's.
"""

import pickle
from collections.abc import Callable
from os import PathLike
from typing import Any

import torch
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.models.base import BaseModelMixin
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.network import Bonds, PairNetwork, Part, all_bonds, find_bonds
from nvdyn_ase.models.sums import SumModel
from nvdyn_ase.neighbors import FlatPairs

try:
    from mace.modules import blocks
    from mace.modules.models import MACE, ScaleShiftMACE
except ModuleNotFoundError as error:
    raise needs_extra("mace", error) from error

# What these send along a pair is a multiple of its radial functions, which are zero beyond the
# cutoff. Other blocks make it of features of the atoms as well, or add a constant.
_WEIGHTLESS_BEYOND = (
    blocks.RealAgnosticInteractionBlock,
    blocks.RealAgnosticResidualInteractionBlock,
    blocks.RealAgnosticDensityInteractionBlock,
    blocks.RealAgnosticDensityResidualInteractionBlock,
)


class MACEModel(PairNetwork):
    """MACE: higher-order equivariant message passing.

    I. Batatia et al., Adv. Neural Inf. Process. Syst. 35, 11423 (2022). Vectors between atoms are
    made in float64 and given to the network in its own type, which also gives their derivatives.
    So the numbers are those of ``mace.calculators.MACECalculator`` within that type, but for the
    stress of a system that is not periodic along all cell vectors: it is per volume of the cell, as
    in ASE, and there per that of a larger one. A network that was converted to cuEquivariance or
    openEquivariance is used as it is.

    It gives ``energy``, and ``forces``, ``stress``, ``free_energy`` (the energy) and
    ``atomic_energies`` if asked. A system need not be periodic or have a cell. Elements that the
    network was not made for and positions that are not finite are failures; see
    :class:`nvdyn_ase.models.pair_model.PairModel`.

    Parameters
    ----------
    module
        A ``mace.modules.ScaleShiftMACE`` or ``MACE``. It is used as it is and where it is.
    head
        Which of the network's energies, by name; needed if there are several and none of them is
        called ``"default"``.
    skin
        Of the neighbour list, Å.
    chunk_size, dtype
        See :class:`nvdyn_ase.models.network.PairNetwork`.

    Raises
    ------
    ValueError
        There is no such head, or it takes one; or the network needs more than atoms and their
        elements, such as charges or spins.
    """

    def __init__(
        self,
        module: ScaleShiftMACE | MACE,
        *,
        head: str | None = None,
        skin: float = 0.5,
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not _is_plain(module):
            raise ValueError(
                f"this {type(module).__name__} needs more than elements and positions; give its "
                "calculator, which is called system by system"
            )
        heads = list(getattr(module, "heads", ["Default"]))
        self.head = _chosen(head, heads)
        self._head = heads.index(self.head)
        elements = tuple(int(number) for number in module.atomic_numbers)
        given = frozenset({"atomic_energies"})
        super().__init__(module, elements, float(module.r_max), skin, given, chunk_size, dtype)

    def __repr__(self) -> str:
        """Say which network and head."""
        return f"MACEModel(head={self.head!r}, skin={self.skin})"

    def _settings(self) -> tuple[Any, ...]:
        return *super()._settings(), self.head

    def _find_bonds(self, batch: Batch, flat: FlatPairs, half: bool) -> Bonds:
        """Leave out what is beyond the cutoff; where that means to wait for a device, let it be.

        That is, if these pairs have no weight in the network, and are no more than those within its
        own skin: a sum of models shares a list that may reach much further.
        """
        may_stay = half and self._is_weightless_beyond and self._is_own(batch)
        if may_stay and not self._picks_pairs(batch):
            return all_bonds(batch, flat)
        return find_bonds(batch, flat, half, self._cutoff)

    @staticmethod
    def _picks_pairs(batch: Batch) -> bool:
        return batch.device.type == "cpu"

    @property
    def _is_weightless_beyond(self) -> bool:
        return all(type(block) in _WEIGHTLESS_BEYOND for block in self.module.interactions)

    def _is_own(self, batch: Batch) -> bool:
        """Say whether the list reaches no further than this model needs."""
        pairs = batch.neighbors
        assert pairs is not None
        return pairs.cutoff + pairs.skin <= self._cutoff + self.skin

    @property
    def _cutoff(self) -> float:
        config = self.model_card.neighbor_config
        assert config is not None
        return config.cutoff

    def _energies(self, part: Part) -> tuple[Tensor, Tensor]:
        raw = self.module(self._graph(part), compute_force=False, compute_stress=False)
        return raw["energy"], raw["node_energy"]

    def _graph(self, part: Part) -> dict[str, Tensor]:
        """Return what the network takes: all atoms in one place, and shifts that lead to others."""
        edges, shifts = part.both_ways()
        systems = len(part.ptr) - 1
        one_hot = torch.nn.functional.one_hot(part.elements, len(self.module.atomic_numbers))
        return {
            "positions": shifts.new_zeros(len(part.elements), 3),
            "node_attrs": one_hot.to(shifts.dtype),
            "edge_index": edges,
            "shifts": shifts,
            "unit_shifts": torch.zeros_like(shifts),
            "cell": shifts.new_zeros(3 * systems, 3),
            "batch": part.owners,
            "ptr": part.ptr,
            "head": torch.full((systems,), self._head, device=shifts.device),
        }


def from_calculator(calculator: Any, **options: Any) -> BaseModelMixin | None:
    """Return the model of a ``MACECalculator``; the mean of several if it is a committee.

    None if it is compiled, has units of its own, or has networks that are not plain MACE.
    """
    own_units = (calculator.energy_units_to_eV, calculator.length_units_to_A) != (1.0, 1.0)
    if calculator.use_compile or own_units or not all(map(_is_plain, calculator.models)):
        return None
    options = {"head": calculator.head, **options}
    models = [MACEModel(module, **options) for module in calculator.models]
    return models[0] if len(models) == 1 else SumModel(models, [1.0 / len(models)] * len(models))


def from_file(path: str | PathLike[str], **options: Any) -> MACEModel:
    """Return the model in a file that MACE has written, on the CPU.

    Such a file holds Python objects; load only what you trust.

    Parameters
    ----------
    path
        The file.
    **options
        Arguments of :class:`MACEModel`.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    ValueError
        It holds something else.
    """
    try:
        module = torch.load(path, map_location="cpu", weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ImportError) as error:
        raise ValueError(f"{path} is not a file of a MACE network: {error}") from error
    if not isinstance(module, MACE):
        raise ValueError(f"{path} holds a {type(module).__name__}, not a MACE network")
    return MACEModel(module, **options)


def _is_plain(module: Any) -> bool:
    """Say whether a network is MACE itself, and takes nothing but atoms and their elements."""
    known: tuple[Callable[..., Any], ...] = (MACE, ScaleShiftMACE)
    return type(module) in known and not hasattr(module, "joint_embedding")


def _chosen(head: str | None, heads: list[str]) -> str:
    if head is None:
        named = heads if len(heads) == 1 else [own for own in heads if own.lower() == "default"]
        if not named:
            raise ValueError(f"the network has several heads; choose one, head={heads}")
        return named[0]
    if head not in heads:
        raise ValueError(f"the network has no head {head!r}; there are {heads}")
    return head
