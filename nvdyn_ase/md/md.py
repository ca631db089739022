"""What ASE's ``ase.md.md`` has, and what the integrators here have in common."""

from typing import Any

import ase
import numpy as np
from ase import units
from ase.md.md import MolecularDynamics, process_temperature

from nvdyn_ase.dynamics import Outcome
from nvdyn_ase.md.parameters import given
from nvdyn_ase.optimize.facade import EngineFacade

__all__ = ["MolecularDynamics", "MolecularDynamicsFacade", "process_temperature"]


class MolecularDynamicsFacade(EngineFacade):
    """What every integrator facade has in common: the log of a list, and fresh results."""

    def _open_md(self, atoms: Any, model: Any, engine: bool | None, **options: Any) -> None:
        """Choose who runs; a list gets a table of its own instead of ASE's log."""
        several = isinstance(atoms, (list, tuple))
        logfile = options.pop("logfile")
        trajectory = options.pop("trajectory")
        append = options.pop("append_trajectory", False)
        self._open(
            *(atoms, model, engine, trajectory, append),
            logfile=None if several else logfile,
            **options,
        )
        if several and logfile is not None:
            self._attach_table(logfile, options.get("loginterval", 1))

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

    def _attach_table(self, logfile: Any, interval: int) -> None:
        self.attach(MDTable(self, logfile), interval)

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


class MDTable:
    """The log of a list: one line for the batch.

    Time (ps), systems that still move, and total, potential and kinetic energy per atom (eV) and
    temperature (K), averaged over all atoms. Where systems have their own time steps the time is
    that of the first.

    Parameters
    ----------
    dynamics
        The facade.
    logfile
        A path, an open file, or ``"-"``.
    """

    def __init__(self, dynamics: Any, logfile: Any) -> None:
        self.dynamics = dynamics
        self.logfile = dynamics.openfile(file=logfile, comm=dynamics.comm, mode="a")
        self.logfile.write(
            f"{'Time[ps]':>10} {'Moving':>8} {'Etot/N[eV]':>13} {'Epot/N[eV]':>13} "
            f"{'Ekin/N[eV]':>13} {'T[K]':>9}\n"
        )

    def __call__(self) -> None:
        """Write a line."""
        systems = self.dynamics.atoms
        count = sum(len(atoms) for atoms in systems)
        driver = self.dynamics._driver
        potential = float(np.nansum(driver.column("energy"))) / count
        kinetic = sum(atoms.get_kinetic_energy() for atoms in systems) / count
        dof = sum(atoms.get_number_of_degrees_of_freedom() for atoms in systems)
        temperature = 2 * kinetic * count / (max(dof, 1) * units.kB)
        moving = int((driver.outcomes() < Outcome.NAN).sum())
        picoseconds = np.ravel(self.dynamics.get_time())[0] / (1000 * units.fs)
        self.logfile.write(
            f"{picoseconds:10.4f} {moving:8d} {potential + kinetic:13.6f} {potential:13.6f} "
            f"{kinetic:13.6f} {temperature:9.2f}\n"
        )
        self.logfile.flush()
