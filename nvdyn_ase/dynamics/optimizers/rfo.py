"""RFO: the engine that follows a rational function instead of a parabola."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import pad

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.optimizers.hessian import HessianOptimizer
from nvdyn_ase.dynamics.spectra import spectrum
from nvdyn_ase.models.base import BaseModelMixin


class RFO(HessianOptimizer):
    """Rational function optimization with BFGS's Hessian, as ``ase.optimize.RFO``.

    A. Banerjee, N. Adams, J. Simons and R. Shepard, J. Phys. Chem. 89, 52 (1985). Near the minimum
    steps are quasi-Newton, elsewhere they are damped; ``damping`` is the reciprocal of the scale a
    of the coordinates there. The lowest eigenvector is that of a dense solver, where ASE iterates
    to the same accuracy.

    Every number may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    maxstep
        Longest displacement of an atom, Å; longer steps are scaled down as a whole.
    alpha
        Curvature of the initial Hessian, eV/Å².
    damping
        Where the steps turn from damped to quasi-Newton, 1/Å; the larger, the later.
    **engine
        Arguments of ``BaseDynamics``.
    """

    _per_system = ("maxstep", "alpha", "damping")

    def __init__(
        self,
        model: BaseModelMixin,
        maxstep: Any = 0.2,
        alpha: Any = 70.0,
        damping: Any = 1.0,
        **engine: Any,
    ) -> None:
        self.maxstep, self.alpha, self.damping = maxstep, alpha, damping
        super().__init__(model, **engine)

    def steps(
        self,
        hessians: Sequence[Float[Tensor, "_ _ _"]],
        forces: Sequence[Float[Tensor, "_ _"]],
        batch: Batch,
    ) -> list[Float[Tensor, "_ _"]]:
        """Return the steps of each group of systems, Å; NaN for a system that has none."""
        dampings = self.rows(batch).blocks.systems(self.state["damping"])
        steps = []
        for hessian, own, damping in zip(hessians, forces, dampings, strict=True):
            values, vectors = spectrum(augmented(hessian, own, damping))
            steps.append(rational_step(values, vectors, damping))
        return steps


def augmented(
    hessian: Float[Tensor, "G d d"], forces: Float[Tensor, "G d"], damping: Float[Tensor, "G 1"]
) -> Float[Tensor, "G e e"]:
    """Return the Hessian with the gradient as its last row and column, in scaled coordinates.

    Parameters
    ----------
    hessian, forces
        eV/Å², and eV/Å with constraints applied.
    damping
        1/Å.
    """
    gradient = -forces / damping
    whole = pad(hessian / (damping * damping).unsqueeze(2), (0, 1, 0, 1))
    whole[:, -1, :-1] = gradient
    whole[:, :-1, -1] = gradient
    return whole


def rational_step(
    values: Float[Tensor, "G e"], vectors: Float[Tensor, "G e e"], damping: Float[Tensor, "G 1"]
) -> Float[Tensor, "G d"]:
    """Return the step to the stationary point of the rational function, Å.

    Parameters
    ----------
    values, vectors
        Spectrum of the augmented Hessian; the lowest eigenvector counts.
    damping
        1/Å.
    """
    lowest = torch.where(torch.isfinite(values[:, :1]), vectors[:, :, 0], torch.nan)
    return lowest[:, :-1] / lowest[:, -1:] / damping
