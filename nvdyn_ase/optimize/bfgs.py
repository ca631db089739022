"""BFGS with ASE's interface."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import ase.optimize.bfgs
import numpy as np
import torch
from ase.filters import UnitCellFilter

from nvdyn_ase import dynamics
from nvdyn_ase.data import Batch
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.optimize.hessians import EngineHessian, matrices_of, put_matrices
from nvdyn_ase.optimize.one_at_a_time import OneAtATime
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.rest_of_ase import rest_of_module


class BFGS(OptimizerFacade, ase.optimize.bfgs.BFGS):
    """BFGS, as ``ase.optimize.BFGS``, for one Atoms or a list of them.

    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, section 6.1.

    Parameters
    ----------
    atoms
        The Atoms to relax, or a list of them. They are moved in place.
    restart, logfile, append_trajectory, kwargs
        As in ASE. The restart file of a list holds the Hessians of every system.
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    maxstep
        Longest displacement of an atom, Å (0.2 by default).
    alpha
        Curvature of the initial Hessian, eV/Å² (70 by default). Both take one value per system for
        a list.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.

    Attributes
    ----------
    H0, H
        The Hessian before the first step, which may be set until then, and now, eV/Å²; for a list
        one per system.
    """

    maxstep = EngineParameter()
    alpha = EngineParameter()
    H0 = EngineHessian("H0")

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        trajectory: Any = None,
        append_trajectory: bool = False,
        maxstep: Any = None,
        alpha: Any = None,
        *,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        given = {"maxstep": maxstep, "alpha": alpha}
        self._given = {
            name: per_system(self.defaults[name] if value is None else value)
            for name, value in given.items()
        }
        self._open(
            *(atoms, model, engine, trajectory, append_trajectory),
            restart=restart,
            logfile=logfile,
            # ASE's constructor takes single numbers.
            maxstep=np.max(self._given["maxstep"]),
            alpha=np.max(self._given["alpha"]),
            **kwargs,
        )
        self._read_restart()

    def _make_engine(self, model: BaseModelMixin) -> dynamics.BaseDynamics:
        return dynamics.BFGS(model, **self._given)

    def initialize(self) -> None:
        """Make the first Hessian; that of each system in a list is the engine's."""
        if self._single:
            super().initialize()
        else:
            self.state = self.pos0 = self.forces0 = None

    @property
    def H(self) -> Any:
        """The Hessian as it is now, eV/Å²; for a list one per system."""
        if self._driver is None:
            return super().H
        found = matrices_of(self._driver.state(), "hessian")
        return found[0] if self._single else found

    # ---------------------------------------------------------------- restart

    def read(self) -> None:
        """Read ASE's restart file; that of a list is read when its engine is there."""
        if self._single:
            super().read()

    def _dump_single(self) -> None:
        assert self._driver is not None
        state = self._driver.state()
        last = (state[key].cpu().numpy().ravel() for key in ("last_coordinates", "last_forces"))
        cell = (self.atoms.orig_cell,) if isinstance(self.atoms, UnitCellFilter) else ()
        self.dump((self.H, *last, self.maxstep, *cell))

    def _take_single_restart(self) -> None:
        assert self._driver is not None
        self.maxstep = self.__dict__["maxstep"]
        self._driver.synchronise()  # the file may have set the cell that a filter starts from
        self._put_learned(self._driver.state())

    def _put_learned(self, state: Batch) -> None:
        """Put what ASE's code has learned on this object into the state of one system."""
        method: Any = self.state
        put_matrices(state, "hessian", [method.hessian])
        last: dict[str, Any] = {"last_coordinates": self.pos0, "last_forces": self.forces0}
        for key, array in last.items():
            state[key] = torch.as_tensor(np.reshape(array, (-1, 3))).to(state[key])
        state["moved"] = torch.ones_like(state["moved"])

    def _replay_trajectory(self, traj: Any) -> None:
        """Learn from an old trajectory of one Atoms."""
        super()._replay_trajectory(traj)
        if self._driver is not None:
            self._put_learned(self._driver.state())

    def _replay_system(self, frames: Sequence[Any], state: Batch) -> None:
        own = self.__dict__.pop("H0", None)
        self.__dict__["H0"] = matrices_of(state, "hessian")[0]  # where ASE's code begins
        super()._replay_trajectory(frames)
        self._put_learned(state)
        del self.__dict__["H0"]
        if own is not None:
            self.__dict__["H0"] = own


class oldBFGS(OneAtATime, ase.optimize.bfgs.oldBFGS):  # noqa: N801
    """``ase.optimize.bfgs.oldBFGS`` as it is; it takes one Atoms."""


__getattr__ = rest_of_module(__name__)
