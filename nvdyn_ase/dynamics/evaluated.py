"""Whether the energy and forces in a batch belong to its present geometry."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from torch import Tensor

from nvdyn_ase.data import Batch

_GEOMETRY = ("positions", "cell", "pbc", "atomic_numbers")

#: What a model says of a geometry.
RESULTS = ("energy", "free_energy", "forces", "stress")


class Evaluated(NamedTuple):
    """The model, what it gave, and the very tensors it was given, as they were.

    A tensor that was replaced or written to since is another geometry, as far as anyone can tell
    without waiting for the device.
    """

    model: Any
    geometry: tuple[tuple[Tensor, int], ...]
    results: frozenset[str]

    @classmethod
    def now(cls, batch: Batch, model: Any, results: Iterable[str]) -> "Evaluated":
        """Return a note that these results in the batch are the model's, for what it holds."""
        geometry = tuple((batch[key], batch[key]._version) for key in _GEOMETRY)
        return cls(model, geometry, frozenset(results))

    def holds(self, batch: Batch, model: Any, needs: frozenset[str] = frozenset()) -> bool:
        """Say whether that is still so, and whether all that is needed is among the results."""
        return (
            model is self.model
            and needs <= self.results
            and all(
                batch[key] is tensor and tensor._version == version
                for key, (tensor, version) in zip(_GEOMETRY, self.geometry, strict=True)
            )
        )
