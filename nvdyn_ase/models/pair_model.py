"""What models on a list of pairs share: which pairs, which elements, and what has failed."""

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nvdyn_ase.data import FIELDS, Batch, Level
from nvdyn_ase.models.base import BaseModelMixin, ModelOutputs
from nvdyn_ase.models.mixing import element_name
from nvdyn_ase.neighbors import DevicePairs, FlatPairs, Pairs


class PairModel(BaseModelMixin):
    """A model on the pairs of a list: loops on the CPU, torch operations on any other device.

    All is given in the type of the positions, and computed in float64 except by networks. The list
    may be half or full and reach further than the cutoff: the bits are the same.

    A system with an element that has no parameters is reported in ``failures`` of the outputs, and
    its numbers are NaN. So are energy and forces of one with a position that is not finite.

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
        self._judged: _Judged | None = None

    def forward(self, batch: Batch) -> ModelOutputs:
        """Compute energy and forces, and what else is asked for.

        Raises
        ------
        ValueError
            The batch has no pairs, or they do not reach far enough.
        """
        pairs = self._pairs(batch)
        if isinstance(pairs, Pairs):
            return self._forward_slots(batch, pairs)
        return self._forward_flat(batch, pairs)

    def forward_torch(self, batch: Batch) -> ModelOutputs:
        """Compute the same with torch operations, on any device; see :meth:`forward`.

        It waits for the device when the atomic numbers are not those of the last call.
        """
        return self._forward_flat(batch, self._pairs(batch))

    @abstractmethod
    def _forward_slots(self, batch: Batch, pairs: Pairs) -> ModelOutputs:
        """Compute with loops on the CPU."""

    @abstractmethod
    def _forward_flat(self, batch: Batch, pairs: Pairs | DevicePairs) -> ModelOutputs:
        """Compute with torch operations."""

    def _pairs(self, batch: Batch) -> Pairs | DevicePairs:
        """Return the pairs of a batch; ValueError if they are not those that the model needs."""
        pairs, config = batch.neighbors, self.model_card.neighbor_config
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

    # ---------------------------------------------------------------- elements

    def _kinds_on_host(self, batch: Batch) -> np.ndarray:
        """Return the row of each atom in the tables, (V,) uint64; none if all are the same."""
        if self._kinds is None:
            return np.empty(0, np.uint64)
        return self._kinds.take(batch["atomic_numbers"].numpy(), mode="clip")

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

    # ---------------------------------------------------------------- what is returned

    def _outputs(
        self, batch: Batch, values: Mapping[str, Tensor], failures: Mapping[int, str]
    ) -> ModelOutputs:
        """Return values in the type of the positions, NaN for the systems that failed."""
        dtype = batch["positions"].dtype
        outputs = {name: value.to(dtype) for name, value in values.items()}
        if failures:
            failed = torch.zeros(len(batch), dtype=torch.bool)
            failed[list(failures)] = True
            systems = failed.to(batch.device)
            for name, value in outputs.items():
                level = FIELDS[name].level if name in FIELDS else batch.level(name)
                rows = systems[batch.batch] if level is Level.NODE else systems
                outputs[name] = torch.where(
                    rows.view(-1, *[1] * (value.ndim - 1)), torch.nan, value
                )
        return ModelOutputs(outputs, dict(failures))

    def _failures(self, batch: Batch, kinds: np.ndarray) -> dict[int, str]:
        """Return the systems with unknown elements and the reasons; ``kinds`` on the host."""
        if self._kinds is None or not (unknown := kinds == self._kinds.max()).any():
            return {}
        ptr, numbers, failures = batch.host_ptr, batch["atomic_numbers"].cpu().numpy(), {}
        for row in np.unique(np.searchsorted(ptr, np.flatnonzero(unknown), side="right") - 1):
            atoms = slice(ptr[row], ptr[row + 1])
            names = sorted({element_name(number) for number in numbers[atoms][unknown[atoms]]})
            failures[int(row)] = f"{type(self).__name__} has no parameters for {', '.join(names)}"
        return failures

    def _failures_on_device(self, batch: Batch, kinds: Tensor | None) -> dict[int, str]:
        """Return the same, looking again only when the atomic numbers are others."""
        if kinds is None:
            return {}
        numbers, latest = batch["atomic_numbers"], self._judged
        if latest is None or latest.numbers is not numbers or latest.version != numbers._version:
            failures = self._failures(batch, kinds.cpu().numpy())
            latest = self._judged = _Judged(numbers, numbers._version, failures)
        return latest.failures


class _Judged(NamedTuple):
    """Failures, and the very atomic numbers that they are of."""

    numbers: Tensor
    version: int
    failures: dict[int, str]


class Latest(NamedTuple):
    """What was made of a list of pairs and atomic numbers, and these very pairs and numbers."""

    flat: FlatPairs
    numbers: Tensor
    version: int
    made: Any

    def holds(self, flat: FlatPairs, numbers: Tensor) -> bool:
        """Say whether it was made of these pairs and numbers."""
        same = self.flat is flat and self.numbers is numbers
        return same and self.version == numbers._version


def as_array(tensor: Tensor) -> np.ndarray:
    """Return numbers on the host as loops take them: in order, and float64 if they are real."""
    tensor = tensor.detach().contiguous()
    return (tensor.double() if tensor.is_floating_point() else tensor).numpy()
