"""Berendsen's thermostat and barostat."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.dynamics.integrators.berendsen import NVTBerendsen, SystemNumber
from nvdyn_ase.dynamics.integrators.mtk import needs_stress, needs_volume
from nvdyn_ase.dynamics.integrators.scaling import change_cell
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.dynamics.matrices import Matrix, Row, determinant, trace
from nvdyn_ase.models.base import BaseModelMixin

Vector = Float[Tensor, "V 3"]
Axes = Float[Tensor, "B 3"]


class NPTBerendsen(NVTBerendsen):
    """Velocity Verlet with Berendsen's thermostat and barostat, as ``ase.md.nptberendsen``.

    It brings a system to a temperature and pressure; it does not sample that ensemble. Cells keep
    their shape. As in ASE, constraints do not hold the atoms while these move with the cell.

    H. J. C. Berendsen, J. P. M. Postma, W. F. van Gunsteren, A. DiNola and J. R. Haak, J. Chem.
    Phys. 81, 3684 (1984), equations 11 and 20, the latter to first order.

    A step takes two forward passes: velocities and cell are scaled, and the atoms then begin to
    move with the forces in the new cell.

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
    taut, taup
        Time constants of thermostat and barostat in ASE units; one number or one per system.
    compressibility
        Å³/eV; one number or one per system.
    fixcm
        Take the mean momentum of the atoms away in each step.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        The model gives no stress.
    StructureError
        A system has no volume.
    """

    __needs_keys__ = frozenset({"forces", "stress"})
    _mutable_fields = ("positions", "velocities", "cell")
    _tries = True
    _per_system: ClassVar[tuple[str, ...]] = (
        *("dt", "temperature", "taut"),
        *("pressure", "taup", "compressibility"),
    )

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        pressure: Any,
        taut: Any,
        taup: Any,
        compressibility: Any,
        fixcm: bool = True,
        **engine: Any,
    ) -> None:
        self.pressure, self.taup, self.compressibility = pressure, taup, compressibility
        super().__init__(model, dt, temperature, taut, fixcm, **engine)
        needs_stress(model, type(self).__name__)
        #: The field of the state that says of all systems that they are not, and are, scaled.
        self._known: tuple[Tensor, Tensor] | None = None

    def _init_state(self, batch: Batch) -> None:
        super()._init_state(batch)
        none = self.state["scaled"]
        self._known = none, ~none

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        needs_volume(template_batch, type(self).__name__)
        state = super()._make_new_state(n, template_batch)
        state["scaled"] = torch.zeros_like(state["count"], dtype=torch.bool)
        return state

    def within_step(self, batch: Batch) -> Bool[Tensor, "B 1"] | None:
        """Return the systems that are scaled and wait for the forces there."""
        scaled = self.state["scaled"]
        return None if self._all_are_scaled(scaled) is False else scaled

    # ---------------------------------------------------------------- a step

    def pre_update(self, batch: Batch) -> None:
        """Scale velocities and cell or, where that is done, half a kick and the drift."""
        scaled = self.state["scaled"]
        together = self._all_are_scaled(scaled)
        if together is None:
            rows = scaled.index_select(0, batch.batch)
            start = [batch[key] for key in ("positions", "velocities", "cell")]
            self._move(batch)
            moved = batch["positions"], batch["velocities"]
            batch["positions"], batch["velocities"], batch["cell"] = start
            self._scale(batch)
            for key, tensor in zip(("positions", "velocities"), moved, strict=True):
                batch[key] = torch.where(rows, tensor, batch[key])
            batch["cell"] = torch.where(scaled.unsqueeze(2), start[2], batch["cell"])
        elif together:
            self._move(batch)
        else:
            self._scale(batch)

    def post_update(self, batch: Batch) -> None:
        """The other half of the kick, where this was not the pass after the scaling."""
        scaled = self.state["scaled"]
        together = self._all_are_scaled(scaled)
        if together is None or together:
            before = batch["velocities"]
            super().post_update(batch)
            if together is None:
                rows = scaled.index_select(0, batch.batch)
                batch["velocities"] = torch.where(rows, batch["velocities"], before)
        if together is None or self._known is None:
            self.state["scaled"] = ~scaled
        else:
            self.state["scaled"] = self._known[not together]

    def _all_are_scaled(self, scaled: Bool[Tensor, "B 1"]) -> bool | None:
        """Say whether all are scaled, or none; None if the host does not know."""
        if self._known is None or not any(scaled is known for known in self._known):
            return None
        return scaled is self._known[1]

    def _scale(self, batch: Batch) -> None:
        """Scale the velocities, and the cell with the atoms in it."""
        constraints = self.constraints(batch)
        scale, kinetic = self._scale_velocities(batch)
        if constraints.constrained is None:
            kinetic = scale * scale * kinetic
        else:
            kinetic = kinetic_energy(batch, batch["velocities"])
        coupling = self.parameter("dt") / self.parameter("taup") * self.parameter("compressibility")
        stress = constraints.stress(batch, batch["stress"])
        inside = self._pressure(batch, stress, determinant(batch["cell"]).abs(), kinetic)
        pressure, coupling = self.parameter("pressure"), self._coupling(batch, coupling / 3.0)
        factor = berendsen_factor(inside, pressure, coupling)
        cell = factor.unsqueeze(2) * batch["cell"]
        change_cell(batch, constraints, cell, factor if factor.shape[1] == 1 else None)

    def _pressure(self, batch: Batch, stress: Matrix, volume: Row, kinetic: Row) -> Tensor:
        """Return the pressure inside, (B, 1) or along each axis (B, 3), eV/Å³."""
        return torch.addcdiv(trace(stress), kinetic, volume, value=-2.0) / -3.0

    def _coupling(self, batch: Batch, coupling: SystemNumber) -> Any:
        """Return how strongly each length follows the pressure."""
        return coupling


class InhomogeneousNPTBerendsen(NPTBerendsen):
    """Berendsen's thermostat, and a barostat for each cell vector, as ``ase.md.nptberendsen``.

    The first cell vector grows with the pressure along x, the second along y, the third along z, if
    the cell is periodic in the direction of that vector; angles stay. See :class:`NPTBerendsen`.

    Parameters
    ----------
    model, dt, temperature, pressure, taut, taup, compressibility, fixcm
        As in ``NPTBerendsen``.
    mask
        3 numbers, 0 for a vector that is not to change, for all systems; or (B, 3).
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        The model gives no stress; a mask of another shape.
    StructureError
        A system has no volume.
    """

    def __init__(
        self,
        model: BaseModelMixin,
        *arguments: Any,
        mask: Sequence[Any] = (1, 1, 1),
        **options: Any,
    ) -> None:
        self.mask = mask
        super().__init__(model, *arguments, **options)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        state = super()._make_new_state(n, template_batch)
        free = self.places(template_batch).among(lambda count: axes(self.mask, count))
        state["free"] = free.to(template_batch["cell"])
        return state

    def set_parameter(self, name: str, value: Any) -> None:
        """Change a parameter between steps; a sequence gives one value per system of the batch."""
        if name == "mask" and self._batch is not None:
            self.state["free"] = axes(value, len(self._batch)).to(self.state["free"])
        super().set_parameter(name, value)

    def _pressure(self, batch: Batch, stress: Matrix, volume: Row, kinetic: Row) -> Tensor:
        velocities = batch["velocities"]
        momenta = batch["atomic_masses"].view(-1, 1) * velocities
        along = segment_sum(momenta * velocities, batch.ptr)
        return along / volume - stress.diagonal(dim1=1, dim2=2)

    def _coupling(self, batch: Batch, coupling: SystemNumber) -> Any:
        return coupling * (self.state["free"] * batch["pbc"])


def berendsen_factor(
    inside: Float[Tensor, "B n"], pressure: SystemNumber, coupling: SystemNumber | Axes
) -> Float[Tensor, "B n"]:
    """Return the factor of the cell's lengths.

    Parameters
    ----------
    inside, pressure
        Pressure that there is, of all or along each axis, and that wanted, eV/Å³.
    coupling
        A third of the compressibility, times the time step over the time constant, Å³/eV.
    """
    return 1.0 - coupling * (pressure - inside)


def axes(mask: Any, count: int) -> Float[Tensor, "B 3"]:
    """Return the mask of each system; raise ValueError for another shape."""
    rows = torch.as_tensor(mask, dtype=torch.float64)
    if rows.shape not in ((3,), (count, 3)):
        raise ValueError(f"mask: give 3 numbers or, per system, ({count}, 3), not {mask!r}")
    return rows.expand(count, 3).clone()
