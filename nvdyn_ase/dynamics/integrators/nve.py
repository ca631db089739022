"""Velocity Verlet, constant energy."""

from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.models.base import BaseModelMixin

Number = int | float | Float[Tensor, "V 1"]


class NVE(BaseDynamics):
    """Velocity Verlet at constant energy, as ``ase.md.VelocityVerlet``, with RATTLE's two parts.

    W. C. Swope, H. C. Andersen, P. H. Berens and K. R. Wilson, J. Chem. Phys. 76, 637 (1982),
    equation 3. :meth:`conserved_energy` is conserved.

    Parameters
    ----------
    model
        A batched model.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    **engine
        Arguments of ``BaseDynamics``.
    """

    __needs_keys__ = frozenset({"forces"})
    _writes_in_place = False
    _per_system: ClassVar[tuple[str, ...]] = ("dt",)

    def __init__(self, model: BaseModelMixin, dt: Any, **engine: Any) -> None:
        self.dt = dt
        super().__init__(model, **engine)

    def pre_update(self, batch: Batch) -> None:
        """Half a kick and the drift."""
        dt = self.node_parameter("dt")
        constraints = self.constraints(batch)
        old, masses = batch["positions"], batch["atomic_masses"].view(-1, 1)
        velocities = kick(batch["velocities"], constraints.forces(batch, md=True), masses, dt)
        positions = old + dt * velocities
        if constraints.constrained is not None:
            positions = constraints.positions(batch, old, positions)
            moved = (positions - old) / dt
            velocities = torch.where(constraints.constrained, moved, velocities)
        batch["positions"], batch["velocities"] = positions, velocities

    def post_update(self, batch: Batch) -> None:
        """The other half of the kick."""
        dt = self.node_parameter("dt")
        constraints = self.constraints(batch)
        masses = batch["atomic_masses"].view(-1, 1)
        velocities = kick(batch["velocities"], constraints.forces(batch, md=True), masses, dt)
        batch["velocities"] = constraints.velocities(batch, velocities)

    def conserved_energy(self, batch: Batch) -> Float[Tensor, "B 1"]:
        """Return the total energy, (B, 1) eV.

        The batch is the one that is being moved, with current forces.
        """
        return self.energy(batch) + kinetic_energy(batch, batch["velocities"])


VelocityVerlet = NVE


def kick(
    velocities: Float[Tensor, "V 3"],
    forces: Float[Tensor, "V 3"],
    masses: Float[Tensor, "V 1"],
    dt: Number,
) -> Float[Tensor, "V 3"]:
    """Return the velocities after half a time step of force.

    Parameters
    ----------
    velocities, forces, masses
        Å per ASE time unit, eV/Å, amu.
    dt
        The whole time step, in ASE units.
    """
    return velocities + 0.5 * dt * forces / masses
