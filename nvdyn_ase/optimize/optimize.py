"""What ASE's ``ase.optimize.optimize`` has, and what the optimizers here have in common."""

import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import ase
import numpy as np
from ase.io.trajectory import Trajectory
from ase.optimize.optimize import (
    DEFAULT_MAX_STEPS,
    BaseDynamics,
    Dynamics,
    OptimizableAtoms,
    Optimizer,
    RestartError,
)

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.optimize.atoms_list import AtomsList
from nvdyn_ase.optimize.facade import EngineFacade, per_system
from nvdyn_ase.optimize.state_file import read_state, write_state
from nvdyn_ase.optimize.system_logs import SystemLine, SystemLogs, one_for_each
from nvdyn_ase.optimize.trajectories import one_each
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = [
    "DEFAULT_MAX_STEPS",
    "BaseDynamics",
    "Dynamics",
    "OptimizableAtoms",
    "Optimizer",
    "OptimizerFacade",
    "RestartError",
]


class OptimizerFacade(EngineFacade):
    """What every optimizer facade has in common: ``fmax``, the log and the restart file."""

    _fmax: Any = None
    _constants: ClassVar[tuple[str, ...]] = ()  # parameters that a restart file does not overrule
    #: What else has to be below a limit than ``fmax``, with the limit by default.
    _further_limits: ClassVar[Mapping[str, float]] = MappingProxyType({})

    def _open(self, atoms: Any, *args: Any, **options: Any) -> None:
        """Choose who runs, and for a list whether there is a log for each."""
        logfile = options.get("logfile")
        several = isinstance(atoms, (list, tuple)) and one_for_each(logfile)
        super()._open(atoms, *args, **(options | {"logfile": None} if several else options))
        if several:
            self.logfile: Any = SystemLogs(logfile, len(atoms), self.comm)

    def irun(self, *args: Any, **kwargs: Any) -> Any:
        """Run as a generator, as in ASE; it yields whether all systems have converged."""
        self._refuse_steps(args, kwargs.get("steps"))
        return super().irun(*args, **kwargs)

    def run(self, *args: Any, **kwargs: Any) -> bool:
        """Run, as in ASE; return whether all systems have converged."""
        self._refuse_steps(args, kwargs.get("steps"))
        return super().run(*args, **kwargs)

    def _refuse_steps(self, args: tuple[Any, ...], steps: Any) -> None:
        """Raise TypeError for steps that are not one number; they are the last that run takes."""
        steps = args[-1] if steps is None and len(args) > 1 else steps
        if np.ndim(steps):
            raise TypeError(
                f"steps of {type(self).__name__} is one number, for all systems, not {steps!r}"
            )

    @property
    def fmax(self) -> Any:
        """Systems are done below this, eV/Å; one number or one per system."""
        return self._fmax

    @fmax.setter
    def fmax(self, value: Any) -> None:
        self._fmax = per_system(value)
        if self._driver is not None:
            # A criterion of the user's own, which speaks of all coordinates, decides alone.
            own = "gradient_converged" in self._replaced()
            self._stop_below(None if own else value)

    def _stop_below(self, fmax: Any) -> None:
        """Tell the engine when a system is done; None for never."""
        assert self._driver is not None
        self._driver.stop_below(fmax)

    def _met(self, gradient: np.ndarray) -> np.ndarray:
        """Return which systems meet the criterion, (B,) bool."""
        assert self._driver is not None
        return AtomsList(self._driver.items).gradient_norms(gradient) < np.asarray(self.fmax)

    def log(self, gradient: np.ndarray) -> None:
        """Write a line: as in ASE for one Atoms, the progress of the batch for several.

        With a log for each system, this is ASE's line of each that has moved.
        """
        if self._driver is None or self._single:
            super().log(gradient)
            return
        if isinstance(self.logfile, SystemLogs):
            self._log_each(self.logfile, gradient)
            return
        name, now = type(self).__name__, time.strftime("%H:%M:%S")
        outcomes = self._driver.outcomes()
        done = int(self._met(gradient).sum()) if self.fmax is not None else 0
        failed = int((outcomes >= Outcome.NAN).sum())
        write = self.logfile.write
        if self.nsteps == 0:
            pad = " " * len(name)
            write(f"{pad}  Step     Time  Systems  Converged  Failed  Energy/atom    max fmax\n")
        energy = np.nansum(self._driver.energies()) / sum(self._driver.batch.num_nodes_list)
        write(
            f"{name}: {self.nsteps:5d} {now} {len(outcomes):8d} {done:10d} {failed:7d} "
            f"{energy:12.6f} {self.optimizable.gradient_norm(gradient):11.6f}\n"
        )

    def _log_each(self, logs: SystemLogs, gradient: np.ndarray) -> None:
        driver = self._driver
        assert driver is not None
        batch = driver.gather()
        energies = driver.engine.energy(batch).detach().view(-1).tolist()
        norms = AtomsList(driver.items).gradient_norms(gradient).tolist()
        steps, failed = driver.column("steps"), driver.outcomes() >= Outcome.NAN
        calls = np.broadcast_to(getattr(self, "force_calls", 0), len(steps)).tolist()
        ases_log = super().log.__func__
        for row in logs.due(steps, failed):
            own = (driver.items[row], int(steps[row]), calls[row], energies[row], norms[row])
            ases_log(SystemLine(self, *own, logs.files[row]), gradient)

    # ---------------------------------------------------------------- restart

    def replay_trajectory(self, traj: Any) -> None:
        """Learn from old trajectories, as in ASE.

        Parameters
        ----------
        traj
            A trajectory or its name; for a list of Atoms one per system, or a name with
            ``{index}`` in it.
        """
        driver = self._driver
        if driver is None or self._single or not hasattr(self, "_replay_trajectory"):
            super().replay_trajectory(traj)
            return
        driver.close()
        state = driver.state()
        parts = [state[[row]] for row in range(len(state))]
        for target, part in zip(one_each(traj, len(parts)), parts, strict=True):
            with ExitStack() as files:
                if isinstance(target, Path):
                    target = files.enter_context(Trajectory(target, "r"))
                self._replay_system(target, part)
        driver.engine.align_states(parts)
        whole, *others = parts
        whole.append(*others)
        for key, tensor in whole:
            state[key] = tensor

    def _replay_system(self, frames: Sequence[ase.Atoms], state: Batch) -> None:
        """Put what is learned from the images of one system into its state."""

    def _after_step(self) -> None:
        if self.restart is None:
            return
        if self._single:
            self._dump_single()
        else:
            assert self._driver is not None
            driver, name = self._driver, type(self).__name__
            write_state(self.restart, driver.state(), name, driver.filters.origin(driver.gather()))

    def _dump_single(self) -> None:
        """Write what ASE's optimizer of this name writes for one Atoms."""

    def _take_single_restart(self) -> None:
        """Hand the engine what ASE's optimizer of this name has read for one Atoms."""

    def _read_restart(self) -> None:
        """Take up the state in the restart file, if there is one."""
        restart = self.restart
        if restart is None or self._driver is None or not Path(restart).is_file():
            return
        if self._single:
            self._take_single_restart()
            return
        driver = self._driver
        state = driver.state()
        fields, filters = read_state(restart, state, type(self).__name__)
        for key, tensor in fields.items():
            if key not in self._constants:
                state[key] = tensor
        driver.filters.restore(filters)
        driver.take_up_changes()


__getattr__ = rest_of_module(__name__)
