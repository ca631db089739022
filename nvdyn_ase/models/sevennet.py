"""``SevenNetModel``: SevenNet for a batch, from the neighbour list on.

It comes with ``pip install 'nvdyn_ase[sevennet]'``, with the weights of 7net-0 and some others.
"""

import pickle
import warnings
from os import PathLike
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.network import Bonds, PairNetwork, Part, find_bonds
from nvdyn_ase.neighbors import FlatPairs

try:
    from sevenn.nn.sequential import AtomGraphSequential
    from sevenn.util import load_checkpoint
except ModuleNotFoundError as error:
    raise needs_extra("sevennet", error) from error

# Layers that are not gone through: sums over systems and derivatives are made here.
_NOT_ENTERED = ("reduce_total_enegy", "force_output")

# The first layer of elements makes float32 of them, whatever the weights are.
_ELEMENTS = ("x", "node_attr")


class SevenNetModel(PairNetwork):
    """SevenNet: equivariant message passing that scales to many devices, after NequIP.

    Y. Park et al., J. Chem. Theory Comput. 20, 4857 (2024). Vectors between atoms are made in
    float64 and go through the network's own layers in the network's own type; energies of atoms are
    summed in float64. So the numbers are those of ``sevenn.calculator.SevenNetCalculator`` within
    that type.

    It gives ``energy``, and ``forces``, ``stress``, ``free_energy`` (the energy) and
    ``atomic_energies`` if asked. A system need not be periodic or have a cell. Elements that the
    network was not made for and positions that are not finite are failures; see
    :class:`nvdyn_ase.models.pair_model.PairModel`.

    A forward pass waits for the device, to learn which pairs are within the cutoff.

    Parameters
    ----------
    module
        A ``sevenn.nn.sequential.AtomGraphSequential``. It is used as it is and where it is.
    modal
        Which of the levels of theory that the network was made for, by name; needed if there are
        several.
    skin
        Of the neighbour list, Å.
    chunk_size, dtype
        See :class:`nvdyn_ase.models.network.PairNetwork`.

    Raises
    ------
    ValueError
        There is no such ``modal``, or it takes one; the network has lost its elements or its
        cutoff, or is only a part of one.
    """

    def __init__(
        self,
        module: AtomGraphSequential,
        *,
        modal: str | None = None,
        skin: float = 0.5,
        chunk_size: int | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if not _is_whole(module):
            raise ValueError(
                "this network does not say its elements or cutoff, or is only a part of one; give "
                "a checkpoint, as_model('sevennet', checkpoint=...)"
            )
        self._modals = dict(module.modal_map or {})
        self.modal = _chosen(modal, list(self._modals))
        numbers = module.type_map
        elements = tuple(sorted(numbers, key=numbers.__getitem__))
        given = frozenset({"atomic_energies"})
        super().__init__(module, elements, float(module.cutoff), skin, given, chunk_size, dtype)

    def __repr__(self) -> str:
        """Say how large the network is, and what is not as usual."""
        size = sum(weights.numel() for weights in self.module.parameters())
        return f"SevenNetModel({size} weights, modal={self.modal!r}, skin={self.skin})"

    def _settings(self) -> tuple[Any, ...]:
        return *super()._settings(), self.modal

    def _find_bonds(self, batch: Batch, flat: FlatPairs, half: bool) -> Bonds:
        return find_bonds(batch, flat, half, float(self.module.cutoff))

    def _energies(self, part: Part) -> tuple[Float[Tensor, " B"], Float[Tensor, " V"]]:
        data = self._graph(part)
        for name, layer in self.module.named_children():
            if name not in _NOT_ENTERED:
                data = layer(data)
            if name == "onehot_idx_to_onehot":
                data.update({key: data[key].to(part.d.dtype) for key in _ELEMENTS})
        atomic = data["atomic_energy"].view(-1).double()
        return segment_sum(atomic, part.ptr), atomic

    def _graph(self, part: Part) -> dict[str, Tensor]:
        """Return what the layers take."""
        edges, vectors = part.both_ways()
        data = {
            "x": part.elements,
            "edge_index": edges,
            "edge_vec": vectors,
            "batch": part.owners,
            "num_atoms": part.ptr.diff(),
        }
        if self.modal is not None:
            own = torch.tensor(self._modals[self.modal], device=edges.device)
            # One for each system, or for all, as the layers were told by whoever made them.
            data["modal_type"] = own.expand(len(part.ptr) - 1) if self.module.is_batch_data else own
        return data


def from_calculator(calculator: Any, **options: Any) -> SevenNetModel | None:
    """Return the model of a ``SevenNetCalculator``; None if another network is inside."""
    if type(calculator.model) is not AtomGraphSequential or not _is_whole(calculator.model):
        return None
    return SevenNetModel(calculator.model, **{"modal": calculator.modal, **options})


def pretrained(checkpoint: str | PathLike[str] = "7net-0", **options: Any) -> SevenNetModel:
    """Return a model with weights that come with SevenNet or are in a file, on the CPU.

    A file holds Python objects; load only what you trust.

    Parameters
    ----------
    checkpoint
        ``"7net-0"``, ``"7net-l3i5"``, another name that SevenNet knows, for which it may download
        weights, or a file that it has written.
    **options
        Arguments of :class:`SevenNetModel`.

    Raises
    ------
    ValueError
        No such name or file, or a file that holds something else.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # about accelerators that are not installed
        checked = load_checkpoint(str(checkpoint))
        try:
            module = checked.build_model()
        except (
            *(pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ImportError),
            *(KeyError, TypeError, ValueError),
        ) as error:
            raise ValueError(f"{checkpoint} is not a checkpoint of SevenNet: {error}") from error
    module.set_is_batch_data(False)
    return SevenNetModel(module, **options)


def _is_whole(module: Any) -> bool:
    """Say whether a network has all that is needed, from elements to energies of atoms."""
    layers = dict(module.named_children())
    whole = "edge_embedding" in layers and "reduce_total_enegy" in layers
    return bool(whole and module.type_map and module.cutoff)


def _chosen(modal: str | None, modals: list[str]) -> str | None:
    if not modals:
        return None
    if modal is None:
        raise ValueError(f"the network knows several levels of theory; choose one, modal={modals}")
    if modal not in modals:
        raise ValueError(f"the network has no modal {modal!r}; there are {modals}")
    return modal
