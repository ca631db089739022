"""What each command of ``nvdyn-ase`` does with the words that :mod:`nvdyn_ase.cli` has read."""

import argparse
import signal
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, islice
from typing import Any

import ase
import ase.io
import torch
from ase.io.formats import UnknownFileTypeError

import nvdyn_ase.filters
from nvdyn_ase.atoms import Result
from nvdyn_ase.models import BaseModelMixin, as_model
from nvdyn_ase.output import OutputError, result_file
from nvdyn_ase.workflows import Summary, relax


class CommandError(Exception):
    """Something that ends the command with one line for the user."""


#: Errors that say on one line all that the user needs.
FOR_THE_USER = (CommandError, OutputError)


def relax_files(arguments: argparse.Namespace) -> int:
    """Do ``nvdyn-ase relax``; return its exit status."""
    output = result_file(arguments.output, arguments.output_format, arguments.overwrite)
    model = _model(arguments.model, dict(arguments.model_option), arguments.device)
    structures = _read(arguments.input, arguments.input_format)
    # Nothing is created before there is something to put there.
    ahead = list(islice(structures, 2))
    results = _results(chain(_popped(ahead), structures), model, arguments)
    output.open(at_least=len(ahead))
    summary = Summary()
    stopped: BaseException | None = None
    try:
        for result in summary.watch(results):
            with _uninterrupted():
                output.write(result)
    except BaseException as why:  # whatever it is, what was written must be whole
        stopped = why
    with _uninterrupted():
        output.close(complete=stopped is None)
    if not arguments.quiet:
        print(f"{summary}\n\n{output.state()}")
    if stopped is not None:
        raise stopped
    return 0 if summary.converged == summary.total else 1


def _model(name: str, options: dict[str, Any], device: str | None) -> BaseModelMixin:
    try:
        model = as_model(name, **options)
    except (TypeError, ValueError) as error:
        raise CommandError(_one_line(error)) from error
    if device is None:
        return model
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise CommandError(f"--device {device}: {_one_line(error)}") from error
    return model.to(device)


def _results(
    structures: Iterable[ase.Atoms], model: BaseModelMixin, arguments: argparse.Namespace
) -> Iterable[Result]:
    progress = "always" if arguments.progress else arguments.progress is None
    if arguments.quiet:
        progress = False
    try:
        return relax(
            structures,
            model,
            optimizer=arguments.optimizer,
            fmax=arguments.fmax,
            steps=arguments.steps,
            cell_filter=_cell_filter(arguments.cell_filter, dict(arguments.filter_option)),
            batch_size=arguments.batch_size,
            progress=progress,
            **dict(arguments.option),
        )
    except (TypeError, ValueError) as error:
        raise CommandError(_one_line(error)) from error


def _cell_filter(name: str | None, options: dict[str, Any]) -> Any:
    """Return what ``relax`` takes: a name, or a function that puts the filter on."""
    if not options:
        return name
    if name not in nvdyn_ase.filters.__all__:
        raise CommandError("--filter-option needs the name of a filter in --cell-filter")
    kind = partial(getattr(nvdyn_ase.filters, name), **options)
    try:
        kind(ase.Atoms("H", cell=[1.0, 1.0, 1.0], pbc=True))
    except (TypeError, ValueError) as error:
        raise CommandError(f"{name}: {_one_line(error)}") from error
    return kind


def _read(names: list[str], form: str | None) -> Iterator[ase.Atoms]:
    """Read all files, one structure at a time."""
    for name in names:
        count = 0
        try:
            for atoms in ase.io.iread(name, format=form):
                yield atoms
                count += 1
        except Exception as error:
            what = f"structure {count} of {name}" if count else name
            raise CommandError(f"cannot read {what}: {_why_unreadable(error)}") from error
        if not count:
            raise CommandError(f"there are no structures in {name}")


def _why_unreadable(error: Exception) -> str:
    if isinstance(error, UnknownFileTypeError) and " " not in str(error):
        return "it is in no format that ase.io knows; --input-format names one"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if not str(error):
        return f"it is not a valid file of its format ({type(error).__name__})"
    return _one_line(error)


def _popped(items: list[Any]) -> Iterator[Any]:
    while items:
        yield items.pop(0)


def _one_line(error: BaseException) -> str:
    """Return what an error says, on one line; its type if it says nothing."""
    return " ".join(str(error).split()) or type(error).__name__


@contextmanager
def _uninterrupted() -> Iterator[None]:
    """Let Ctrl-C wait until what is being written is whole."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    pressed: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: pressed.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if pressed:
        raise KeyboardInterrupt
