"""Constant pressure by the method of Martyna, Tobias and Klein, cells that change their shape."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from ase.units import kB
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.dynamics.integrators.mtk import HeatBaths
from nvdyn_ase.dynamics.integrators.nose_hoover import Row
from nvdyn_ase.dynamics.matrices import (
    Matrix,
    applied,
    determinant,
    exponential_and_integral,
    symmetric,
    trace,
)
from nvdyn_ase.models.base import BaseModelMixin


class AnyShape(HeatBaths):
    """Lets cells change volume and shape with the velocity that :meth:`_strain_rate` says.

    Parameters
    ----------
    model, dt, temperature, pressure, tdamp, pdamp, tchain, pchain, tloop, ploop
        As in ``HeatBaths``.
    **engine
        Arguments of ``BaseDynamics``.
    """

    _cell_shape: ClassVar[tuple[int, ...]] = (3, 3)

    def _inertia(self, batch: Batch) -> Row:
        square = self.state["pdamp"] * self.state["pdamp"]
        return (self.state["count"] + 1.0) * kB * self.state["temperature"] * square

    def _strain_rate(self) -> Matrix:
        return self.state["strain_rate"]

    def _push_cell(self, batch: Batch, time: Row) -> None:
        push = (time / self._inertia(batch)).unsqueeze(2) * self._force_on_cell(batch)
        self.state["strain_rate"] = self.state["strain_rate"] + push

    def _force_on_cell(self, batch: Batch) -> Matrix:
        volume, stress = determinant(batch["cell"]).abs(), batch["stress"]
        kinetic = kinetic_tensor(batch)
        return strain_force(stress, volume, kinetic, self.state["pressure"], self.state["count"])

    def _push_atoms(self, batch: Batch, time: Row) -> None:
        drag = with_trace(self._strain_rate(), 3.0 * self.state["count"])
        factor, duration = (m.index_select(0, batch.batch) for m in matrix_flow(-drag, time))
        forces, masses = batch["forces"], batch["atomic_masses"].view(-1, 1)
        kicked = applied(forces / masses, duration)
        batch["velocities"] = applied(batch["velocities"], factor) + kicked

    def _drift(self, batch: Batch, time: Row) -> None:
        factor, duration = matrix_flow(self._strain_rate(), time)
        batch["cell"] = torch.bmm(batch["cell"], factor)
        factor, duration = (m.index_select(0, batch.batch) for m in (factor, duration))
        moved = applied(batch["velocities"], duration)
        batch["positions"] = applied(batch["positions"], factor) + moved


class MTKNPT(AnyShape):
    """Constant temperature and pressure, cells that change volume and shape, as in ``ase.md``.

    G. J. Martyna, D. J. Tobias and M. L. Klein, J. Chem. Phys. 101, 4177 (1994), section II; the
    order of the parts of a step is that of M. E. Tuckerman, J. Alejandre, R. López-Rendón, A. L.
    Jochim and G. J. Martyna, J. Phys. A 39, 5629 (2006), section 5. :meth:`conserved_energy` is
    conserved. The velocity of the cell is symmetric, so that the cell does not turn.

    Every system needs three cell vectors, and may have no constraints. The thermostat acts on three
    degrees of freedom per atom, and that of the cell on the six of a symmetric velocity.

    Parameters
    ----------
    model
        A batched model that gives the stress.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number or one per system.
    pressure
        eV/Å³; one number or one per system.
    tdamp
        Time constant of the thermostat in ASE units, about ``100 * dt``; one number or one per
        system.
    pdamp
        Time constant of the cell in ASE units, about ``1000 * dt``; one number or one per system.
    tchain, pchain
        Links of the chains of atoms and cell.
    tloop, ploop
        Parts into which a step of a chain is divided.
    as_ase
        The thermostat of the cell in ASE 3.29 counts nine degrees of freedom, of which a symmetric
        velocity has six. The cell is then half as hot again as the atoms, and its fluctuations are
        too large. True: as there.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        The model gives no stress; a chain without links, or no parts.
    StructureError
        A system has no volume or, when it is to be moved, has constraints.
    """

    def __init__(
        self, model: BaseModelMixin, *arguments: Any, as_ase: bool = False, **options: Any
    ) -> None:
        self.as_ase = as_ase
        super().__init__(model, *arguments, **options)

    def _cell_motions(self) -> tuple[float, float]:
        motions = 9.0 if self.as_ase else 6.0
        return motions, motions


class MaskedMTKNPT(AnyShape):
    """Constant temperature and pressure, cells that grow along chosen cell vectors.

    As ``ase.md.nose_hoover_chain.MaskedMTKNPT``: the velocity of the cell is a sum over the
    directions that its vectors had at the start. See :class:`MTKNPT`.

    Parameters
    ----------
    model, dt, temperature, pressure, tdamp, pdamp, tchain, pchain, tloop, ploop
        As in ``MTKNPT``.
    mask
        Along which of the three vectors the cell may grow.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        The mask has not three entries, or lets nothing move.
    """

    _cell_field: ClassVar[str] = "axis_rate"
    _cell_shape: ClassVar[tuple[int, ...]] = (3,)

    def __init__(
        self, model: BaseModelMixin, *arguments: Any, mask: Sequence[bool], **options: Any
    ) -> None:
        self.mask = tuple(bool(free) for free in mask)
        if len(self.mask) != 3 or not any(self.mask):
            raise ValueError(f"mask is {self.mask}; it needs three entries, one of them true")
        super().__init__(model, *arguments, **options)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        state = super()._make_new_state(n, template_batch)
        cell = template_batch["cell"]
        squares = cell * cell
        lengths = (squares[:, :, 0:1] + squares[:, :, 1:2] + squares[:, :, 2:3]).sqrt()
        state["axes"] = cell / lengths
        state["free"] = cell.new_tensor(self.mask).expand(n, 3).contiguous()
        return state

    def _cell_motions(self) -> tuple[float, float]:
        return float(sum(self.mask)), float(sum(self.mask))

    def _strain_rate(self) -> Matrix:
        axes = self.state["axes"]
        return torch.bmm(axes.transpose(1, 2) * self.state["axis_rate"].unsqueeze(1), axes)

    def _push_cell(self, batch: Batch, time: Row) -> None:
        axes = self.state["axes"]
        force = along(self._force_on_cell(batch), axes)
        push = time / self._inertia(batch) * self.state["free"] * force
        self.state["axis_rate"] = self.state["axis_rate"] + push


# -------------------------------------------------------------------------------- update rules


def kinetic_tensor(batch: Batch) -> Matrix:
    """Return the sum of ``m v v`` over the atoms of each system, eV."""
    velocities = batch["velocities"]
    momenta = batch["atomic_masses"].view(-1, 1) * velocities
    return segment_sum(momenta.unsqueeze(2) * velocities.unsqueeze(1), batch.ptr)


def strain_force(stress: Matrix, volume: Row, kinetic: Matrix, pressure: Row, count: Row) -> Matrix:
    """Return what drives the strain of a cell, eV.

    J. Chem. Phys. 101, 4177 (1994), section II: volume times the pressure inside less that
    outside, and the kinetic energy's share of one degree of freedom.

    Parameters
    ----------
    stress
        Without the momenta's part, eV/Å³, positive in tension.
    volume, pressure
        Å³, eV/Å³.
    kinetic
        Sum of ``m v v``, eV.
    count
        Atoms of each system.
    """
    share = trace(kinetic) / (3.0 * count) - volume * pressure
    one = torch.eye(3, dtype=stress.dtype, device=stress.device)
    return kinetic - volume.unsqueeze(2) * symmetric(stress) + share.unsqueeze(2) * one


def with_trace(rate: Matrix, dof: Row) -> Matrix:
    """Return the rate and, on its diagonal, a share of its trace."""
    one = torch.eye(3, dtype=rate.dtype, device=rate.device)
    return rate + (trace(rate) / dof).unsqueeze(2) * one


def matrix_flow(rate: Matrix, time: Row) -> tuple[Matrix, Matrix]:
    """Return A and B so that ``x A + c B`` is where ``x' = x rate + c`` leads in a time.

    Parameters
    ----------
    rate
        Symmetric, inverse ASE units of time.
    time
        ASE units.
    """
    duration = time.unsqueeze(2)
    factor, relative = exponential_and_integral(duration * rate)
    return factor, duration * relative


def along(matrix: Matrix, axes: Matrix) -> Float[Tensor, "B 3"]:
    """Return ``e A e`` for each of three unit vectors, the rows of ``axes``."""
    product = torch.bmm(axes, matrix) * axes
    return product[:, :, 0] + product[:, :, 1] + product[:, :, 2]
