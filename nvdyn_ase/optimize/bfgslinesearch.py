"""BFGS with a line search, with ASE's interface."""

from pathlib import Path
from typing import IO, Any

import ase.optimize.bfgslinesearch
import numpy as np
import torch

from nvdyn_ase import dynamics
from nvdyn_ase.data import Batch
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.optimize.hessians import matrices_of, put_matrices
from nvdyn_ase.optimize.line_search import SearchAttribute, SearchingFacade
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.rest_of_ase import rest_of_module

_LEARNER: Any = ase.optimize.bfgslinesearch.BFGSLineSearch


class BFGSLineSearch(SearchingFacade, ase.optimize.bfgslinesearch.BFGSLineSearch):
    """BFGS with a line search, as ``ase.optimize.BFGSLineSearch``, for one Atoms or a list of them.

    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, equation 6.17; the
    search is that of J. J. Moré and D. J. Thuente, ACM Trans. Math. Softw. 20, 286 (1994), as in
    ASE. ``QuasiNewton`` is another name of it.

    Parameters
    ----------
    atoms
        The Atoms to relax, or a list of them. They are moved in place.
    restart, logfile, append_trajectory, kwargs
        As in ASE. The restart file of a list holds the inverse Hessian of every system.
    maxstep
        Longest displacement of an atom from one trial to the next, Å (0.2 by default).
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    c1, c2
        What is good enough: the decrease of the energy in units of what the first slope promises,
        and the slope in units of the first.
    alpha
        Curvature of the initial Hessian, eV/Å².
    stpmax
        Longest step, in units of the direction. These numbers take one value per system for a list.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.

    Raises
    ------
    RuntimeError
        By a step of one Atoms: its line search failed. In a list, the system leaves with this as
        its reason.
    """

    _parameters = ("maxstep", "c1", "c2", "alpha", "stpmax")
    _constants = _parameters
    maxstep = EngineParameter()
    c1 = EngineParameter()
    c2 = EngineParameter()
    alpha = EngineParameter()
    stpmax = EngineParameter()
    r0 = SearchAttribute(lambda state: state["last_coordinates"])
    g0 = SearchAttribute(lambda state: -state["last_forces"])

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        maxstep: Any = None,
        trajectory: Any = None,
        c1: Any = 0.23,
        c2: Any = 0.46,
        alpha: Any = 10.0,
        stpmax: Any = 50.0,
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
            maxstep=per_system(maxstep),
            c1=per_system(c1),
            c2=per_system(c2),
            alpha=per_system(alpha),
            stpmax=per_system(stpmax),
            **kwargs,
        )
        self._read_restart()

    def _make_engine(self, model: BaseModelMixin) -> dynamics.BFGSLineSearch:
        return dynamics.BFGSLineSearch(model, **{n: self.__dict__[n] for n in self._parameters})

    @property
    def H(self) -> Any:
        """The inverse Hessian, in units of ``1 / alpha``; for a list, one of each system."""
        if self._driver is None:
            return self.__dict__["H"]
        matrices = matrices_of(self._driver.state(), "H")
        return matrices[0] if self._single else matrices

    @H.setter
    def H(self, value: Any) -> None:
        self.__dict__["H"] = value
        if self._driver is not None and value is not None:
            self._driver.close()
            put_matrices(self._driver.state(), "H", [value] if self._single else value)

    def reset(self) -> None:
        """Forget what was learned."""
        super().reset()
        if self._driver is not None:
            own = [np.eye(len(H)) for H in ([self.H] if self._single else self.H)]
            self.H = own[0] if self._single else own
            self._forget_search()

    def _put(self, fields: dict[str, Any]) -> None:
        """Write into the engine's state."""
        assert self._driver is not None
        state = self._driver.state()
        for key, array in fields.items():
            state[key] = torch.as_tensor(np.reshape(array, state[key].shape)).to(state[key])

    def _forget_search(self) -> None:
        """Learn nothing from the last step."""
        assert self._driver is not None
        state = self._driver.state()
        state["search"] = torch.zeros_like(state["search"])

    # ---------------------------------------------------------------- restart

    def read(self) -> None:
        """Read ASE's restart file; that of a list is read when its engine is there."""
        if self._single:
            super().read()

    def _dump_single(self) -> None:
        self.dump((self.r0, self.g0, self.e0, self.task, self.H))

    def _take_single_restart(self) -> None:
        self._take(*(self.__dict__[key] for key in ("r0", "g0", "H")))

    def _take(self, r0: np.ndarray, g0: np.ndarray, H: np.ndarray) -> None:
        self._put({"last_coordinates": r0, "last_forces": -np.asarray(g0), "H": H})
        self._forget_search()

    def replay_trajectory(self, traj: Any) -> None:
        """Learn from an old trajectory of one Atoms, or from one of each in a list."""
        if self._driver is None:
            _LEARNER.replay_trajectory(self, traj)
            return
        if not self._single:
            OptimizerFacade.replay_trajectory(self, traj)
            return
        learner = _LEARNER(self.atoms, logfile=None, alpha=self.alpha)
        learner.replay_trajectory(traj)
        if learner.H is None:
            return
        self._driver.close()
        self._take(learner.r0, learner.g0, learner.H)
        state = self._driver.state()
        state["always"] = torch.ones_like(state["always"])  # as in ASE, whatever a step was like

    def _replay_trajectory(self, traj: Any) -> None:
        """Be among the optimizers that learn from trajectories; see ``replay_trajectory``."""

    def _replay_system(self, frames: Any, state: Batch) -> None:
        learner = _LEARNER(frames[0], logfile=None, alpha=float(state["alpha"]))
        learner.replay_trajectory(frames)
        if learner.H is None:
            return
        put_matrices(state, "H", [learner.H])
        last = {"last_coordinates": learner.r0, "last_forces": -learner.g0}
        for key, array in last.items():
            state[key] = torch.as_tensor(np.reshape(array, state[key].shape)).to(state[key])
        state["search"] = torch.zeros_like(state["search"])
        state["always"] = torch.ones_like(state["always"])


__getattr__ = rest_of_module(__name__)
