"""What a caller hands over, as tensors of the declared type and shape."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data.fields import Field, Fill, Level


def as_tensor(name: str, value: Any) -> Tensor:
    """Return a tensor as it is, and anything else as a tensor of its own at full precision.

    Parameters
    ----------
    name
        What it is, for the error.
    value
        A tensor, an array of any byte order, numbers in lists. Python's floats become float64.

    Raises
    ------
    ValueError
        There is no such tensor.
    """
    if isinstance(value, Tensor):
        return value
    try:
        array = np.array(value, order="C")
        return torch.from_numpy(array.astype(array.dtype.newbyteorder("="), copy=False))
    except (TypeError, ValueError) as error:
        reason = str(error).split(".")[0]
        raise ValueError(f"{name} must be a tensor, an array or numbers: {reason}") from None


def retyped(field: Field, tensor: Tensor, floating: torch.dtype) -> Tensor:
    """Return a tensor in the type of a field.

    Parameters
    ----------
    field
        What it is.
    tensor
        Any type.
    floating
        Type of a field whose type is not declared.

    Raises
    ------
    ValueError
        The declared type cannot hold the values.
    """
    wanted = field.dtype or floating
    if tensor.dtype is wanted:
        return tensor
    if tensor.is_complex():
        raise ValueError(f"{field.name} must be real, not {tensor.dtype}")
    converted = tensor.to(wanted)
    if field.dtype is not None and not torch.equal(converted.to(tensor.dtype), tensor):
        kind = "true or false" if wanted is torch.bool else "whole numbers"
        raise ValueError(f"{field.name} must be {kind}, which these {tensor.dtype} values are not")
    return converted


def of_one_system(
    field: Field, value: Any, rows: int | None, floating: torch.dtype, device: torch.device
) -> Tensor:
    """Return the value of a declared field for one system.

    A system-level row is taken with or without the leading one, and a single number for each of the
    numbers in a row that is not a matrix.

    Parameters
    ----------
    field
        Which field.
    value
        As in :func:`as_tensor`.
    rows
        Rows that there must be; None for any number.
    floating, device
        Type of a floating field, and where to put it.

    Raises
    ------
    ValueError
        A wrong shape or type; the message says which is right.
    """
    tensor = retyped(field, as_tensor(field.name, value), floating).to(device)
    size = (tensor.shape[0] if tensor.ndim else 0) if rows is None else rows
    target = (size, *field.shape)
    if field.level is Level.SYSTEM:
        if field.name == "status" and tensor.shape == (1,):
            return tensor
        if tensor.ndim == 0 and len(field.shape) == 1:
            return tensor.repeat(target)
        if tensor.shape == field.shape:
            tensor = tensor[None]
    if tensor.shape != target:
        first = {Level.NODE: "one row per atom", Level.EDGE: "one row per pair"}
        rule = first.get(field.level, f"or {field.shape}")
        raise ValueError(f"{field.name} must be {target}, {rule}, not {tuple(tensor.shape)}")
    return tensor


def of_many_systems(field: Field, tensor: Tensor) -> Tensor:
    """Return the value of a declared field for a batch; (B,) is taken for (B, 1).

    Only ``status`` keeps the shape (B,) it was given. Converting the type, where it is not the
    declared one, waits for the device.

    Raises
    ------
    ValueError
        Rows of a wrong shape, or of a type that the field cannot hold.
    """
    dtype, shape = tensor.dtype, tensor.shape[1:]
    if dtype is not field.dtype and (field.dtype or not dtype.is_floating_point):
        tensor = retyped(field, tensor, torch.float64)
    if shape == field.shape:
        return tensor
    if tensor.ndim == 1 and field.shape == (1,):
        return tensor if field.name == "status" else tensor.view(-1, 1)
    raise ValueError(f"a row of {field.name!r} is {field.shape}, not {tuple(shape)}")


def check_default(name: str, default: Fill | None, tensor: Tensor) -> None:
    """Raise ValueError if a field cannot hold its default."""
    holds_fractions = tensor.is_floating_point() or tensor.is_complex()
    if isinstance(default, float) and not holds_fractions and not default.is_integer():
        raise ValueError(f"{name!r} is {tensor.dtype} and cannot be filled with {default}")
