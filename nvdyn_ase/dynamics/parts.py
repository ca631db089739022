"""A batch and the parts of it that the stages of a fused run move, kept in step."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nvdyn_ase.data import FIELDS, Batch, Level
from nvdyn_ase.data.joining import ragged_rows, take
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.parameters import Places
from nvdyn_ase.dynamics.stage import ITS_OWN, Stage


class Parts:
    """Says in the whole what the parts say, and in the parts what others write into the whole.

    A system is in one part, or in none when it has left or is on its way to a part. A field of the
    whole that has changed in a part is put together only when somebody reads it.

    Parameters
    ----------
    sub_stages
        Pairs of a status and an engine.
    entry_status, exit_status
        Of systems that come, and of those that have left.

    Attributes
    ----------
    stages
        All stages.
    occupied
        Those that have systems.

    Raises
    ------
    TypeError, ValueError
        See ``FusedStage``.
    """

    def __init__(
        self, sub_stages: Sequence[tuple[int, BaseDynamics]], entry_status: int, exit_status: int
    ) -> None:
        _check_engines(sub_stages)
        _check_statuses([code for code, _ in sub_stages], entry_status, exit_status)
        self.stages = [Stage(int(code), own, k) for k, (code, own) in enumerate(sub_stages)]
        self.occupied: list[Stage] = []
        self._whole: Batch | None = None
        self._given: dict[str, tuple[Tensor, int]] = {}
        self._order: dict[Level, Tensor] = {}
        self._rest: dict[Level, Tensor] = {}

    @property
    def whole(self) -> Batch:
        """The batch."""
        assert self._whole is not None
        return self._whole

    # ---------------------------------------------------------------- who is in which part

    def clear(self) -> None:
        """Let go of the batch; it keeps what the parts have said."""
        if self._whole is not None:
            self.assemble()
        for stage in self.stages:
            stage.clear()
        self.occupied, self._whole, self._given = [], None, {}

    def lay_out(self, whole: Batch) -> None:
        """Note in what order the rows of the parts, and of no part, make up the whole."""
        self._whole = whole
        self.occupied = [stage for stage in self.stages if len(stage)]
        rows = np.concatenate([np.empty(0, np.int64), *(stage.rows for stage in self.occupied)])
        rest = {Level.SYSTEM: np.setdiff1d(np.arange(len(whole)), rows)}
        order = {Level.SYSTEM: np.concatenate([rows, rest[Level.SYSTEM]])}
        for each in (rest, order):
            each[Level.NODE] = ragged_rows(whole.host_ptr, each[Level.SYSTEM])

        def there(index: np.ndarray) -> Tensor:
            return torch.from_numpy(index).to(whole.device)

        self._rest = {level: there(own) for level, own in rest.items()}
        self._order = {level: there(_inverse(own)) for level, own in order.items()}
        self._agree()

    def _agree(self) -> None:
        """Note that the whole and its parts say the same."""
        whole = self.whole
        self._given = {}
        for key in whole.changed_since({}):
            self._given[key] = whole[key], whole[key]._version
            for stage in self.occupied:
                if key in stage.part and key not in ITS_OWN and stage.part.deferred(key) is None:
                    stage.told(key)

    def wanted(self, status: np.ndarray, exit_status: int) -> np.ndarray:
        """Return the stage that each system belongs to, (B,), -1 for who has left.

        Raises
        ------
        ValueError
            No stage has the status of a system that has not left.
        """
        wanted = np.full(len(status), -1)
        for stage in self.stages:
            wanted[status == stage.status] = stage.number
        lost = np.flatnonzero((wanted < 0) & (status < exit_status))
        if len(lost):
            system = int(self.whole["system_id"].view(-1)[lost[0]])
            raise ValueError(f"system {system} has status {status[lost[0]]}: no stage has that")
        return wanted

    def present(self) -> np.ndarray:
        """Return the stage that each system is in, (B,), -1 for none."""
        present = np.full(len(self.whole), -1)
        for stage in self.occupied:
            present[stage.rows] = stage.number
        return present

    def move(
        self, wanted: np.ndarray, entering: np.ndarray, places: Places, arriving: Tensor | None
    ) -> dict[int, str]:
        """Let systems leave the parts that they do not belong to, and some enter others.

        Parameters
        ----------
        wanted
            The stage that each belongs to, (B,).
        entering
            Who enters that, (B,) bool.
        places, arriving
            As in ``Stage.enter``.

        Returns
        -------
        Rows of those that an engine cannot move, with the reason; they are in no part.
        """
        whole = self.whole
        refused: dict[int, str] = {}
        self.assemble()
        for stage in self.occupied:
            stays = (wanted[stage.rows] == stage.number) & ~entering[stage.rows]
            if not stays.all():
                here = np.flatnonzero(stays)
                stage.keep(here, whole, stage.rows[here], places, arriving)
        for stage in self.stages:
            rows = np.flatnonzero(entering & (wanted == stage.number))
            if len(rows):
                refused |= stage.enter(whole, rows, places, arriving)
                self._note_evaluated(stage)
        self.lay_out(whole)
        return refused

    def _note_evaluated(self, stage: Stage) -> None:
        current = self.whole.evaluated
        if len(stage) and current is not None and current.holds(self.whole, current.model):
            stage.evaluated(current.model, current.results)

    # ---------------------------------------------------------------- from the parts to the whole

    def publish(self) -> None:
        """Have the whole say what the parts say, when it is asked."""
        for key in dict.fromkeys(key for stage in self.occupied for key in stage.changed()):
            self._defer(key)

    def _defer(self, key: str) -> None:
        part = next(stage.part for stage in self.occupied if key in stage.part)
        level, whole = part.level(key), self.whole
        if level not in self._order or isinstance(whole.deferred(key), _Assembly):
            return  # nobody has asked since the last time
        known = _known(whole, key)
        if key in part.defaults:
            whole.defaults.setdefault(key, part.defaults[key])
        whole.defer(key, _Assembly(self, key, level, known), level)

    def assembled(self, key: str, level: Level, known: Tensor | None) -> Tensor:
        """Return a field of the whole; what is in no part keeps the values that are known."""
        tensor = self._put_together(key, level, known)
        self._given[key] = tensor, tensor._version
        return tensor

    def _put_together(self, key: str, level: Level, known: Tensor | None) -> Tensor:
        if len(self.occupied) == 1 and self.occupied[0].is_whole:
            return self.occupied[0].told(key)
        like = next(stage.part[key] for stage in self.occupied if key in stage.part)
        default = FIELDS[key].default if key in FIELDS else self.whole.defaults.get(key)
        filling = 0 if default is None else default
        pieces = []
        for stage in self.occupied:
            if key not in stage.part:
                rows = stage.part.num_rows(level)
                stage.part.add_key(key, like.new_full((rows, *like.shape[1:]), filling), level)
            pieces.append(stage.told(key))
        if known is None:
            known = like.new_full((self.whole.num_rows(level), *like.shape[1:]), filling)
        pieces.append(take(known, self._rest[level]))
        return take(torch.cat(pieces), self._order[level])

    def assemble(self) -> None:
        """Have the whole say now, in every field, what the parts say."""
        self.publish()
        for key in self.whole.unread():
            if isinstance(self.whole.deferred(key), _Assembly):
                self.whole[key]

    # ---------------------------------------------------------------- from the whole to the parts

    def absorb(self) -> None:
        """Have the parts say what others have written into the whole."""
        whole = self.whole
        for key in whole.changed_since(self._given):
            if whole.level(key) not in self._order:
                continue
            self._given[key] = whole[key], whole[key]._version
            if key == "status":
                self._freeze_who_is_elsewhere()
                continue
            for stage in self.occupied:
                if stage.takes(key):
                    stage.take(whole, key)

    def look_again(self) -> None:
        """Take up what was changed of constraints, filters and forces."""
        changed = [stage.look_again() for stage in self.occupied]
        if any(changed):
            self.publish()

    def take_everything(self) -> None:
        """Have the parts say what the whole says."""
        status = self._given.pop("status")
        self._given = {"status": status}
        self.absorb()

    def _freeze_who_is_elsewhere(self) -> None:
        """Freeze in its part who is in another stage now, or has left."""
        status = self.whole["status"].view(-1)
        for stage in self.occupied:
            elsewhere = stage.of(status) != stage.status
            stage.engine.retire(stage.part, elsewhere, Outcome.CONVERGED)

    # ---------------------------------------------------------------- status

    def tell_status(self, exit_status: int) -> None:
        """Give systems that are done with a stage the status of the next, or of those that left."""
        whole = self.whole
        status, outcome = whole["status"], whole["outcome"]
        flat, ends = status.view(-1), outcome.view(-1)
        for stage in self.occupied:
            code, last = stage.engine._code, stage is self.stages[-1]
            now, ended = stage.of(flat), stage.part["outcome"].view(-1)
            done = (now == code(stage.status, now)) & stage.is_frozen()
            out = code(exit_status, now)
            following, leaves = out, done
            if not last:
                leaves = done & (ended >= code(Outcome.NAN, now))
                next_one = code(self.stages[stage.number + 1].status, now)
                following = torch.where(leaves, out, next_one)
            flat = stage.into(flat, torch.where(done, following, now))
            ends = stage.into(ends, torch.where(leaves, ended, stage.of(ends)))
        whole["status"], whole["outcome"] = flat.view(status.shape), ends.view(outcome.shape)
        self.note_status()

    def note_status(self) -> None:
        """Note that the parts know the status of the whole."""
        self._given["status"] = self.whole["status"], self.whole["status"]._version


class _Assembly:
    """A field of the whole, put together from the parts when somebody reads it."""

    def __init__(self, parts: Parts, key: str, level: Level, known: Tensor | None) -> None:
        self.parts, self.key, self.level, self.known = parts, key, level, known

    def __call__(self) -> Tensor:
        """Return the field, as the parts have it now."""
        return self.parts.assembled(self.key, self.level, self.known)


def _known(batch: Batch, key: str) -> Tensor | None:
    if key not in batch:
        return None
    return batch[key]


def _inverse(order: np.ndarray) -> np.ndarray:
    """Return where each number stands in an order of all numbers from zero."""
    places = np.empty(len(order), np.int64)
    places[order] = np.arange(len(order))
    return places


def _check_engines(sub_stages: Sequence[tuple[int, BaseDynamics]]) -> None:
    if not sub_stages:
        raise ValueError("FusedStage needs at least one stage")
    for _, engine in sub_stages:
        if not isinstance(engine, BaseDynamics):
            raise TypeError(f"a stage is an engine, not {type(engine).__name__}")
        if hasattr(engine, "sub_stages"):
            raise ValueError("a stage cannot be fused itself: give its stages, or write a + b")
    engines = [engine for _, engine in sub_stages]
    if len({id(engine) for engine in engines}) < len(engines):
        raise ValueError("an engine can be one stage only; make another one")
    if any(engine.model is not engines[0].model for engine in engines):
        raise ValueError("the stages of a fused run share one forward pass: give all one model")
    if len({str(engine.device) for engine in engines}) > 1:
        raise ValueError("the stages of a fused run share one device")


def _check_statuses(codes: Sequence[int], entry_status: int, exit_status: int) -> None:
    if len(set(codes)) < len(codes):
        raise ValueError("two stages have the same status")
    if max(codes) >= exit_status:
        raise ValueError(f"status {max(codes)} of a stage is not below exit_status {exit_status}")
    if entry_status not in codes:
        raise ValueError(f"no stage has the entry_status {entry_status}; there are {list(codes)}")
