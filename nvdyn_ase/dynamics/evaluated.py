"""Whether the energy and forces in a batch belong to its present geometry."""

from typing import Any, NamedTuple

from torch import Tensor

from nvdyn_ase.data import Batch

_GEOMETRY = ("positions", "cell", "pbc", "atomic_numbers")


class Evaluated(NamedTuple):
    """The model, and the very tensors it was given, as they were.

    A tensor that was replaced or written to since is another geometry, as far as anyone can tell
    without waiting for the device.
    """

    model: Any
    geometry: tuple[tuple[Tensor, int], ...]

    @classmethod
    def now(cls, batch: Batch, model: Any) -> "Evaluated":
        """Return a note that the results in the batch are those of the model, for what it holds."""
        return cls(model, tuple((batch[key], batch[key]._version) for key in _GEOMETRY))

    def holds(self, batch: Batch, model: Any) -> bool:
        """Say whether that is still so."""
        return model is self.model and all(
            batch[key] is tensor and tensor._version == version
            for key, (tensor, version) in zip(_GEOMETRY, self.geometry, strict=True)
        )
