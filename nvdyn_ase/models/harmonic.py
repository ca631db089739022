"""Independent harmonic wells: a model whose every answer is known."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs


class Harmonic(BaseModelMixin):
    """Each atom in a well of its own: ``E = k / 2 |r - r0|**2``, for tests and for teaching.

    ``r0`` is the atom's row of the field ``anchors``, (V, 3), Å, if the batch has it, and
    ``centre`` otherwise. Positions are taken as they are, without periodic images.

    It has no stress. The wells stand in space and do not move with the cell, so the energy does not
    depend on the cell, and how it changes when all positions are strained depends on the origin.

    Parameters
    ----------
    k
        Force constant, eV/Å².
    centre
        Where atoms without anchors belong, Å.

    Raises
    ------
    ValueError
        ``k`` is negative or not finite, or ``centre`` is not three finite numbers.
    """

    model_card = ModelCard()
    is_cheap = True

    def __init__(self, k: float = 1.0, centre: Sequence[float] = (0.0, 0.0, 0.0)) -> None:
        if not (math.isfinite(k) and k >= 0):
            raise ValueError(f"k must not be negative, and is {k}")
        x = [float(number) for number in centre]
        if len(x) != 3 or not all(map(math.isfinite, x)):
            raise ValueError(f"centre must be three numbers, not {centre!r}")
        self.k = float(k)
        self.centre = (x[0], x[1], x[2])
        self._centres: dict[torch.device, Tensor] = {}

    def __repr__(self) -> str:
        """Say the parameters."""
        return f"Harmonic(k={self.k!r}, centre={self.centre!r})"

    def forward(self, batch: Batch) -> ModelOutputs:
        """Compute energy and forces, and ``atomic_energies`` if asked."""
        positions = batch["positions"].detach()
        displacement = positions - (batch["anchors"] if "anchors" in batch else self._centre(batch))
        x, y, z = displacement.unbind(1)
        energies = 0.5 * self.k * (x * x + y * y + z * z)
        energy = segment_sum(energies, batch.ptr).view(-1, 1)
        outputs = ModelOutputs({"energy": energy, "forces": -self.k * displacement})
        if "atomic_energies" in self.model_config.outputs:
            outputs["atomic_energies"] = energies
        return outputs

    def _centre(self, batch: Batch) -> Float[Tensor, "3"]:
        """Return the centre on the device of the batch, copied there once."""
        if batch.device not in self._centres:
            centre = torch.tensor(self.centre, dtype=torch.float64)
            self._centres[batch.device] = centre.to(batch.device)
        return self._centres[batch.device].to(batch["positions"].dtype)
