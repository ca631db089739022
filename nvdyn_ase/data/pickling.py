"""Fields in a form that ``pickle`` can carry, whatever their type."""

import torch
from torch import Tensor

from nvdyn_ase.data.fields import Level

Packed = dict[str, tuple[Level, Tensor, torch.dtype]]

# Tensors of these types can be pickled but not read back; they travel as their signed twins.
_TWINS = {torch.uint16: torch.int16, torch.uint32: torch.int32, torch.uint64: torch.int64}


def packed(fields: dict[str, tuple[Level, Tensor]]) -> Packed:
    """Return fields, by name with their levels, as something that can be pickled."""
    return {
        key: (
            level,
            tensor.view(_TWINS[tensor.dtype]) if tensor.dtype in _TWINS else tensor,
            tensor.dtype,
        )
        for key, (level, tensor) in fields.items()
    }


def unpacked(fields: Packed) -> dict[str, tuple[Level, Tensor]]:
    """Return what was packed."""
    return {
        key: (level, tensor.view(dtype) if dtype in _TWINS else tensor)
        for key, (level, tensor, dtype) in fields.items()
    }
