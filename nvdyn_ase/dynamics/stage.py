"""The systems that are in one stage of a fused run, and the engine that moves them."""

from collections.abc import Callable
from math import lcm
from types import MethodType
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nvdyn_ase.data import Batch, Level, StructureError
from nvdyn_ase.data.joining import ragged_rows, take
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.convergence import ConvergenceHook
from nvdyn_ase.dynamics.evaluated import Evaluated
from nvdyn_ase.dynamics.noise import POSITION
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import Places
from nvdyn_ase.dynamics.together import laid_behind


class Stage:
    """One stage: an engine that moves a batch of its own, which is a part of a larger one.

    The part is the truth about what it holds while systems are in it: whatever the engine changes
    is told to the whole by :meth:`changed`, and what others change in the whole comes back by
    :meth:`take`. A system that is done with the stage is frozen in the part, as in any run.

    Parameters
    ----------
    status
        Of the systems that are in it, in the whole.
    engine
        Who moves them.
    number
        Which of the stages it is.

    Attributes
    ----------
    criterion
        Tells when a system is done here: that of the engine, or the one of a stage without any.
    rows
        Where its systems stand in the whole, (n,), on the host.
    batch
        The part; None before the first system comes.
    is_whole
        Whether it has all systems of the whole, in the same order.
    """

    def __init__(self, status: int, engine: BaseDynamics, number: int) -> None:
        self.status, self.engine, self.number = status, engine, number
        self._by_default: ConvergenceHook | None = None
        self.clear()

    def __len__(self) -> int:
        """Return the number of systems."""
        return len(self.rows)

    def clear(self) -> None:
        """Forget all systems."""
        self.rows = np.empty(0, np.int64)
        self.batch: Batch | None = None
        self.is_whole = False
        self._entry: Batch | None = None
        self._await_forces: Bool[Tensor, "n 1"] | None = None
        self._known: dict[str, tuple[Tensor, int]] = {}
        self._index: dict[Level, Tensor] = {}

    @property
    def part(self) -> Batch:
        """The part, when there is one."""
        assert self.batch is not None
        return self.batch

    @property
    def was_taken_away(self) -> bool:
        """Whether the engine has moved something else since, and knows nothing of these systems."""
        return self.batch is not None and self.engine._batch is not self.batch

    # ---------------------------------------------------------------- what ends it

    @property
    def criterion(self) -> ConvergenceHook | None:
        """Tells when a system is done here."""
        return self.engine.convergence_hook or self._by_default

    def migrate_by_default(self) -> None:
        """Let a stage that nothing ends be left at fmax <= 0.05 eV/Å."""
        if self.engine.convergence_hook is None and self.engine.n_steps is None:
            self._by_default = ConvergenceHook()

    # ---------------------------------------------------------------- who is here

    def enter(
        self, whole: Batch, rows: np.ndarray, places: Places, arriving: Tensor | None
    ) -> dict[int, str]:
        """Take systems in, with a fresh state of the engine.

        Parameters
        ----------
        whole
            Where they come from.
        rows
            Their rows there.
        places
            Of all systems of the whole, in the lists that parameters were given by.
        arriving
            Who of the whole waits for the first forces, (B, 1).

        Returns
        -------
        Rows of those that the engine cannot move, with the reason; they are not taken in.
        """
        engine, refused = self.engine, {}
        while len(rows):
            new = self._new_part(whole, rows)
            try:
                state = engine.fresh_state(new, places.part(whole, rows))
                break
            except StructureError as error:
                if error.index is None:
                    raise
                refused[int(rows[error.index])] = error.problem
                rows = np.delete(rows, error.index)
        else:
            return refused
        if POSITION in state:  # who comes back goes on with random numbers that are new
            state[POSITION] = new["stage_steps"][:, self.number : self.number + 1]
        entry = new.like(system={key: new[key] for key in ("steps", "stage_steps")})
        count = len(self)
        if self.batch is not None and self._entry is not None:
            engine.align_states([engine.state, state])
            new, state = laid_behind(self.batch, new), laid_behind(engine.state, state)
            entry = laid_behind(self._entry, entry)
        self._put(new, state, entry, np.concatenate([self.rows, rows]), whole, places, arriving)
        engine._arrived = torch.arange(len(new), device=new.device).view(-1, 1) >= count
        if "forces" in new and "forces" in engine.__needs_keys__:
            self._forces_are_new()
        return refused

    def _new_part(self, whole: Batch, rows: np.ndarray) -> Batch:
        new = whole.index_select(rows)
        new.set_edges({}, np.zeros(len(new), np.int64))
        status, code = new["status"], self.engine._code
        # The host may know an old status: who has gone elsewhere since is frozen here.
        moves, stays = (
            code(self.engine.exit_status - 1, status),
            code(self.engine.exit_status, status),
        )
        new["status"] = torch.where(status == code(self.status, status), moves, stays)
        new["outcome"] = torch.full_like(new["outcome"], int(Outcome.ACTIVE))
        return new

    def keep(
        self,
        staying: np.ndarray,
        whole: Batch,
        rows: np.ndarray,
        places: Places,
        arriving: Tensor | None,
    ) -> None:
        """Let systems leave, or follow the others to another place in the whole.

        Parameters
        ----------
        staying
            Which of those that are here stay, (m,).
        whole
            The batch they are a part of, from now on.
        rows
            Where they stand there, (m,).
        places, arriving
            As in :meth:`enter`.
        """
        if not len(staying):
            self.clear()
            return
        part, state, entry = self.part, self.engine.state, self._entry
        assert entry is not None
        if len(staying) < len(part):
            part, state, entry = (each.index_select(staying) for each in (part, state, entry))
        self._put(part, state, entry, rows, whole, places, arriving)

    def saved(self, rows: np.ndarray) -> Batch:
        """Return the state of systems that are here, with what else is known of them."""
        part, entry = self.part, self._entry
        assert entry is not None
        state, index = self.engine.state.index_select(rows), torch.as_tensor(rows)
        known = {key: part[key] for key in ("system_id", "status", "outcome")}
        known |= {f"entry_{key}": tensor for key, tensor in entry}
        for key, tensor in known.items():
            state[key] = tensor.view(len(part), -1).index_select(0, index.to(part.device))
        return state

    def restore(self, whole: Batch, rows: np.ndarray, state: Batch, places: Places) -> None:
        """Take in systems as they were when they were saved."""
        part = whole.index_select(rows)
        part.set_edges({}, np.zeros(len(part), np.int64))
        part["status"] = state["status"].view(part["status"].shape)
        part["outcome"] = state["outcome"]
        entry = part.like(system={key: state[f"entry_{key}"] for key in ("steps", "stage_steps")})
        for key in ("system_id", "status", "outcome", "entry_steps", "entry_stage_steps"):
            del state[key]
        self._put(part, state, entry, rows, whole, places, None)

    def _put(
        self,
        part: Batch,
        state: Batch,
        entry: Batch,
        rows: np.ndarray,
        whole: Batch,
        places: Places,
        arriving: Tensor | None,
    ) -> None:
        self.batch, self._entry, self.rows = part, entry, rows
        self.is_whole = np.array_equal(rows, np.arange(len(whole)))
        atoms = ragged_rows(whole.host_ptr, rows)
        self._index = {
            level: torch.from_numpy(index).to(part.device)
            for level, index in ((Level.SYSTEM, rows), (Level.NODE, atoms))
        }
        self._known = {}
        if self.engine._batch is not part or self.engine.state is not state:
            self.engine.follow(part, state, None)
        self.engine._places = places.part(whole, rows)
        self.engine._arriving = None if arriving is None else self.of(arriving)
        self._await_forces = self.engine._arriving

    def of(self, tensor: Tensor, level: Level = Level.SYSTEM) -> Tensor:
        """Return the rows of these systems, or of their atoms, in a tensor of the whole."""
        return tensor if self.is_whole else take(tensor, self._index[level])

    def into(self, tensor: Tensor, rows: Tensor) -> Tensor:
        """Return a tensor with a row for each system of the whole, with these for those here."""
        return rows if self.is_whole else tensor.index_copy(0, self._index[Level.SYSTEM], rows)

    # ---------------------------------------------------------------- what is known of them

    def changed(self) -> list[str]:
        """Return the fields of the part that are no longer what the whole was told."""
        changed = self.part.changed_since(self._known) + self.part.unread()
        return [key for key in changed if key not in ITS_OWN]

    def told(self, key: str) -> Tensor:
        """Return a field of the part, and note that the whole knows it."""
        tensor = self.part[key]
        self._known[key] = tensor, tensor._version
        return tensor

    def takes(self, key: str) -> bool:
        """Whether what others write into a field of the whole is meant for the part."""
        if key == "fmax":  # it follows from the forces, if there are any
            return "forces" not in self.engine.__needs_keys__
        return key not in ITS_OWN and key != "stage_steps"

    def take(self, whole: Batch, key: str) -> None:
        """Take up what the whole says in a field."""
        part, tensor = self.part, self.of(whole[key], whole.level(key))
        if key in part:
            part[key] = tensor
        else:
            part.add_key(key, tensor, whole.level(key), default=whole.defaults.get(key))
        self.told(key)
        if key == "forces" and "forces" in self.engine.__needs_keys__:
            self._forces_are_new()

    # ---------------------------------------------------------------- a step

    def evaluated(self, model: object, results: frozenset[str]) -> None:
        """Note that energy and forces are those of the present geometry."""
        self.part.evaluated = Evaluated.now(self.part, model, results)
        self._await_forces = None
        if "forces" in self.engine.__needs_keys__:
            self._forces_are_new()

    def _forces_are_new(self) -> None:
        """Let ``fmax`` follow from the forces; it is infinite for who still waits for them."""
        engine, part = self.engine, self.part
        engine._defer_fmax(part)
        if self._await_forces is not None:
            part["fmax"] = torch.where(self._await_forces, float("inf"), part["fmax"])

    def look_again(self) -> bool:
        """Let ``fmax`` follow from constraints, filters and forces as they are now; say if it has.

        That is as far as the host can tell.
        """
        engine, part = self.engine, self.part
        if "forces" not in engine.__needs_keys__ or "forces" not in part:
            return False
        if not engine.is_arranged(part):
            engine.forget_constraints()
        if engine._fmax_source is part["forces"]:
            return False
        self._forces_are_new()
        return True

    def count_steps(self) -> None:
        """Count a step of those that have ended one."""
        self.engine._count_steps(self.part)
        self.part.defer("stage_steps", self._history)

    def _history(self) -> Int[Tensor, "B stages"]:
        """Return how many steps each system has spent in each stage."""
        entry, part = self._entry, self.part
        assert entry is not None
        before = entry["stage_steps"]
        here = torch.arange(before.shape[1], device=part.device) == self.number
        return torch.where(here, before + (part["steps"] - entry["steps"]), before)

    def test(self, frequency: int, at_start: bool = False) -> Bool[Tensor, " n"] | None:
        """Freeze who is done with the stage; return who newly meets the criterion.

        Parameters
        ----------
        frequency
            Criteria are looked at every so many steps, or more rarely if the engine says so.
        at_start
            Look at them in any case.
        """
        part, engine, hook, mask = self.part, self.engine, self.criterion, None
        if hook is not None:
            due = engine._due(part, lcm(hook.frequency, frequency), at_start)
            mask = engine._meets(hook, part, due)
        engine._retire_unheld(part)
        if mask is not None:
            active = engine.active(part)
            mask = mask if active is None else mask & active.system.view(-1)
            engine.retire(part, mask, Outcome.CONVERGED)
        if engine.n_steps is not None:
            engine.retire(part, self._steps_used_up(engine.n_steps), Outcome.BUDGET)
        return mask

    def _steps_used_up(self, n_steps: int) -> Bool[Tensor, " n"]:
        engine, part, entry = self.engine, self.part, self._entry
        assert entry is not None
        ended = part["steps"] >= entry["steps"] + n_steps
        for excluded in (engine._arriving, engine.within_step(part)):
            ended = ended if excluded is None else ended & ~excluded
        return ended.view(-1)

    def compile(self, options: dict[str, Any]) -> None:
        """Have ``torch.compile`` make the moves into few kernels."""
        for name in ("pre_update", "post_update"):
            method = getattr(type(self.engine), name)
            if method is not getattr(BaseDynamics, name):
                compiled = _looking_up_first(torch.compile(method, **options))
                vars(self.engine)[name] = MethodType(compiled, self.engine)

    def is_frozen(self) -> Bool[Tensor, " n"]:
        """Return who is done with the stage."""
        return self.part["status"].view(-1) >= self.engine.exit_status


def _looking_up_first(half_step: Callable[[Any, Batch], None]) -> Callable[[Any, Batch], None]:
    """Return a half step that finds on the host, before it begins, what it has to know."""

    def looked_up(engine: BaseDynamics, batch: Batch) -> None:
        engine.look_up(batch)
        half_step(engine, batch)

    return looked_up


# What means something else in the whole than in a part.
ITS_OWN = frozenset({"status", "outcome"})
