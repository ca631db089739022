"""``TorchSimModel``: any model that torch-sim can use.

torch-sim comes with ``pip install 'nvdyn_ase[torchsim]'``, on Python 3.12 and later.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from nvdyn_ase.models.base import BaseModelMixin, ModelCard
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.whole_model import Systems, WholeModel

try:
    from torch_sim import SimState
except ModuleNotFoundError as error:
    raise needs_extra("torchsim", error) from error


class TorchSimModel(WholeModel):
    """A ``torch_sim.models.interface.ModelInterface``.

    Whatever has that interface will do: torch-sim's own models, and those that other packages bring
    for it. The model is given a ``SimState``, finds pairs with the list that it was made with, and
    computes in its own type. See :class:`nvdyn_ase.models.whole_model.WholeModel` for what is done
    before and after.

    Parameters
    ----------
    module
        The model, made with ``compute_forces=True``, and ``compute_stress=True`` if cells are to
        move.

    Raises
    ------
    ValueError
        It was made to compute no forces.
    """

    def __init__(self, module: Any) -> None:
        if not module.compute_forces:
            raise ValueError(
                f"this {type(module).__name__} computes no forces; make it with compute_forces=True"
            )
        self.module, self._dtype = module, module.dtype
        self.model_card = ModelCard(supports_stress=bool(module.compute_stress), dtype=module.dtype)

    def __repr__(self) -> str:
        """Say which model is inside."""
        return f"TorchSimModel({type(self.module).__name__})"

    @property
    def device(self) -> torch.device:
        """Where the model was made."""
        return torch.device(self.module.device)

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the very same model is inside."""
        return isinstance(other, TorchSimModel) and self.module is other.module

    def _evaluate(self, systems: Systems, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        masses = torch.ones_like(systems.positions[:, 0])  # of no meaning to forces
        state = SimState(
            positions=systems.positions,
            masses=masses,
            cell=systems.cell.mT.contiguous(),
            pbc=list(systems.pbc),
            atomic_numbers=systems.numbers.int(),
            system_idx=systems.owners,
        )
        found: Mapping[str, Tensor] = self.module(state)
        return found
