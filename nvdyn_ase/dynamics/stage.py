"""The systems that are in one stage of a fused run, and the engine that moves them."""

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data import Batch, Level
from nvdyn_ase.data.joining import ragged_rows
from nvdyn_ase.dynamics.active import laid_behind
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.convergence import ConvergenceHook
from nvdyn_ase.dynamics.counts import count
from nvdyn_ase.dynamics.evaluated import Evaluated
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import Places


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
    rows
        Where its systems stand in the whole, (n,), on the host.
    batch
        The part; None before the first system comes.
    """

    def __init__(self, status: int, engine: BaseDynamics, number: int) -> None:
        self.status, self.engine, self.number = status, engine, number
        #: Tells when a system is done here; that of the engine, or the one of a stage without any.
        self.criterion = engine.convergence_hook
        self.clear()

    def clear(self) -> None:
        """Forget all systems."""
        self.rows = np.empty(0, np.int64)
        self.batch: Batch | None = None
        self._known: dict[str, tuple[Tensor, int]] = {}
        self._index: dict[Level, Tensor] = {}
        self._first_step: Tensor | None = None
        self.is_whole = False

    def __len__(self) -> int:
        """Return the number of systems."""
        return len(self.rows)

    @property
    def part(self) -> Batch:
        """The part, when there is one."""
        assert self.batch is not None
        return self.batch

    # ---------------------------------------------------------------- who is here

    def enter(self, whole: Batch, rows: np.ndarray, arriving: np.ndarray, places: Places) -> None:
        """Take systems in, with a fresh state of the engine.

        Parameters
        ----------
        whole
            Where they come from.
        rows
            Their rows there.
        arriving
            (B,) bool for the whole, those that wait for their first forces.
        places
            Where all systems of the whole stood in the list that parameters were given for.
        """
        engine, new = self.engine, whole.index_select(rows)
        new.set_edges({}, np.zeros(len(new), np.int64))
        new["status"] = torch.full_like(new["status"], engine.exit_status - 1)
        new["outcome"] = torch.full_like(new["outcome"], int(Outcome.ACTIVE))
        first_step = new["steps"]
        state = engine.fresh_state(new, Places(places.rows[rows], places.total))
        if self.batch is not None and len(self.rows):
            states = [engine.state, state]
            engine.align_states(states)
            state = laid_behind(*states)
            new = laid_behind(self.batch, new)
            assert self._first_step is not None
            first_step = torch.cat([self._first_step, first_step])
        self._first_step = first_step
        self._put(new, state, np.concatenate([self.rows, rows]), whole, places)
        self._receive(arriving[self.rows])

    def keep(self, staying: np.ndarray, whole: Batch, rows: np.ndarray, places: Places) -> None:
        """Let systems leave.

        Parameters
        ----------
        staying
            Which of those that are here stay, (m,).
        whole
            The batch they are a part of, from now on.
        rows
            Where they stand there, (m,).
        places
            As in :meth:`enter`.
        """
        if not len(staying):
            self.clear()
            return
        part, state, first_step = self.part, self.engine.state, self._first_step
        if len(staying) < len(part):
            index = torch.as_tensor(staying, device=part.device)
            assert first_step is not None
            part, first_step = part.index_select(staying), first_step.index_select(0, index)
            state = state.index_select(staying)
        self._first_step = first_step
        self._put(part, state, rows, whole, places)

    def saved(self, rows: np.ndarray) -> Batch:
        """Return the state of systems that are here, with what else is known of them."""
        state, part = self.engine.state.index_select(rows), self.part
        index = torch.as_tensor(rows, device=part.device)
        assert self._first_step is not None
        known = {"system_id": part["system_id"], "first_step": self._first_step}
        known |= {"status": part["status"].view(-1, 1), "outcome": part["outcome"]}
        for key, tensor in known.items():
            state[key] = tensor.index_select(0, index)
        return state

    def restore(self, whole: Batch, rows: np.ndarray, state: Batch, places: Places) -> None:
        """Take in systems as they were when they were saved."""
        part = whole.index_select(rows)
        part.set_edges({}, np.zeros(len(part), np.int64))
        part["status"] = state["status"].view(part["status"].shape)
        part["outcome"], self._first_step = state["outcome"], state["first_step"]
        for key in ("system_id", "first_step", "status", "outcome"):
            del state[key]
        self._put(part, state, rows, whole, places)

    def _put(
        self, part: Batch, state: Batch, rows: np.ndarray, whole: Batch, places: Places
    ) -> None:
        self.batch, self.rows = part, rows
        self.is_whole = np.array_equal(rows, np.arange(len(whole)))
        atoms = ragged_rows(whole.host_ptr, rows)
        self._index = {
            level: torch.from_numpy(index).to(part.device)
            for level, index in ((Level.SYSTEM, rows), (Level.NODE, atoms))
        }
        self._known = {}
        self.engine._places = Places(places.rows[rows], places.total)
        if self.engine._batch is not part or self.engine.state is not state:
            self.engine.follow(part, state, None)

    def _receive(self, arriving: np.ndarray) -> None:
        if arriving.any():
            mask = torch.from_numpy(arriving).view(-1, 1)
            self.engine._arriving = mask.to(self.part.device)

    # ---------------------------------------------------------------- what is known of them

    def changed(self) -> list[str]:
        """Return the fields of the part that are no longer what the whole was told."""
        part, fields = self.part, []
        keys = part.keys()
        for key in keys:
            held = self._known.get(key)
            deferred = part.deferred(key) is not None
            if deferred or held is None or not _is(part[key], held):
                fields.append(key)
        return [key for key in fields if key not in _ITS_OWN]

    def told(self, key: str) -> Tensor:
        """Return a field of the part, and note that the whole knows it."""
        tensor = self.part[key]
        self._known[key] = tensor, tensor._version
        return tensor

    def take(self, whole: Batch, key: str) -> None:
        """Take up what the whole says in a field."""
        tensor = whole[key]
        if not self.is_whole:
            tensor = tensor.index_select(0, self._index[whole.level(key)])
        if key in self.part:
            self.part[key] = tensor
        else:
            self.part.add_key(key, tensor, whole.level(key), default=whole.defaults.get(key))
        self.told(key)

    # ---------------------------------------------------------------- a step

    def evaluated(self, model: object, results: frozenset[str]) -> None:
        """Note that energy and forces are those of the present geometry."""
        part, engine = self.part, self.engine
        part.evaluated = Evaluated.now(part, model, results)
        if "forces" in engine.__needs_keys__:
            engine._defer_fmax(part)

    def count_evaluations(self) -> None:
        """Count a forward pass of those that are active."""
        count(self.part, "evaluations", self.engine.active(self.part))

    def test(self, is_due: bool) -> Tensor | None:
        """Freeze who is done with the stage; return who newly meets the criterion, (n,) bool."""
        part, engine = self.part, self.engine
        newly = None
        if is_due and self.criterion is not None:
            newly = self._meets(part)
            engine.retire(part, newly, Outcome.CONVERGED)
        engine._retire_unheld(part)
        if engine.n_steps is not None:
            assert self._first_step is not None
            ended = part["steps"] >= self._first_step + engine.n_steps
            within = engine.within_step(part)
            ended = ended if within is None else ended & ~within
            engine.retire(part, ended.view(-1), Outcome.BUDGET)
        return newly

    def _meets(self, part: Batch) -> Tensor:
        engine = self.engine
        assert self.criterion is not None
        mask, within = self.criterion.evaluate_mask(part), engine.within_step(part)
        mask = mask if within is None else mask & ~within.view(-1)
        moving = engine.moving(part)
        return mask if moving is None else mask & moving.system.view(-1)

    def freeze(self, mask: Tensor, outcome: Outcome) -> None:
        """Freeze systems of the part; (n,) bool."""
        self.engine.retire(self.part, mask, outcome)

    def history(self) -> None:
        """Bring up to date how many steps and evaluations each system has spent here."""
        part, taken = self.part, self._first_step
        assert taken is not None
        column = torch.arange(part["stage_steps"].shape[1], device=part.device) == self.number
        part["stage_steps"] = torch.where(column, part["steps"] - taken, part["stage_steps"])

    # ---------------------------------------------------------------- by default

    def migrate_by_default(self) -> None:
        """Give a stage that nothing ends the criterion that ends it: fmax at most 0.05 eV/Å."""
        if self.criterion is None and self.engine.n_steps is None:
            self.criterion = ConvergenceHook()


# What means something else in the whole than in a part.
_ITS_OWN = frozenset({"status", "outcome", "fmax"})


def _is(tensor: Tensor, held: tuple[Tensor, int]) -> bool:
    return tensor is held[0] and tensor._version == held[1]
