"""Sums of models."""

import math
from collections.abc import Sequence
from functools import reduce
from typing import Any, Self

import torch
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.models.base import BaseModelMixin, ModelCard, ModelOutputs, NeighborConfig
from nvdyn_ase.models.devices import is_same_device
from nvdyn_ase.models.registry import as_model


class SumModel(BaseModelMixin):
    """The weighted sum of models: of energies, forces, and of whatever else all of them give.

    All are given the same list of pairs. It reaches as far as the one that needs most, so each must
    leave out what is beyond its own cutoff. The pair potentials here and ``EMT`` take any list,
    half or full (their ``any_neighbor_list`` is true). Of others only one kind can be served, and a
    model whose ``neighbor_config`` has no skin is taken to use every pair that it is given, so the
    list is then made for it exactly.

    A system that one of the models cannot evaluate has failed. ``free_energy`` is summed if any
    model has it; of the others it is the energy.

    Parameters
    ----------
    models
        Batched models, or calculators of which ``as_model`` makes some.
    weights
        One number for each; 1 by default.
    skin
        Of the neighbour list, Å; by default the largest of the models', or 0 if one has none.

    Raises
    ------
    ValueError
        No models, the wrong number of weights, a weight that is not finite, models on different
        devices, or models that cannot use the same list of pairs, or none with a skin.
    """

    def __init__(
        self,
        models: Sequence[Any],
        weights: Sequence[float] | None = None,
        *,
        skin: float | None = None,
    ) -> None:
        self.models = [as_model(model) for model in models]
        self.weights = [1.0] * len(self.models) if weights is None else [float(w) for w in weights]
        if not self.models:
            raise ValueError("a sum needs at least one model")
        if len(self.weights) != len(self.models):
            raise ValueError(f"{len(self.weights)} weights for {len(self.models)} models")
        if not all(map(math.isfinite, self.weights)):
            raise ValueError(f"weights must be finite, not {self.weights}")
        devices = [model.device for model in self.models]
        if not all(is_same_device(device, devices[0]) for device in devices):
            names = ", ".join(sorted(set(map(str, devices))))
            raise ValueError(f"the models are on {names}; move them to one")
        self.skin = skin
        self.model_card = _card(self.models, skin)

    def __repr__(self) -> str:
        """List the models and their weights."""
        pairs = zip(self.weights, self.models, strict=True)
        parts = [repr(m) if w == 1.0 else f"{w!r} * {m!r}" for w, m in pairs]
        return f"SumModel({' + '.join(parts)})"

    @property
    def any_neighbor_list(self) -> bool:
        """Whether every model in the sum takes half and full lists, however far they reach."""
        users = (model for model in self.models if model.model_card.neighbor_config is not None)
        return all(getattr(model, "any_neighbor_list", False) for model in users)

    @property
    def is_cheap(self) -> bool:  # type: ignore[override]
        """Whether each of the models is cheap."""
        return all(model.is_cheap for model in self.models)

    @property
    def device(self) -> torch.device:
        """Where the models compute."""
        return self.models[0].device

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move every model."""
        for model in self.models:
            model.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    def gives_same_as(self, other: BaseModelMixin) -> bool:
        """Say whether the other sums models that give the same numbers, with the same weights."""
        if self is other:
            return True
        if not isinstance(other, SumModel) or self.weights != other.weights:
            return False
        pairs = zip(self.models, other.models, strict=True)
        return all(one.gives_same_as(its) for one, its in pairs)

    def forward(self, batch: Batch) -> ModelOutputs:
        """Evaluate every model and sum."""
        parts = []
        for model in self.models:
            with model.computing(self.model_config.outputs):
                parts.append(model(batch))
        if any("free_energy" in part for part in parts):
            for part in parts:
                part.setdefault("free_energy", part["energy"])
        values = {
            key: _weighted(self.weights, [part[key] for part in parts])
            for key in parts[0]
            if all(key in part and part[key].is_floating_point() for part in parts)
        }
        return ModelOutputs(values, _failures(parts))


def _weighted(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    terms = [v if w == 1.0 else w * v for w, v in zip(weights, values, strict=True)]
    return reduce(torch.add, terms)


def _failures(parts: Sequence[ModelOutputs]) -> dict[int, str]:
    failures: dict[int, str] = {}
    for part in parts:
        for row, reason in part.failures.items():
            failures[row] = f"{failures[row]}; {reason}" if row in failures else reason
    return failures


def _card(models: Sequence[BaseModelMixin], skin: float | None) -> ModelCard:
    cards = [model.model_card for model in models]
    known = [card.supported_elements for card in cards if card.supported_elements is not None]
    return ModelCard(
        forces_via_autograd=any(card.forces_via_autograd for card in cards),
        supports_stress=all(card.supports_stress for card in cards),
        supports_pbc=all(card.supports_pbc for card in cards),
        needs_pbc=any(card.needs_pbc for card in cards),
        neighbor_config=_neighbors(models, skin),
        required_inputs=frozenset().union(*(card.required_inputs for card in cards)),
        extra_outputs=frozenset.intersection(*(card.extra_outputs for card in cards)),
        node_outputs=frozenset().union(*(card.node_outputs for card in cards)),
        dtype=reduce(torch.promote_types, [card.dtype for card in cards]),
        supported_elements=frozenset.intersection(*known) if known else None,
        conservative=all(card.conservative for card in cards),
    )


def _neighbors(models: Sequence[BaseModelMixin], chosen: float | None) -> NeighborConfig | None:
    """Return the pairs that serve all, with a chosen skin; raise ValueError if there are none."""
    needs = [(model, model.model_card.neighbor_config) for model in models]
    all_needs = [(model, need) for model, need in needs if need is not None]
    if not all_needs:
        return None
    bound = [(m, need) for m, need in all_needs if not getattr(m, "any_neighbor_list", False)]
    half = {need.half_list: type(model).__name__ for model, need in bound}
    if len(half) == 2:
        raise ValueError(
            f"{half[True]} needs each pair once and {half[False]} both ways, and neither says that "
            "it takes any list (any_neighbor_list); they cannot be summed"
        )
    cutoff, skin = max(n.cutoff for _, n in all_needs), max(n.skin for _, n in all_needs)
    for model, need in bound:
        if need.skin == 0.0:
            skin = 0.0
            if need.cutoff < cutoff:
                raise ValueError(
                    f"{type(model).__name__} has a cutoff of {need.cutoff} Å and another model one "
                    f"of {cutoff} Å; as its neighbor_config has no skin, it may not leave out what "
                    "is beyond its cutoff. If it does, give it one"
                )
    if chosen is not None:
        exact = next((type(m).__name__ for m, need in bound if need.skin == 0.0), None)
        if chosen and exact is not None:
            raise ValueError(
                f"skin={chosen}: {exact} has a neighbor_config without a skin, so it may not leave "
                "out what is beyond its cutoff. If it does, give it one"
            )
        skin = chosen
    is_half = next(iter(half)) if half else all(need.half_list for _, need in all_needs)
    return NeighborConfig(cutoff=cutoff, half_list=is_half, skin=skin)
