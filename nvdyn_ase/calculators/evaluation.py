"""Evaluating Atoms in one batch, without moving them."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import ase

from nvdyn_ase.atoms import PROPERTIES, batch_from_atoms, read_back
from nvdyn_ase.atoms.results import HostResults
from nvdyn_ase.data import Batch
from nvdyn_ase.data.electrons import electrons
from nvdyn_ase.models.base import BaseModelMixin
from nvdyn_ase.models.devices import is_same_device
from nvdyn_ase.neighbors import NeighborList


def properties_of(model: BaseModelMixin) -> list[str]:
    """Return ASE's names of what a model can give."""
    card = model.model_card
    fields = {"energy", "free_energy", "forces"} | card.extra_outputs
    if card.supports_stress:
        fields.add("stress")
    return [name for name, kind in PROPERTIES.items() if kind.field in fields]


class Evaluated(NamedTuple):
    """What a model said of some Atoms.

    Parameters
    ----------
    results
        ASE's properties by name, for each Atoms; empty where the model failed.
    failures
        Why it failed, by place in the list.
    """

    results: list[dict[str, Any]]
    failures: dict[int, str]


class Evaluation:
    """Evaluates Atoms in one batch: everything that the model can give, in one forward pass.

    The batch is kept until the next call. If the Atoms are as many then, of the same sizes, only
    what has changed is read, and pairs are used again as long as nobody has left the skin.

    Parameters
    ----------
    model
        A batched model.
    """

    def __init__(self, model: BaseModelMixin) -> None:
        self.model = model
        self.properties = properties_of(model)
        self._batch: Batch | None = None
        self._electrons: list[dict[str, Any]] = []
        config = model.model_card.neighbor_config
        self._neighbors = None if config is None else NeighborList(**dict(config))

    def __reduce__(self) -> tuple[Any, ...]:
        """Copy and pickle without the batch."""
        return Evaluation, (self.model,)

    def __call__(self, systems: Sequence[ase.Atoms]) -> Evaluated:
        """Evaluate some Atoms; nothing of them is changed.

        Raises
        ------
        StructureError
            One of them cannot be used at all.
        """
        batch = self._current(systems)
        failures: dict[int, str] = {}
        if self._neighbors is not None:
            self._neighbors.update(batch)
            failures = self._neighbors.failures
        with self.model.computing(PROPERTIES[name].field for name in self.properties):
            outputs = self.model(batch)
        failures = outputs.failures | failures
        arrays = {key: values.detach().cpu().numpy() for key, values in outputs.items()}
        cells = batch["cell"].cpu().numpy()
        found = HostResults(arrays, batch.host_ptr, cells)
        rows = range(len(batch))
        return Evaluated([{} if k in failures else found.of_system(k) for k in rows], failures)

    def _current(self, systems: Sequence[ase.Atoms]) -> Batch:
        """Return a batch of the Atoms as they are now, where the model computes."""
        batch, device = self._batch, self.model.device
        sizes = [len(atoms) for atoms in systems]
        before, self._electrons = self._electrons, [electrons(atoms.info) for atoms in systems]
        if (
            batch is None
            or not is_same_device(batch.device, device)
            or batch.num_nodes_list != sizes
            or self._electrons != before
        ):
            batch = batch_from_atoms(systems, copy_constraints=False).to(device)
        else:
            self._batch = None  # if it raises, the batch is neither these nor the last ones
            read_back(systems, batch)
        self._batch = batch
        return batch
