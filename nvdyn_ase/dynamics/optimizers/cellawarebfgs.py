"""CellAwareBFGS: BFGS that knows from the start how stiff a cell is."""

from typing import Any, ClassVar

import numpy as np
import torch
from ase.units import GPa
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.cell_filters import CellFilter
from nvdyn_ase.dynamics.convergence import ConvergenceCriterion, ConvergenceHook
from nvdyn_ase.dynamics.matrices import inverse
from nvdyn_ase.dynamics.optimizers.bfgs import BFGS
from nvdyn_ase.dynamics.rows import largest_norm
from nvdyn_ase.models.base import BaseModelMixin


class CellAwareBFGS(BFGS):
    """BFGS whose first Hessian of the cell is that of an isotropic solid, as ASE's.

    Every system needs a Fréchet filter with a cell factor of 1:
    ``filter_cells(batch, "frechet", cell_factor=1.0)``. As in ``ase.optimize.CellAwareBFGS`` a
    system is judged by the forces on its atoms, which alone count in ``fmax``, and by ``smax``, a
    field that it gives to the batch: the largest component of the stress that the filter's mask
    lets change, eV/Å³. :meth:`criteria` tests both.

    Every number may be one value per system.

    Parameters
    ----------
    model
        A batched model that gives the stress.
    maxstep, alpha
        As in :class:`BFGS`; ``alpha`` is also the stiffness against rotations of the cell.
    bulk_modulus
        eV/Å³.
    poisson_ratio
        Between -1 and 0.5, and not 0.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        When it is given a batch: a system has another filter, or none.
    """

    _per_system: ClassVar[tuple[str, ...]] = ("maxstep", "alpha", "bulk_modulus", "poisson_ratio")

    def __init__(
        self,
        model: BaseModelMixin,
        maxstep: Any = 0.2,
        alpha: Any = 70.0,
        bulk_modulus: Any = 145 * GPa,
        poisson_ratio: Any = 0.3,
        **engine: Any,
    ) -> None:
        self.bulk_modulus, self.poisson_ratio = bulk_modulus, poisson_ratio
        super().__init__(model, maxstep, alpha, **engine)

    @staticmethod
    def criteria(
        fmax: float | str = 0.05, smax: float | str = 0.005, *, strict: bool = False
    ) -> ConvergenceHook:
        """Test the forces on atoms, eV/Å, and the stress, eV/Å³; a name means a system field."""
        tests = {"fmax": fmax, "smax": smax}
        return ConvergenceHook(
            [ConvergenceCriterion(key=k, threshold=t, strict=strict) for k, t in tests.items()]
        )

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        _check_filters(template_batch)
        return super()._make_new_state(n, template_batch)

    def initial_hessian(self, batch: Batch, curvature: Float[Tensor, "B 1"]) -> Float[Tensor, " N"]:
        """Return the Hessian of systems that have not moved, eV/Å²; that of the cells in eV."""
        blocks = self.rows(batch).blocks
        bulk_modulus, poisson_ratio = (self.initial(name, batch) for name in self._per_system[2:])
        volume = inverse(batch["cell"]).determinant.abs()
        stiffness = isotropic_elasticity(bulk_modulus, poisson_ratio, curvature) * volume
        free = (batch["cell_mask"] != 0).view(-1, 9)
        groups = zip(
            blocks.matrices(super().initial_hessian(batch, curvature)),
            *(blocks.systems(stiffness), blocks.systems(free)),
            strict=True,
        )
        return blocks.joined_matrices([with_stiff_cell(*group) for group in groups])

    # ---------------------------------------------------------------- when a system is done

    def largest_force(self, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the largest norm among the forces on the atoms of each system, eV/Å."""
        return largest_norm(self.constraints(batch).forces(batch), batch.ptr)

    def largest_stress(self, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the largest component of the stress that may change, of each system, eV/Å³."""
        stress = self.constraints(batch).stress(batch, batch["stress"])
        return (stress * batch["cell_mask"]).abs().flatten(1).amax(1, keepdim=True)

    def _defer_fmax(self, batch: Batch) -> None:
        super()._defer_fmax(batch)
        batch.defer("smax", lambda: self.largest_stress(batch))


def _check_filters(batch: Batch) -> None:
    """Raise ValueError unless every system has the filter that there has to be."""
    right = np.zeros(len(batch), bool)
    if "cell_filter" in batch:
        right = ((batch["cell_filter"] == CellFilter.FRECHET) & (batch["cell_factor"] == 1.0)).cpu()
        right = right.view(-1).numpy()
    if not right.all():
        raise ValueError(
            f"system {int(np.flatnonzero(~right)[0])} has no Fréchet filter with a cell factor of "
            'one: CellAwareBFGS needs filter_cells(batch, "frechet", cell_factor=1.0)'
        )


def isotropic_elasticity(
    bulk_modulus: Float[Tensor, "B 1"],
    poisson_ratio: Float[Tensor, "B 1"],
    rotation: Float[Tensor, "B 1"],
) -> Float[Tensor, "B 9 9"]:
    """Return the elasticity tensors of isotropic solids, two indices to a row.

    L. D. Landau and E. M. Lifshitz, Theory of Elasticity, 3rd ed., Butterworth-Heinemann 1986,
    equations 4.3 and 5.9, with Lamé's constants as in ASE.

    Parameters
    ----------
    bulk_modulus
        eV/Å³.
    poisson_ratio
        Between -1 and 0.5, and not 0.
    rotation
        Stiffness against rotations, eV/Å³; without it the tensor would be singular.
    """
    one = torch.eye(9, dtype=bulk_modulus.dtype, device=bulk_modulus.device)
    turned = one.view(3, 3, 9).transpose(0, 1).reshape(9, 9)
    unit = one[[0, 4, 8]].sum(0)
    numbers = (number.unsqueeze(2) for number in (bulk_modulus, poisson_ratio, rotation))
    bulk_modulus, poisson_ratio, rotation = numbers
    lame = 3.0 * bulk_modulus * poisson_ratio / (1.0 + poisson_ratio)
    shear = lame * (1.0 - 2.0 * poisson_ratio) / (2.0 * poisson_ratio)
    dilation = lame * torch.outer(unit, unit)
    return dilation + shear * (one + turned) + rotation / 2.0 * (one - turned)


def with_stiff_cell(
    hessian: Float[Tensor, "G d d"],
    stiffness: Float[Tensor, "G 9 9"],
    free: Bool[Tensor, "G 9"],
) -> Float[Tensor, "G d d"]:
    """Return Hessians with this stiffness of the cell, where its components are free to change."""
    hessian = hessian.clone()
    both = free.unsqueeze(1) & free.unsqueeze(2)
    cell = hessian[:, -9:, -9:]
    hessian[:, -9:, -9:] = torch.where(both, stiffness, cell)
    return hessian
