"""BFGS with a line search, and an approximate inverse Hessian for each system."""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, Blocks, Level, segment_dot
from nvdyn_ase.dynamics.optimizers.hessian import multiples_of_one
from nvdyn_ase.dynamics.optimizers.searching import SearchingOptimizer
from nvdyn_ase.dynamics.spectra import ends_of, outer, rows_times
from nvdyn_ase.models.base import BaseModelMixin


class BFGSLineSearch(SearchingOptimizer):
    """BFGS, each of whose steps is a search, as ``ase.optimize.BFGSLineSearch``, trial for trial.

    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, equation 6.17; the
    search is that of J. J. Moré and D. J. Thuente, ACM Trans. Math. Softw. 20, 286 (1994), as in
    ASE.

    The inverse Hessian of a system of n atoms has (3n)² numbers. A forward pass is one trial of
    each system, and a step as many as its search takes.

    Every number may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    maxstep
        Longest displacement of an atom from one trial to the next, Å.
    c1, c2
        What is good enough: the decrease of the energy in units of what the first slope promises,
        and the slope in units of the first.
    alpha
        Curvature of the initial Hessian, eV/Å².
    stpmax
        Longest step, in units of the direction.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        ``c1`` or ``c2`` is negative, or ``stpmax`` is less than 1.
    """

    _per_system = ("maxstep", "c1", "c2", "alpha", "stpmax")

    def __init__(
        self,
        model: BaseModelMixin,
        maxstep: Any = 0.2,
        c1: Any = 0.23,
        c2: Any = 0.46,
        alpha: Any = 10.0,
        stpmax: Any = 50.0,
        **engine: Any,
    ) -> None:
        self.alpha, self.maxstep = alpha, maxstep
        super().__init__(model, c1=c1, c2=c2, stpmax=stpmax, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        rows, system = self.search_state(template_batch)
        system["always"] = torch.zeros_like(system["failed"])
        state = self.new_state(template_batch, rows=rows, system=system)
        H = multiples_of_one(state.blocks, torch.ones_like(system["shortest"]))
        state.add_key("H", H, Level.BLOCK)
        return state

    def objective(self, batch: Batch) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "R 3"]]:
        """Return energy and forces in units of ``alpha``, so that the initial Hessian is 1."""
        alpha = self.state["alpha"]
        return self.energy(batch) / alpha, self.forces(batch) / alpha[self.rows(batch).batch]

    def pre_update(self, batch: Batch) -> None:
        """Learn from the last step where a search begins, and make the next trial."""
        state, rows = self.state, self.rows(batch)
        begins, value, coordinates, forces = self.where_searches_start(batch)
        last = self.last_search()
        flatter = segment_dot(forces, state["direction"], rows.ptr3).abs() < last.slope.abs()
        useful = begins & (((last.step > 0.0) & flatter) | state["always"]) & (last.stuck == 0.0)
        # A search that goes on starts where it has: nothing is learned, and its direction stays.
        s = coordinates - state["last_coordinates"]
        y = state["last_forces"] - forces
        H = learned(state["H"], s, y, useful, rows.batch, rows.ptr3, rows.blocks)
        state["H"] = H
        self.try_along(batch, begins, value, coordinates, forces, product(H, forces, rows.blocks))


def learned(
    H: Float[Tensor, " N"],
    s: Float[Tensor, "R 3"],
    y: Float[Tensor, "R 3"],
    useful: Bool[Tensor, "B 1"],
    system: Int[Tensor, " R"],
    ptr3: Int[Tensor, " B1"],
    blocks: Blocks,
) -> Float[Tensor, " N"]:
    """Return the inverse Hessians after a step, for the systems that learn from it.

    Nocedal and Wright, equation 6.17, whose products of three matrices come down to ``s`` times
    another vector, and the other way round.

    Parameters
    ----------
    H
        The inverse Hessians, which are symmetric.
    s, y
        Step, and change of the gradient.
    useful
        Who learns from it.
    system
        System of each row.
    ptr3
        Boundaries of the systems in components.
    blocks
        The systems in groups of one size.
    """
    Hy = product(H, y, blocks)
    rho = 1.0 / segment_dot(y, s, ptr3)
    rho = torch.where(rho.isinf(), 1000.0, rho)  # as in ASE
    share = 0.5 * (rho * segment_dot(y, Hy, ptr3) + 1.0)
    useful = useful[system]
    other = torch.where(useful, rho[system] * (Hy - share[system] * s), 0.0)
    s = torch.where(useful, s, 0.0)
    parts = []
    for matrix, a, b in zip(
        *(blocks.matrices(H), blocks.vectors(s), blocks.vectors(other)), strict=True
    ):
        change = outer(a, b)
        change = change + change.transpose(1, 2)
        parts.append(change.neg_().add_(matrix))
    return blocks.joined_matrices(parts)


def product(
    H: Float[Tensor, " N"], vectors: Float[Tensor, "R 3"], blocks: Blocks
) -> Float[Tensor, "R 3"]:
    """Return symmetric matrices times vectors, each entry summed from the first to the last.

    Parameters
    ----------
    H
        The matrices.
    vectors
        One for each system.
    blocks
        The systems in groups of one size.
    """
    groups = zip(blocks.matrices(H), blocks.vectors(vectors), strict=True)
    return blocks.joined_vectors([rows_times(own, matrix, ends_of(own)) for matrix, own in groups])
