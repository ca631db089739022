"""Berendsen's thermostat."""

from typing import Any, ClassVar

from ase.units import kB
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.integrators.nve import kick
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.models.base import BaseModelMixin

SystemNumber = int | float | Float[Tensor, "B 1"]


class NVTBerendsen(BaseDynamics):
    """Velocity Verlet with Berendsen's thermostat, as ``ase.md.NVTBerendsen``.

    It brings a system to a temperature; it does not sample the canonical ensemble.

    H. J. C. Berendsen, J. P. M. Postma, W. F. van Gunsteren, A. DiNola and J. R. Haak, J. Chem.
    Phys. 81, 3684 (1984), equation 11.

    Parameters
    ----------
    model
        A batched model.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number or one per system.
    taut
        Time constant of the coupling in ASE units; one number or one per system.
    fixcm
        Take the mean momentum of the atoms away in each step.
    **engine
        Arguments of ``BaseDynamics``.
    """

    __needs_keys__ = frozenset({"forces"})
    _writes_in_place = False
    _per_system: ClassVar[tuple[str, ...]] = ("dt", "temperature", "taut")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        taut: Any,
        fixcm: bool = True,
        **engine: Any,
    ) -> None:
        self.dt, self.temperature, self.taut = dt, temperature, taut
        self.fixcm = fixcm
        super().__init__(model, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        count = template_batch.num_nodes_per_graph.view(-1, 1)
        return template_batch.like(system={"count": count.to(template_batch["positions"])})

    def pre_update(self, batch: Batch) -> None:
        """Scale the velocities; half a kick and the drift."""
        self._scale_velocities(batch)
        self._move(batch)

    def _scale_velocities(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Scale the velocities; return the factor, and the kinetic energy before, (B, 1) each."""
        constraints = self.constraints(batch)
        kinetic = kinetic_energy(batch, batch["velocities"])
        dof = constraints.degrees_of_freedom(batch)
        coupling = self.parameter("dt") / self.parameter("taut")
        scale = berendsen_scale(kinetic, dof, self.parameter("temperature"), coupling)
        velocities = scale.index_select(0, batch.batch) * batch["velocities"]
        batch["velocities"] = constraints.velocities(batch, velocities)
        return scale, kinetic

    def _move(self, batch: Batch) -> None:
        """Half a kick and the drift."""
        dt = self.node_parameter("dt")
        constraints = self.constraints(batch)
        old, masses = batch["positions"], batch["atomic_masses"].view(-1, 1)
        velocities = kick(batch["velocities"], constraints.forces(batch, md=True), masses, dt)
        if self.fixcm:
            mean = segment_sum(masses * velocities, batch.ptr) / self.state["count"]
            velocities = velocities - mean.index_select(0, batch.batch) / masses
        batch["positions"] = constraints.positions(batch, old, old + dt * velocities)
        batch["velocities"] = constraints.velocities(batch, velocities)

    def post_update(self, batch: Batch) -> None:
        """The other half of the kick."""
        dt = self.node_parameter("dt")
        constraints = self.constraints(batch)
        masses = batch["atomic_masses"].view(-1, 1)
        velocities = kick(batch["velocities"], constraints.forces(batch, md=True), masses, dt)
        batch["velocities"] = constraints.velocities(batch, velocities)


def berendsen_scale(
    kinetic: Float[Tensor, "B 1"],
    dof: Float[Tensor, "B 1"],
    temperature: SystemNumber,
    coupling: SystemNumber,
) -> Float[Tensor, "B 1"]:
    """Return the factor of the velocities, within a tenth of 1 as in ASE.

    Parameters
    ----------
    kinetic
        Kinetic energy, eV.
    dof
        Number of degrees of freedom.
    temperature
        Wanted, K.
    coupling
        Time step over time constant.
    """
    wanted = (0.5 * kB * temperature) * dof
    return (1.0 + (wanted / kinetic - 1.0) * coupling).sqrt().clamp(0.9, 1.1)
