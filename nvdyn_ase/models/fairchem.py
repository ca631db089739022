"""``FairchemModel``: UMA and other networks of fairchem for a batch.

The package comes with ``pip install 'nvdyn_ase[fairchem]'``; weights are the user's, or downloaded.
"""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import replace
from os import PathLike
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.models.base import BaseModelMixin, ModelCard
from nvdyn_ase.models.extras import needs_extra
from nvdyn_ase.models.whole_model import Systems, WholeModel

try:
    from fairchem.core.calculate.pretrained_mlip import get_predict_unit
    from fairchem.core.datasets.atomic_data import AtomicData, atomicdata_list_to_batch
    from fairchem.core.units.mlip_unit import MLIPPredictUnit
    from fairchem.core.units.mlip_unit.api.inference import NAME_TO_INFERENCE_SETTING
except ModuleNotFoundError as error:
    raise needs_extra("fairchem", error) from error

# The task for charged molecules, of which the spin is 1 where none is given, and 0 of others.
_MOLECULES = "omol"


class FairchemModel(WholeModel):
    """What fairchem predicts, such as by UMA: all systems of a batch at once, for one task.

    B. M. Wood et al., arXiv:2506.23971 (2025). Systems are given as fairchem's own batch, made of
    tensors; it finds pairs itself, at every step. See
    :class:`nvdyn_ase.models.whole_model.WholeModel` for what is done before and after. The charge
    and spin of a system are ``total_charge`` and ``spin_multiplicity`` of the batch, 0 and 1 where
    none are given. For other tasks than ``"omol"`` a spin of 1 is 0, which is what
    ``FAIRChemCalculator`` takes for structures that do not say.

    A batch of unlike systems should be given to a predictor that was made with
    ``inference_settings="batch"``; others load their network again when they see the first one.

    Parameters
    ----------
    predictor
        A ``fairchem.core.units.mlip_unit.MLIPPredictUnit``. It computes where it was made to.
    task_name
        Which of its tasks, such as ``"omat"``; needed if there are several.

    Raises
    ------
    ValueError
        There is no such task, or it takes one; the task gives no forces; or the predictor was made
        to have pairs found outside of it.
    """

    def __init__(self, predictor: MLIPPredictUnit, *, task_name: str | None = None) -> None:
        settings = predictor.inference_settings
        if settings.external_graph_gen:
            raise ValueError(
                "this predictor of fairchem wants pairs to be found outside of it; make it with "
                "external_graph_gen=False"
            )
        self.module, self._dtype = predictor, settings.base_precision_dtype
        self.task_name = _chosen(task_name, list(predictor.dataset_to_tasks))
        gives = {task.property for task in predictor.dataset_to_tasks[self.task_name]}
        if not {"energy", "forces"} <= gives:
            raise ValueError(f"fairchem's task {self.task_name!r} does not give energy and forces")
        backbone = predictor.model.module.backbone
        direct = bool(backbone.regress_config.direct_forces)
        known = getattr(backbone, "max_num_elements", None)
        self.model_card = ModelCard(
            forces_via_autograd=not direct,
            conservative=not direct,
            supports_stress="stress" in gives,
            dtype=self._dtype,
            supported_elements=None if known is None else frozenset(range(1, known)),
        )

    def __repr__(self) -> str:
        """Say which task."""
        return f"FairchemModel({self.task_name!r})"

    @property
    def device(self) -> torch.device:
        """Where the predictor was made."""
        return torch.device(self.module.device)

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the very same predictor is inside, with the same task."""
        same = isinstance(other, FairchemModel) and self.module is other.module
        return same and self.task_name == other.task_name  # type: ignore[attr-defined]

    def _evaluate(self, systems: Systems, wanted: frozenset[str]) -> Mapping[str, Tensor]:
        data, free = list(self._data(systems)), not any(systems.pbc)
        looked_up = free and not self.module.model.module.supports_single_atoms
        # Atoms alone are looked up in a table, which is done for one at a time only.
        alone = [row for row, size in enumerate(systems.sizes) if size == 1 and looked_up]
        if not alone:
            return self._predict(data)
        rest = sorted(set(range(len(data))) - set(alone))
        groups = [*([rest] if rest else []), *([row] for row in alone)]
        pieces: dict[str, dict[int, Tensor]] = {}
        for group in groups:
            sizes = [systems.sizes[row] for row in group]
            for name, values in self._predict([data[row] for row in group]).items():
                parts = values.split(sizes if name == "forces" else 1)
                pieces.setdefault(name, {}).update(zip(group, parts, strict=True))
        order = range(len(data))
        return {name: torch.cat([own[row] for row in order]) for name, own in pieces.items()}

    def _predict(self, data: list[Any]) -> dict[str, Tensor]:
        with torch.enable_grad():
            found = self.module.predict(atomicdata_list_to_batch(data))
        values = {name: found[name].detach() for name in ("energy", "forces")}
        if "stress" in found:
            values["stress"] = found["stress"].detach().view(-1, 3, 3)
        return values

    def _data(self, systems: Systems) -> Iterator[Any]:
        """Iterate over the systems as fairchem has them: positions inside of the cell."""
        cell = _cells(systems)
        inside = _wrapped(systems, cell).to(self._dtype).split(systems.sizes)
        numbers = systems.numbers.split(systems.sizes)
        pbc = torch.tensor([systems.pbc], device=cell.device)
        charge, spin = self._electrons(systems)
        for row, (where, which) in enumerate(zip(inside, numbers, strict=True)):
            nothing = torch.zeros_like(which)
            yield AtomicData(
                pos=where,
                atomic_numbers=which,
                cell=cell[row : row + 1].to(self._dtype),
                pbc=pbc,
                natoms=torch.tensor([len(which)], device=cell.device),
                edge_index=which.new_empty(2, 0),
                cell_offsets=where.new_empty(0, 3),
                nedges=torch.zeros(1, dtype=torch.long, device=cell.device),
                charge=charge[row : row + 1],
                spin=spin[row : row + 1],
                fixed=nothing,
                tags=nothing,
                dataset=self.task_name,
            )

    def _electrons(self, systems: Systems) -> tuple[Tensor, Tensor]:
        batch = systems.batch
        charges, spins = (
            batch[name].view(-1).round().long()
            if name in batch
            else systems.numbers.new_full((len(batch),), default)
            for name, default in (("total_charge", 0), ("spin_multiplicity", 1))
        )
        # Whether a system has said 1 or others have said something, its row is the same.
        none = spins.new_zeros(()) if self.task_name != _MOLECULES else spins.new_ones(())
        return charges, torch.where(spins == 1, none, spins)


def from_calculator(calculator: Any, **options: Any) -> FairchemModel | None:
    """Return the model of a ``FAIRChemCalculator``.

    None if its predictor is of another kind, such as one on several devices, wants pairs to be
    found outside of it, or gives no forces.
    """
    predictor = calculator.predictor
    if type(predictor) is not MLIPPredictUnit or predictor.inference_settings.external_graph_gen:
        return None
    if not {"energy", "forces"} <= set(calculator.implemented_properties):
        return None
    return FairchemModel(predictor, **{"task_name": calculator.task_name, **options})


def pretrained(
    checkpoint: str | PathLike[str] = "uma-s-1p2p1",
    *,
    task_name: str | None = None,
    device: str | None = None,
    dtype: torch.dtype = torch.float32,
) -> FairchemModel:
    """Return a model with published weights or those in a file, made for unlike systems.

    Such a file holds Python objects; load only what you trust.

    Parameters
    ----------
    checkpoint
        A name that fairchem knows, whose weights it downloads unless they are there already, or a
        file for inference that it has written.
    task_name
        See :class:`FairchemModel`.
    device
        ``"cpu"`` or ``"cuda"``; by default the latter where there is one.
    dtype
        ``torch.float32`` or ``torch.float64``.

    Raises
    ------
    ValueError
        No such name or file, or a file that holds something else.
    """
    settings = replace(NAME_TO_INFERENCE_SETTING["batch"], base_precision_dtype=dtype)
    try:
        predictor = get_predict_unit(str(checkpoint), inference_settings=settings, device=device)
    except (
        *(pickle.UnpicklingError, RuntimeError, EOFError, AttributeError, ImportError),
        *(LookupError, TypeError, ValueError),
    ) as error:
        raise ValueError(f"{checkpoint} is not a checkpoint of fairchem: {error}") from error
    return FairchemModel(predictor, task_name=task_name)


def _cells(systems: Systems) -> Float[Tensor, "B 3 3"]:
    """Return cells in float64, with vectors of unit length where there are none."""
    own, filled = systems.batch["cell"].detach().double(), systems.cell.double()
    none = ~filled.flatten(1).any(1)
    filled = torch.where(none[:, None, None], torch.eye(3).to(filled), filled)
    return torch.where(own.any(2, keepdim=True), own, filled)


def _wrapped(systems: Systems, cell: Float[Tensor, "B 3 3"]) -> Float[Tensor, "V 3"]:
    positions = systems.batch["positions"].detach().double()
    periodic = torch.tensor(systems.pbc, device=cell.device)
    h = cell[systems.owners]
    fractions = torch.linalg.solve(h.mT, positions[:, :, None])[:, :, 0]
    turns = torch.where(periodic, fractions.floor(), 0.0)
    return positions - (turns[:, None] @ h)[:, 0]


def _chosen(task: str | None, tasks: list[str]) -> str:
    if task is None:
        if len(tasks) != 1:
            raise ValueError(f"the predictor has several tasks; choose one, task_name={tasks}")
        return tasks[0]
    if task not in tasks:
        raise ValueError(f"the predictor has no task {task!r}; there are {tasks}")
    return task
