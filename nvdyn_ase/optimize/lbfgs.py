"""L-BFGS with ASE's interface."""

from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple

import ase
import ase.optimize.lbfgs
import numpy as np
import torch

from nvdyn_ase import dynamics
from nvdyn_ase.data import Batch
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.optimize.line_search import SearchingFacade
from nvdyn_ase.rest_of_ase import rest_of_module


class LBFGS(SearchingFacade, ase.optimize.lbfgs.LBFGS):
    """L-BFGS, as ``ase.optimize.LBFGS``, for one Atoms or a list of them.

    J. Nocedal and S. J. Wright, Numerical Optimization, 2nd ed., Springer 2006, algorithm 7.4.

    Parameters
    ----------
    atoms
        The Atoms to relax, or a list of them. They are moved in place.
    restart, logfile, append_trajectory, kwargs
        As in ASE. The restart file of a list holds the histories of every system.
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    maxstep
        Longest displacement of an atom, Å (0.2 by default, at most 1).
    memory
        Pairs of steps and changes of the force that are kept.
    damping, alpha
        Factor on every step; curvature of the initial Hessian, eV/Å². These and ``maxstep`` take
        one value per system for a list.
    use_line_search
        Search along each direction, so that a step takes as many force calls as its search; there
        is no damping then. In a list every system has trials of its own.
    scaled
        Scale the initial Hessian by the curvature along each system's last step (Nocedal and
        Wright, equation 7.20). It needs far fewer force calls than ASE's fixed one. The engine
        runs, for one Atoms too.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.

    Raises
    ------
    ValueError
        ``maxstep`` is above 1 Å.
    RuntimeError
        By a step of one Atoms: its line search failed. In a list, the system leaves with this as
        its reason.
    """

    maxstep = EngineParameter()
    damping = EngineParameter()

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        trajectory: Any = None,
        maxstep: Any = None,
        memory: int = 100,
        damping: Any = 1.0,
        alpha: Any = 70.0,
        use_line_search: bool = False,
        *,
        append_trajectory: bool = False,
        scaled: bool = False,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self._scaled = scaled
        maxstep = self.defaults["maxstep"] if maxstep is None else maxstep
        given = {"maxstep": maxstep, "damping": damping, "alpha": alpha}
        self._given = {name: per_system(value) for name, value in given.items()}
        self._open(
            *(atoms, model, True if scaled else engine, trajectory, append_trajectory),
            restart=restart,
            logfile=logfile,
            # ASE's constructor takes single numbers, and checks them.
            maxstep=np.max(maxstep),
            memory=memory,
            damping=np.max(damping),
            alpha=np.max(alpha),
            use_line_search=use_line_search,
            **kwargs,
        )
        self._read_restart()

    def _make_engine(self, model: BaseModelMixin) -> dynamics.LBFGS:
        options = {"memory": self.state.memory, "scaled": self._scaled, **self._given}
        if not self.use_line_search:
            return dynamics.LBFGS(model, **options)
        damping = options.pop("damping")
        engine = dynamics.LBFGSLineSearch(model, **options)
        engine.damping = damping  # which is there to be read, as in ASE
        return engine

    def _count_pairs(self) -> None:
        if self._driver is not None:
            assert isinstance(self._driver.engine, dynamics.LBFGS)
            self._driver.engine.count_pairs()

    # ---------------------------------------------------------------- restart

    def _after_step(self) -> None:
        if not self.use_line_search:
            self.force_calls += 1
            self.function_calls += 1
        super()._after_step()

    def read(self) -> None:
        """Read ASE's restart file; that of a list is read when its engine is there."""
        if self._single:
            super().read()

    def _read_restart(self) -> None:
        super()._read_restart()
        self._count_pairs()

    def _dump_single(self) -> None:
        assert self._driver is not None
        history = History.of_system(self._driver.state())
        self.dump((*history, self.e0, self.task))

    def _take_single_restart(self) -> None:
        assert self._driver is not None
        self._learned().put_into(self._driver.state(), self.state.memory)

    def _learned(self) -> "History":
        """Return what ASE's code has learned on this object."""
        method = self.state
        return History(method.iteration, method.s, method.y, method.rho, self.r0, self.f0)

    def _replay_trajectory(self, traj: Any) -> None:
        """Learn from an old trajectory of one Atoms."""
        super()._replay_trajectory(traj)
        if self._driver is not None:
            self._take_single_restart()
            self._count_pairs()

    def replay_trajectory(self, traj: Any) -> None:
        """Learn from old trajectories: of one Atoms, or of each in a list."""
        super().replay_trajectory(traj)
        self._count_pairs()

    def _replay_system(self, frames: Sequence[ase.Atoms], state: Batch) -> None:
        memory, start = self.state.memory, self.state.H0
        self.state = type(self.state)(memory=memory, initial_inverse_hessian=start)
        super()._replay_trajectory(frames)
        self._learned().put_into(state, self.state.memory)


class LBFGSLineSearch(LBFGS, ase.optimize.lbfgs.LBFGSLineSearch):
    """L-BFGS with a line search, as ``ase.optimize.LBFGSLineSearch``, for one Atoms or a list.

    It is :class:`LBFGS` with ``use_line_search=True``. The search is that of J. J. Moré and D. J.
    Thuente, ACM Trans. Math. Softw. 20, 286 (1994), as in ASE.

    Parameters
    ----------
    args, kwargs
        Those of :class:`LBFGS`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["use_line_search"] = True
        super().__init__(*args, **kwargs)


class History(NamedTuple):
    """The history of one system, as ASE's restart file of one Atoms has it.

    Steps and changes of the gradient come oldest first, flat; ``iteration`` counts steps made.
    """

    iteration: int
    s: list[np.ndarray]
    y: list[np.ndarray]
    rho: list[float]
    r0: np.ndarray | None
    f0: np.ndarray | None

    @classmethod
    def of_system(cls, state: Batch) -> "History":
        """Read the history out of the engine's state of one system."""
        pairs, slots = int(state["pairs"]), state["s"].shape[1]
        places = np.arange(pairs - min(pairs, slots), pairs) % slots
        s, y = (list(state[key].cpu().numpy().transpose(1, 0, 2)[places]) for key in ("s", "y"))
        rho = (1.0 / state["curvature"][0].cpu().numpy()[places]).tolist()
        last = (state[key].cpu().numpy().ravel() for key in ("last_coordinates", "last_forces"))
        return cls(pairs + 1, [a.ravel() for a in s], [a.ravel() for a in y], rho, *last)

    def put_into(self, state: Batch, memory: int) -> None:
        """Write the history into the engine's state of one system."""
        if self.r0 is None or self.f0 is None:
            return
        s, y = (np.reshape(rows[-memory:], (-1, state.num_nodes, 3)) for rows in (self.s, self.y))
        pairs = max(self.iteration - 1, len(s))
        places = np.arange(pairs - len(s), pairs) % memory
        slots = max(state["s"].shape[1], min(pairs, memory))
        histories = {key: np.zeros((state.num_nodes, slots, 3)) for key in ("s", "y")}
        histories["s"][:, places], histories["y"][:, places] = (a.swapaxes(0, 1) for a in (s, y))
        overlaps = np.triu(np.tensordot(s, y, axes=((1, 2), (1, 2))))
        curvature, inverse = np.zeros((1, slots)), np.zeros((1, slots, slots))
        curvature[0, places] = overlaps.diagonal()
        inverse[0, places[:, None], places[None, :]] = np.linalg.inv(overlaps)
        fields = {
            **histories,
            "curvature": curvature,
            "inverse": inverse,
            "last_coordinates": np.reshape(self.r0, (-1, 3)),
            "last_forces": np.reshape(self.f0, (-1, 3)),
        }
        for key, array in fields.items():
            state[key] = torch.as_tensor(array).to(state["last_coordinates"])
        state["pairs"] = torch.full_like(state["pairs"], pairs)


__getattr__ = rest_of_module(__name__)
