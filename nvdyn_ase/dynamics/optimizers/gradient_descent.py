"""Gradient descent: the engine that follows the force."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.optimizers.optimizer import Optimizer
from nvdyn_ase.dynamics.rows import largest_norm, shortened
from nvdyn_ase.models.base import BaseModelMixin


class GradientDescent(Optimizer):
    """Steepest descent with a fixed length of step: slow, and nothing to go wrong.

    A. Cauchy, C. R. Acad. Sci. Paris 25, 536 (1847). It converges if ``step_length`` is below twice
    the reciprocal of the largest curvature.

    Every number may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    step_length
        Displacement for each unit of force, Å²/eV.
    maxstep
        Longest displacement of an atom, Å; longer steps are scaled down as a whole.
    **engine
        Arguments of ``BaseDynamics``.
    """

    _per_system = ("step_length", "maxstep")

    def __init__(
        self, model: BaseModelMixin, step_length: Any = 0.01, maxstep: Any = 0.2, **engine: Any
    ) -> None:
        self.step_length, self.maxstep = step_length, maxstep
        super().__init__(model, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        return self.new_state(template_batch, rows={}, system=system)

    def pre_update(self, batch: Batch) -> None:
        """Make the step."""
        rows, numbers = self.rows(batch), (self.state["step_length"], self.state["maxstep"])
        self.move(batch, descent_step(self.forces(batch), *numbers, rows.batch, rows.ptr))


def descent_step(
    forces: Float[Tensor, "R 3"],
    step_length: Float[Tensor, "B 1"],
    maxstep: Float[Tensor, "B 1"],
    system: Int[Tensor, " R"],
    ptr: Int[Tensor, " B1"],
) -> Float[Tensor, "R 3"]:
    """Return the displacement of every row, Å.

    Parameters
    ----------
    forces
        With constraints applied, eV/Å.
    step_length, maxstep
        Å²/eV, and Å.
    system
        System of each row.
    ptr
        Boundaries of the systems in rows.
    """
    step = step_length[system] * forces
    return shortened(step, largest_norm(step, ptr), maxstep, system)
