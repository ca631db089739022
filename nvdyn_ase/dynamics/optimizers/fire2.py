"""FIRE 2.0: the engine that goes half a step back before it turns, and its bias-corrected kin."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_dot
from nvdyn_ase.dynamics.optimizers.optimizer import Optimizer
from nvdyn_ase.models.base import BaseModelMixin


class FIRE2State(NamedTuple):
    """What FIRE 2.0 knows of each system.

    ``velocity`` is in units of eV/Å times the time step, as in ASE: masses do not enter. ``moved``
    is false for a system that has not moved yet, and ``went_back`` true for one that has gone half
    a step back and waits for the forces there.
    """

    velocity: Float[Tensor, "R 3"]
    dt: Float[Tensor, "B 1"]
    a: Float[Tensor, "B 1"]
    downhill_steps: Float[Tensor, "B 1"]
    moved: Bool[Tensor, "B 1"]
    went_back: Bool[Tensor, "B 1"]


class FIRE2Constants(NamedTuple):
    """The parameters that do not change, one number per system."""

    maxstep: Float[Tensor, "B 1"]
    dtmax: Float[Tensor, "B 1"]
    dtmin: Float[Tensor, "B 1"]
    Nmin: Float[Tensor, "B 1"]
    finc: Float[Tensor, "B 1"]
    fdec: Float[Tensor, "B 1"]
    astart: Float[Tensor, "B 1"]
    fa: Float[Tensor, "B 1"]


class FIRE2(Optimizer):
    """FIRE 2.0 and ABC-FIRE with ASE's defaults, operation for operation.

    J. Guénolé, W. G. Nöhring, A. Vaid, F. Houllé, Z. Xie, A. Prakash and E. Bitzek, Comput. Mater.
    Sci. 175, 109584 (2020); with ``use_abc``, S. Echeverri Restrepo and P. Andric, Comput. Mater.
    Sci. 218, 111978 (2023). Both with the order of operations and the limits on the step of
    ``ase.optimize.FIRE2``.

    A system that goes uphill goes half a step back, and needs the forces there to end its step:
    this step takes two forward passes, in the first of which the others end theirs.

    Every number may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    dt, dtmax, dtmin
        First, largest and smallest time step.
    maxstep
        Largest norm of a system's whole step, Å; with ``use_abc`` of each of its components.
    Nmin
        Downhill steps before the time step grows.
    finc, fdec
        Factors that grow and shrink the time step.
    astart, fa
        Mixing of velocity and force: value at first and after an uphill step, and factor.
    use_abc
        Correct the bias of the first mixed steps.
    **engine
        Arguments of ``BaseDynamics``.
    """

    __needs_keys__ = frozenset({"forces"})
    _tries = True
    _per_system = ("dt", "maxstep", "dtmax", "dtmin", "Nmin", "finc", "fdec", "astart", "fa", "a")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any = 0.1,
        maxstep: Any = 0.2,
        dtmax: Any = 1.0,
        dtmin: Any = 2e-3,
        Nmin: Any = 20,
        finc: Any = 1.1,
        fdec: Any = 0.5,
        astart: Any = 0.25,
        fa: Any = 0.99,
        use_abc: bool = False,
        **engine: Any,
    ) -> None:
        self.dt, self.maxstep, self.dtmax, self.dtmin, self.Nmin = dt, maxstep, dtmax, dtmin, Nmin
        self.finc, self.fdec, self.astart, self.fa = finc, fdec, astart, fa
        self.a = astart
        self.use_abc = use_abc
        super().__init__(model, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        rows = {"velocity": torch.zeros_like(self.coordinates(template_batch))}
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        system["downhill_steps"] = torch.zeros_like(system["dt"])
        for name in ("moved", "went_back"):
            system[name] = torch.zeros_like(system["dt"], dtype=torch.bool)
        return self.new_state(template_batch, rows=rows, system=system)

    def within_step(self, batch: Batch) -> Bool[Tensor, "B 1"]:
        """Return the systems that went back and wait for the forces there."""
        return self.state["went_back"]

    def pre_update(self, batch: Batch) -> None:
        """Make the next step, or go half a step back."""
        state = FIRE2State(*(self.state[key] for key in FIRE2State._fields))
        constants = FIRE2Constants(*(self.state[key] for key in FIRE2Constants._fields))
        rows = self.rows(batch)
        step, state = fire2_step(
            *(self.forces(batch), state, constants, self.use_abc, rows.batch, rows.ptr3)
        )
        for key, tensor in zip(FIRE2State._fields, state, strict=True):
            self.state[key] = tensor
        self.move(batch, step)


def fire2_step(
    forces: Float[Tensor, "R 3"],
    state: FIRE2State,
    constants: FIRE2Constants,
    use_abc: bool,
    system: Int[Tensor, " R"],
    ptr3: Int[Tensor, " B1"],
) -> tuple[Float[Tensor, "R 3"], FIRE2State]:
    """Return the displacement of every row and the state after it.

    Parameters
    ----------
    forces
        With constraints applied, eV/Å.
    state, constants
        What FIRE 2.0 knows of each system.
    use_abc
        Correct the bias of the first mixed steps, and limit components instead of the norm.
    system
        System of each row.
    ptr3
        Boundaries of the systems in components.

    Returns
    -------
    Tensor
        (R, 3), Å.
    FIRE2State
        The state after the step.
    """
    c = constants
    going = state.moved & ~state.went_back
    downhill = segment_dot(forces, state.velocity, ptr3) > 0.0
    uphill = going & ~downhill
    downhill = going & downhill

    steps = torch.where(uphill, 0.0, state.downhill_steps + downhill)
    grows = downhill & (steps > c.Nmin)
    grown = torch.minimum(state.dt * c.finc, c.dtmax)
    shrunk = torch.maximum(state.dt * c.fdec, c.dtmin)
    dt = torch.where(grows, grown, torch.where(uphill, shrunk, state.dt))
    a = torch.where(grows, state.a * c.fa, torch.where(uphill, c.astart, state.a))

    dt_atoms, uphill_atoms = dt[system], uphill[system]
    v = state.velocity + dt_atoms * forces
    force_norm = segment_dot(forces, forces, ptr3).sqrt()
    speed = segment_dot(v, v, ptr3).sqrt()
    keep, steer = 1.0 - a, a / force_norm * speed
    if use_abc:
        a = a.clamp(min=1e-10)
        # A power as ASE has it, but with bits that do not depend on the number of systems.
        correction = 1.0 / (1.0 - torch.exp((steps + 1.0) * torch.log(1.0 - a)))
        keep, steer = correction * (1.0 - a), correction * (a / force_norm * speed)
    steer = torch.where(force_norm > 0.0, steer, 0.0)
    v = keep[system] * v + steer[system] * forces
    if use_abc:
        fastest = (c.maxstep / dt)[system]
        v = torch.minimum(torch.maximum(v, -fastest), fastest)
    step = dt_atoms * v
    if not use_abc:
        excess = segment_dot(step, step, ptr3).sqrt() / c.maxstep
        step = step / excess.clamp(min=1.0)[system]

    step = torch.where(uphill_atoms, -0.5 * dt_atoms * state.velocity, step)
    v = torch.where(uphill_atoms, 0.0, v)
    return step, FIRE2State(v, dt, a, steps, torch.ones_like(uphill), uphill)
