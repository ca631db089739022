"""The contract of a batched model: energy and forces of every system in one forward pass."""

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from nvdyn_ase.data import FIELDS, Batch, Level
from nvdyn_ase.data.fields import canonical


class ModelOutputs(dict[str, Tensor]):
    """What a forward pass returns, by name; ``energies`` and ``stresses`` are taken as aliases.

    Attributes
    ----------
    failures
        Systems of the batch that the model could not evaluate, by their row, with the reason. Their
        numbers are NaN; the other systems are not affected.
    """

    def __init__(
        self, values: dict[str, Tensor] | None = None, failures: dict[int, str] | None = None
    ) -> None:
        super().__init__({canonical(key): value for key, value in (values or {}).items()})
        self.failures = failures or {}


class NeighborConfig(BaseModel):
    """Which pairs a model needs.

    Parameters
    ----------
    cutoff
        Largest distance, Å.
    half_list
        Each pair once instead of both ways.
    skin
        Pairs up to ``cutoff + skin`` may be in the list, Å, so that it can be used again while
        atoms move by less than half of it. The model must then leave out what is beyond its cutoff.
    """

    model_config = ConfigDict(frozen=True)

    cutoff: float = Field(gt=0, allow_inf_nan=False)
    half_list: bool = False
    skin: float = Field(default=0.0, ge=0, allow_inf_nan=False)


class ModelCard(BaseModel):
    """What a model is and needs; it does not change.

    Parameters
    ----------
    forces_via_autograd
        Forces are the derivative of the energy taken by torch.
    supports_stress, supports_pbc, needs_pbc
        What it can do, and what it must have.
    neighbor_config
        The pairs it needs, or None if it finds them itself or needs none.
    required_inputs
        Fields beyond positions, atomic numbers, cell and pbc that a batch must have.
    extra_outputs
        Fields that it can give beyond energy, forces and stress, such as ``atomic_energies``.
    node_outputs
        Those among all that it gives which have a row for each atom, and which the field table does
        not have; what neither names has a row for each system.
    dtype
        Floating type it computes in.
    supported_elements
        Atomic numbers it knows, or None for any.
    conservative
        Forces are the gradient of the energy.
    """

    model_config = ConfigDict(frozen=True, arbitrary_types_allowed=True)

    forces_via_autograd: bool = False
    supports_stress: bool = False
    supports_pbc: bool = True
    needs_pbc: bool = False
    neighbor_config: NeighborConfig | None = None
    required_inputs: frozenset[str] = frozenset()
    extra_outputs: frozenset[str] = frozenset()
    node_outputs: frozenset[str] = frozenset()
    dtype: torch.dtype = torch.float64
    supported_elements: frozenset[int] | None = None
    conservative: bool = True

    def level_of(self, key: str) -> Level:
        """Return what a row of an output belongs to, as the field table or the card declares it."""
        if key in FIELDS:
            return FIELDS[key].level
        return Level.NODE if key in self.node_outputs else Level.SYSTEM


class ModelConfig(BaseModel):
    """What a model is asked to compute; it may be changed at any time.

    Parameters
    ----------
    outputs
        Names of the fields wanted. A model may return more.
    """

    model_config = ConfigDict(validate_assignment=True)

    outputs: frozenset[str] = frozenset({"energy", "forces"})


class BaseModelMixin:
    """Base of every batched model.

    A subclass sets ``model_card`` and writes :meth:`forward`. A torch module takes this class
    beside ``torch.nn.Module``, in this order: ``class MyModel(BaseModelMixin, torch.nn.Module)``.

    Attributes
    ----------
    model_card
        What the model is and needs.
    model_config
        What it is asked to compute.
    is_cheap
        Whether a forward pass costs as little as letting other systems into a batch does. With
        models that are not, workflows do that after every step, so that nothing is computed of
        systems that are done.
    """

    model_card: ModelCard
    is_cheap = False

    @property
    def model_config(self) -> ModelConfig:
        """What the model is asked to compute."""
        config = self.__dict__.get("_model_config")
        if config is None:
            config = self.__dict__["_model_config"] = ModelConfig()
        return config

    @model_config.setter
    def model_config(self, config: ModelConfig) -> None:
        self.__dict__["_model_config"] = config

    @abstractmethod
    def forward(self, batch: Batch) -> ModelOutputs:
        """Compute what ``model_config.outputs`` asks for.

        Returns
        -------
        ModelOutputs
            ``energy`` (B, 1), eV; ``forces`` (V, 3), eV/Å; ``stress`` (B, 3, 3), eV/Å³, positive in
            tension and zero for a system without a volume; any extra, one row per atom or system.
        """

    def __call__(self, batch: Batch) -> ModelOutputs:
        """Compute what ``model_config.outputs`` asks for; see :meth:`forward`."""
        return self.forward(batch)

    @contextmanager
    def computing(self, outputs: Iterable[str]) -> Iterator[None]:
        """Ask for these outputs as well, for a while, so that users of one model stay apart."""
        before = self.model_config
        self.model_config = ModelConfig(outputs=before.outputs | frozenset(outputs))
        try:
            yield
        finally:
            self.model_config = before

    def adapt_input(self, batch: Batch) -> Any:
        """Translate a batch to what the model inside takes; the batch itself by default."""
        return batch

    def adapt_output(self, raw: Any, batch: Batch) -> ModelOutputs:
        """Translate what the model inside returns; declared names by default."""
        return ModelOutputs(dict(raw))

    @property
    def device(self) -> torch.device:
        """Where the model computes: with its parameters, else where it was sent."""
        parameters = getattr(self, "parameters", None)
        first = next(iter(parameters()), None) if callable(parameters) else None
        if first is not None:
            return first.device
        return self.__dict__.get("_device", torch.device("cpu"))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move to a device, as ``torch.nn.Module.to`` does."""
        parent = getattr(super(), "to", None)
        if parent is not None:
            parent(*args, **kwargs)
        device = kwargs.get("device", args[0] if args else None)
        if isinstance(device, (str, torch.device)):
            self.__dict__["_device"] = torch.device(device)
        return self

    def gives_same_as(self, other: "BaseModelMixin") -> bool:
        """Say whether another model gives the same numbers, as far as that is cheap to tell.

        Structures whose calculators stand for such models are evaluated in one batch.
        """
        return self is other

    def elements_unknown(self, numbers: Iterable[int]) -> list[int]:
        """Return the atomic numbers among these that the model does not know, sorted."""
        known = self.model_card.supported_elements
        return [] if known is None else sorted(set(numbers) - known)
