"""A potential on top of the model's."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class BiasedPotentialHook:
    """Adds the energy and forces of a bias to those of the model: a wall, a spring, an umbrella.

    Everything that reads energies and forces sees the sum: methods, criteria, results.

    Parameters
    ----------
    bias_fn
        Called with the batch after each evaluation, it returns the energy, (B, 1) eV, and the
        forces, (V, 3) eV/Å, of the bias; and third, if cells move, its stress, (B, 3, 3) eV/Å³. A
        stress that is not returned is taken as zero. What it returns for a system must follow from
        that system alone, and it should not wait for the device.
    autograd
        ``bias_fn`` returns the energy alone, made of ``batch["positions"]`` by torch, and the
        forces are minus its derivative.

    Raises
    ------
    ValueError
        When called: the bias has another shape, or it is not differentiable.
    """

    stage = HookStageEnum.AFTER_COMPUTE
    frequency = 1
    of_one_engine = True

    def __init__(self, bias_fn: Callable[[Batch], Any], autograd: bool = False) -> None:
        self.bias_fn = bias_fn
        self.autograd = autograd

    def __repr__(self) -> str:
        """Say which function it is."""
        name = getattr(self.bias_fn, "__name__", type(self.bias_fn).__name__)
        return f"BiasedPotentialHook({name}, autograd={self.autograd})"

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Add the bias to what the model has just given."""
        bias = self._differentiated(batch) if self.autograd else self.bias_fn(batch)
        fields = ("energy", "forces", "stress")
        if not isinstance(bias, tuple) or not 2 <= len(bias) <= len(fields):
            raise ValueError(
                "bias_fn has to return energy, forces and, if it has one, stress; or, with "
                f"autograd=True, the energy alone. It returned {type(bias).__name__}"
            )
        given = dict(zip(fields, bias, strict=False))
        given["free_energy"] = given["energy"]
        results = frozenset() if batch.evaluated is None else batch.evaluated.results
        for key, values in given.items():
            # A field that the model did not give now is old, and would grow in every step.
            if key in results:
                batch[key] = batch[key] + _fitting(key, values, batch[key])

    def _differentiated(self, batch: Batch) -> tuple[Float[Tensor, "B ..."], Float[Tensor, "V 3"]]:
        positions = batch["positions"]
        variable = positions.detach().requires_grad_(True)
        batch["positions"] = variable
        try:
            with torch.enable_grad():
                energy = self.bias_fn(batch)
                if not isinstance(energy, Tensor) or not energy.requires_grad:
                    raise ValueError(
                        'bias_fn must return an energy that follows from batch["positions"] by '
                        "differentiable operations; or leave autograd out and return forces too"
                    )
                (slope,) = torch.autograd.grad(energy.sum(), variable)
        finally:
            batch["positions"] = positions  # the very tensor that the results belong to
        return energy.detach(), -slope


def _fitting(key: str, values: Tensor, like: Tensor) -> Tensor:
    """Return a bias in the type of the field that it is added to; (B,) is taken for (B, 1)."""
    if values.shape == like.shape[:1] and like.shape[1:] == (1,):
        values = values.view(-1, 1)
    if values.shape != like.shape:
        raise ValueError(
            f"bias_fn returned {key} of shape {tuple(values.shape)}; it has to be "
            f"{tuple(like.shape)}"
        )
    return values.to(like)
