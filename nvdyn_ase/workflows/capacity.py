"""How many structures are moved together."""

from typing import Any

import ase
import torch

from nvdyn_ase.atoms import unwrapped
from nvdyn_ase.calculators import CalculatorModel
from nvdyn_ase.dynamics.memory import MemoryMeter
from nvdyn_ase.models import BaseModelMixin, as_model
from nvdyn_ase.workflows.arguments import at_least

#: With ``batch_size="auto"`` a batch is full when it has so many atoms, by the kind of device. On
#: the CPU a structure of 20 atoms costs 3.1, 1.9 and 1.6 ms in batches of 4096, 16384 and 65536.
ATOMS_PER_BATCH = {"cpu": 16384, "cuda": 65536}
#: On a GPU the first batch has so many: what its forward pass takes says how many there may be.
ATOMS_AT_FIRST = 2048
#: Share of a GPU's memory that batches may fill.
MEMORY = 0.8
#: An atom counts this many times where a calculator is called structure by structure: larger
#: batches would not be faster, and results would come later.
ATOMS_ONE_BY_ONE = 32


class Capacity:
    """When a batch is full: at so many structures, or so many atoms.

    Parameters
    ----------
    batch_size
        Structures, or ``"auto"``.
    max_atoms
        Atoms, instead.
    model
        The model for all; None if each structure has its own calculator.
    most
        No more structures than this in any case.

    Attributes
    ----------
    limit
        A batch is full when the shares of what is in it come up to this.
    """

    def __init__(
        self,
        batch_size: int | str,
        model: BaseModelMixin | None,
        max_atoms: int | None = None,
        most: int | None = None,
    ) -> None:
        if isinstance(batch_size, str) and batch_size != "auto":
            raise ValueError(f'batch_size must be "auto" or a number, not {batch_size!r}')
        if max_atoms is not None and batch_size != "auto":
            raise ValueError("give max_atoms or batch_size, not both")
        self._by_atoms = batch_size == "auto"
        self._weighted = max_atoms is None
        self._model = model
        self._weights: dict[type, int] = {}
        device = "cpu" if model is None else model.device.type
        if max_atoms is not None:
            self.limit = at_least("max_atoms", max_atoms, 1)
        elif self._by_atoms:
            self.limit = ATOMS_PER_BATCH["cpu"] if device == "cpu" else ATOMS_AT_FIRST
        else:
            self.limit = at_least("batch_size", batch_size, 1)
        # The limit may rise to here, and shares must not change then.
        rises = self._by_atoms and self._weighted and device != "cpu"
        highest = ATOMS_PER_BATCH["cuda"] if rises else self.limit
        self._least = 1 if most is None else -(-highest // max(most, 1))

    def adapt(self, meter: MemoryMeter, device: torch.device) -> None:
        """Make batches as large as a GPU has memory for, once that is known."""
        if not (self._by_atoms and self._weighted) or device.type == "cpu":
            return
        fitting = meter.atoms_that_fit(device, MEMORY)
        if fitting is not None:
            self.limit = min(fitting, ATOMS_PER_BATCH["cuda"])

    def share(self, item: Any) -> int:
        """Return how much of a batch an item takes up."""
        if not self._by_atoms or not isinstance(item, ase.Atoms):
            return self._least
        weight = self._weight(item) if self._weighted else 1
        return max(len(item) * weight, self._least)

    def _weight(self, atoms: ase.Atoms) -> int:
        """Return how often the atoms of a calculator count; found once for each class."""
        asked = unwrapped(atoms.calc) if self._model is None else self._model
        if type(asked) not in self._weights:
            single = asked is not None and isinstance(as_model(asked), CalculatorModel)
            self._weights[type(asked)] = ATOMS_ONE_BY_ONE if single else 1
        return self._weights[type(asked)]
