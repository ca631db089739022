"""``relax + md``: optimizers and integrators one after the other, in one batch."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nvdyn_ase.atoms import Result
from nvdyn_ase.dynamics import BaseDynamics, ConvergenceCriterion, ConvergenceHook
from nvdyn_ase.dynamics.fused import FusedStage
from nvdyn_ase.optimize.driver import AtomsDriver
from nvdyn_ase.optimize.facade import EngineFacade
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.optimize.seen_calculators import SeenCalculators

if TYPE_CHECKING:
    from nvdyn_ase.optimize.pipeline import Pipeline


class Stages:
    """Optimizers and integrators of the same Atoms, one after the other; made by ``+``.

    A structure that is done with one begins the next, whatever the others do, and all share the
    forward pass of a step::

        relax = FIRE(systems)
        heat = Langevin(systems, timestep=2 * fs, temperature_K=600, friction=0.01 / fs)
        quench = LBFGS(systems)
        anneal = relax + heat + quench
        anneal.run(fmax=0.05, steps=[None, 1000, 500])
        print([result.stage_steps for result in anneal.results])

    Each does what it would have done in three runs, one after the other.

    Parameters
    ----------
    facades
        Optimizers of ``nvdyn_ase.optimize`` and integrators of ``nvdyn_ase.md`` that were given the
        same list, and no observers of their own. The first says which model it is.

    Attributes
    ----------
    atoms
        The structures.
    nsteps
        Steps of the batch in the last run.

    Raises
    ------
    TypeError
        Something else, or one that leaves its Atoms to ASE's own code.
    ValueError
        They have other Atoms, filters that differ, or observers; the trajectory and the log of an
        integrator are such.
    """

    def __init__(self, facades: Sequence[EngineFacade]) -> None:
        for facade in facades:
            if not isinstance(facade, EngineFacade):
                raise TypeError(
                    f"a stage is an optimizer or integrator of nvdyn_ase, not "
                    f"{type(facade).__name__}"
                )
            if facade._driver is None:
                raise TypeError(
                    f"{type(facade).__name__} leaves one Atoms to ASE's own code; for stages give "
                    "it a list, or engine=True"
                )
            if facade.observers:  # type: ignore[attr-defined]
                raise ValueError(
                    f"{type(facade).__name__} has observers (attach, a trajectory or a log), which "
                    "count its own steps; leave them out, and attach functions to the stages"
                )
        self.facades = list(facades)
        self._driver = self._opened()
        self.atoms = self._driver.atoms
        self.nsteps = 0
        self._observers: list[tuple[Callable[..., Any], int, tuple[Any, ...], dict[str, Any]]] = []

    def __repr__(self) -> str:
        """Say what follows what."""
        names = " + ".join(type(facade).__name__ for facade in self.facades)
        return f"Stages({names}, {len(self.atoms)} structures)"

    def __add__(self, other: Any) -> "Stages":
        """Return stages with another optimizer or integrator, or with other stages, behind them."""
        more = other.facades if isinstance(other, Stages) else [other]
        return Stages([*self.facades, *more])

    def __or__(self, other: Any) -> "Pipeline":
        """Return these stages on one rank and, on the next, what another one does."""
        from nvdyn_ase.optimize.pipeline import Pipeline

        return Pipeline([self]) | other

    def _opened(self) -> AtomsDriver:
        drivers = [facade._driver for facade in self.facades if facade._driver is not None]
        first = next((driver for driver in drivers if driver.filters), drivers[0])
        for driver in drivers:
            same = len(driver.atoms) == len(first.atoms) and all(
                one is other for one, other in zip(driver.atoms, first.atoms, strict=True)
            )
            if not same:
                raise ValueError("the stages have other Atoms; give all of them the same list")
            if driver.filters and any(
                one is not other for one, other in zip(driver.items, first.items, strict=True)
            ):
                raise ValueError("the stages have other filters; give all of them the same ones")
        self.items, self._foreign = first.items, drivers[0]._foreign
        return first

    @property
    def engine(self) -> BaseDynamics:
        """What moves the structures: a ``FusedStage`` once there was a run."""
        return self._driver.engine

    def attach(
        self, function: Callable[..., Any], interval: int = 1, *args: Any, **kwargs: Any
    ) -> None:
        """Call a function every so many steps of the batch, with the Atoms current."""
        self._observers.append((function, interval, args, kwargs))

    def run(self, fmax: Any = 0.05, steps: Any = None) -> bool:
        """Move every structure through all stages; say whether each met the last criterion.

        Parameters
        ----------
        fmax
            An optimizer is done with a structure whose largest force is below this, eV/Å; one
            number, or one per stage, of which those of integrators do not count.
        steps
            Of each structure in a stage; one number, or one per stage. None is no limit for an
            optimizer; an integrator needs a number.

        Raises
        ------
        ValueError
            Not one value per stage, or an integrator without steps.
        """
        self._driver = self.driver(self.engines(fmax, steps))
        self.nsteps = 0
        self._move(self._driver)
        return all(result.converged for result in self.results)

    def engines(self, fmax: Any, steps: Any) -> list[BaseDynamics]:
        """Return new engines of the stages, for what :meth:`run` is given."""
        first = self.facades[0]._driver
        assert first is not None
        first.take_up_changes()  # the model that all of them move with may be another one by now
        limits, counts = self._each("fmax", fmax), self._each("steps", steps)
        return [
            self._engine(facade, limit, count)
            for facade, limit, count in zip(self.facades, limits, counts, strict=True)
        ]

    def _each(self, name: str, value: Any) -> list[Any]:
        if not isinstance(value, (list, tuple, np.ndarray)):
            return [value] * len(self.facades)
        if len(value) != len(self.facades):
            raise ValueError(
                f"{name}: {len(value)} values for {len(self.facades)} stages; give one or one each"
            )
        return list(value)

    def driver(self, engines: Sequence[BaseDynamics]) -> AtomsDriver:
        """Return what keeps the Atoms in step with these engines, one after the other."""
        first = self.facades[0]._driver
        assert first is not None
        calculators = SeenCalculators(self.atoms) if first.follows_calculators else None
        return AtomsDriver(
            self.items, FusedStage(list(enumerate(engines))), self._foreign, calculators
        )

    def _engine(self, facade: EngineFacade, fmax: Any, steps: int | None) -> BaseDynamics:
        first = self.facades[0].engine
        assert first is not None and facade.engine is not None
        engine = facade._make_engine(first.model)
        for kind in facade._hooks:
            engine.register_hook(kind())
        engine.outputs, engine.n_steps = facade.engine.outputs, steps
        if isinstance(facade, OptimizerFacade):
            limit = ConvergenceCriterion(key="fmax", threshold=float(fmax), strict=True)
            engine.convergence_hook = ConvergenceHook(limit)
        elif steps is None:
            raise ValueError(f"steps: {type(facade).__name__} needs a number, as it never ends")
        return engine

    def _move(self, driver: AtomsDriver) -> None:
        driver.take_up_changes()
        with driver.engine.entered_hooks(), driver.to_the_end():
            while not driver.settle():
                driver.advance_freely()
                self.nsteps += 1
                self._call_observers(driver)

    def _call_observers(self, driver: AtomsDriver) -> None:
        due = [own for own in self._observers if self.nsteps % own[1] == 0]
        if not due:
            return
        driver.synchronise()
        for function, _, args, kwargs in due:
            function(*args, **kwargs)
        driver.take_up_changes()

    @property
    def results(self) -> list[Result]:
        """How each structure stands, with its steps in each stage; as ``results`` of a facade."""
        return self._driver.results()
