"""BFGS: the engine that learns the whole Hessian."""

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.optimizers.hessian import HessianOptimizer
from nvdyn_ase.dynamics.spectra import ends_of, rows_times, spectrum, times_columns
from nvdyn_ase.models.base import BaseModelMixin


class BFGS(HessianOptimizer):
    """BFGS with ASE's defaults, operation for operation.

    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, section 6.1, with
    the Hessian itself instead of its inverse: where its curvature is negative, the step is that of
    the opposite curvature, as in ``ase.optimize.BFGS``. The eigenvalues of every Hessian are found
    in every step, which takes a time that grows as the cube of a system's size: for systems of
    hundreds of atoms use :class:`LBFGS`.

    Every number may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    maxstep
        Longest displacement of an atom, Å; longer steps are scaled down as a whole.
    alpha
        Curvature of the initial Hessian, eV/Å².
    **engine
        Arguments of ``BaseDynamics``.
    """

    def __init__(
        self, model: BaseModelMixin, maxstep: Any = 0.2, alpha: Any = 70.0, **engine: Any
    ) -> None:
        self.maxstep, self.alpha = maxstep, alpha
        super().__init__(model, **engine)

    def steps(
        self,
        hessians: Sequence[Float[Tensor, "_ _ _"]],
        forces: Sequence[Float[Tensor, "_ _"]],
        batch: Batch,
    ) -> list[Float[Tensor, "_ _"]]:
        """Return the steps of each group of systems, Å; NaN for a system that has none."""
        groups = zip(hessians, forces, strict=True)
        return [newton_step(own, *spectrum(hessian)) for hessian, own in groups]


def newton_step(
    forces: Float[Tensor, "G d"], values: Float[Tensor, "G d"], vectors: Float[Tensor, "G d d"]
) -> Float[Tensor, "G d"]:
    """Return the step that goes downhill along every eigenvector, Å.

    Parameters
    ----------
    forces
        With constraints applied, eV/Å.
    values, vectors
        Eigenvalues of the Hessian, eV/Å², and its eigenvectors as columns.
    """
    ends = ends_of(forces)
    return times_columns(vectors, rows_times(forces, vectors, ends) / values.abs(), ends)
