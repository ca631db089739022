"""The commands of ``nvdyn-ase`` in a job of several ranks, as ``torchrun`` starts them.

The ranks share the input by a counter (:mod:`nvdyn_ase.ranks.claims`), and each writes what it has
done into a part of the output of its own, with a checkpoint of its own. The first looks what is
done already and says who goes on with what; at the end it gathers the parts into one file. So no
rank waits for another while there is work, and whichever dies, what is on the disk is whole.
"""

import argparse
import sys
from collections.abc import Container, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch

from nvdyn_ase import reading
from nvdyn_ase.commands import (
    FOR_THE_USER,
    CommandError,
    FileRun,
    check,
    is_done,
    model_of,
    plan_files,
    provenance_of,
    without_looking_for_garbage_in_what_is_there,
)
from nvdyn_ase.jobs import Job, job_of, one_line
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.output import Lock, OutputError, ResultFile, result_file
from nvdyn_ase.ranks import (
    Claims,
    Positions,
    RankError,
    RankJob,
    SharedBar,
    Shares,
    SignsOfLife,
    Stopped,
    facts_of,
    summed,
)
from nvdyn_ase.workflows.ahead import ReadAhead
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.checkpoints import (
    Checkpoints,
    checkpoint_of_rank,
    checkpoints_of_ranks,
)
from nvdyn_ase.workflows.supply import Numbered

#: What a process says that was told to end, as shells do of one that SIGTERM has ended.
TERMINATED = 143
#: How long the first rank waits for the others to have heard the end, and they for it to begin or
#: to fail where they have failed, s.
_PATIENCE = 20.0


def run(arguments: argparse.Namespace) -> int:
    """Do a command as one of the ranks of a job; return the exit status of the process.

    It is 0 when every structure is in the output, however it ended there: a launcher takes anything
    else for the death of a rank, and starts the job again.
    """
    try:
        job = RankJob.joined()
    except RankError as error:
        print(f"nvdyn-ase: error: {error}", file=sys.stderr)
        return 2
    signs = SignsOfLife(job)
    try:
        signs.begin()
        return _status(job, arguments)
    except BaseException as error:
        signs.pass_over()  # until it is said what has happened
        return _ended(job, error)
    finally:
        signs.end()


def _ended(job: RankJob, error: BaseException) -> int:
    """Say what has stopped the work, if nobody else does; return the exit status, or raise."""
    if isinstance(error, KeyboardInterrupt):
        return 130
    if _comes_of_stopping(error):
        return _stopped(job)
    if isinstance(error, RankError):
        return _told(job)
    if isinstance(error, FOR_THE_USER):
        return _failed(job, one_line(error))
    _failed(job, f"{type(error).__name__}: {one_line(error)}")
    raise error


def _comes_of_stopping(error: BaseException | None) -> bool:
    """Say whether something was stopped, or could not be closed as it was."""
    while error is not None:
        if isinstance(error, Stopped):
            return True
        error = error.__context__
    return False


def _status(job: RankJob, arguments: argparse.Namespace) -> int:
    if arguments.dry_run:
        if job.rank == 0:
            plan_files(arguments)
        return 0
    arguments.device = _device(arguments.device, job)
    what, model = job_of(arguments), model_of(arguments)
    model = _placed(model, arguments.device, job)
    check(arguments, what, model)
    whole = _whole(job, arguments, what.method)
    locked = nullcontext(Lock(None)) if job.rank else whole.locked()
    with locked as lock, without_looking_for_garbage_in_what_is_there():
        return _Run(job, arguments, what, model, whole, lock).do()


def _whole(job: RankJob, arguments: argparse.Namespace, method: str) -> ResultFile:
    """Return the output that all ranks make together."""
    whole = result_file(
        *(arguments.output, arguments.output_format, arguments.overwrite),
        resume=arguments.resume or job.rank > 0 or job.restarts > 0,
        method=method,
    )
    if not whole.has_parts:
        raise OutputError(
            f"several ranks cannot write a {whole.form} file together; write extxyz, traj, db, "
            "or {index} into the name for a file for each structure, and convert it afterwards"
        )
    return whole


def _failed(job: RankJob, reason: str) -> int:
    """Tell the others that this rank has failed; what stops all of them, the first one says."""
    try:
        if job.rank:
            job.hear("begun", seconds=_PATIENCE)
        job.fail(reason)
    except RankError:
        pass
    except RuntimeError:
        return _alone(job, reason)
    return _told(job)


def _stopped(job: RankJob) -> int:
    """Find out why the launcher, or this rank itself, has ended the work."""
    try:
        if job.failure() is None:
            gone = job.gone()
            if gone is None:
                if job.rank == 0:
                    print("nvdyn-ase: told to end; --resume goes on", file=sys.stderr)
                return TERMINATED
            job.fail("its process is gone; somebody killed it, or memory ran out", gone)
        return _told(job)
    except RuntimeError:
        return _alone(job, "the launcher is gone")


def _alone(job: RankJob, reason: str) -> int:
    """Say why this rank has ended where there is no store any more; return the exit status."""
    print(f"nvdyn-ase: error: rank {job.rank} of {job.world_size}: {reason}", file=sys.stderr)
    return 2


def _told(job: RankJob) -> int:
    """Print what has failed if this rank was the one to notice it; return the exit status."""
    failed = job.heard("failed")
    if failed is not None and failed["teller"] == job.rank:
        print(f"nvdyn-ase: error: {failed['error']}", file=sys.stderr, flush=True)
    return 2


class _Run(FileRun):
    """One rank's part of the structures of files, on their way into one file.

    Parameters
    ----------
    job
        This rank.
    arguments
        Of the command.
    what
        What is done to each structure.
    model
        What gives energies and forces, on the device of this rank.
    whole
        What all ranks write; this rank writes a part of it.
    lock
        Of the first rank: what keeps other runs away from the output.
    """

    def __init__(
        self,
        job: RankJob,
        arguments: argparse.Namespace,
        what: Job,
        model: BaseModelMixin,
        whole: ResultFile,
        lock: Lock,
    ) -> None:
        self.ranks, self.lock = job, lock
        self.whole, self.is_resumed = whole, False
        if job.rank == 0:
            source = provenance_of(arguments, what, model) | {"ranks": job.world_size}
            self.is_resumed = self._is_resumed(arguments, source)
        else:
            source = job.hear("source")
        super().__init__(arguments, what, model, whole.part(job.rank), source)
        self.checkpoints.path = checkpoint_of_rank(whole.path, job.rank)
        self.checkpoints.also = ()
        if job.rank == 0:
            job.say("source", source)

    def _is_resumed(self, arguments: argparse.Namespace, source: dict[str, Any]) -> bool:
        """Say whether there is something to go on with, and the user or the launcher wants it."""
        if arguments.resume:
            complete = self.whole.is_complete() and not arguments.retry_failed
            return is_done(self.whole, arguments, source) if complete else self.whole.is_begun()
        if not (self.ranks.restarts and self.whole.is_begun()):
            return False
        if not self.whole.is_complete():
            return True
        if not arguments.overwrite:
            raise OutputError(f"{self.whole.path} exists already; --overwrite replaces it")
        return False

    # ---------------------------------------------------------------- the beginning

    def do(self) -> int:
        """Move this rank's structures, and write them; return the exit status."""
        if self.ranks.rank == 0:
            self._begin()
        begun = self.ranks.hear("begun")
        if not begun["is_complete"]:
            self._share(begun)
            with self._held(begun["lock"]):
                stopped = self._work()
            if stopped is not None:
                raise stopped
            self._finish()
        self._part()
        return 0

    def _part(self) -> None:
        """Leave, but not before the others: the store may end with the first rank."""
        if self.ranks.rank:
            self.ranks.add("farewell", 1)
        else:
            self.ranks.wait_until("farewell", self.ranks.world_size - 1, _PATIENCE)

    def _begin(self) -> None:
        """Look what there is to do, and tell the others."""
        whole, retry = self.whole, self.arguments.retry_failed
        if self.is_resumed and whole.is_complete() and not retry:
            for path in self._all_checkpoints():
                path.unlink()
            print(f"{self.arguments.output} is complete: there is nothing to resume")
            self.ranks.say("begun", {"is_complete": True})
            return
        if not self.is_resumed:
            self.spare_the_input(whole)
        whole.open(1, self.source, resume=self.is_resumed, retry=retry)
        done: frozenset[int] = frozenset()
        if self.is_resumed:
            done = self._done_of(whole)
        else:
            for path in self._all_checkpoints():
                path.unlink()
        moving = self._assign(done)
        count = reading.count(self.arguments.input, self.arguments.input_format) - len(done)
        self.ranks.store.set("taken", Positions(done | moving).packed())
        begun = {"is_complete": False, "count": max(count, 0), "before": len(done)}
        self.ranks.say("begun", begun | {"lock": self.lock.share()})

    def _done_of(self, whole: ResultFile) -> frozenset[int]:
        failed = whole.failed() if self.arguments.retry_failed else set()
        return frozenset(whole.done() - failed)

    def _all_checkpoints(self) -> list[Path]:
        """Return the checkpoints that there are, of however many ranks and of one process."""
        path = self.whole.path
        alone = path.with_name(f"{path.name}.checkpoint.npz")
        return [own for own in [*checkpoints_of_ranks(path), alone] if own.exists()]

    def _assign(self, done: frozenset[int]) -> frozenset[int]:
        """Tell each rank what it goes on with, and in which checkpoints that is; return all."""
        ranks = self.ranks.world_size
        moving: list[list[int]] = [[] for _ in range(ranks)]
        files: list[list[str]] = [[] for _ in range(ranks)]
        known = set(done)
        names = {checkpoint_of_rank(self.whole.path, rank): rank for rank in range(ranks)}
        for number, path in enumerate(self._all_checkpoints()):
            rank = names.get(path, number % ranks)
            found = Checkpoints(path, run=self.checkpoints.run).moving() - known
            known |= found
            moving[rank] += sorted(found)
            files[rank].append(str(path))
        for rank in range(ranks):
            own = {"moving": moving[rank], "files": files[rank]}
            self.ranks.say(f"goes on/{rank}", own)
        return frozenset(known - done)

    def _share(self, begun: dict[str, Any]) -> None:
        job = self.ranks
        self.count, self.before = begun["count"], begun["before"]
        self.shares = Shares.of(self.count, job.world_size)
        goes_on = job.hear(f"goes on/{job.rank}")
        self.own = frozenset(goes_on["moving"])
        self.checkpoints.also = [Path(name) for name in goes_on["files"]]
        taken = Positions.unpacked(job.store.get("taken"))
        self.claims = Claims(
            lambda number: job.add("claimed", number), self.shares.chunk, taken, self.own
        )

    # ---------------------------------------------------------------- the work

    def _held(self, signature: str | None) -> AbstractContextManager[None]:
        """Hold the lock of the first rank too: if that dies, this one still writes for a while."""
        return self.whole.joined(signature) if self.ranks.rank else nullcontext()

    def _work(self) -> BaseException | None:
        """Move what this rank claims; return what has stopped it, if anything."""
        self.output.open(1)
        found = self.readings.of(self.input.read(self.claims))
        numbered = ReadAhead(found, self.shares.ahead)
        try:
            return self.move(numbered, _AllBut(self.own))
        finally:
            numbered.close()

    def capacity(self) -> Capacity:
        """Return how much a batch holds: no more than leaves something for the others."""
        arguments = self.arguments
        return Capacity(
            *(arguments.batch_size, self.model, arguments.max_atoms), most=self.shares.moving
        )

    def bar(self, numbered: Iterator[Numbered]) -> SharedBar:
        """Return what shows how far all ranks are."""
        self.shared_bar = SharedBar(self.ranks, self.count, self.is_shown)
        return self.shared_bar

    @property
    def is_ordered(self) -> bool:
        """False: the parts are put in order when they are gathered."""
        return False

    # ---------------------------------------------------------------- the end

    def _finish(self) -> None:
        """Tell that this part is done; the first rank makes one result of all parts."""
        job = self.ranks
        job.say(f"finished/{job.rank}", facts_of(self.summary, self.input.problems))
        if job.rank:
            self.shared_bar.close()
            job.hear("complete")
            return
        ranks = range(job.world_size)
        parts = [job.hear(f"finished/{rank}", self.shared_bar.tell) for rank in ranks]
        self.shared_bar.close()
        summed(self.summary, parts, self.before)
        self._gather(parts)
        if not self.arguments.quiet:
            print(f"{self.summary}\n\n{self.whole.state()}")
        job.say("complete", True)

    def _gather(self, parts: list[dict[str, Any]]) -> None:
        self.whole.gather()
        problems = dict(sorted(tuple(one) for part in parts for one in part["problems"]))
        if not self.whole.written:
            self.whole.close(complete=False)
            raise CommandError(next(iter(problems.values()), "there are no structures"))
        self.whole.close(complete=True, unreadable=problems)
        for path in self._all_checkpoints():
            path.unlink()


class _AllBut(Container[int]):
    """Everything but a few."""

    def __init__(self, few: Container[int]) -> None:
        self._few = few

    def __contains__(self, item: object) -> bool:
        return item not in self._few


def _device(asked: str | None, job: RankJob) -> str | None:
    """Return the device of this rank: of several GPUs, the one with its number on this node."""
    if asked != "cuda":
        return asked
    there = torch.cuda.device_count()
    if job.local_rank >= there > 0:
        raise CommandError(
            f"--device cuda gives each rank of a node a GPU, and there are {there}; start fewer "
            "with --nproc-per-node, or name the one that all are to use, as --device cuda:0"
        )
    return f"cuda:{job.local_rank}"


def _placed(model: Any, asked: str | None, job: RankJob) -> Any:
    """Return the model on the GPU of this rank, if it has chosen a GPU by itself."""
    if asked is None and model.device.type == "cuda":
        model = model.to(_device("cuda", job))
    if model.device.type == "cuda":
        torch.cuda.set_device(model.device)
    return model
