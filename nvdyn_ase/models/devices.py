"""Whether models and batches are on the same device, and bringing models together on one."""

from collections.abc import Sequence

import torch
from torch import nn

from nvdyn_ase.models.base import BaseModelMixin


def is_same_device(one: torch.device, other: torch.device) -> bool:
    """Say whether two devices are one; without a number it is the current one of its kind."""
    return one.type == other.type and _index(one) == _index(other)


def _index(device: torch.device) -> int:
    if device.index is not None:
        return device.index
    is_known = device.type == "cuda" and torch.cuda.is_available()
    return torch.cuda.current_device() if is_known else 0


def are_together(models: Sequence[BaseModelMixin]) -> bool:
    """Say whether models are on one device; those on the CPU without weights are brought there.

    Weights are the user's, who may use them elsewhere too; they stay where they are.
    """
    there = next((model.device for model in models if model.device.type != "cpu"), None)
    if there is None:
        return True
    for model in models:
        if model.device.type == "cpu" and not _has_weights(model):
            model.to(there)
    return all(is_same_device(model.device, there) for model in models)


def _has_weights(model: BaseModelMixin) -> bool:
    parts = getattr(model, "models", None)
    if parts is not None:
        return any(map(_has_weights, parts))
    return hasattr(model, "module") or isinstance(model, nn.Module)
