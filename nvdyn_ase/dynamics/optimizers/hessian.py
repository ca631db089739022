"""What the methods with a Hessian have in common: a matrix of every system, which learns."""

from collections.abc import Mapping, Sequence
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, Blocks
from nvdyn_ase.dynamics.optimizers.optimizer import Optimizer
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.rows import largest_norm, shortened
from nvdyn_ase.dynamics.spectra import dots, ends_of, outer, rows_times


class HessianOptimizer(Optimizer):
    """An optimizer that keeps a Hessian of every system, of all its coordinates.

    The Hessians are the field ``hessian`` of the state, of level ``block``: laid end to end, and
    worked on in groups of systems of one size. A method is the step that it makes from Hessian and
    forces, :meth:`steps`. A system that has none, because its Hessian is no longer finite, stays
    where it is and leaves with ``Outcome.EXPLODED``.
    """

    _reasons: ClassVar[Mapping[Outcome, str]] = {
        Outcome.EXPLODED: "its Hessian is not finite, as after a step that changed no force; start "
        "it from another geometry, or relax it with FIRE"
    }
    _per_system: ClassVar[tuple[str, ...]] = ("maxstep", "alpha")

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        nothing = torch.zeros_like(self.coordinates(template_batch))
        rows = {"last_coordinates": nothing, "last_forces": nothing}
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        system["moved"] = torch.zeros(n, 1, dtype=torch.bool, device=template_batch.device)
        hessian = self.initial_hessian(template_batch, system["alpha"])
        return self.new_state(template_batch, rows, system, block={"hessian": hessian})

    def initial_hessian(self, batch: Batch, curvature: Float[Tensor, "B 1"]) -> Float[Tensor, " N"]:
        """Return the Hessian of systems that have not moved: a number times one, eV/Å²."""
        return multiples_of_one(self.rows(batch).blocks, curvature)

    def pre_update(self, batch: Batch) -> None:
        """Learn from the last step, and make the next one."""
        state, blocks = self.state, self.rows(batch).blocks
        forces, coordinates = self.forces(batch), self.coordinates(batch)
        s, y = coordinates - state["last_coordinates"], state["last_forces"] - forces
        groups = zip(
            *(blocks.matrices(state["hessian"]), blocks.vectors(s), blocks.vectors(y)),
            *(blocks.systems(state["moved"]),),
            strict=True,
        )
        state["hessian"] = blocks.joined_matrices([bfgs_update(*group) for group in groups])
        state["last_coordinates"], state["last_forces"] = coordinates, forces
        state["moved"] = torch.ones_like(state["moved"])
        hessians = blocks.matrices(state["hessian"])
        steps = self.steps(hessians, blocks.vectors(forces), batch)
        self.make(batch, coordinates, blocks.joined_vectors(steps))

    def steps(
        self,
        hessians: Sequence[Float[Tensor, "_ _ _"]],
        forces: Sequence[Float[Tensor, "_ _"]],
        batch: Batch,
    ) -> list[Float[Tensor, "_ _"]]:
        """Return the steps of each group of systems, Å; NaN for a system that has none.

        A method that has a ``pre_update`` of its own does without.
        """
        raise NotImplementedError(f"{type(self).__name__} needs steps or a pre_update of its own")

    def make(
        self, batch: Batch, coordinates: Float[Tensor, "R 3"], step: Float[Tensor, "R 3"]
    ) -> None:
        """Make a step that moves no atom further than ``maxstep``; retire who has none."""
        rows = self.rows(batch)
        longest = largest_norm(step, rows.ptr)
        step = shortened(step, longest, self.state["maxstep"], rows.batch)
        step, lost = finite_step(step, longest, rows.batch)
        self.retire(batch, lost.view(-1), Outcome.EXPLODED)
        self.put(batch, coordinates + step)


def finite_step(
    step: Float[Tensor, "R 3"],
    longest: Float[Tensor, "B 1"],
    system: Int[Tensor, " R"],
) -> tuple[Float[Tensor, "R 3"], Bool[Tensor, "B 1"]]:
    """Return the step, and which systems have none.

    Parameters
    ----------
    step, longest
        Å; ``longest`` is finite where its norm is.
    system
        System of each row.

    Returns
    -------
    Tensor
        (R, 3), zero for a system in whose step a number is not finite.
    Tensor
        (B, 1), where that is so.
    """
    lost = ~torch.isfinite(longest)
    return torch.where(lost[system], 0.0, step), lost


def multiples_of_one(blocks: Blocks, numbers: Float[Tensor, "B 1"]) -> Float[Tensor, " N"]:
    """Return a field of level ``block``: a number for each system times the identity matrix."""
    groups = zip(blocks.systems(numbers), blocks.sizes, strict=True)
    return blocks.joined_matrices([multiple_of_one(number, size) for number, size in groups])


def multiple_of_one(number: Float[Tensor, "G 1"], size: int) -> Float[Tensor, "G d d"]:
    """Return a number for each system times the identity matrix of a size."""
    return number.unsqueeze(2) * torch.eye(size, dtype=number.dtype, device=number.device)


def bfgs_update(
    hessian: Float[Tensor, "G d d"],
    s: Float[Tensor, "G d"],
    y: Float[Tensor, "G d"],
    moved: Bool[Tensor, "G 1"],
) -> Float[Tensor, "G d d"]:
    """Return the Hessians after a step: the BFGS formula.

    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, equation 6.19. As
    in ASE, a step is not learned from if no coordinate moved by 1e-7 Å, and curvature of either
    sign is.

    Parameters
    ----------
    hessian
        eV/Å².
    s, y
        Step and change of the gradient, Å and eV/Å.
    moved
        Whether there was a step.
    """
    useful = moved & (s.abs() >= 1e-7).any(1, keepdim=True)
    return changed(hessian, bfgs_change(hessian, s, y).added, useful)


class Change(NamedTuple):
    """What a formula adds to Hessians, and the curvatures in it: of the gradient, and known."""

    added: Float[Tensor, "G d d"]
    curvature: Float[Tensor, "G 1"]
    known: Float[Tensor, "G 1"]


def bfgs_change(
    hessian: Float[Tensor, "G d d"], s: Float[Tensor, "G d"], y: Float[Tensor, "G d"]
) -> Change:
    """Return what the BFGS formula adds after a step s with a change y of the gradient.

    Matrices are the memory that a step takes: none is made that can be done without.
    """
    ends = ends_of(s)
    product = rows_times(s, hessian, ends)
    curvature, known = dots(s, y, ends), dots(s, product, ends)
    added = outer(y, y).div_(curvature.unsqueeze(2))
    added.sub_(outer(product, product).div_(known.unsqueeze(2)))
    return Change(added, curvature, known)


def changed(
    hessian: Float[Tensor, "G d d"], added: Float[Tensor, "G d d"], useful: Bool[Tensor, "G 1"]
) -> Float[Tensor, "G d d"]:
    """Return the Hessians with what is added to the useful ones, which is used up for that."""
    return added.masked_fill_(~useful.unsqueeze(2), 0.0).add_(hessian)
