"""L-BFGS with a line search."""

from typing import Any

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.optimizers.lbfgs import LBFGS, LBFGSState, learn, newton_step
from nvdyn_ase.dynamics.optimizers.searching import SearchingOptimizer
from nvdyn_ase.models.base import BaseModelMixin


class LBFGSLineSearch(SearchingOptimizer, LBFGS):
    """L-BFGS, each of whose steps is a search for a good point along its direction.

    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, algorithm 7.5; the
    search is that of J. J. Moré and D. J. Thuente, ACM Trans. Math. Softw. 20, 286 (1994), as in
    ASE. With ``scaled=False`` every trial is that of ``ase.optimize.LBFGSLineSearch``.

    A forward pass is one trial of each system, and a step as many as its search takes.

    Every number but ``memory`` may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    maxstep
        Longest displacement of an atom from one trial to the next, Å.
    memory
        Pairs of steps and changes of the force that are kept.
    alpha
        Curvature of the initial Hessian, eV/Å².
    scaled
        Scale the initial Hessian by the curvature along the last step, once there is one, and store
        steps with positive curvature only.
    c1, c2
        What is good enough: the decrease of the energy in units of what the first slope promises,
        and the slope in units of the first.
    stpmax
        Longest step, in units of the direction.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        ``memory`` is not a whole number of at least 1, ``c1`` or ``c2`` is negative, or ``stpmax``
        is less than 1.
    """

    _per_system = ("maxstep", "alpha", "c1", "c2", "stpmax")

    def __init__(
        self,
        model: BaseModelMixin,
        maxstep: Any = 0.2,
        memory: int = 100,
        alpha: Any = 70.0,
        scaled: bool = True,
        c1: Any = 0.23,
        c2: Any = 0.46,
        stpmax: Any = 50.0,
        **engine: Any,
    ) -> None:
        own = {"memory": memory, "alpha": alpha, "scaled": scaled}
        super().__init__(model, maxstep=maxstep, c1=c1, c2=c2, stpmax=stpmax, **own, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        state = super()._make_new_state(n, template_batch)
        rows, system = self.search_state(template_batch)
        for fields, level in ((rows, "node"), (system, "system")):
            for key, tensor in fields.items():
                state.add_key(key, tensor, level, overwrite=True)
        return state

    def pre_update(self, batch: Batch) -> None:
        """Learn from the last step where a search begins, and make the next trial."""
        rows = self.rows(batch)
        begins, value, coordinates, forces = self.where_searches_start(batch)
        state = LBFGSState(*(self.state[key] for key in LBFGSState._fields))
        # A search that goes on starts where it has: nothing is learned, and its direction stays.
        state = learn(
            *(coordinates, forces, state, self.memory, self.scaled),
            *(rows.batch, rows.ptr, rows.ptr3),
        )
        direction = newton_step(forces, state, rows.batch, rows.ptr)
        for key, tensor in zip(LBFGSState._fields, state, strict=True):
            self.state[key] = tensor
        self.try_along(batch, begins, value, coordinates, forces, direction)
