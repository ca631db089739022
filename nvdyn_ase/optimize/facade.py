"""What every facade has in common: one Atoms as in ASE, several through an engine."""

import os
import weakref
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import ase
import numpy as np

from nvdyn_ase.atoms import Result, unwrapped
from nvdyn_ase.atoms.filters import filtered, why_not
from nvdyn_ase.calculators import model_for
from nvdyn_ase.calculators.choosing import without_stress
from nvdyn_ase.data import StructureError
from nvdyn_ase.dynamics import BaseDynamics, NaNDetectorHook
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.atoms_list import AtomsList
from nvdyn_ase.optimize.driver import AtomsDriver
from nvdyn_ase.optimize.overridden import unheard
from nvdyn_ase.optimize.refusals import refuse_impossible, unknown_argument
from nvdyn_ase.optimize.seen_calculators import SeenCalculators
from nvdyn_ase.optimize.trajectories import Trajectories

if TYPE_CHECKING:
    from typing import Any as _Behind

    from nvdyn_ase.optimize.pipeline import Pipeline
    from nvdyn_ase.optimize.stages import Stages
else:
    _Behind = object  # the class that stands behind in the order of inheritance is ASE's


#: What a run calls, and users replace to have a say or a look.
_OPEN = frozenset({"step", "irun", "log", "call_observers", "converged", "gradient_converged"})


class EngineParameter:
    """An attribute of a facade that lives in the engine while there is one.

    Reading it gives a number for one Atoms and an array, one value per system, for several.

    Parameters
    ----------
    name
        Of the engine's parameter or state field; the attribute's own by default.
    """

    def __init__(self, name: str | None = None) -> None:
        self.name = name

    def __set_name__(self, owner: type, attribute: str) -> None:
        """Remember the attribute's name."""
        self.attribute = attribute
        self.name = self.name or attribute

    def __get__(self, facade: Any, owner: type | None = None) -> Any:
        """Read it."""
        if facade is None:
            return self
        if facade.engine is not None:
            return facade._read(self.name)
        try:
            return facade.__dict__[self.attribute]
        except KeyError:
            raise AttributeError(self.attribute) from None

    def __set__(self, facade: Any, value: Any) -> None:
        """Write it."""
        if facade.engine is not None:
            facade._write(self.name, value)
        facade.__dict__[self.attribute] = value


class EngineFacade(_Behind):
    """Put before an ASE class, lets it take several Atoms and run them through an engine.

    With one Atoms, ASE's own code runs, unless ``model`` or ``engine=True`` is given or the
    environment variable ``NVDYN_ASE_ENGINE`` is ``always``. With a list the engine runs.

    Attributes
    ----------
    engine
        The engine, or None where ASE's own code runs.
    """

    atoms: Any
    trajectory: Any
    _driver: AtomsDriver | None = None
    _in_run = False
    _single = True
    _hooks: ClassVar[tuple[type, ...]] = (NaNDetectorHook,)

    def _make_engine(self, model: BaseModelMixin) -> BaseDynamics:
        """Return the engine, with the parameters that ASE's constructor has stored."""
        raise TypeError(f"{type(self).__name__} has no engine; give it one Atoms")

    # ---------------------------------------------------------------- setting up

    def _open(
        self,
        atoms: Any,
        model: Any,
        engine: bool | None,
        trajectory: Any,
        append_trajectory: bool,
        **options: Any,
    ) -> None:
        """Choose who runs, and call ASE's constructor."""
        items = self._for_engine(atoms, model, engine)
        several = isinstance(atoms, (list, tuple))
        files = {"trajectory": trajectory, "append_trajectory": append_trajectory}
        if items is None:
            self._construct(atoms, **files, **options)
            return
        refuse_impossible(options | dict(getattr(self, "_given", {})), several)
        systems = [filtered(item) for item in items]
        self._single = not several
        calculators = SeenCalculators(systems) if model is None else None
        foreign = [] if model is None else [a for a in systems if unwrapped(a.calc) is not model]
        if several:
            self._construct(AtomsList(items), **options)
        else:
            self._construct(items[0], **files, **options)
        given, model = model, model_for(systems, model)  # ASE's complaints come first
        if errors := without_stress(items, None if given is None else model):
            raise errors[0]
        self.atoms = list(items) if several else items[0]
        made = self._make_engine(model)
        for hook in self._hooks:
            made.register_hook(hook())
        # With one Atoms an error is the user's to see, as in ASE.
        self._driver = AtomsDriver(items, made, foreign, calculators, raise_errors=self._single)
        self._driver.prepare(model)
        self.optimizable = AtomsList(items, self._driver)
        if several and trajectory is not None:
            self._attach_trajectories(trajectory, append_trajectory, options)

    def _construct(self, atoms: Any, **options: Any) -> None:
        """Call ASE's constructor; what it does not know is told in the name of this class."""
        try:
            super().__init__(atoms, **options)
        except TypeError as error:
            if (clear := unknown_argument(error, type(self), options)) is None:
                raise
            raise clear from None

    def _for_engine(self, atoms: Any, model: Any, engine: bool | None) -> Sequence[Any] | None:
        """Return what an engine is to move, or None if ASE's own code is to run.

        Raises
        ------
        ValueError
            An empty list.
        TypeError
            A list of something that an engine cannot move, or a subclass that overrides what the
            engine would not call.
        """
        name = type(self).__name__
        own = unheard(type(self))
        if isinstance(atoms, (list, tuple)):
            if not atoms:
                raise ValueError(f"{name} was given an empty list; give it one Atoms or more")
            for index, item in enumerate(atoms):
                if (reason := self._why_not(item)) is not None:
                    raise TypeError(f"{name} cannot take item {index} in a list: {reason}")
            _refuse_twins([filtered(item) for item in atoms])
            self._refuse_overridden(own)
            return atoms
        if not hasattr(atoms, "__ase_optimizable__"):
            kind = type(atoms).__name__
            raise TypeError(f"{name} takes one Atoms or a list of them, not a {kind}; give a list")
        always = os.environ.get("NVDYN_ASE_ENGINE") == "always" if engine is None else engine
        reason = self._why_not(atoms)
        if engine is None and model is None and reason is None and filtered(atoms).calc is None:
            return None  # ASE takes a calculator until the run begins
        if own and engine is None and model is None:
            return None  # an environment variable does not break a class that ASE's code runs
        if reason is None and (model is not None or always):
            self._refuse_overridden(own)
            return [atoms]
        if model is not None or engine:
            asked = (
                "scaled=True needs"
                if getattr(self, "_scaled", False)
                else "model= and engine= need"
            )
            raise TypeError(f"{name}: {asked} something else: {reason}")
        return None

    def _refuse_overridden(self, methods: Sequence[str]) -> None:
        """Raise TypeError if there are methods of the user's that the engine would not call."""
        if methods:
            raise TypeError(
                f"{type(self).__name__} overrides {', '.join(methods)}, which the engine does not "
                "call; give it one Atoms at a time, which ASE's code moves, or override step"
            )

    @staticmethod
    def _why_not(item: Any) -> str | None:
        """Say why the engine cannot move a thing; None if it can."""
        return why_not(item)

    def _attach_trajectories(self, trajectory: Any, append: bool, options: dict[str, Any]) -> None:
        assert self._driver is not None
        interval = options.get("loginterval", 1)
        self.trajectory = Trajectories(trajectory, self._driver.atoms, append)
        self.attach(self._write_trajectories, interval, description={"interval": interval})

    @property
    def engine(self) -> BaseDynamics | None:
        """The engine, or None where ASE's own code runs."""
        return None if self._driver is None else self._driver.engine

    def __add__(self, other: Any) -> "Stages":
        """Return this and, behind it, another optimizer or integrator of the same list."""
        from nvdyn_ase.optimize.stages import Stages

        return Stages([self, *(other.facades if isinstance(other, Stages) else [other])])

    def __or__(self, other: Any) -> "Pipeline":
        """Return this on one rank of ``torchrun`` and, on the next, what another one does."""
        from nvdyn_ase.optimize.pipeline import Pipeline

        return Pipeline([self]) | other

    # ---------------------------------------------------------------- running

    def step(self, forces: Any = None) -> Any:
        """Do one step, as in ASE; in a run, systems that are done do not move.

        With ``forces``, (V, 3) in eV/Å, the step begins with these instead of the present ones.
        """
        driver = self._driver
        if driver is None:
            return super().step(forces)
        watched = not self._in_run or bool(self._replaced())
        if watched:
            driver.take_up_changes()
        if forces is not None:
            driver.use_forces(forces)
        if self._in_run:
            driver.step()
        else:
            driver.step_all()
        self._after_step()
        if watched:
            driver.synchronise()
        return None

    def _after_step(self) -> None:
        """Do what comes after each step of the engine."""

    def irun(self, *args: Any, **kwargs: Any) -> Generator[bool, None, None]:
        """Run as a generator, as in ASE; it yields whether all systems have converged."""
        steps = super().irun(*args, **kwargs)
        if self._driver is None:
            return steps
        steps = self._watched(steps)
        # One that is never run to its end ends while there is still an interpreter to do it.
        weakref.finalize(steps, _close, weakref.ref(steps))
        return steps

    def _watched(
        self, steps: Generator[bool, None, None], shown: bool = True
    ) -> Generator[bool, None, None]:
        """End when no system is left; if they are ``shown``, Atoms are current at every yield."""
        driver = self._driver
        assert driver is not None
        driver.take_up_changes()
        self._in_run = True
        with driver.engine.entered_hooks():
            try:
                if self._replaced():
                    driver.synchronise()
                for converged in steps:
                    if shown:
                        driver.synchronise()
                    with self._at_the_user():
                        yield converged
                    if shown:
                        driver.take_up_changes()
                    if not converged and driver.settle():
                        break
            except Exception:
                self._in_run = False
                driver.finish_after_error()
                raise
            finally:
                if self._in_run:
                    self._in_run = False
                    driver.finish()

    @contextmanager
    def _at_the_user(self) -> Iterator[None]:
        """Take a step that is asked for meanwhile for one by hand, and no part of a run."""
        before, self._in_run = self._in_run, False
        try:
            yield
        finally:
            self._in_run = before

    def run(self, *args: Any, **kwargs: Any) -> bool:
        """Run, as in ASE; return whether all systems have converged."""
        if self._driver is None:
            return super().run(*args, **kwargs)
        if not self._is_plain():
            if self._replaced():
                steps = self.irun(*args, **kwargs)
            else:
                steps = self._watched(super().irun(*args, **kwargs), shown=False)
            converged = False
            for converged in steps:  # noqa: B007
                pass
            return bool(converged)
        return self._run_unobserved(*args, **kwargs)

    def _is_plain(self) -> bool:
        """Say whether nobody looks at a step: no observer, no log, nothing replaced by the user."""
        log = getattr(self, "logfile", None)
        logs = getattr(log, "_logfile", log) is not None  # ASE's has None behind it
        return not logs and not self.observers and not self._replaced()

    def _replaced(self) -> frozenset[str]:
        """Return which methods that a run calls are the user's, by a subclass or on the object."""
        names = _OPEN & self.__dict__.keys()
        for kind in type(self).__mro__:
            if not kind.__module__.startswith(("nvdyn_ase.", "ase.")):
                names |= _OPEN & kind.__dict__.keys()
        return names

    def _run_unobserved(self, *args: Any, **kwargs: Any) -> bool:
        """Run without looking, so that the host never waits for the device."""
        driver = self._driver
        assert driver is not None
        driver.take_up_changes()
        with driver.engine.entered_hooks(), driver.to_the_end():
            # Up to its first value, ASE's generator sets the limits of the run, and no more.
            next(super().irun(*args, **kwargs))
            if driver.engine._tries and not self._single and not getattr(self, "restart", None):
                self._run_freely(driver)
            while self.nsteps < self.max_steps and not driver.settle():
                driver.advance()
                self._after_step()
                self.nsteps += 1
        return bool(self.converged())

    def _run_freely(self, driver: AtomsDriver) -> None:
        """Let each system go through its own steps, though they take others more forward passes."""
        before = driver.column("steps").copy()
        driver.begin(self.max_steps - self.nsteps)
        try:
            while not driver.settle():
                driver.advance_freely()
        finally:
            driver.close()
            self.nsteps += int((driver.column("steps") - before).max())

    # ---------------------------------------------------------------- looking

    def call_observers(self) -> None:
        """Call the observers that are due, with the Atoms current."""
        driver = self._driver
        if driver is None or not self._observers_due():
            super().call_observers()
            return
        driver.synchronise()
        with self._at_the_user():
            super().call_observers()
        driver.take_up_changes()

    def _observers_due(self) -> bool:
        return any(
            self.nsteps % interval == 0 if interval > 0 else self.nsteps == -interval
            for _, interval, _, _ in self.observers
        )

    def _traj_is_empty(self) -> bool:
        if isinstance(self.trajectory, Trajectories):
            return self.trajectory.are_empty
        return super()._traj_is_empty()

    def _write_trajectories(self, description: dict[str, Any]) -> None:
        assert self._driver is not None and isinstance(self.trajectory, Trajectories)
        self.trajectory.write(self._driver.column("steps"), self.todict() | description)

    @property
    def results(self) -> list[Result]:
        """How each system stands: converged, steps, evaluations, energy, fmax, outcome, reason."""
        if self._driver is None:
            raise AttributeError("results are there for a list of Atoms, or with engine=True")
        return self._driver.results()

    # ---------------------------------------------------------------- parameters

    def _read(self, name: str) -> Any:
        driver, engine = self._driver, self.engine
        assert driver is not None and engine is not None
        state = driver.state()
        if name not in state:
            return getattr(engine, name)
        array = state[name].detach().cpu().numpy().copy()
        if self._single and array.size == 1:
            return array.item()
        array.setflags(write=False)  # writing into a copy would do nothing: set the whole
        return array.squeeze(-1)

    def _write(self, name: str, value: Any) -> None:
        assert self._driver is not None
        self._driver.set_parameter(name, value)


def _close(steps: "weakref.ref[Generator[bool, None, None]]") -> None:
    """End a generator, if it is still there."""
    if (generator := steps()) is not None:
        generator.close()


def _refuse_twins(systems: Sequence[ase.Atoms]) -> None:
    """Raise StructureError if the same object is there twice."""
    seen: dict[int, int] = {}
    for index, atoms in enumerate(systems):
        if seen.setdefault(id(atoms), index) != index:
            raise StructureError(
                index, f"it is the same object as structure {seen[id(atoms)]}; give copies"
            )


def per_system(value: Any) -> Any:
    """Return a parameter as ASE's constructors store it: a sequence becomes an array."""
    return np.asarray(value, float) if isinstance(value, (list, tuple)) else value
