"""Quasi-Newton with a trust radius, with ASE's interface."""

from pathlib import Path
from typing import IO, Any

import ase.optimize.oldqn
import numpy as np

from nvdyn_ase import dynamics
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.optimize.hessians import matrices_of, put_matrices
from nvdyn_ase.optimize.optimize import OptimizerFacade
from nvdyn_ase.rest_of_ase import rest_of_module


class GoodOldQuasiNewton(OptimizerFacade, ase.optimize.oldqn.GoodOldQuasiNewton):
    """Quasi-Newton with a trust radius, as ``ase.optimize.GoodOldQuasiNewton``, also for a list.

    A. Banerjee, N. Adams, J. Simons and R. Shepard, J. Phys. Chem. 89, 52 (1985).

    Parameters
    ----------
    atoms
        The Atoms to relax, or a list of them. They are moved in place.
    restart, logfile, kwargs
        As in ASE. The restart file of a list holds the state of every system; ASE writes none.
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    fmax, converged, hessian
        Not used, as in ASE; see :meth:`set_hessian`.
    hessianupdate
        ``"BFGS"``, ``"Powell"`` or ``"Bofill"``.
    forcemin
        Let the radius follow how well the energy was predicted.
    verbosity
        As in ASE, where its code runs.
    maxradius, diagonal, radius
        Largest trust radius and first one, Å, and curvature of the initial Hessian, eV/Å² (20 by
        default). They take one value per system for a list.
    transitionstate
        Search for a saddle point, as in ASE; for one Atoms and ASE's own code.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.

    Raises
    ------
    ValueError
        ``transitionstate`` is asked of the engine.
    """

    radius = EngineParameter()
    maxradius = EngineParameter()
    hessianupdate = EngineParameter()
    forcemin = EngineParameter()
    _seen = False  # whether the Hessian was asked for or set

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        trajectory: Any = None,
        fmax: Any = None,
        converged: Any = None,
        hessianupdate: str = "BFGS",
        hessian: Any = None,
        forcemin: bool = True,
        verbosity: bool = False,
        maxradius: Any = None,
        diagonal: Any = 20.0,
        radius: Any = None,
        transitionstate: bool = False,
        *,
        append_trajectory: bool = False,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        if transitionstate:
            if isinstance(atoms, (list, tuple)) or model is not None or engine:
                raise ValueError(
                    "transitionstate=True is for one Atoms and ASE's own code; leave it out for a "
                    "list, which is relaxed to minima"
                )
            engine = False
        given = {"maxradius": maxradius, "diagonal": diagonal, "radius": radius}
        self._given = {name: per_system(value) for name, value in given.items()}
        # ASE's constructor takes single numbers.
        largest = {k: None if v is None else np.max(v) for k, v in self._given.items()}
        self._open(
            *(atoms, model, engine, trajectory, append_trajectory),
            restart=restart,
            logfile=logfile,
            hessianupdate=hessianupdate,
            forcemin=forcemin,
            verbosity=verbosity,
            transitionstate=transitionstate,
            maxradius=largest["maxradius"],
            diagonal=largest["diagonal"],
            radius=largest["radius"],
            **kwargs,
        )
        self._read_restart()

    def _make_engine(self, model: BaseModelMixin) -> dynamics.GoodOldQuasiNewton:
        return dynamics.GoodOldQuasiNewton(
            model, self.hessianupdate, forcemin=self.forcemin, **self._given
        )

    def read(self) -> None:
        """Read the restart file of a list, when its engine is there; ASE has none."""
        if self._single:
            super().read()

    # ---------------------------------------------------------------- the Hessian

    @property
    def diagonal(self) -> Any:
        """Curvature of the Hessian that is begun with, eV/Å².

        As in ASE, it counts until the first step, and until somebody asks for or sets the Hessian.
        """
        return self._read("diagonal") if self._driver is not None else self.__dict__["diagonal"]

    @diagonal.setter
    def diagonal(self, value: Any) -> None:
        self.__dict__["diagonal"] = value
        if self._driver is None:
            return
        self._write("diagonal", value)
        if self._seen:
            return
        state = self._driver.state()
        still = (~state["moved"]).view(-1).tolist()
        numbers = state["diagonal"].view(-1).tolist()
        begun = [c * np.eye(3 * n) for c, n in zip(numbers, state.num_nodes_list, strict=True)]
        put_matrices(state, "hessian", begun, where=still)

    def get_hessian(self) -> Any:
        """Return the Hessian, eV/Å²; for a list one per system."""
        if self._driver is None:
            return super().get_hessian()
        self._seen = True
        found = matrices_of(self._driver.state(), "hessian")
        return found[0] if self._single else found

    @property
    def hessian(self) -> Any:
        """The Hessian, eV/Å²; for a list one per system. With ASE's code it is there once made."""
        if self._driver is not None:
            return self.get_hessian()
        try:
            return self.__dict__["hessian"]
        except KeyError:
            raise AttributeError("hessian") from None

    @hessian.setter
    def hessian(self, value: Any) -> None:
        if self._driver is None:
            self.__dict__["hessian"] = value
        else:
            self.set_hessian(value)

    def set_hessian(self, hessian: Any) -> None:
        """Replace the Hessian, eV/Å²; for a list one per system."""
        if self._driver is None:
            super().set_hessian(hessian)
            return
        self._driver.close()
        self._seen = True
        put_matrices(self._driver.state(), "hessian", [hessian] if self._single else hessian)


__getattr__ = rest_of_module(__name__)
