"""``ase.optimize.FIRE``, for one Atoms or a list."""

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import ase.optimize.fire
import numpy as np
import torch

from nvdyn_ase import dynamics
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.optimizers.fire import FIREConstants
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.rest_of_ase import rest_of_module


class FIRE(OptimizerFacade, ase.optimize.fire.FIRE):
    """FIRE, as ``ase.optimize.FIRE``, for one Atoms or a list of them.

    E. Bitzek, P. Koskinen, F. Gähler, M. Moseler and P. Gumbsch, Phys. Rev. Lett. 97, 170201
    (2006).

    Parameters
    ----------
    atoms
        The Atoms to relax, or a list of them. They are moved in place.
    restart, logfile, append_trajectory, kwargs
        As in ASE. The restart file of a list holds the state of every system.
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    dt, dtmax, maxstep
        First and largest time step; longest step of a system, Å (0.2 by default).
    Nmin, finc, fdec, astart, fa, a
        As in ASE. These and the time steps take one value per system for a list.
    maxmove
        Deprecated in ASE; ``maxstep``.
    downhill_check, position_reset_callback
        As in ASE; the callback is called for each system that is reset.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.
    """

    _constants = FIREConstants._fields
    _parameters = ("dt", "maxstep", "dtmax", "Nmin", "finc", "fdec", "astart", "fa", "a")
    dt = EngineParameter()
    maxstep = EngineParameter()
    dtmax = EngineParameter()
    Nmin = EngineParameter()
    finc = EngineParameter()
    fdec = EngineParameter()
    astart = EngineParameter()
    fa = EngineParameter()
    a = EngineParameter()

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        trajectory: Any = None,
        dt: Any = 0.1,
        maxstep: Any = None,
        maxmove: Any = None,
        dtmax: Any = 1.0,
        Nmin: Any = 5,
        finc: Any = 1.1,
        fdec: Any = 0.5,
        astart: Any = 0.1,
        fa: Any = 0.99,
        a: Any = 0.1,
        downhill_check: bool = False,
        position_reset_callback: Callable[..., Any] | None = None,
        *,
        append_trajectory: bool = False,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if maxmove is not None:
            kwargs["maxmove"] = maxmove
        self._open(
            *(atoms, model, engine, trajectory, append_trajectory),
            restart=restart,
            logfile=logfile,
            dt=per_system(dt),
            maxstep=per_system(maxstep),
            dtmax=per_system(dtmax),
            Nmin=per_system(Nmin),
            finc=per_system(finc),
            fdec=per_system(fdec),
            astart=per_system(astart),
            fa=per_system(fa),
            a=per_system(a),
            downhill_check=downhill_check,
            position_reset_callback=position_reset_callback,
            **kwargs,
        )
        self._read_restart()

    def _make_engine(self, model: BaseModelMixin) -> dynamics.FIRE:
        callback = None if self.position_reset_callback is None else self._report_reset
        options = {name: self.__dict__[name] for name in self._parameters}
        return dynamics.FIRE(
            model,
            downhill_check=self.downhill_check,
            position_reset_callback=callback,
            **options,
        )

    def _report_reset(self, batch: Batch, uphill: torch.Tensor) -> None:
        """Call the user's callback for every system that is about to be put back."""
        driver, callback = self._driver, self.position_reset_callback
        rows = np.flatnonzero(uphill.view(-1).cpu().numpy())
        if driver is None or callback is None or not len(rows):
            return
        driver.synchronise()
        state = driver.engine.state
        energies = driver.engine.energy(batch).view(-1).cpu().numpy()
        for row in rows:
            item = driver.items[driver.run.systems.rows[row]]
            own = slice(*state.host_ptr[row : row + 2])
            before = state["last_coordinates"][own].cpu().numpy().ravel()
            last = float(state["last_energy"][row])
            callback(item.__ase_optimizable__(), before, float(energies[row]), last)

    # ---------------------------------------------------------------- restart

    @property
    def vel(self) -> np.ndarray | None:
        """Velocity of every coordinate, flat; None before the first step."""
        if self._driver is None:
            return self.__dict__["vel"]
        state = self._driver.state()
        if bool((state["downhill_steps"] < 0).all()):
            return None
        return state["velocity"].cpu().numpy().ravel()

    @vel.setter
    def vel(self, value: np.ndarray | None) -> None:
        self.__dict__["vel"] = value
        if self._driver is not None:
            self._take_velocity(value)

    def _take_velocity(self, velocity: Any) -> None:
        """Give every system its velocity, or with None have it start as if it had not moved."""
        assert self._driver is not None
        self._driver.close()
        state = self._driver.state()
        if velocity is None:
            state["velocity"] = torch.zeros_like(state["velocity"])
            state["downhill_steps"] = torch.full_like(state["downhill_steps"], -1.0)
            if self.downhill_check:
                state["last_energy"] = torch.full_like(state["last_energy"], float("inf"))
            return
        rows = torch.as_tensor(np.reshape(np.asarray(velocity, float), (-1, 3)))
        state["velocity"] = rows.to(state["velocity"])
        state["downhill_steps"] = state["downhill_steps"].clamp(min=0.0)

    @property
    def Nsteps(self) -> Any:
        """Downhill steps in a row."""
        if self._driver is None:
            return self.__dict__["Nsteps"]
        return np.maximum(self._read("downhill_steps"), 0).astype(int)[()]

    @Nsteps.setter
    def Nsteps(self, value: Any) -> None:
        self.__dict__["Nsteps"] = value
        if self._driver is not None:
            self._driver.set_state("downhill_steps", value)

    def read(self) -> None:
        """Read ASE's restart file; that of a list is read when its engine is there."""
        if self._single:
            super().read()

    def _dump_single(self) -> None:
        self.dump((self.vel, self.dt))

    def _take_single_restart(self) -> None:
        self.vel = self.__dict__["vel"]


__getattr__ = rest_of_module(__name__)
