"""What optimizers with a line search have in common: one forward pass is one trial."""

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_dot
from nvdyn_ase.dynamics.optimizers.hessian import HessianOptimizer, finite_step
from nvdyn_ase.dynamics.optimizers.line_search import Search, SearchLimits, advance, start
from nvdyn_ase.dynamics.optimizers.optimizer import Optimizer
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.rows import largest_norm
from nvdyn_ase.models.base import BaseModelMixin


class SearchingOptimizer(Optimizer):
    """An engine whose steps are searches along a line, each system with its own trials.

    A method asks :meth:`where_searches_start`, chooses a direction there, and calls
    :meth:`try_along`. It must choose the same one as long as a search goes on. A system whose
    search has ended begins the next in the forward pass in which others try on.

    A direction that goes uphill ends the run of its system with ``Outcome.ERROR``, and one that is
    not finite with ``Outcome.EXPLODED``.
    """

    __needs_keys__ = frozenset({"energy", "forces"})
    _tries = True
    _reasons: ClassVar[Mapping[Outcome, str]] = {
        Outcome.ERROR: "the line search failed: its direction goes uphill. The forces may not be "
        "those of the energy, or their digits are used up: ask for a larger fmax, or take an "
        "optimizer without a line search, such as FIRE",
        **HessianOptimizer._reasons,
    }

    def __init__(
        self, model: BaseModelMixin, *, c1: Any, c2: Any, stpmax: Any, **options: Any
    ) -> None:
        for name, value, least in (("c1", c1, 0.0), ("c2", c2, 0.0), ("stpmax", stpmax, 1.0)):
            if np.min(value) < least:
                raise ValueError(f"{name} must be at least {least}, not {value!r}")
        self.c1, self.c2, self.stpmax = c1, c2, stpmax
        super().__init__(model, **options)

    def search_state(self, batch: Batch) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return the fields of rows and of systems that a search needs."""
        coordinates, rows = self.coordinates(batch), self.rows(batch)
        sizes = rows.num_nodes_per_graph.to(coordinates).view(-1, 1)
        names = ("direction", "last_coordinates", "last_forces")
        system = {name: self.initial(name, batch) for name in self._per_system}
        system |= {
            "shortest": (sizes * 1e-10).sqrt(),
            "search": coordinates.new_zeros(len(batch), 16),
            "searching": torch.zeros_like(sizes, dtype=torch.bool),
            "failed": torch.zeros_like(sizes, dtype=torch.bool),
            "searches": torch.zeros_like(sizes, dtype=torch.int64),
            "trials": torch.zeros_like(sizes, dtype=torch.int64),
        }
        return {name: torch.zeros_like(coordinates) for name in names}, system

    def within_step(self, batch: Batch) -> Bool[Tensor, "B 1"]:
        """Return the systems whose search goes on."""
        return self.state["searching"]

    def failing(self, batch: Batch) -> Bool[Tensor, "B 1"]:
        """Return the systems whose direction goes uphill."""
        return self.state["failed"]

    def objective(self, batch: Batch) -> tuple[Float[Tensor, "B 1"], Float[Tensor, "R 3"]]:
        """Return what is searched for a minimum of, and minus its gradient."""
        return self.energy(batch), self.forces(batch)

    def where_searches_start(
        self, batch: Batch
    ) -> tuple[Bool[Tensor, "B 1"], Float[Tensor, "B 1"], Tensor, Tensor]:
        """Return who begins a search, the present value, and where each search starts.

        That is its coordinates and forces, (R, 3).
        """
        state = self.state
        value, forces = self.objective(batch)
        begins = ~state["searching"]
        here = begins.index_select(0, self.rows(batch).batch)
        coordinates = torch.where(here, self.coordinates(batch), state["last_coordinates"])
        return begins, value, coordinates, torch.where(here, forces, state["last_forces"])

    def try_along(
        self,
        batch: Batch,
        begins: Bool[Tensor, "B 1"],
        value: Float[Tensor, "B 1"],
        coordinates: Float[Tensor, "R 3"],
        forces: Float[Tensor, "R 3"],
        direction: Float[Tensor, "R 3"],
    ) -> None:
        """Move to the next trial of each search.

        Parameters
        ----------
        batch
            The systems.
        begins
            Those whose search begins here and now.
        value
            Here and now.
        coordinates, forces
            Where the searches start.
        direction
            Of each search, Å.
        """
        state, rows = self.state, self.rows(batch)
        direction = not_too_short(direction, state["shortest"], rows.batch, rows.ptr3)
        longest = largest_norm(direction, rows.ptr)
        direction, lost = finite_step(direction, longest, rows.batch)
        self.retire(batch, lost.view(-1), Outcome.EXPLODED)
        slope = -segment_dot(forces, direction, rows.ptr3)
        fresh = start(value, slope, longest, self.limits())
        search = torch.where(begins, fresh.packed(), state["search"])
        failed = (slope >= 0.0) & (longest > 0.0)
        searching = ~failed
        step = torch.where(lost | failed, 0.0, search[:, :1])
        state["last_coordinates"], state["last_forces"] = coordinates, forces
        state["direction"], state["search"] = direction, search
        state["failed"], state["searching"] = failed, searching
        state["searches"] = state["searches"] + begins
        state["trials"] = state["trials"] + searching
        self.put(batch, coordinates + step[rows.batch] * direction)

    def post_update(self, batch: Batch) -> None:
        """Judge the trial: end the search, or choose the next."""
        value, forces = self.objective(batch)
        slope = -segment_dot(forces, self.state["direction"], self.rows(batch).ptr3)
        search, ended = advance(self.state["search"], value, slope, self.limits())
        self.state["search"], self.state["searching"] = search, ~ended

    def limits(self) -> SearchLimits:
        """Return the parameters of the searches."""
        return SearchLimits(*(self.state[name] for name in SearchLimits._fields))

    def last_search(self) -> Search:
        """Return where the last search of each system stands or has ended."""
        return Search.of(self.state["search"])


def not_too_short(
    direction: Float[Tensor, "R 3"],
    shortest: Float[Tensor, "B 1"],
    system: Int[Tensor, " R"],
    ptr3: Int[Tensor, " B1"],
) -> Float[Tensor, "R 3"]:
    """Return the direction of each system, made longer if its norm is less than ``shortest``, Å.

    Parameters
    ----------
    direction, shortest
        Å.
    system
        System of each row.
    ptr3
        Boundaries of the systems in components.
    """
    norm = segment_dot(direction, direction, ptr3).sqrt()
    short = (norm <= shortest) & (norm > 0.0)
    return direction / torch.where(short, norm / shortest, 1.0)[system]
