"""L-BFGS: the engine that remembers the curvature along its last steps."""

from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from nvdyn_ase.data import Batch, segment_dot, segment_sum
from nvdyn_ase.dynamics.optimizers.optimizer import Optimizer
from nvdyn_ase.dynamics.readback import Readback
from nvdyn_ase.dynamics.rows import largest_norm, shortened
from nvdyn_ase.models.base import BaseModelMixin

# Slots are added to the histories so many at a time: each time copies them.
_BLOCK = 4


class LBFGSState(NamedTuple):
    """What L-BFGS knows of each system.

    A history has slots, M of them; pair k stands in slot k modulo ``memory``, and a slot that holds
    no pair is zero. ``pairs`` counts the pairs stored so far, those overwritten too; it is -1 for a
    system that has not moved yet.
    """

    s: Float[Tensor, "R M 3"]
    y: Float[Tensor, "R M 3"]
    curvature: Float[Tensor, "B M"]
    inverse: Float[Tensor, "B M M"]
    H0: Float[Tensor, "B 1"]
    pairs: Int[Tensor, "B 1"]
    last_coordinates: Float[Tensor, "R 3"]
    last_forces: Float[Tensor, "R 3"]


class LBFGS(Optimizer):
    """L-BFGS, with its initial Hessian scaled by each system's last step, or ASE's fixed one.

    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, algorithm 7.4; the
    scaling is equation 7.20. The product with the inverse Hessian is in the compact form of R. H.
    Byrd, J. Nocedal and R. B. Schnabel, Math. Program. 63, 129 (1994), equation 3.1, which is the
    two loops without the loops. With ``scaled=False`` every step is that of
    ``ase.optimize.LBFGS``, but for a step that moved nothing, after which ASE divides by zero: it
    is not stored.

    Every number but ``memory`` may be one value per system.

    Parameters
    ----------
    model
        A batched model.
    maxstep
        Longest displacement of an atom, Å; longer steps are scaled down as a whole.
    memory
        Pairs of steps and changes of the force that are kept.
    damping
        Factor on every step.
    alpha
        Curvature of the initial Hessian, eV/Å².
    scaled
        Scale the initial Hessian by the curvature along the last step, once there is one, and store
        steps with positive curvature only. It takes far fewer evaluations.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        ``memory`` is not a whole number of at least 1.
    """

    __needs_keys__ = frozenset({"forces"})
    _per_system: ClassVar[tuple[str, ...]] = ("maxstep", "damping", "alpha")

    def __init__(
        self,
        model: BaseModelMixin,
        maxstep: Any = 0.2,
        memory: int = 100,
        damping: Any = 1.0,
        alpha: Any = 70.0,
        scaled: bool = True,
        **engine: Any,
    ) -> None:
        if int(memory) != memory or memory < 1:
            raise ValueError(f"memory must be a whole number of at least 1, not {memory!r}")
        self.maxstep, self.damping, self.alpha = maxstep, damping, alpha
        self.memory, self.scaled = int(memory), scaled
        self._most_pairs, self._readback = -1, Readback()
        super().__init__(model, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        coordinates = self.coordinates(template_batch)
        slots = min(_BLOCK, self.memory)
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        system["H0"] = 1.0 / system["alpha"]
        system["pairs"] = torch.full_like(system["H0"], -1, dtype=torch.int64)
        system["curvature"] = coordinates.new_zeros(n, slots)
        system["inverse"] = coordinates.new_zeros(n, slots, slots)
        rows = {key: coordinates.new_zeros(len(coordinates), slots, 3) for key in ("s", "y")}
        rows |= {key: torch.zeros_like(coordinates) for key in ("last_coordinates", "last_forces")}
        return self.new_state(template_batch, rows=rows, system=system)

    def pre_update(self, batch: Batch) -> None:
        """Learn from the last step, and make the next one."""
        forces, coordinates, rows = self.forces(batch), self.coordinates(batch), self.rows(batch)
        state = LBFGSState(*(self.state[key] for key in LBFGSState._fields))
        state = learn(
            *(coordinates, forces, state, self.memory, self.scaled),
            *(rows.batch, rows.ptr, rows.ptr3),
        )
        step = newton_step(forces, state, rows.batch, rows.ptr)
        for key, tensor in zip(LBFGSState._fields, state, strict=True):
            self.state[key] = tensor
        limits = self.state["maxstep"], self.state["damping"]
        self.put(batch, coordinates + limited(step, *limits, rows.batch, rows.ptr))

    # ---------------------------------------------------------------- room for the histories

    def move_to_forces(self, batch: Batch) -> None:
        """Do ``pre_update`` with those that move, with room for what is learned."""
        self._make_room()
        super().move_to_forces(batch)

    def masked_update(self, batch: Batch, mask: Bool[Tensor, " B"]) -> None:
        """Run pre and post update, without forces in between, on the masked systems alone."""
        self.adopt(batch)
        self._make_room()
        super().masked_update(batch, mask)

    def follow(self, batch: Batch, state: Batch, kept: Any) -> None:
        """Go on with another batch and the state that belongs to it."""
        super().follow(batch, state, kept)
        self._readback.forget()
        self.count_pairs()

    def count_pairs(self) -> None:
        """Note how long the longest history is, after the state was replaced."""
        known = "pairs" in self.state and len(self.state)
        self._most_pairs = int(self.state["pairs"].max()) if known else -1

    def _make_room(self) -> None:
        """Add slots if the longest history fills those that there are.

        The host counts steps for this, so that nothing waits for the device; after a step that was
        not stored there is a slot to spare. Where a step takes several forward passes it goes by
        the latest count that has arrived from there.
        """
        self._most_pairs += 1
        if self._tries:  # a forward pass is less than a step
            known = self._readback.exchange(self.state["pairs"])
            if known is not None:
                self._most_pairs = int(known.max(initial=-1)) + self._readback.in_flight + 1
        slots = self.state["s"].shape[1]
        if min(self._most_pairs, self.memory) > slots:
            self._resize(self.state, min(slots + _BLOCK, self.memory))

    def align_states(self, states: Sequence[Batch]) -> None:
        """Give all states as many slots as the largest."""
        slots = max(state["s"].shape[1] for state in states)
        for state in states:
            self._resize(state, slots)

    @staticmethod
    def _resize(state: Batch, slots: int) -> None:
        more = slots - state["s"].shape[1]
        if not more:
            return
        for key in ("s", "y"):
            state[key] = pad(state[key], (0, 0, 0, more))
        state["curvature"] = pad(state["curvature"], (0, more))
        state["inverse"] = pad(state["inverse"], (0, more, 0, more))


def learn(
    coordinates: Float[Tensor, "R 3"],
    forces: Float[Tensor, "R 3"],
    state: LBFGSState,
    memory: int,
    scaled: bool,
    system: Int[Tensor, " R"],
    ptr: Int[Tensor, " B1"],
    ptr3: Int[Tensor, " B1"],
) -> LBFGSState:
    """Return the state with the last step in the histories.

    ``inverse`` is that of the upper triangular matrix R of s_i · y_j, i <= j, with a row and column
    for each slot. A new pair adds the column ``-inverse S^T y / (s · y)`` to it, and dropping the
    oldest drops its row and column, so that it is never inverted as a whole.

    Parameters
    ----------
    coordinates, forces
        Now, Å and eV/Å, the forces with constraints applied.
    state
        What L-BFGS knows of each system.
    memory
        Pairs that are kept.
    scaled
        Store pairs with positive curvature only, and scale the initial Hessian by the last.
    system
        System of each row.
    ptr, ptr3
        Boundaries of the systems in rows, and in components.
    """
    s = coordinates - state.last_coordinates
    y = state.last_forces - forces
    curvature = segment_dot(s, y, ptr3)
    moved = state.pairs >= 0
    useful = moved & (curvature > 0.0 if scaled else curvature != 0.0)

    slots = torch.arange(state.s.shape[1], device=s.device)
    here = (slots == state.pairs % memory) & useful
    here_atoms = here[system].unsqueeze(2)
    s_all = torch.where(here_atoms, s.unsqueeze(1), state.s)
    y_all = torch.where(here_atoms, y.unsqueeze(1), state.y)

    row, column = here.unsqueeze(2), here.unsqueeze(1)
    inverse = torch.where(row | column, 0.0, state.inverse)
    new = _rows_times(inverse, slot_dots(s_all, y, ptr)) / -curvature
    new = torch.where(here, 1.0 / curvature, new)
    inverse = torch.where(column, new.unsqueeze(2), inverse)

    H0 = state.H0
    if scaled:
        H0 = torch.where(useful, curvature / segment_dot(y, y, ptr3), H0)
    return LBFGSState(
        s_all,
        y_all,
        torch.where(here, curvature, state.curvature),
        inverse,
        H0,
        torch.where(moved, state.pairs + useful, 0),
        coordinates,
        forces,
    )


def newton_step(
    forces: Float[Tensor, "R 3"],
    state: LBFGSState,
    system: Int[Tensor, " R"],
    ptr: Int[Tensor, " B1"],
) -> Float[Tensor, "R 3"]:
    """Return the inverse Hessian times the forces, Å.

    ``a`` and ``b`` are what the two loops call alpha and alpha - beta, for all slots at once.

    Parameters
    ----------
    forces
        With constraints applied, eV/Å.
    state
        What L-BFGS knows of each system.
    system
        System of each row.
    ptr
        Boundaries of the systems in rows.
    """
    a = _rows_times(state.inverse, slot_dots(state.s, forces, ptr))
    q = forces - _combined(state.y, a[system])
    b = _columns_times(state.inverse, state.curvature * a - state.H0 * slot_dots(state.y, q, ptr))
    return state.H0[system] * q + _combined(state.s, b[system])


def limited(
    step: Float[Tensor, "R 3"],
    maxstep: Float[Tensor, "B 1"],
    damping: Float[Tensor, "B 1"],
    system: Int[Tensor, " R"],
    ptr: Int[Tensor, " B1"],
) -> Float[Tensor, "R 3"]:
    """Return the step, damped, where no atom moves further than ``maxstep``.

    Parameters
    ----------
    step, maxstep
        Å.
    damping
        Factor on every step.
    system
        System of each row.
    ptr
        Boundaries of the systems in rows.
    """
    return shortened(step, largest_norm(step, ptr), maxstep, system) * damping[system]


# ---------------------------------------------------------------- sums over atoms and over slots
#
# Sums over slots go first to last as those over atoms do: slots that hold nothing then add nothing,
# and the bits do not depend on how many of them other systems in the batch need.


def slot_dots(
    history: Float[Tensor, "R M 3"], rows: Float[Tensor, "R 3"], ptr: Int[Tensor, " B1"]
) -> Float[Tensor, "B M"]:
    """Return the scalar product of each slot with the rows, per system."""
    sums = segment_sum(history * rows.unsqueeze(1), ptr)
    return sums[..., 0] + sums[..., 1] + sums[..., 2]


def _combined(history: Float[Tensor, "R M 3"], a: Float[Tensor, "R M"]) -> Float[Tensor, "R 3"]:
    """Return the sum of the slots, each with its factor."""
    return _sum_of_second(history * a.unsqueeze(2))


def _rows_times(matrix: Float[Tensor, "B M M"], vector: Float[Tensor, "B M"]) -> Tensor:
    """Return matrix times vector, per system."""
    return _sum_of_second((matrix * vector.unsqueeze(1)).transpose(1, 2))


def _columns_times(matrix: Float[Tensor, "B M M"], vector: Float[Tensor, "B M"]) -> Tensor:
    """Return the transposed matrix times vector, per system."""
    return _sum_of_second(matrix * vector.unsqueeze(2))


def _sum_of_second(values: Float[Tensor, "N M K"]) -> Float[Tensor, "N K"]:
    """Sum over the second dimension, first to last."""
    rows, slots, columns = values.shape
    ptr = torch.arange(0, rows * slots + 1, slots, device=values.device)
    return segment_sum(values.reshape(rows * slots, columns), ptr)
