"""FIRE: the fast inertial relaxation engine."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_dot
from nvdyn_ase.dynamics.optimizers.optimizer import Optimizer
from nvdyn_ase.models.base import BaseModelMixin


class FIREState(NamedTuple):
    """What FIRE knows of each system.

    ``velocity`` is in units of eV/Å times the time step, as in ASE: masses do not enter.
    ``downhill_steps`` is -1 for a system that has not moved yet: it has no power, and must not be
    taken for one that goes uphill.
    """

    velocity: Float[Tensor, "R 3"]
    dt: Float[Tensor, "B 1"]
    a: Float[Tensor, "B 1"]
    downhill_steps: Float[Tensor, "B 1"]


class FIREConstants(NamedTuple):
    """The parameters that do not change, one number per system."""

    maxstep: Float[Tensor, "B 1"]
    dtmax: Float[Tensor, "B 1"]
    Nmin: Float[Tensor, "B 1"]
    finc: Float[Tensor, "B 1"]
    fdec: Float[Tensor, "B 1"]
    astart: Float[Tensor, "B 1"]
    fa: Float[Tensor, "B 1"]


class FIRE(Optimizer):
    """FIRE with ASE's defaults, operation for operation.

    E. Bitzek, P. Koskinen, F. Gähler, M. Moseler and P. Gumbsch, Phys. Rev. Lett. 97, 170201
    (2006), with the order of operations and the limit on the step of ``ase.optimize.FIRE``.

    Every number may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    dt, dtmax
        First and largest time step.
    maxstep
        Largest norm of a system's whole step, Å.
    Nmin
        Downhill steps before the time step grows.
    finc, fdec
        Factors that grow and shrink the time step.
    astart, fa, a
        Mixing of velocity and force: value after an uphill step, factor, first value.
    downhill_check
        Go back when the energy rose, also if the velocity points downhill. The energy at the
        position gone back to is known and not computed again, where ASE does compute it.
    position_reset_callback
        Called as ``callback(batch, uphill)`` with a (B, 1) bool before positions are reset. With it
        every step waits for the device.
    **engine
        Arguments of ``BaseDynamics``.
    """

    __needs_keys__ = frozenset({"energy", "forces"})
    _per_system = ("dt", "maxstep", "dtmax", "Nmin", "finc", "fdec", "astart", "fa", "a")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any = 0.1,
        maxstep: Any = 0.2,
        dtmax: Any = 1.0,
        Nmin: Any = 5,
        finc: Any = 1.1,
        fdec: Any = 0.5,
        astart: Any = 0.1,
        fa: Any = 0.99,
        a: Any = 0.1,
        downhill_check: bool = False,
        position_reset_callback: Callable[[Batch, Tensor], None] | None = None,
        **engine: Any,
    ) -> None:
        self.dt, self.maxstep, self.dtmax, self.Nmin = dt, maxstep, dtmax, Nmin
        self.finc, self.fdec, self.astart, self.fa, self.a = finc, fdec, astart, fa, a
        self.downhill_check = downhill_check
        self.position_reset_callback = position_reset_callback
        super().__init__(model, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        rows = {"velocity": torch.zeros_like(self.coordinates(template_batch))}
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        system["downhill_steps"] = torch.full_like(system["dt"], -1.0)
        if self.downhill_check:
            rows["last_coordinates"] = self.coordinates(template_batch)
            system["last_energy"] = torch.full_like(system["dt"], float("inf"))
        return self.new_state(template_batch, rows=rows, system=system)

    def pre_update(self, batch: Batch) -> None:
        """Choose and make the next step."""
        forces = self.forces(batch)
        uphill = self._go_back_uphill(batch) if self.downhill_check else None
        state = FIREState(*(self.state[key] for key in FIREState._fields))
        constants = FIREConstants(*(self.state[key] for key in FIREConstants._fields))
        rows = self.rows(batch)
        step, state = fire_step(forces, state, constants, uphill, rows.batch, rows.ptr3)
        for key, tensor in zip(FIREState._fields, state, strict=True):
            self.state[key] = tensor
        self.move(batch, step)

    def _go_back_uphill(self, batch: Batch) -> Bool[Tensor, "B 1"]:
        """Put systems whose energy rose where they were, and say which; remember the others."""
        energy, last = self.energy(batch), self.state["last_energy"]
        uphill = energy > last
        if self.position_reset_callback is not None:
            self.position_reset_callback(batch, uphill)
        self.put(batch, self.state["last_coordinates"], where=uphill)
        self.state["last_coordinates"] = self.coordinates(batch)
        self.state["last_energy"] = torch.where(uphill, last, energy)
        return uphill


def fire_step(
    forces: Float[Tensor, "R 3"],
    state: FIREState,
    constants: FIREConstants,
    uphill: Bool[Tensor, "B 1"] | None,
    system: Int[Tensor, " R"],
    ptr3: Int[Tensor, " B1"],
) -> tuple[Float[Tensor, "R 3"], FIREState]:
    """Return the displacement of every row and the state after it.

    Parameters
    ----------
    forces
        With constraints applied, eV/Å.
    state, constants
        What FIRE knows of each system.
    uphill
        Systems whose energy rose, whatever the velocity says; None for not checked.
    system
        System of each row.
    ptr3
        Boundaries of the systems in components.

    Returns
    -------
    Tensor
        (R, 3), Å.
    FIREState
        The state after the step.
    """
    c = constants
    v, dt, a = state.velocity, state.dt, state.a
    power = segment_dot(forces, v, ptr3)
    force_norm = segment_dot(forces, forces, ptr3).sqrt()
    speed = segment_dot(v, v, ptr3).sqrt()
    zero = torch.zeros_like(dt)
    downhill = power > zero
    if uphill is not None:
        downhill = downhill & ~uphill

    keep = torch.where(downhill, 1.0 - a, zero)
    steer = torch.where(downhill, a / force_norm * speed, zero)
    v = keep[system] * v + steer[system] * forces

    may_grow = downhill & (state.downhill_steps > c.Nmin)
    shrink = (state.downhill_steps >= zero) & ~downhill
    grown = torch.minimum(dt * c.finc, c.dtmax)
    dt_next = torch.where(may_grow, grown, torch.where(shrink, dt * c.fdec, dt))
    a_next = torch.where(may_grow, a * c.fa, torch.where(shrink, c.astart, a))
    steps_next = torch.where(downhill, state.downhill_steps + 1.0, zero)

    dt_atoms = dt_next[system]
    v = v + dt_atoms * forces
    step = dt_atoms * v
    excess = segment_dot(step, step, ptr3).sqrt() / c.maxstep
    step = step / excess.clamp(min=1.0)[system]
    return step, FIREState(v, dt_next, a_next, steps_next)
