"""MDMin: the engine that follows the forces and stops what goes uphill."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_dot
from nvdyn_ase.dynamics.optimizers.optimizer import Optimizer
from nvdyn_ase.dynamics.rows import largest_norm
from nvdyn_ase.models.base import BaseModelMixin


class MDMinState(NamedTuple):
    """What MDMin knows of each system.

    ``velocity`` is in units of eV/Å times the time step, as in ASE: masses do not enter. ``moved``
    is false for a system that has not moved yet, whose first kick is a half one.
    """

    velocity: Float[Tensor, "R 3"]
    moved: Bool[Tensor, "B 1"]


class MDMin(Optimizer):
    """Molecular dynamics that keeps the velocity along the force, as ``ase.optimize.MDMin``.

    The quick-min of H. Jónsson, G. Mills and K. W. Jacobsen, in Classical and Quantum Dynamics in
    Condensed Phase Simulations, World Scientific 1998, chapter 16, with velocity Verlet and ASE's
    limit on the step.

    Every number may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    dt
        Time step.
    maxstep
        Longest displacement of an atom, Å; longer steps are scaled down as a whole.
    **engine
        Arguments of ``BaseDynamics``.
    """

    __needs_keys__ = frozenset({"forces"})
    _per_system = ("dt", "maxstep")

    def __init__(
        self, model: BaseModelMixin, dt: Any = 0.2, maxstep: Any = 0.2, **engine: Any
    ) -> None:
        self.dt, self.maxstep = dt, maxstep
        super().__init__(model, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        system["moved"] = torch.zeros_like(system["dt"], dtype=torch.bool)
        rows = {"velocity": torch.zeros_like(self.coordinates(template_batch))}
        return self.new_state(template_batch, rows=rows, system=system)

    def pre_update(self, batch: Batch) -> None:
        """Kick, and make the step."""
        state = MDMinState(*(self.state[key] for key in MDMinState._fields))
        limits, rows = (self.state["dt"], self.state["maxstep"]), self.rows(batch)
        step, state = mdmin_step(
            *(self.forces(batch), state, *limits),
            *(rows.batch, rows.ptr, rows.ptr3),
        )
        for key, tensor in zip(MDMinState._fields, state, strict=True):
            self.state[key] = tensor
        self.move(batch, step)


def mdmin_step(
    forces: Float[Tensor, "R 3"],
    state: MDMinState,
    dt: Float[Tensor, "B 1"],
    maxstep: Float[Tensor, "B 1"],
    system: Int[Tensor, " R"],
    ptr: Int[Tensor, " B1"],
    ptr3: Int[Tensor, " B1"],
) -> tuple[Float[Tensor, "R 3"], MDMinState]:
    """Return the displacement of every row and the state after it.

    Parameters
    ----------
    forces
        With constraints applied, eV/Å.
    state
        What MDMin knows of each system.
    dt, maxstep
        Time step, and longest displacement of an atom, Å.
    system
        System of each row.
    ptr, ptr3
        Boundaries of the systems in rows, and in components.

    Returns
    -------
    Tensor
        (R, 3), Å.
    MDMinState
        The state after the step.
    """
    dt_atoms = dt[system]
    kick = 0.5 * dt_atoms * forces
    power = segment_dot(state.velocity + kick, forces, ptr3)
    square = segment_dot(forces, forces, ptr3)
    along = forces * power[system] / square[system]
    downhill = state.moved & (power > 0.0)
    velocity = torch.where(downhill[system], along, 0.0) + kick

    step = dt_atoms * velocity
    # The small number is ASE's, which keeps a system that does not move from dividing by zero.
    scale = (maxstep / (1e-6 + largest_norm(step, ptr))).clamp(max=1.0)
    moved = torch.ones_like(state.moved)
    return step * scale[system], MDMinState(velocity, moved)
