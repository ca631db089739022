"""Langevin dynamics, constant temperature."""

from typing import Any, NamedTuple

import torch
from ase.units import kB
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, StructureError, segment_sum
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.integrators.nve import Number
from nvdyn_ase.dynamics.noise import HasNoise, Noise
from nvdyn_ase.models.base import BaseModelMixin

Row = Float[Tensor, "V 1"]
Vector = Float[Tensor, "V 3"]


class Coefficients(NamedTuple):
    """What the propagator multiplies with, for each atom; ASE calls them c1 to c5.

    Parameters
    ----------
    kick, drag
        Of force over mass, and of velocity, in half a step.
    spread, mixed
        Of the first and the second random number in the velocity.
    shift
        Of the second random number in the position.
    """

    kick: Row
    drag: Row
    spread: Row
    mixed: Row
    shift: Row


class Langevin(HasNoise, BaseDynamics):
    """Langevin dynamics at constant temperature, as ``ase.md.Langevin``, with RATTLE's two parts.

    E. Vanden-Eijnden and G. Ciccotti, Chem. Phys. Lett. 429, 310 (2006), equation 23, and 39 with
    constraints.

    Parameters
    ----------
    model
        A batched model.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number, one per system, or ``PerAtom``.
    friction
        In inverse ASE units of time, as ``0.01 / ase.units.fs``; as ``temperature``.
    fixcm
        Keep the centre of mass at rest by changing the noise, as ASE can. That samples the
        canonical ensemble only approximately.
    seed, rng
        Where random numbers come from; see ``Noise``.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    StructureError
        ``fixcm`` and a system of one atom.
    """

    __needs_keys__ = frozenset({"forces"})
    _writes_in_place = False
    _per_system = ("dt", "temperature", "friction")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        friction: Any,
        fixcm: bool = False,
        *,
        seed: Any = None,
        rng: Any = None,
        **engine: Any,
    ) -> None:
        self.dt, self.temperature, self.friction = dt, temperature, friction
        self.fixcm = fixcm
        self.noise = Noise("Langevin", seed, rng)
        super().__init__(model, **engine)

    # ---------------------------------------------------------------- parameters

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        if self.fixcm and 1 in template_batch.num_nodes_list:
            row = template_batch.num_nodes_list.index(1)
            raise StructureError(row, "fixcm=True needs at least two atoms; use fixcm=False")
        zero = torch.zeros_like(template_batch["positions"])
        node = {"rnd_pos": zero, "rnd_vel": zero}
        return template_batch.like(
            node=node, system=self.noise.fields(template_batch, self.places(template_batch))
        )

    def _init_state(self, batch: Batch) -> None:
        super()._init_state(batch)
        self._parameters_changed(batch)

    def _parameters_changed(self, batch: Batch) -> None:
        """Keep the coefficients in the state, where they follow their systems."""
        dt, temperature, friction = (self.node_parameter(name) for name in self._per_system)
        masses = batch["atomic_masses"].view(-1, 1)
        for name, values in coefficients(dt, temperature, friction, masses)._asdict().items():
            self.state.add_key(name, values, "node", overwrite=True)

    # ---------------------------------------------------------------- a step

    def pre_update(self, batch: Batch) -> None:
        """Half a kick with half of the noise, and the drift."""
        dt = self.node_parameter("dt")
        constraints = self.constraints(batch)
        old, masses = batch["positions"], batch["atomic_masses"].view(-1, 1)
        c = Coefficients(*(self.state[name] for name in Coefficients._fields))
        xi, eta = self.noise.normals(batch, self.state, 2)
        self.noise.advance(self.state)
        xi, eta = constraints.noise(batch, xi), constraints.noise(batch, eta)
        shift, spread = perturbations(xi, eta, c)
        if self.fixcm:
            shift, spread = at_rest(shift, spread, masses, batch)
        forces = constraints.forces(batch, md=True)
        velocities = langevin_kick(batch["velocities"], forces, masses, spread, c)
        positions = constraints.positions(batch, old, old + dt * velocities + shift)
        batch["velocities"] = (positions - old - shift) / dt
        batch["positions"] = positions
        self.state["rnd_pos"], self.state["rnd_vel"] = shift, spread

    def post_update(self, batch: Batch) -> None:
        """The other half of the kick, with the same noise."""
        constraints = self.constraints(batch)
        masses, spread = batch["atomic_masses"].view(-1, 1), self.state["rnd_vel"]
        c = Coefficients(*(self.state[name] for name in Coefficients._fields))
        forces = constraints.forces(batch, md=True)
        velocities = langevin_kick(batch["velocities"], forces, masses, spread, c)
        batch["velocities"] = constraints.velocities(batch, velocities)


NVTLangevin = Langevin


def coefficients(
    dt: Number, temperature: Number, friction: Number, masses: Float[Tensor, "V 1"]
) -> Coefficients:
    """Return the coefficients of the propagator.

    Parameters
    ----------
    dt, temperature, friction
        ASE units, K, inverse ASE units.
    masses
        amu.
    """
    one = torch.ones_like(masses)
    dt, friction = one * dt, one * friction
    sigma = (2.0 * (kB * temperature) * friction / masses).sqrt()
    root = dt.sqrt()
    shift = dt * root * sigma / (2.0 * 3.0**0.5)
    return Coefficients(
        kick=dt / 2.0 - dt * dt * friction / 8.0,
        drag=dt * friction / 2.0 - dt * dt * friction * friction / 8.0,
        spread=root * sigma / 2.0 - dt * root * friction * sigma / 8.0,
        mixed=friction / 2.0 * shift,
        shift=shift,
    )


def perturbations(
    xi: Float[Tensor, "V 3"], eta: Float[Tensor, "V 3"], c: Coefficients
) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "V 3"]]:
    """Return the random parts of position and velocity."""
    return c.shift * eta, c.spread * xi - c.mixed * eta


def langevin_kick(
    velocities: Float[Tensor, "V 3"],
    forces: Float[Tensor, "V 3"],
    masses: Float[Tensor, "V 1"],
    spread: Float[Tensor, "V 3"],
    c: Coefficients,
) -> Float[Tensor, "V 3"]:
    """Return the velocities after half a step of force, friction and noise."""
    return velocities + (c.kick * forces / masses - c.drag * velocities + spread)


def at_rest(
    shift: Float[Tensor, "V 3"],
    spread: Float[Tensor, "V 3"],
    masses: Float[Tensor, "V 1"],
    batch: Batch,
) -> tuple[Float[Tensor, "V 3"], Float[Tensor, "V 3"]]:
    """Return random parts that leave the centre of mass alone, scaled up for what that takes."""
    count = batch.num_nodes_per_graph.view(-1, 1).to(shift)
    factor = (count / (count - 1.0)).sqrt().index_select(0, batch.batch)
    drift = segment_sum(shift, batch.ptr) / count
    momentum = segment_sum(spread * masses, batch.ptr) / count
    shift = shift - drift.index_select(0, batch.batch)
    spread = spread - momentum.index_select(0, batch.batch) / masses
    return shift * factor, spread * factor
