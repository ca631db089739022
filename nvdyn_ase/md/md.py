"""What ASE's ``ase.md.md`` has, and what the integrators here have in common."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import ase
import numpy as np
from ase.md.md import MolecularDynamics, process_temperature

from nvdyn_ase.dynamics import Schedule
from nvdyn_ase.md.logger import MDLogger
from nvdyn_ase.md.parameters import check_lengths, given
from nvdyn_ase.optimize.facade import EngineFacade
from nvdyn_ase.optimize.system_logs import one_for_each
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["MDLogger", "MolecularDynamics", "MolecularDynamicsFacade", "process_temperature"]


class MolecularDynamicsFacade(EngineFacade):
    """What every integrator facade has in common: the log of a list, and fresh results."""

    #: Parameters as they were given, where ASE's constructor gets others.
    _given: Mapping[str, Any] = MappingProxyType({})

    def _open_md(self, atoms: Any, model: Any, engine: bool | None, **options: Any) -> None:
        """Choose who runs; a list gets a table of its own instead of ASE's log."""
        several = isinstance(atoms, (list, tuple))
        everything = dict(options) | dict(self._given)
        if several:
            check_lengths(everything, len(atoms))
        for name, value in everything.items():
            if isinstance(value, Schedule) and self._for_engine(atoms, model, engine) is None:
                raise TypeError(f"{name}: a schedule needs the engine; give a list, or engine=True")
        logfile = options.pop("logfile")
        trajectory = options.pop("trajectory")
        append = options.pop("append_trajectory", False)
        self._open(
            *(atoms, model, engine, trajectory, append),
            logfile=None if several else logfile,
            **options,
        )
        if several and logfile is not None:
            per_atom = not one_for_each(logfile)  # ASE's own table has totals
            log = MDLogger(self, list(atoms), logfile, peratom=per_atom, comm=self.comm)
            self.attach(self.closelater(log), options.get("loginterval", 1))

    @staticmethod
    def _why_not(item: Any) -> str | None:
        """Say why the engine cannot move a thing; None if it can."""
        if isinstance(item, ase.Atoms):
            return None
        return f"a {type(item).__name__} is not an Atoms"

    @staticmethod
    def _process_temperature(temperature: Any, temperature_K: Any, orig_unit: str) -> Any:
        """Return the temperature in K, as ASE does; for a list it may be one per system."""
        return process_temperature(given(temperature), given(temperature_K), orig_unit)

    def _refresh_properties(self) -> None:
        """Leave forces to whoever looks; the engine has them."""
        if self._driver is None:
            super()._refresh_properties()

    def step(self, forces: Any = None) -> Any:
        """Do one step, as in ASE, and return the forces after it, (V, 3) in eV/Å."""
        returned = super().step(forces)
        driver = self._driver
        if driver is None or self._in_run:
            return returned
        batch = driver.gather()
        return driver.engine.constraints(batch).forces(batch, md=True).detach().cpu().numpy()

    def irun(self, steps: int = 50) -> Any:
        """Run as a generator, as in ASE."""
        return super().irun(steps=steps)

    def converged(self, gradient: Any = None) -> bool:
        """Say whether the steps are done, as in ASE."""
        return bool(self.nsteps >= self.max_steps)

    def get_time(self) -> Any:
        """Return the time since the start, in ASE units; one per system if their steps differ."""
        return self.nsteps * np.asarray(self.dt)[()]

    def system_times(self) -> np.ndarray:
        """Return the time of each system at its own last step, (B,), in ASE units."""
        driver = self._driver
        assert driver is not None
        times = np.broadcast_to(np.ravel(self.get_time()), len(driver.atoms))
        steps = driver.column("steps")
        return times - (steps.max() - steps) * np.asarray(self.dt)


__getattr__ = rest_of_module(__name__)
