"""MDMin with ASE's interface."""

from pathlib import Path
from typing import IO, Any

import ase.optimize.mdmin
import numpy as np

from nvdyn_ase import dynamics
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.optimize.velocity import EngineVelocity
from nvdyn_ase.rest_of_ase import rest_of_module


class MDMin(OptimizerFacade, ase.optimize.mdmin.MDMin):
    """MDMin, as ``ase.optimize.MDMin``, for one Atoms or a list of them.

    H. Jónsson, G. Mills and K. W. Jacobsen, in Classical and Quantum Dynamics in Condensed Phase
    Simulations, World Scientific 1998, chapter 16.

    Parameters
    ----------
    atoms
        The Atoms to relax, or a list of them. They are moved in place.
    restart, logfile, append_trajectory, kwargs
        As in ASE. The restart file of a list holds the state of every system.
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    dt, maxstep
        Time step (0.2 by default) and longest displacement of an atom, Å (0.2 by default). Both
        take one value per system for a list.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.
    """

    dt = EngineParameter()
    maxstep = EngineParameter()
    v = EngineVelocity()

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        trajectory: Any = None,
        dt: Any = None,
        maxstep: Any = None,
        *,
        append_trajectory: bool = False,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        given = {"dt": dt, "maxstep": maxstep}
        # As in ASE, a zero means the default.
        self._given = {
            name: per_system(value if np.any(value) else self.defaults[name])
            for name, value in given.items()
        }
        self._open(
            *(atoms, model, engine, trajectory, append_trajectory),
            restart=restart,
            logfile=logfile,
            # ASE's constructor takes single numbers.
            dt=np.max(self._given["dt"]),
            maxstep=np.max(self._given["maxstep"]),
            **kwargs,
        )
        self._read_restart()

    def _make_engine(self, model: BaseModelMixin) -> dynamics.MDMin:
        return dynamics.MDMin(model, **self._given)

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
