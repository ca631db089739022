"""FIRE 2.0 and ABC-FIRE with ASE's interface."""

from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import ase.optimize.fire2
import numpy as np

from nvdyn_ase import dynamics
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.optimize.velocity import EngineVelocity
from nvdyn_ase.rest_of_ase import rest_of_module


class FIRE2(OptimizerFacade, ase.optimize.fire2.FIRE2):
    """FIRE 2.0, as ``ase.optimize.FIRE2``, for one Atoms or a list of them.

    J. Guénolé, W. G. Nöhring, A. Vaid, F. Houllé, Z. Xie, A. Prakash and E. Bitzek, Comput. Mater.
    Sci. 175, 109584 (2020); with ``use_abc``, S. Echeverri Restrepo and P. Andric, Comput. Mater.
    Sci. 218, 111978 (2023).

    Parameters
    ----------
    atoms
        The Atoms to relax, or a list of them. They are moved in place.
    restart, logfile, append_trajectory, kwargs
        As in ASE. The restart file of a list holds the state of every system.
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    dt, dtmax, dtmin, maxstep
        First, largest and smallest time step; longest step of a system or, with ``use_abc``, of
        each component, Å.
    Nmin, finc, fdec, astart, fa
        As in ASE. These, the time steps and ``maxstep`` take one value per system for a list.
    position_reset_callback
        As in ASE, which keeps it and never calls it.
    use_abc
        Run ABC-FIRE.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.
    """

    _parameters = ("dt", "maxstep", "dtmax", "dtmin", "Nmin", "finc", "fdec", "astart", "fa")
    dt = EngineParameter()
    maxstep = EngineParameter()
    dtmax = EngineParameter()
    dtmin = EngineParameter()
    Nmin = EngineParameter()
    finc = EngineParameter()
    fdec = EngineParameter()
    astart = EngineParameter()
    fa = EngineParameter()
    a = EngineParameter()
    v = EngineVelocity()

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        trajectory: Any = None,
        dt: Any = 0.1,
        maxstep: Any = 0.2,
        dtmax: Any = 1.0,
        dtmin: Any = 2e-3,
        Nmin: Any = 20,
        finc: Any = 1.1,
        fdec: Any = 0.5,
        astart: Any = 0.25,
        fa: Any = 0.99,
        position_reset_callback: Callable[..., Any] | None = None,
        use_abc: bool | None = False,
        *,
        append_trajectory: bool = False,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self._open(
            *(atoms, model, engine, trajectory, append_trajectory),
            restart=restart,
            logfile=logfile,
            dt=per_system(dt),
            maxstep=per_system(maxstep),
            dtmax=per_system(dtmax),
            dtmin=per_system(dtmin),
            Nmin=per_system(Nmin),
            finc=per_system(finc),
            fdec=per_system(fdec),
            astart=per_system(astart),
            fa=per_system(fa),
            position_reset_callback=position_reset_callback,
            use_abc=use_abc,
            **kwargs,
        )
        self._read_restart()

    def _make_engine(self, model: BaseModelMixin) -> dynamics.FIRE2:
        options = {name: self.__dict__[name] for name in self._parameters}
        return dynamics.FIRE2(model, use_abc=bool(self.use_abc), **options)

    @property
    def Nsteps(self) -> Any:
        """Downhill steps in a row."""
        if self._driver is None:
            return self.__dict__["Nsteps"]
        return np.asarray(self._read("downhill_steps")).astype(int)[()]

    @Nsteps.setter
    def Nsteps(self, value: Any) -> None:
        self.__dict__["Nsteps"] = value
        if self._driver is not None:
            self._driver.set_state("downhill_steps", value)

    # ---------------------------------------------------------------- restart

    def read(self) -> None:
        """Read ASE's restart file; that of a list is read when its engine is there."""
        if self._single:
            super().read()

    def _dump_single(self) -> None:
        self.dump((self.v, self.dt))

    def _take_single_restart(self) -> None:
        self.v = self.__dict__["v"]


__getattr__ = rest_of_module(__name__)
