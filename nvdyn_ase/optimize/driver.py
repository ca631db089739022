"""The user's Atoms and the engine that moves them, kept in step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import ase
import numpy as np
import torch

from nvdyn_ase.atoms import Result, batch_from_atoms, read_back, write_back
from nvdyn_ase.atoms.filters import Filters, filtered
from nvdyn_ase.calculators import CalculatorModel, NvdynCalculator, model_for
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import (
    BaseDynamics,
    ConvergenceCriterion,
    ConvergenceHook,
    Optimizer,
    Outcome,
)
from nvdyn_ase.dynamics.evaluated import RESULTS, Evaluated
from nvdyn_ase.dynamics.lifecycle import close_run
from nvdyn_ase.dynamics.parameters import Places, parameter_rows
from nvdyn_ase.dynamics.run import Run
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.seen_calculators import SeenCalculators


class AtomsDriver:
    """Drives an engine over a list of Atoms.

    The engine's batch is ahead of the Atoms between two calls of :meth:`synchronise`, which is made
    only when somebody looks.

    Parameters
    ----------
    items
        The user's Atoms, or filters on them; they are written to in place.
    engine
        What moves them.
    foreign
        Those whose calculator, if any, is not what the engine's model stands for. The results are
        not put into it, where they would mix with its own: a calculator of the model takes its
        place.
    calculators
        Those that the engine's model was taken from: it changes as they do. None if a model was
        given.
    raise_errors
        Whether what a model raises about a system is raised, or ends that system.

    Attributes
    ----------
    items, atoms
        What the user gave, and the Atoms, also those behind filters.
    filters
        The filters among them.
    batch
        All systems in the user's order; behind the run while one is open.
    """

    def __init__(
        self,
        items: Sequence[Any],
        engine: BaseDynamics,
        foreign: Sequence[ase.Atoms] = (),
        calculators: SeenCalculators | None = None,
        raise_errors: bool = False,
    ) -> None:
        self.items = list(items)
        self.atoms = [filtered(item) for item in items]
        self.engine = engine
        self._foreign = list(foreign)
        self._calculators, self._raise_errors = calculators, raise_errors
        self.batch = batch_from_atoms(self.atoms, copy_constraints=False).to(engine.device)
        self.filters = Filters(items)
        self.filters.put(self.batch)
        self._run: Run | None = None
        self._stale = False
        self._gathered = False
        # The state must be there before the first step: the user may read and set it.
        engine.adopt(self.batch)

    # ---------------------------------------------------------------- moving

    @property
    def run(self) -> Run:
        """The run in progress; one is begun if there is none."""
        if self._run is None:
            self._run = Run(self.engine, self.batch)
        return self._run

    def stop_below(self, fmax: float | Sequence[float] | None, **more: Any) -> None:
        """Freeze systems whose largest force is below this, eV/Å; one number or one per system.

        ``more`` are other fields of the batch that have to be below a limit as well.
        """
        if fmax is None:
            self.engine.convergence_hook = None
            return
        self.close()  # who met another limit may have to move on
        limits = {"fmax": fmax, **more}
        self.engine.convergence_hook = ConvergenceHook(
            [
                ConvergenceCriterion(key=key, threshold=self._limit(key, value), strict=True)
                for key, value in limits.items()
            ]
        )

    def _limit(self, key: str, value: float | Sequence[float]) -> float | str:
        """Return a limit, or the field in which each system has its own."""
        values = np.asarray(value, float)
        if values.ndim == 0:
            return values.item()
        targets = torch.as_tensor(values).to(self.batch.device)
        if len(targets) != len(self.atoms):
            raise ValueError(f"{key}: {len(targets)} values for {len(self.atoms)} structures")
        self.batch[f"{key}_target"] = targets.view(-1, 1)
        return f"{key}_target"

    def settle(self) -> bool:
        """Freeze who is done; say whether nobody is left."""
        self._gathered = False
        return self.run.settle()

    def advance(self) -> None:
        """Do one step."""
        self._gathered = False
        with self._calculating():
            self.run.advance_together()
        self._stale = True

    @contextmanager
    def _calculating(self) -> Iterator[None]:
        """Do not take a calculator that is cut off, and has no results then, for one reset."""
        try:
            yield
        except BaseException:
            if self._calculators is not None:
                self._calculators.note_results()
            raise

    def begin(self, n_steps: int) -> None:
        """Begin a run of so many steps of each system, for :meth:`advance_freely`."""
        self.close()
        self._gathered = False
        self._run = Run(self.engine, self.batch, n_steps)

    def advance_freely(self) -> None:
        """Do one forward pass; nobody waits for those who need several for a step."""
        self._gathered = False
        with self._calculating():
            self.run.advance()
        self._stale = True

    def step(self) -> None:
        """Do one step, in which systems that are done do not move."""
        if not self.settle():
            self.advance()

    def use_forces(self, forces: np.ndarray) -> None:
        """Take these for the forces at the present positions, (V, 3), eV/Å.

        Raises
        ------
        ValueError
            Some structure has a filter, which knows of other forces.
        """
        if self.filters:
            raise ValueError("step(forces) does not go with filters in the engine; call step()")
        self.close()
        old = self.gather()["forces"]
        self.batch["forces"] = torch.as_tensor(np.reshape(forces, old.shape)).to(old)

    def step_all(self) -> None:
        """Do one step of every system, whether or not it is done."""
        hook, self.engine.convergence_hook = self.engine.convergence_hook, None
        try:
            self.close()
            self.step()
        finally:
            self.close()
            self.engine.convergence_hook = hook

    def finish(self) -> None:
        """End the run; Atoms, results and counters are those of the last finished step.

        What the user did to the Atoms since they were last written is taken up first.
        """
        self.take_up_changes()
        if self.engine.is_current(self.batch if self._run is None else self._run.batch):
            self.settle()
        self.close()
        close_run(self.batch, self.engine.exit_status)
        self._write()

    def finish_after_error(self) -> None:
        """End the run as far as that goes: the error on its way says more than another would."""
        with suppress(Exception):
            self.finish()

    @contextmanager
    def to_the_end(self) -> Iterator[None]:
        """End the run behind what is done meanwhile, also if that raises or is interrupted."""
        try:
            yield
        except Exception:
            self.finish_after_error()
            raise
        except BaseException:
            self.finish()
            raise
        self.finish()

    def close(self) -> None:
        """End the run in progress, if any, and bring the batch up to date."""
        if self._run is not None:
            run, self._run = self._run, None
            run.close()

    def _discard(self) -> None:
        """Go on from the batch of all systems, whatever the run in progress holds."""
        if self._run is not None:
            self._run.systems.adopt_home()
            self._run = None

    # ---------------------------------------------------------------- the user's objects

    def gather(self) -> Batch:
        """Return all systems as they are now, with forces for exactly these positions."""
        moving = self.batch if self._run is None else self._run.batch
        self.engine.prime(moving)
        return self._gather()

    def together(self) -> Batch:
        """Return all systems as :meth:`gather` does, and give the engine the state of all."""
        if self._run is not None:
            self._run.rejoin()
        return self.gather()

    def _gather(self) -> Batch:
        if self._run is not None and not self._gathered:
            self._run.systems.gather()
            self._gathered = True
        return self.batch

    def synchronise(self) -> None:
        """Write positions, momenta, cells and results into the user's Atoms.

        What the user did to them since they were last written is taken up first.
        """
        self.take_up_changes()
        self.gather()
        self._write()

    def _write(self) -> None:
        momenta = "velocities" in self.engine._mutable_fields
        results = self.engine.is_current(self.batch if self._run is None else self._run.batch)
        if results and self._foreign:
            calculator = NvdynCalculator(self.engine.model)
            while self._foreign:
                self._foreign.pop().calc = calculator
        write_back(self.batch, self.atoms, momenta=momenta, results=results)
        stress = self._stress_of_filters() if results and self.filters else None
        self.filters.write(self.batch, stress)
        if self._calculators is not None:
            self._calculators.note_results()
        self._stale = False

    def take_over(self, batch: Batch) -> None:
        """Write systems that were moved elsewhere into the Atoms: all, in the user's order.

        They have the engine's energies and forces for exactly these positions.
        """
        self.close()
        self.batch = batch.to(self.engine.device)
        results = [key for key in RESULTS if key in batch]
        self.batch.evaluated = Evaluated.now(self.batch, self.engine.model, results)
        self._write()

    def _stress_of_filters(self) -> np.ndarray | None:
        if not isinstance(self.engine, Optimizer):  # of several stages, one may be an integrator
            return None
        stress = self.engine.stress_of_filters(self.batch)
        return None if stress is None else stress.detach().cpu().numpy()

    def take_up_changes(self) -> None:
        """Take up what the user did to Atoms and calculators since they were last written."""
        if self._stale:
            return
        self._take_up_calculators()
        changes = read_back(self.atoms, self._gather())
        filters = bool(self.filters) and self.filters.take_up(self.batch)
        if changes.constraints or filters:
            self.engine.forget_constraints()
        if len(changes) or filters:
            # The changes are in the batch of all systems: what was split off it is out of date.
            self._discard()
            self.engine.begin_anew(self.batch, self.reopen_failed(changes.rows))

    @property
    def follows_calculators(self) -> bool:
        """Whether the engine's model is that of the Atoms' calculators, and changes with them."""
        return self._calculators is not None

    def _take_up_calculators(self) -> None:
        """Go on with the model that the calculators stand for now, if that is another one."""
        if self._calculators is None or not self._calculators.have_changed(self._has_failed):
            return
        model = model_for(self.atoms)
        self.close()
        evaluated = self.batch.evaluated
        for engine in self.engine.made_of():
            engine.use_model(model)
        self.prepare(model)
        if evaluated is not None and self._calculators.still_answer():
            # They were given other parameters and not reset: as in ASE, what they have said of the
            # present geometry goes on to hold.
            self.batch.evaluated = evaluated._replace(model=model)

    def _has_failed(self, row: int) -> bool:
        return "failure" in self.batch.host[row]

    def prepare(self, model: BaseModelMixin) -> None:
        """Have the engine and its model do for ASE's users what they expect."""
        if self._raise_errors:
            self.engine.raise_errors = True
            if isinstance(model, CalculatorModel):
                model.raise_errors = True
        gives_stress = model.model_card.supports_stress and not isinstance(model, CalculatorModel)
        # Whoever looks at results expects the stress, as in ASE.
        self.engine.outputs = frozenset({"stress"}) if gives_stress else frozenset()

    def reopen_failed(self, rows: Sequence[int]) -> np.ndarray:
        """Let systems that failed, and were changed or told of, move again; return which did."""
        changed = torch.zeros(len(self.batch), 1, dtype=torch.bool)
        changed[list(rows)] = True
        outcome = self.batch["outcome"]
        again = changed.to(outcome.device) & (outcome >= int(Outcome.NAN))
        self.batch["outcome"] = torch.where(again, int(Outcome.ACTIVE), outcome)
        self.batch["status"] = torch.where(again, 0, self.batch["status"])
        for row in rows:
            self.batch.host[row].pop("failure", None)
        return np.flatnonzero(again.view(-1).cpu().numpy())

    # ---------------------------------------------------------------- the engine's state

    def state(self) -> Batch:
        """Return the method's own fields for all systems."""
        return self.engine.state if self._run is None else self._run.systems.whole_state()

    def set_parameter(self, name: str, value: Any) -> None:
        """Change a parameter; a sequence gives one value per system."""
        if self._run is not None:
            self._run.rejoin()
        self.engine.set_parameter(name, value)

    def set_state(self, name: str, value: Any) -> None:
        """Change a field of the state with one number per system; a number is for all."""
        self.close()
        state, places = self.state(), Places.of(self.batch)
        state[name] = parameter_rows(name, value, places, self.batch.device).to(state[name])

    # ---------------------------------------------------------------- looking

    def outcomes(self) -> np.ndarray:
        """Return how each system ended, (B,) codes of ``Outcome``."""
        return self.gather()["outcome"].view(-1).cpu().numpy()

    def energies(self) -> np.ndarray:
        """Return the energies with what constraints add, as ``Atoms`` tell them, (B,), eV."""
        batch = self.gather()
        if "energy" not in batch:
            return np.full(len(batch), np.nan)
        energy = self.engine.constraints(batch).energy(batch, batch["energy"])
        return energy.detach().view(-1).cpu().numpy()

    def results(self) -> list[Result]:
        """Return how each system stands."""
        batch = self.gather()
        self.engine.explain(batch)
        return Result.of_batch(batch, self.atoms, energies=self.energies())

    def column(self, key: str) -> np.ndarray:
        """Return a field with one number per system, (B,)."""
        return self.gather()[key].detach().view(-1).cpu().numpy()

    def conserved(self) -> np.ndarray | None:
        """Return what the engine conserves, (B,) eV; NaN where a system has left, None if nothing.

        That of :meth:`together`, without taking those who have left into the run again.
        """
        engine: Any = self.engine
        if not hasattr(engine, "conserved_energy"):
            return None
        moving = self.batch if self._run is None else self._run.batch
        rows = np.arange(len(self.atoms)) if self._run is None else self._run.systems.rows
        engine.prime(moving)
        energies = np.full(len(self.atoms), np.nan)
        energies[rows] = engine.conserved_energy(moving).detach().view(-1).cpu().numpy()
        return energies
