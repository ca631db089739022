"""``NvalchemiModel``: any model that NVIDIA's nvalchemi-toolkit can use.

The toolkit comes with ``pip install 'nvdyn_ase[nvalchemi]'``.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nvdyn_ase.models.base import BaseModelMixin, ModelCard
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.whole_model import Systems, WholeModel

try:
    from nvalchemi.data import AtomicData, Batch
    from nvalchemi.neighbors import compute_neighbors
except ModuleNotFoundError as error:
    raise needs_extra("nvalchemi", error) from error

# What it calls fields of the table by another name.
_NAMES = {"charge": "total_charge", "spin": "spin_multiplicity"}

# Fields that are put into its batch for every model.
_GIVEN = {"positions", "atomic_numbers", "cell", "pbc"}


class NvalchemiModel(WholeModel):
    """A model derived from ``nvalchemi.models.base.BaseModelMixin``.

    It is given a batch of its own kind, with pairs found by the toolkit, and computes in the type
    of its weights, or in float64 if it has none. What it needs beyond atoms and cells, such as
    ``charge``, is taken from fields of that name, or from ``total_charge`` and
    ``spin_multiplicity``. See
    :class:`nvdyn_ase.models.whole_model.WholeModel` for what is done before and after. A system
    that is not periodic is given without its cell, as the toolkit does, and has no stress.

    Parameters
    ----------
    module
        The model.

    Raises
    ------
    ValueError
        It gives no forces.
    """

    def __init__(self, module: Any) -> None:
        can = module.model_config
        if not {"energy", "forces"} <= can.outputs:
            raise ValueError(f"this {type(module).__name__} does not give both energy and forces")
        self.module = module
        weights = (one for one in module.parameters() if one.is_floating_point())
        self._dtype = next((one.dtype for one in weights), torch.float64)
        self.model_card = ModelCard(
            forces_via_autograd="forces" in can.autograd_outputs,
            supports_stress="stress" in can.outputs,
            supports_pbc=can.supports_pbc,
            needs_pbc=can.needs_pbc,
            required_inputs=frozenset(can.required_inputs) - _GIVEN,
            dtype=self._dtype,
        )

    def __repr__(self) -> str:
        """Say which model is inside."""
        return f"NvalchemiModel({type(self.module).__name__})"

    @property
    def device(self) -> torch.device:
        """Where the weights are; the CPU for a model without."""
        first = next(iter(self.module.parameters()), None)
        return torch.device("cpu") if first is None else first.device

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the very same model is inside."""
        return isinstance(other, NvalchemiModel) and self.module is other.module

    def _evaluate(self, systems: Systems, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        config = self.module.model_config
        batch = Batch.from_data_list(self._data(systems))
        if config.neighbor_config is not None:
            compute_neighbors(batch, config=config.neighbor_config)
        before = config.active_outputs
        asked = {"energy", "forces", *wanted} & set(config.outputs)
        if not any(systems.pbc):
            asked.discard("stress")  # there is no cell to take it of
        try:
            config.active_outputs = asked
            found = self.module(batch)
        finally:
            config.active_outputs = before
        return {name: value for name, value in found.items() if value is not None}

    def _data(self, systems: Systems) -> list[Any]:
        own = systems.batch
        extra = set(_NAMES) | set(self.model_card.required_inputs)
        source = {name: name if name in own else _NAMES.get(name, name) for name in extra}
        positions = systems.positions.split(systems.sizes)
        numbers = systems.numbers.split(systems.sizes)
        data = []
        for row, (where, which) in enumerate(zip(positions, numbers, strict=True)):
            fields = {name: own[key][row : row + 1] for name, key in source.items() if key in own}
            fields |= {name: fields[name].to(where.dtype) for name in _NAMES if name in fields}
            if any(systems.pbc):
                pbc = torch.tensor([systems.pbc], device=where.device)
                fields |= {"cell": systems.cell[row : row + 1], "pbc": pbc}
            data.append(AtomicData(positions=where.clone(), atomic_numbers=which, **fields))
        return data
