"""Models of other packages that take whole systems, and find pairs of atoms by themselves."""

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.models.base import BaseModelMixin, ModelOutputs
from nvdyn_ase.models.devices import is_same_device
from nvdyn_ase.models.mixing import element_name
from nvdyn_ase.models.pair_geometry import volumes


class Systems(NamedTuple):
    """Systems that are evaluated together: all are periodic along the same directions.

    Parameters
    ----------
    positions
        (V, 3), Å, in the type of the model.
    numbers
        (V,) int64.
    cell
        (B, 3, 3), rows are cell vectors, Å, in the type of the model. Those that a system lacks are
        zero if it has none, and orthogonal to the others if it has some.
    pbc
        Along which they are periodic.
    owners
        (V,) int64, the system of each atom.
    sizes
        Atoms of each system.
    batch
        The systems with all their fields.
    """

    positions: Float[Tensor, "V 3"]
    numbers: Int[Tensor, " V"]
    cell: Float[Tensor, "B 3 3"]
    pbc: tuple[bool, bool, bool]
    owners: Int[Tensor, " V"]
    sizes: list[int]
    batch: Batch


class WholeModel(BaseModelMixin):
    """A model that is given positions, elements and cells, and returns energy, forces and stress.

    A system with a position or cell that is not finite is not shown to it; its numbers are NaN. So
    are those of a system with elements that are not among the ``supported_elements`` of its card,
    which is a failure.
    Systems that are periodic along other directions than others are evaluated apart from them.

    A forward pass waits for the device.
    """

    _dtype: torch.dtype

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Return the model if that is where it is; what is inside cannot be moved from here.

        Raises
        ------
        ValueError
            Another device.
        """
        device = kwargs.get("device", args[0] if args else None)
        if not isinstance(device, (str, torch.device)):
            return self
        if not is_same_device(torch.device(device), self.device):
            raise ValueError(
                f"the model inside {type(self).__name__} is on {self.device}, and stays there; "
                f"make it on {device}"
            )
        return self

    @abstractmethod
    def _evaluate(self, systems: Systems, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        """Return energy (B,) or (B, 1), forces (V, 3) and, if wanted, stress (B, 3, 3)."""

    def forward(self, batch: Batch) -> ModelOutputs:
        """Compute energy, and forces and stress if asked for.

        Raises
        ------
        ValueError
            The batch is on another device than the model.
        """
        if not is_same_device(batch.device, self.device):
            raise ValueError(
                f"the batch is on {batch.device} and the model on {self.device}; move the batch, "
                "batch.to(model.device)"
            )
        wanted = self.model_config.outputs | {"energy"}
        dtype, rows = batch["positions"].dtype, len(batch)
        values = {
            "energy": batch["positions"].new_full((rows, 1), torch.nan),
            "forces": torch.full_like(batch["positions"], torch.nan),
            "stress": batch["positions"].new_full((rows, 3, 3), torch.nan),
        }
        failures = self._failures(batch)
        for group, pbc in _groups(batch, failures):
            part = batch if len(group) == rows else batch[group.tolist()]
            found = self._evaluate(_systems(part, pbc, self._dtype), wanted)
            atoms = _atoms(batch.host_ptr, group)
            for name, at in (("energy", group), ("forces", atoms), ("stress", group)):
                if name not in found or name not in wanted:
                    continue
                own = found[name].detach().to(dtype).reshape(-1, *values[name].shape[1:])
                place = torch.from_numpy(at).to(batch.device)
                values[name] = values[name].index_copy(0, place, own)
        flat = torch.isinf(volumes(batch["cell"].detach().double())).view(-1, 1, 1)
        unknown = torch.zeros(rows, dtype=torch.bool)
        unknown[list(failures)] = True
        flat = flat & ~unknown.to(batch.device).view(-1, 1, 1)
        values["stress"] = torch.where(flat, 0.0, values["stress"])
        values["free_energy"] = values["energy"].clone()  # a hook may add to one of them
        values = {name: value for name, value in values.items() if name in wanted}
        return ModelOutputs(values, failures)

    def _failures(self, batch: Batch) -> dict[int, str]:
        """Return the systems that are not to be shown to the model, with the reasons."""
        if self.model_card.supported_elements is None:
            return {}
        failures, numbers = {}, batch["atomic_numbers"].cpu().split(list(batch.num_nodes_list))
        for row, own in enumerate(numbers):
            if unknown := self.elements_unknown(own.tolist()):
                names = ", ".join(sorted(map(element_name, unknown)))
                failures[row] = f"{type(self).__name__} has no parameters for {names}"
        return failures


def _groups(
    batch: Batch, failures: Mapping[int, str]
) -> Iterator[tuple[np.ndarray, tuple[bool, bool, bool]]]:
    """Iterate over the systems that can be evaluated together, by their rows."""
    positions, cell = batch["positions"].detach(), batch["cell"].detach()
    bad = torch.zeros(len(batch), dtype=torch.int64, device=batch.device)
    bad = bad.index_add(0, batch.batch, (~torch.isfinite(positions)).any(1).long())
    usable = (bad == 0) & torch.isfinite(cell).flatten(1).all(1)
    periodic, shown = batch["pbc"].cpu().numpy(), usable.cpu().numpy()
    shown = shown & ~np.isin(np.arange(len(batch)), list(failures))
    kinds = np.where(shown, periodic @ np.array([1, 2, 4]), -1)
    for kind in np.unique(kinds[shown]).tolist():
        group = np.flatnonzero(kinds == kind)
        x, y, z = (bool(value) for value in periodic[group[0]])
        yield group, (x, y, z)


def _systems(batch: Batch, pbc: tuple[bool, bool, bool], dtype: torch.dtype) -> Systems:
    return Systems(
        positions=batch["positions"].detach().to(dtype),
        numbers=batch["atomic_numbers"].long(),
        cell=_with_missing_vectors(batch["cell"].detach()).to(dtype),
        pbc=pbc,
        owners=batch.batch,
        sizes=list(batch.num_nodes_list),
        batch=batch,
    )


def _with_missing_vectors(cell: Float[Tensor, "B 3 3"]) -> Float[Tensor, "B 3 3"]:
    """Give cells that have some vectors the others, of unit length; those without any keep none."""
    missing = ~cell.any(2)
    some = missing.any(1) & ~missing.all(1)
    # Rows of the orthogonal complement: the last right singular vectors.
    _, _, normals = torch.linalg.svd(torch.where(some[:, None, None], cell, torch.eye(3).to(cell)))
    place = (missing.long().cumsum(1) - missing.long()).clamp(max=2)
    filled = normals.flip(1).gather(1, place[:, :, None].expand(-1, -1, 3))
    rows: Bool[Tensor, "B 3 1"] = (missing & some[:, None])[:, :, None]
    return torch.where(rows, filled, cell)


def _atoms(ptr: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the atoms of some systems."""
    return np.concatenate([np.arange(ptr[row], ptr[row + 1]) for row in rows])
