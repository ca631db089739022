"""What each command of ``nvdyn-ase`` does with the words that :mod:`nvdyn_ase.cli` has read."""

import argparse
import gc
from collections.abc import Container, Iterator, Sized
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, islice
from typing import Any

import ase
import torch

from nvdyn_ase.atoms import Result
from nvdyn_ase.background_writer import BackgroundWriter, WriteError
from nvdyn_ase.counting import estimate
from nvdyn_ase.dynamics.checkpoint import CheckpointError
from nvdyn_ase.input_identity import path_of
from nvdyn_ase.jobs import Job, JobError, job_of, one_line
from nvdyn_ase.models import BaseModelMixin, as_model
from nvdyn_ase.output import OutputError, ResultFile, result_file
from nvdyn_ase.planning import plan, table
from nvdyn_ase.progress import Bar, Summary
from nvdyn_ase.provenance import UNBINDING, provenance
from nvdyn_ase.reading import Unreadable, structures
from nvdyn_ase.workflows.ahead import ReadAhead
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.checkpoints import Checkpoints, checkpoints_of_ranks
from nvdyn_ase.workflows.flow import flow
from nvdyn_ase.workflows.readings import Readings
from nvdyn_ase.workflows.stream import in_order
from nvdyn_ase.workflows.supply import Numbered


class CommandError(Exception):
    """Something that ends the command with one line for the user."""


#: Errors that say on one line all that the user needs.
FOR_THE_USER = (CommandError, JobError, OutputError, CheckpointError)


def run_files(arguments: argparse.Namespace) -> int:
    """Do a job with the structures in files; return the exit status of the command."""
    job, model = job_of(arguments), model_of(arguments)
    check(arguments, job, model)
    source = provenance_of(arguments, job, model)
    output = result_file(
        *(arguments.output, arguments.output_format, arguments.overwrite),
        resume=arguments.resume,
        method=job.method,
    )
    with output.locked():
        return run_into(output, arguments, job, model, source)


def run_into(
    output: ResultFile,
    arguments: argparse.Namespace,
    job: Job,
    model: BaseModelMixin,
    source: dict[str, Any],
) -> int:
    """Do a job into an output that is this process's alone; return the exit status."""
    run = FileRun(arguments, job, model, output, source)
    if arguments.resume and is_done(output, arguments, source):
        run.checkpoints.remove()  # it was about to be when the run was stopped
        print(f"{arguments.output} is complete: there is nothing to resume")
        return 0 if job.is_success(output.outcomes()) else 1
    with without_looking_for_garbage_in_what_is_there():
        return run.do()


def is_done(output: ResultFile, arguments: argparse.Namespace, source: dict[str, Any]) -> bool:
    """Say whether there is a complete output of this run, and nothing in it to try again.

    If it is of another run, that is an error unless it is to be replaced.
    """
    if arguments.retry_failed or not output.is_complete():
        return False
    try:
        output.look_into(source)
    except OutputError:
        if not arguments.overwrite:
            raise
        return False
    return True


@contextmanager
def without_looking_for_garbage_in_what_is_there() -> Iterator[None]:
    """Let Python look for garbage in what is made from now on, and not in all modules each time.

    That takes a tenth of the time of a cheap model.
    """
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def plan_files(arguments: argparse.Namespace) -> int:
    """Say what doing a job with the structures in files would take; return the exit status."""
    job, model = job_of(arguments), model_of(arguments)
    check(arguments, job, model)
    given = Input(arguments, job)
    capacity = Capacity(arguments.batch_size, model, arguments.max_atoms)
    found = plan(given.read(), model, capacity)
    if not found.structures:
        raise CommandError(given.why_nothing())
    print(table(found, given.problems, job.most_steps or job.n_steps, model.device))
    return 0 if found.usable == found.structures and not given.problems else 1


class FileRun:
    """The structures of files on their way through a job, into a file."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        job: Job,
        model: BaseModelMixin,
        output: ResultFile,
        source: dict[str, Any],
    ) -> None:
        self.arguments, self.job, self.model, self.output = arguments, job, model, output
        self.source = source
        self.input, self.readings = Input(arguments, job), Readings()
        self.summary = Summary(by_steps=job.needed == "budget")
        self.checkpoints = Checkpoints(
            output.path.with_name(f"{output.path.name}.checkpoint.npz"),
            every=arguments.checkpoint_every,
            run={key: value for key, value in source.items() if key not in UNBINDING},
        )
        self.checkpoints.also = checkpoints_of_ranks(output.path)

    def do(self) -> int:
        """Move all structures, and write them; return the exit status."""
        output, resume = self.output, self.arguments.resume and self.is_begun()
        if resume:
            output.open(1, self.source, resume=True, retry=self.arguments.retry_failed)
        done = self._done() if resume else frozenset()
        reading = ReadAhead(self.readings.of(self.input.read(done)))
        try:
            first = list(islice(reading, 2))
            if not (first or done):
                raise CommandError(self.input.why_nothing())
            if not resume:
                self.spare_the_input(output)
                output.open(len(first), self.source)
                self.checkpoints.remove()
            stopped = self.move(chain(first, reading), done)
        finally:
            reading.close()
        return self._told(stopped, len(done))

    def is_begun(self) -> bool:
        """Say whether there is something to go on with, and not only what is to be replaced."""
        replaced = self.arguments.overwrite and not self.arguments.retry_failed
        return self.output.is_begun() and not (replaced and self.output.is_complete())

    def spare_the_input(self, output: ResultFile) -> None:
        """Raise if a file that a new run removes first is one that it reads."""
        read = {path_of(name).resolve() for name in self.arguments.input}
        for path in output.removed_first():
            if path.resolve() in read:
                raise CommandError(f"{path} is read, and would be removed; name another output")

    def _done(self) -> frozenset[int]:
        """Return which structures need not be moved."""
        failed = self.output.failed() if self.arguments.retry_failed else set()
        return frozenset(self.output.done() - failed)

    def move(self, numbered: Iterator[Numbered], done: Container[int]) -> BaseException | None:
        """Move structures and write them; return what has stopped it, if anything."""
        writer: BackgroundWriter[Result] = BackgroundWriter(self.output)
        self.checkpoints.before = writer.flush
        stopped: BaseException | None = None
        try:
            for result in self.summary.watch(self._results(numbered, done)):
                writer.put(result)
            writer.flush()
        except BaseException as why:  # whatever it is, what was written must be whole
            stopped = why
        try:
            writer.close(self.output.close, stopped is None, self.input.problems)
        except WriteError as error:
            cause = error.__cause__
            stopped = cause if isinstance(cause, OutputError) else OutputError(one_line(error))
        if stopped is None:
            self.checkpoints.remove()
        return stopped

    def _told(self, stopped: BaseException | None, before: int) -> int:
        """Say how it went; return the exit status, or raise what has stopped it."""
        problems = dict(self.input.problems)
        self.summary.before = before
        for index, problem in problems.items():
            self.summary.unreadable(index, problem)
        if not self.arguments.quiet:
            print(f"{self.summary}\n\n{self.output.state()}")
        if stopped is not None:
            raise stopped
        return 0 if not problems and self.job.is_success(self.output.outcomes()) else 1

    def _results(self, numbered: Iterator[Numbered], done: Container[int]) -> Iterator[Result]:
        results: Iterator[Result] = flow(
            *(numbered, self.model, self.job.make, self.job.n_steps),
            cell_filter=self.job.cell_filter,
            capacity=self.capacity(),
            bar=self.bar(numbered),
            checkpoints=self.checkpoints,
            done=done,
            readings=self.readings,
        )
        return in_order(results, self.input.problems) if self.is_ordered else results

    def capacity(self) -> Capacity:
        """Return how much a batch holds."""
        return Capacity(self.arguments.batch_size, self.model, self.arguments.max_atoms)

    def bar(self, numbered: Iterator[Numbered]) -> Bar:
        """Return what shows how far it is."""
        return Bar(numbered, self.is_shown, self.input.expected)

    @property
    def is_shown(self) -> bool | str:
        """Whether there is a bar, as :class:`Bar` takes it."""
        arguments = self.arguments
        shown: bool | str = "always" if arguments.progress else arguments.progress is None
        return False if arguments.quiet else shown

    @property
    def is_ordered(self) -> bool:
        """Whether structures that are done early wait to be written."""
        return bool(self.arguments.ordered)


class Input:
    """The structures of input files, and what cannot be read.

    Attributes
    ----------
    problems
        What cannot be read, by position.
    """

    def __init__(self, arguments: argparse.Namespace, job: Job) -> None:
        self._names, self._form = arguments.input, arguments.input_format
        self._prepare = job.prepare
        self.problems: dict[int, str] = {}
        self._skipped = self._count = 0
        self._is_read = False

    def read(self, skip: Container[int] = frozenset()) -> Iterator[Numbered]:
        """Iterate over the structures that can be read, with their positions."""
        self._skipped = len(skip) if isinstance(skip, Sized) else 0
        for index, found in structures(self._names, self._form, skip):
            if isinstance(found, Unreadable):
                self.problems[index] = str(found)
                continue
            problem = self._problem(index, found)
            if problem is not None:
                self.problems[index] = problem
                continue
            self._count += 1
            yield index, found
        self._is_read = True

    def _problem(self, index: int, atoms: ase.Atoms) -> str | None:
        """Make a structure ready for the job; return why that cannot be done, or None."""
        try:
            if self._prepare is not None:
                self._prepare(index, atoms)
        except Exception as error:
            return one_line(error)
        return None

    @cached_property
    def _estimate(self) -> int | None:
        return estimate(self._names, self._form)

    def expected(self) -> int | None:
        """Return how many structures :meth:`read` gives: an estimate until it has ended."""
        if self._is_read or self._estimate is None:
            return self._count if self._is_read else None
        return max(self._estimate - self._skipped - len(self.problems), self._count)

    def why_nothing(self) -> str:
        """Say why there is no structure."""
        return next(iter(self.problems.values()), "there are no structures")


def check(arguments: argparse.Namespace, job: Job, model: BaseModelMixin) -> None:
    """Raise what would be raised for every structure, before anything is read or written."""
    if arguments.retry_failed and not arguments.resume:
        raise CommandError("--retry-failed goes on with an output; it needs --resume")
    if arguments.ordered and arguments.resume:
        raise CommandError("--ordered and --resume exclude each other: what is done stays in place")
    if job.cell_filter is not None and not model.model_card.supports_stress:
        raise CommandError(f"{arguments.model} gives no stress, which --cell-filter needs")
    try:
        job.make(model)
        Capacity(arguments.batch_size, model, arguments.max_atoms)
    except (TypeError, ValueError) as error:
        raise CommandError(one_line(error)) from error


def model_of(arguments: argparse.Namespace) -> BaseModelMixin:
    """Return the model that a command names, on its device."""
    device = arguments.device
    try:
        model = as_model(arguments.model, **dict(arguments.model_option))
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise CommandError(one_line(error)) from error
    if device is None:
        return model
    try:
        torch.empty(0, device=device)
        return model.to(device)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise CommandError(f"--device {device}: {one_line(error)}") from error


def provenance_of(arguments: argparse.Namespace, job: Job, model: BaseModelMixin) -> dict[str, Any]:
    """Return what there is to know of the run that a command names."""
    try:
        return provenance(
            *(job.method, job.parameters, model, arguments.input),
            model_name=arguments.model,
            model_options=dict(arguments.model_option),
            seed=job.seed,
        )
    except OSError as error:
        raise CommandError(f"cannot read {error.filename}: {error.strerror}") from error
