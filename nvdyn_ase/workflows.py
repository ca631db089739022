"""Many structures through a method of ``nvdyn_ase.optimize``: a stream in, results out in order."""

import math
import operator
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import ase

import nvdyn_ase.filters
import nvdyn_ase.optimize
from nvdyn_ase.atoms import Result, partition, unwrapped
from nvdyn_ase.atoms.filters import why_not
from nvdyn_ase.calculators import CalculatorModel, unsupported
from nvdyn_ase.calculators.choosing import interchangeable, without_stress
from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.models import BaseModelMixin, Harmonic, as_model
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.progress import Bar, Summary

__all__ = ["Result", "Summary", "relax"]

#: With ``batch_size="auto"`` a batch is full when it has so many atoms, by the kind of device. On
#: the CPU a structure of 20 atoms costs 3.1, 1.9 and 1.6 ms in batches of 4096, 16384 and 65536.
ATOMS_PER_BATCH = {"cpu": 16384, "cuda": 65536}
#: An atom counts this many times where a calculator is called structure by structure: larger
#: batches would not be faster, and results would come later.
ATOMS_ONE_BY_ONE = 32


def relax(
    structures: Iterable[ase.Atoms],
    model: Any = None,
    *,
    optimizer: str | type[OptimizerFacade] = "FIRE",
    fmax: float = 0.05,
    steps: int = 500,
    cell_filter: str | Callable[[ase.Atoms], Any] | None = None,
    batch_size: int | str = "auto",
    progress: bool | str = True,
    **optimizer_options: Any,
) -> Generator[Result, None, None]:
    """Relax many structures in batches, and give each back with how it ended.

    The structures are moved in place, a batch at a time, and come back in the order in which they
    went in; each ends as it would have alone. Afterwards ``atoms.calc`` has the results for the
    final positions. A structure that cannot be used, or on which the model fails, comes back with
    the reason, and the others do not notice::

        for result in relax(ase.io.iread("many.extxyz"), EMT()):
            print(result.index, result.energy, result.converged, result.reason)

    Parameters
    ----------
    structures
        A list, a generator, an open file: any iterable of Atoms. It is read as results are asked
        for, and no more than a batch of it is held, so it may be endless. It must not give the same
        object twice. If reading it raises, what came before is relaxed first.
    model
        A batched model, an ASE calculator or a name as ``"emt"``, for all; by default each
        structure's own calculator. See :func:`nvdyn_ase.models.as_model`.
    optimizer
        Name of a class in ``nvdyn_ase.optimize``, or the class.
    fmax
        A structure is done when its largest force is below this, eV/Å.
    steps
        At most so many for each structure.
    cell_filter
        Relax the cells too: the name of a class in ``nvdyn_ase.filters``, as
        ``"FrechetCellFilter"``, the class, or a function that puts a filter on an Atoms, as
        ``functools.partial(FrechetCellFilter, scalar_pressure=0.01)``.
    batch_size
        Structures in a batch. With ``"auto"``, as many as make up 16384 atoms on the CPU, 65536 on
        a GPU, and 512 where a calculator has no batched equal and is called structure by structure.
        What comes back does not depend on it.
    progress
        Show a bar on stderr: True, if a person can see it (a terminal or a notebook); ``"always"``;
        or False.
    optimizer_options
        For the optimizer, as ``maxstep=0.1``; one value for all structures.

    Returns
    -------
    Generator of Result
        One per structure. If it is closed early or interrupted, the structures of the batch in hand
        are at the last finished step, and those after it have not been touched.

    Raises
    ------
    TypeError
        ``structures`` is a single Atoms or a file name; an option that the optimizer does not have.
    ValueError
        An argument out of its range; an optimizer or filter that does not exist; a filter, and a
        model that gives no stress. All at the call.
    """
    _check_stream(structures)
    method = _optimizer_class(optimizer)
    _check_options(method, optimizer_options)
    relaxation = _Relaxation(
        method,
        None if model is None else as_model(model),
        _filter(cell_filter),
        _positive("fmax", fmax),
        _at_least("steps", steps, 0),
        optimizer_options,
    )
    relaxation.check_stress()
    capacity = _Capacity(batch_size, relaxation.model)
    bar = Bar(structures, progress)
    return _stream(_batches(structures, capacity), relaxation, bar)


def _stream(
    batches: Iterator[list[Any]], relaxation: "_Relaxation", bar: Bar
) -> Generator[Result, None, None]:
    """Relax batch after batch."""
    index = 0
    with bar:
        for batch in batches:
            results = deque(relaxation.of_batch(batch, index, bar))
            # What is held must not outlive its batch: the user's stream may be endless.
            batch.clear()
            bar.count(results)
            while results:
                yield replace(results.popleft(), index=index)
                index += 1


# -------------------------------------------------------------------- one batch


class _Relaxation(NamedTuple):
    """What is done to a batch, and what becomes of a structure that it cannot be done to."""

    method: type[OptimizerFacade]
    model: BaseModelMixin | None
    cell_filter: Callable[[ase.Atoms], Any] | None
    fmax: float
    steps: int
    options: dict[str, Any]

    def check_stress(self) -> None:
        """Raise ValueError if cells are to move and the model has no stress."""
        model = self.model
        if self.cell_filter is None or model is None or model.model_card.supports_stress:
            return
        raise ValueError(f"{type(model).__name__} gives no stress, which cell_filter= needs")

    def of_batch(self, batch: Sequence[Any], start: int, bar: Bar) -> list[Result]:
        """Relax the structures that can be used; return the results of all, in order.

        ``start`` is the position in the input of the first.
        """
        reasons = self._unusable(batch, start)
        results = {
            row: _failure(batch[row], Outcome.REJECTED, reason) for row, reason in reasons.items()
        }
        for rows in self._groups(batch, [row for row in range(len(batch)) if row not in reasons]):
            results |= zip(rows, self._relax([batch[row] for row in rows], bar), strict=True)
        return [results[row] for row in range(len(batch))]

    def _unusable(self, batch: Sequence[Any], start: int) -> dict[int, str]:
        """Return the rows that cannot be used, with the reason."""
        rows, errors = partition(batch)
        if self.model is not None:
            errors += unsupported([batch[row] for row in rows], self.model, rows)
        reasons = {error.index: error.problem for error in errors if error.index is not None}
        first: dict[int, int] = {}
        for row in rows:
            place = first.setdefault(id(batch[row]), row)
            if place != row:
                reasons[row] = f"it is the same object as structure {start + place}; give copies"
            elif self.model is None and batch[row].calc is None:
                reasons[row] = "it has no calculator; give it one, or all a model="
            elif (problem := why_not(self._item(batch[row]))) is not None:
                reasons[row] = problem
            elif lacking := without_stress([self._item(batch[row])], self.model):
                reasons[row] = lacking[0].problem
        return reasons

    def _item(self, atoms: ase.Atoms) -> Any:
        """Return what is moved: the Atoms, or a filter on it."""
        return atoms if self.cell_filter is None else self.cell_filter(atoms)

    def _groups(self, batch: Sequence[ase.Atoms], rows: list[int]) -> list[list[int]]:
        """Put together what one model can do, so that nobody's company decides which it is."""
        if self.model is not None:
            return [rows]
        groups: list[list[int]] = []
        for row in rows:
            for group in groups:
                asked = (unwrapped(batch[member].calc) for member in (group[0], row))
                if interchangeable(*asked):
                    group.append(row)
                    break
            else:
                groups.append([row])
        return groups

    def _relax(self, systems: list[ase.Atoms], bar: Bar) -> list[Result]:
        """Relax; if that raises, each half by itself, until only who is to blame fails."""
        if not systems:
            return []
        before = [_Before.of(atoms) for atoms in systems]
        results = self._attempt(systems, bar)
        if isinstance(results, list):
            return results
        if len(systems) == 1:
            return [results]
        for atoms, state in zip(systems, before, strict=True):
            state.restore(atoms)
        middle = len(systems) // 2
        return self._relax(systems[:middle], bar) + self._relax(systems[middle:], bar)

    def _attempt(self, systems: list[ase.Atoms], bar: Bar) -> list[Result] | Result:
        """Relax; if that raises, return the failure of the first."""
        optimizer = None
        try:
            items = [self._item(atoms) for atoms in systems]
            optimizer = self.method(items, model=self.model, logfile=None, **self.options)
            bar.watch(optimizer.engine, len(systems))
            optimizer.run(fmax=self.fmax, steps=self.steps)
            return optimizer.results
        except StructureError as error:
            return _failure(systems[0], Outcome.REJECTED, error.problem)
        except Exception as error:
            # Only the words are kept: the error's trace holds the memory that a retry needs.
            reason = f"{type(error).__name__}: {error}"
            steps = 0 if optimizer is None else optimizer.nsteps
            return _failure(systems[0], Outcome.ERROR, reason, steps)


class _Before(NamedTuple):
    """What a run changes of an Atoms."""

    positions: Any
    cell: Any
    calc: Any

    @classmethod
    def of(cls, atoms: ase.Atoms) -> "_Before":
        """Remember an Atoms as it is."""
        return cls(atoms.positions.copy(), atoms.cell.array.copy(), atoms.calc)

    def restore(self, atoms: ase.Atoms) -> None:
        """Make it so again, whatever its constraints say."""
        atoms.positions[:] = self.positions
        atoms.cell[:] = self.cell
        atoms.calc = self.calc


def _failure(atoms: Any, outcome: Outcome, reason: str, steps: int = 0) -> Result:
    return Result(atoms, 0, False, steps, steps, math.nan, math.nan, outcome, reason)


# -------------------------------------------------------------------- the stream


class _Capacity:
    """When a batch is full: at so many structures, or so many atoms.

    Parameters
    ----------
    batch_size
        Structures, or ``"auto"``.
    model
        The model for all; None if each structure has its own calculator.

    Attributes
    ----------
    limit
        A batch is full when the shares of what is in it come up to this.
    """

    def __init__(self, batch_size: int | str, model: BaseModelMixin | None) -> None:
        if isinstance(batch_size, str) and batch_size != "auto":
            raise ValueError(f'batch_size must be "auto" or a number, not {batch_size!r}')
        self._by_atoms = batch_size == "auto"
        self._model = model
        self._weights: dict[type, int] = {}
        device = "cpu" if model is None else model.device.type
        by_atoms = ATOMS_PER_BATCH.get(device, ATOMS_PER_BATCH["cuda"])
        self.limit = by_atoms if self._by_atoms else _at_least("batch_size", batch_size, 1)

    def share(self, item: Any) -> int:
        """Return how much of a batch an item takes up."""
        if not self._by_atoms or not isinstance(item, ase.Atoms):
            return 1
        return max(len(item), 1) * self._weight(unwrapped(item.calc))

    def _weight(self, calculator: Any) -> int:
        """Return how often the atoms of a calculator count; found once for each class."""
        asked = calculator if self._model is None else self._model
        if type(asked) not in self._weights:
            single = asked is not None and isinstance(as_model(asked), CalculatorModel)
            self._weights[type(asked)] = ATOMS_ONE_BY_ONE if single else 1
        return self._weights[type(asked)]


def _batches(structures: Iterable[Any], capacity: _Capacity) -> Iterator[list[Any]]:
    """Cut a stream; an error in reading it comes after the last batch of what was read."""
    source = iter(structures)
    error: Exception | None = None
    more = True
    while more:
        batch: list[Any] = []
        filled = 0
        while filled < capacity.limit:
            try:
                item = next(source)
            except StopIteration:
                more = False
                break
            except Exception as problem:
                error, more = problem, False
                break
            batch.append(item)
            filled += capacity.share(item)
            del item
        if batch:
            yield batch
    if error is not None:
        raise error


# -------------------------------------------------------------------- the arguments


def _check_stream(structures: Any) -> None:
    if isinstance(structures, ase.Atoms):
        raise TypeError("relax takes an iterable of Atoms; for a single one, relax([atoms], ...)")
    if isinstance(structures, (str, bytes)) or not isinstance(structures, Iterable):
        raise TypeError(
            f"relax takes an iterable of Atoms, not {structures!r}; files are read with "
            "ase.io.iread(name)"
        )


def _optimizers() -> dict[str, type[OptimizerFacade]]:
    found = ((name, getattr(nvdyn_ase.optimize, name)) for name in nvdyn_ase.optimize.__all__)
    return {name: item for name, item in found if _is_optimizer(item)}


def _is_optimizer(item: Any) -> bool:
    return isinstance(item, type) and issubclass(item, OptimizerFacade)


def _optimizer_class(optimizer: Any) -> type[OptimizerFacade]:
    if _is_optimizer(optimizer):
        return optimizer
    known = _optimizers()
    if optimizer in known:
        return known[optimizer]
    raise ValueError(
        f"there is no optimizer {optimizer!r} for many structures; there are {', '.join(known)}"
    )


def _filter(cell_filter: Any) -> Callable[[ase.Atoms], Any] | None:
    if not isinstance(cell_filter, str):
        return cell_filter
    known = [name for name in nvdyn_ase.filters.__all__ if name != "Filter"]
    if cell_filter in known:
        return getattr(nvdyn_ase.filters, cell_filter)
    raise ValueError(f"there is no cell filter {cell_filter!r}; there are {', '.join(known)}")


#: Options of a facade that name files or belong to relax itself.
_NOT_FOR_STREAMS = ("restart", "trajectory", "append_trajectory", "logfile", "engine")


def _check_options(method: type[OptimizerFacade], options: dict[str, Any]) -> None:
    """Refuse now what the optimizer would refuse for every batch."""
    unfit = [name for name in _NOT_FOR_STREAMS if name in options]
    if unfit:
        raise ValueError(
            f"{unfit[0]}= is not for streams of structures; give a list to "
            f"nvdyn_ase.optimize.{method.__name__}"
        )
    method([ase.Atoms("H")], model=Harmonic(), logfile=None, **options)


def _positive(name: str, value: Any) -> float:
    if not (isinstance(value, (int, float)) and 0 < value < math.inf):
        raise ValueError(f"{name} must be a positive number, not {value!r}")
    return float(value)


def _at_least(name: str, value: Any, least: int) -> int:
    try:
        number = operator.index(value)
    except TypeError:
        number = least - 1
    if number < least or isinstance(value, bool):
        raise ValueError(f"{name} must be a whole number, {least} or more, not {value!r}")
    return number
