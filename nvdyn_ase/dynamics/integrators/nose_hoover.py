"""Nosé-Hoover chains, and constant temperature by one."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from ase.units import kB
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, StructureError
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.constraints import BatchConstraints
from nvdyn_ase.dynamics.constraints.applied_again import move_again
from nvdyn_ase.dynamics.integrators.nve import kick
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.models.base import BaseModelMixin

Row = Float[Tensor, "B 1"]
Links = Float[Tensor, "B M"]
Vector = Float[Tensor, "V 3"]

#: Weights of the fourth-order scheme of H. Yoshida, Phys. Lett. A 150, 262 (1990).
YOSHIDA = (
    1.0 / (2.0 - 2.0 ** (1.0 / 3.0)),
    -(2.0 ** (1.0 / 3.0)) / (2.0 - 2.0 ** (1.0 / 3.0)),
    1.0 / (2.0 - 2.0 ** (1.0 / 3.0)),
)


class Chain(NamedTuple):
    """The thermostats of a chain, the first of which acts on the system.

    Parameters
    ----------
    position
        eta, without unit.
    velocity
        Its time derivative: p_eta over the inertia Q.
    """

    position: Links
    velocity: Links


class Bath(NamedTuple):
    """What a chain does, for each system.

    Parameters
    ----------
    thermal
        kT, eV.
    target
        Mean of twice the kinetic energy that the first link acts on, eV.
    weight
        Inertia of the first link; that of the others is 1. In units of ``kT tau**2``.
    inertia
        Of the first link, eV times the square of ASE's unit of time.
    rate
        ``1 / tau**2``, with the time constant tau in ASE units.
    """

    thermal: Row
    target: Row
    weight: Row
    inertia: Row
    rate: Row


class NoseHooverChainNVT(BaseDynamics):
    """Constant temperature by a Nosé-Hoover chain, as ``ase.md.nose_hoover_chain``.

    G. J. Martyna, M. L. Klein and M. E. Tuckerman, J. Chem. Phys. 97, 2635 (1992), with the
    integrator of G. J. Martyna, M. E. Tuckerman, D. J. Tobias and M. L. Klein, Mol. Phys. 87, 1117
    (1996), section 3. :meth:`conserved_energy` is conserved.

    The thermostat acts on as many degrees of freedom as constraints leave; a total momentum that
    is conserved is not among what is taken away, as in ASE: put ``FixCom`` on a system to count
    three less. Constraints act as in ``NVE``.

    Parameters
    ----------
    model
        A batched model.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number or one per system.
    tdamp
        Time constant of the thermostat in ASE units, about ``100 * dt``; one number or one per
        system.
    tchain
        Links of the chain.
    tloop
        Parts into which a step of the chain is divided.
    as_ase
        Do with constraints what ASE 3.29 does. There the integrator does not know of them: it goes
        on from positions and momenta of its own, from which constraints take nothing away, and the
        thermostat acts on these and on three degrees of freedom per atom. Atoms that are held thus
        have momenta that nobody sees, and the others have not the temperature that was asked for.
        ASE applies constraints to the same positions three times in a step: before the forces at
        its start, before those at its end, and after it. It has no consequence for those that let
        pass what they have let pass; where they move atoms again ASE computes forces anew at each
        place, and a step with one forward pass cannot be the same. Such systems are refused.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        A chain without links, or no parts.
    StructureError
        With ``as_ase``, constraints of a system that is to be moved would move atoms again: bond
        lengths, internal coordinates, or several that hold the same atoms and do not commute.
    """

    __needs_keys__ = frozenset({"forces"})
    _writes_in_place = False
    _per_system = ("dt", "temperature", "tdamp")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        tdamp: Any,
        tchain: int = 3,
        tloop: int = 1,
        *,
        as_ase: bool = False,
        **engine: Any,
    ) -> None:
        at_least_one(tchain=tchain, tloop=tloop)
        self.dt, self.temperature, self.tdamp = dt, temperature, tdamp
        self.tchain, self.tloop, self.as_ase = tchain, tloop, as_ase
        self._found_same: BatchConstraints | None = None
        super().__init__(model, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        links = system["dt"].new_zeros(n, self.tchain)
        system |= {"eta": links, "eta_velocity": links, "count": sizes(template_batch)}
        node = {}
        if self.as_ase:
            hidden = torch.zeros_like(template_batch["positions"])
            node = {"hidden_positions": hidden, "hidden_velocities": hidden}
        return template_batch.like(node=node, system=system)

    # ---------------------------------------------------------------- a step

    def pre_update(self, batch: Batch) -> None:
        """Half a step of the thermostat, half a kick and the drift."""
        if self.as_ase:
            self._refuse_what_moves_again(batch)
        dt = self.node_parameter("dt")
        constraints = self.constraints(batch)
        masses = batch["atomic_masses"].view(-1, 1)
        positions, velocities = batch["positions"], self._own(batch, "velocities")
        velocities = self._thermostatted(batch, velocities)
        velocities = kick(velocities, constraints.forces(batch, md=True), masses, dt)
        moved = self._own(batch, "positions") + dt * velocities
        if constraints.constrained is not None:
            allowed = constraints.positions(batch, positions, moved)
            if self.as_ase:
                self.state["hidden_positions"] = moved - allowed
            else:
                drift = (allowed - positions) / dt
                velocities = torch.where(constraints.constrained, drift, velocities)
            moved = allowed
        batch["positions"] = moved
        self._give(batch, velocities)

    def post_update(self, batch: Batch) -> None:
        """The other half of the kick and of the step of the thermostat."""
        dt = self.node_parameter("dt")
        constraints = self.constraints(batch)
        masses = batch["atomic_masses"].view(-1, 1)
        forces = constraints.forces(batch, md=True)
        velocities = kick(self._own(batch, "velocities"), forces, masses, dt)
        if not self.as_ase:
            velocities = constraints.velocities(batch, velocities)
        self._give(batch, self._thermostatted(batch, velocities))

    def _refuse_what_moves_again(self, batch: Batch) -> None:
        """Raise StructureError where ASE would compute forces more than once in a step."""
        constraints, moving = self.constraints(batch), self.moving(batch)
        if not any(batch.constraints) or constraints is self._found_same:
            return  # the host waits only where the constraints are others than before
        again = move_again(batch)
        rows = (again if moving is None else again & moving.system.view(-1)).nonzero().view(-1)
        if len(rows):
            raise StructureError(
                int(rows[0]),
                "its constraints move atoms again when they are applied again (bond lengths, "
                "internal coordinates, or several that do not commute). ASE's NoseHooverChainNVT "
                "applies them three times in a step and computes forces at other places each time, "
                "which a batch does not; use constrained=True (as_ase=False in the engine), or "
                "move it alone by ASE",
            )
        self._found_same = constraints

    def _own(self, batch: Batch, name: str) -> Vector:
        """Return a field as the integrator has it."""
        if not (self.as_ase and self.constraints(batch)):
            return batch[name]
        return batch[name] + self.state[f"hidden_{name}"]

    def _give(self, batch: Batch, velocities: Vector) -> None:
        """Give the batch its velocities, and keep what constraints take away from them."""
        constraints = self.constraints(batch)
        if self.as_ase and constraints:
            allowed = constraints.velocities(batch, velocities)
            self.state["hidden_velocities"] = velocities - allowed
            velocities = allowed
        batch["velocities"] = velocities

    def _thermostatted(self, batch: Batch, velocities: Vector) -> Vector:
        """Return the velocities after half a step of the thermostat."""
        chain = Chain(self.state["eta"], self.state["eta_velocity"])
        kinetic, dt = 2.0 * kinetic_energy(batch, velocities), 0.5 * self.state["dt"]
        scale, chain = chain_step(kinetic, chain, self._bath(batch), dt, self.tloop)
        self.state["eta"], self.state["eta_velocity"] = chain
        return scale.index_select(0, batch.batch) * velocities

    def _bath(self, batch: Batch) -> Bath:
        if self.as_ase:
            dof = 3.0 * self.state["count"]
        else:
            dof = self.constraints(batch).degrees_of_freedom(batch)
        return bath(self.state["temperature"], self.state["tdamp"], dof, dof)

    def conserved_energy(self, batch: Batch) -> Row:
        """Return the energy of the system and of its thermostat, (B, 1) eV.

        The batch is the one that is being moved, with current forces.
        """
        chain = Chain(self.state["eta"], self.state["eta_velocity"])
        system = self.energy(batch) + kinetic_energy(batch, batch["velocities"])
        return system + chain_energy(chain, self._bath(batch))


NVTNoseHoover = NoseHooverChainNVT


def sizes(batch: Batch) -> Row:
    """Return the number of atoms of each system, (B, 1)."""
    return batch.num_nodes_per_graph.view(-1, 1).to(batch["cell"])


def at_least_one(**numbers: int) -> None:
    """Raise ValueError unless numbers of links and of parts are at least 1."""
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"{name} is {number}; it must be at least 1")


def bath(temperature: Row, tau: Row, motions: Row, weight: Row) -> Bath:
    """Return what a chain does.

    Parameters
    ----------
    temperature
        K.
    tau
        Time constant, ASE units.
    motions
        Degrees of freedom that the first link acts on.
    weight
        Inertia of the first link, in units of ``kT tau**2``.
    """
    kT, square = kB * temperature, tau * tau
    return Bath(kT, motions * kT, weight, weight * kT * square, 1.0 / square)


def chain_step(
    twice_kinetic: Row, chain: Chain, bath: Bath, dt: Row, loops: int
) -> tuple[Row, Chain]:
    """Return the factor of the velocities in a time step of the chain, and the chain after it.

    Mol. Phys. 87, 1117 (1996), section 3, with velocities of the links where that has momenta.

    Parameters
    ----------
    twice_kinetic
        Twice the kinetic energy that the first link acts on, eV.
    chain, bath
        The links, and what they do.
    dt
        ASE units.
    loops
        Equal parts in which the step is done.
    """
    eta, velocity = list(chain.position.split(1, 1)), list(chain.velocity.split(1, 1))
    links = range(len(velocity))
    drag: list[Row | None] = [None for _ in links]  # of each link by the next one
    whole = torch.ones_like(twice_kinetic)
    for part in YOSHIDA * loops:
        back = (-part / loops) * dt
        half, quarter = -0.5 * back, 0.25 * back
        for j in reversed(links):
            force = link_force(j, twice_kinetic, velocity, bath)
            velocity[j] = pushed(velocity[j], force, drag[j], half)
            if j > 0:
                drag[j - 1] = (quarter * velocity[j]).exp()
        eta = [torch.addcmul(x, back, v, value=-1.0) for x, v in zip(eta, velocity, strict=True)]
        scale = (back * velocity[0]).exp()
        whole, twice_kinetic = scale * whole, scale * scale * twice_kinetic
        for j in links:
            force = link_force(j, twice_kinetic, velocity, bath)
            velocity[j] = pushed(velocity[j], force, drag[j], half)
    return whole, Chain(torch.cat(eta, 1), torch.cat(velocity, 1))


def link_force(j: int, twice_kinetic: Row, velocity: Sequence[Row], bath: Bath) -> Row:
    """Return the acceleration of link ``j`` by what is before it."""
    if j == 0:
        return (twice_kinetic - bath.target) / bath.inertia
    before = velocity[j - 1] * velocity[j - 1]
    return (bath.weight * before if j == 1 else before) - bath.rate


def pushed(velocity: Row, force: Row, drag: Row | None, half: Row) -> Row:
    """Return the velocity of a link after half a step of force between two quarters of drag."""
    if drag is None:
        return torch.addcmul(velocity, half, force)
    return torch.addcmul(velocity * drag, half, force) * drag


def chain_energy(chain: Chain, bath: Bath) -> Row:
    """Return the energy of a chain, (B, 1) eV."""
    eta, velocity = chain.position.split(1, 1), chain.velocity.split(1, 1)
    energy = bath.target * eta[0] + 0.5 * bath.inertia * velocity[0] ** 2
    for position, speed in zip(eta[1:], velocity[1:], strict=True):
        energy = energy + bath.thermal * position + 0.5 * bath.thermal / bath.rate * speed**2
    return energy
