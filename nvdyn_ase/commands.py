"""What each command of ``nvdyn-ase`` does with the words that :mod:`nvdyn_ase.cli` has read."""

import argparse
from collections.abc import Iterator
from itertools import chain, islice
from typing import Any

import torch

from nvdyn_ase.atoms import Result
from nvdyn_ase.background_writer import BackgroundWriter, WriteError
from nvdyn_ase.dynamics.checkpoint import CheckpointError
from nvdyn_ase.jobs import Job, JobError, job_of, one_line
from nvdyn_ase.models import BaseModelMixin, as_model
from nvdyn_ase.output import OutputError, ResultFile, result_file
from nvdyn_ase.progress import Bar, Summary
from nvdyn_ase.provenance import provenance
from nvdyn_ase.reading import Unreadable, structures
from nvdyn_ase.workflows.ahead import ReadAhead
from nvdyn_ase.workflows.capacity import Capacity
from nvdyn_ase.workflows.checkpoints import Checkpoints
from nvdyn_ase.workflows.flow import flow
from nvdyn_ase.workflows.stream import in_order
from nvdyn_ase.workflows.supply import Numbered


class CommandError(Exception):
    """Something that ends the command with one line for the user."""


#: Errors that say on one line all that the user needs.
FOR_THE_USER = (CommandError, JobError, OutputError, CheckpointError)


def run_files(arguments: argparse.Namespace) -> int:
    """Do a job with the structures in files; return the exit status of the command."""
    job, model = job_of(arguments), _model(arguments)
    _check(arguments, job, model)
    if arguments.ordered and arguments.resume:
        raise CommandError("--ordered and --resume exclude each other: what is done stays in place")
    output = result_file(
        *(arguments.output, arguments.output_format, arguments.overwrite),
        resume=arguments.resume,
        method=job.method,
    )
    if arguments.resume and output.is_complete():
        print(f"{arguments.output} is complete: there is nothing to resume")
        return 0
    summary = Summary()
    reader = _Reader(arguments, job, summary)
    source = _provenance(arguments, job, model)
    ahead = list(islice(reader.read(), 2)) if not arguments.resume else []
    if not arguments.resume and not ahead:
        raise CommandError(reader.why_nothing())
    output.open(len(ahead) or 1, source, arguments.resume)
    done = output.done() - (_failed(output) if arguments.retry_failed else set())
    run = _Run(arguments, job, model, output, summary)
    return run.do(chain(ahead, reader.read(skip=done | {index for index, _ in ahead})), done)


class _Run:
    """Structures on their way through a job, into a file."""

    def __init__(
        self,
        arguments: argparse.Namespace,
        job: Job,
        model: BaseModelMixin,
        output: ResultFile,
        summary: Summary,
    ) -> None:
        self.arguments, self.job, self.model = arguments, job, model
        self.output, self.summary = output, summary
        self.writer: BackgroundWriter[Result] = BackgroundWriter(output)
        self.checkpoints = Checkpoints(
            output.path.with_name(f"{output.path.name}.checkpoint.npz"),
            arguments.checkpoint_every,
            self.writer.flush,
        )
        if not arguments.resume:
            self.checkpoints.remove()

    def do(self, numbered: Iterator[Numbered], done: set[int]) -> int:
        """Move all structures, and write them; return the exit status."""
        reading = ReadAhead(numbered)
        stopped: BaseException | None = None
        try:
            results = self._results(reading, done)
            for result in self.summary.watch(results):
                self.writer.put(result)
        except BaseException as why:  # whatever it is, what was written must be whole
            stopped = why
        reading.close()
        stopped = self._end(stopped)
        if not self.arguments.quiet:
            print(f"{self.summary}\n\n{self.output.state()}")
        if stopped is not None:
            raise stopped
        return 0 if self.job.is_success(self.output.outcomes()) else 1

    def _results(self, reading: ReadAhead[Numbered], done: set[int]) -> Iterator[Result]:
        arguments = self.arguments
        shown: bool | str = "always" if arguments.progress else arguments.progress is None
        try:
            results: Iterator[Result] = flow(
                *(reading, self.model, self.job.make, self.job.n_steps),
                cell_filter=self.job.cell_filter,
                capacity=Capacity(arguments.batch_size, self.model, arguments.max_atoms),
                bar=Bar(reading, False if arguments.quiet else shown),
                checkpoints=self.checkpoints,
                done=frozenset(done),
            )
        except (TypeError, ValueError) as error:
            raise CommandError(one_line(error)) from error
        return in_order(results) if arguments.ordered else results

    def _end(self, stopped: BaseException | None) -> BaseException | None:
        """Close the file, and say what has stopped the run, if anything."""
        complete = stopped is None
        try:
            self.writer.close(self.output.close, complete)
        except WriteError as error:
            cause = error.__cause__
            return cause if isinstance(cause, OutputError) else OutputError(one_line(error))
        if complete:
            self.checkpoints.remove()
        return stopped


class _Reader:
    """Reads the input, and counts what cannot be read."""

    def __init__(self, arguments: argparse.Namespace, job: Job, summary: Summary) -> None:
        self.names, self.form = arguments.input, arguments.input_format
        self.summary, self._prepare = summary, job.prepare
        self._problems: dict[int, str] = {}

    def read(self, skip: set[int] | None = None) -> Iterator[Numbered]:
        """Iterate over the structures that can be read, with their positions."""
        for index, found in structures(self.names, self.form, skip or frozenset()):
            if not isinstance(found, Unreadable):
                if self._prepare is not None:
                    self._prepare(index, found)
                yield index, found
            elif index not in self._problems:
                self._problems[index] = str(found)
                self.summary.unreadable(index, str(found))

    def why_nothing(self) -> str:
        """Say why there is no structure."""
        return next(iter(self._problems.values()), "there are no structures")


def _check(arguments: argparse.Namespace, job: Job, model: BaseModelMixin) -> None:
    """Raise what would be raised for every structure, before anything is read or written."""
    try:
        job.make(model)
        Capacity(arguments.batch_size, model, arguments.max_atoms)
    except (TypeError, ValueError) as error:
        raise CommandError(one_line(error)) from error


def _failed(output: ResultFile) -> set[int]:
    fine = ("converged", "budget")
    return {index for index, outcome in output.outcomes().items() if outcome not in fine}


def _model(arguments: argparse.Namespace) -> BaseModelMixin:
    device = arguments.device
    try:
        model = as_model(arguments.model, **dict(arguments.model_option))
    except (TypeError, ValueError) as error:
        raise CommandError(one_line(error)) from error
    if device is None:
        return model
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {device}: {one_line(error)}") from error
    return model.to(device)


def _provenance(arguments: argparse.Namespace, job: Job, model: BaseModelMixin) -> dict[str, Any]:
    try:
        return provenance(
            *(job.method, job.parameters, model, arguments.input),
            model_name=arguments.model,
            model_options=dict(arguments.model_option),
            seed=job.seed,
        )
    except OSError as error:
        raise CommandError(f"cannot read {error.filename}: {error.strerror}") from error
