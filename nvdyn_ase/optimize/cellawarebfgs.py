"""BFGS that knows the stiffness of the cell, with ASE's interface."""

from pathlib import Path
from types import MappingProxyType
from typing import IO, Any

import ase.optimize.cellawarebfgs
import numpy as np
from ase.filters import FrechetCellFilter
from ase.optimize.cellawarebfgs import calculate_isotropic_elasticity_tensor
from ase.units import GPa

from nvdyn_ase import dynamics
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.bfgs import BFGS
from nvdyn_ase.optimize.facade import per_system
from nvdyn_ase.optimize.system_logs import SystemLogs
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["CellAwareBFGS", "calculate_isotropic_elasticity_tensor"]


class CellAwareBFGS(BFGS, ase.optimize.cellawarebfgs.CellAwareBFGS):
    """BFGS that knows the stiffness of the cell, as ``ase.optimize.CellAwareBFGS``; also for lists.

    Parameters
    ----------
    atoms
        A ``FrechetCellFilter`` with ``exp_cell_factor=1.0``, or a list of them.
    restart, logfile, trajectory, append_trajectory, maxstep, alpha, kwargs
        As those of :class:`BFGS`.
    bulk_modulus, poisson_ratio
        Of the first Hessian, eV/Å³; they take one value per system for a list.
    long_output
        As in ASE, in the log of one Atoms.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single filter by the engine too.
    """

    smax: Any = 0.005
    _further_limits = MappingProxyType({"smax": 0.005})

    def __init__(
        self,
        atoms: Any,
        restart: str | Path | None = None,
        logfile: IO[str] | str | Path | None = "-",
        trajectory: Any = None,
        append_trajectory: bool = False,
        maxstep: Any = None,
        bulk_modulus: Any = 145 * GPa,
        poisson_ratio: Any = 0.3,
        alpha: Any = None,
        long_output: bool | None = False,
        *,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        numbers = {"bulk_modulus": bulk_modulus, "poisson_ratio": poisson_ratio}
        self._solid = {name: per_system(value) for name, value in numbers.items()}
        super().__init__(
            *(atoms, restart, logfile, trajectory, append_trajectory, maxstep, alpha),
            model=model,
            engine=engine,
            long_output=long_output,
            # ASE's constructor takes single numbers.
            bulk_modulus=np.max(bulk_modulus),
            poisson_ratio=np.max(poisson_ratio),
            **kwargs,
        )

    def _make_engine(self, model: BaseModelMixin) -> dynamics.CellAwareBFGS:
        return dynamics.CellAwareBFGS(model, **self._given, **self._solid)

    @staticmethod
    def _why_not(item: Any) -> str | None:
        """Say why the engine cannot move a thing; None if it can."""
        if not isinstance(item, FrechetCellFilter) or item.exp_cell_factor != 1.0:
            return (
                "it is not FrechetCellFilter(atoms, exp_cell_factor=1.0); for streams give "
                "cell_filter=functools.partial(FrechetCellFilter, exp_cell_factor=1.0)"
            )
        return BFGS._why_not(item)

    def initialize(self) -> None:
        """Make the first Hessian; that of each system in a list is the engine's."""
        if self._single:
            super().initialize()
        else:
            BFGS.initialize(self)

    # ---------------------------------------------------------------- when it is done

    def run(  # type: ignore[override]  # as ASE's
        self, fmax: Any = 0.05, smax: Any = 0.005, steps: int | None = None
    ) -> bool:
        """Run until forces on atoms are below ``fmax``, eV/Å, and stresses below ``smax``, eV/Å³.

        Both may be one number per system.
        """
        if self._driver is None:
            return super().run(fmax, smax, steps)
        self.smax = smax
        return super().run(fmax=fmax, **({} if steps is None else {"steps": steps}))

    def _stop_below(self, fmax: Any) -> None:
        assert self._driver is not None
        self._driver.stop_below(fmax, smax=self.smax)

    def _met(self, gradient: np.ndarray) -> np.ndarray:
        """Return which systems meet the criteria, (B,) bool."""
        assert self._driver is not None
        batch, engine = self._driver.gather(), self._driver.engine
        assert isinstance(engine, dynamics.CellAwareBFGS)
        forces, stress = (
            largest(batch).view(-1).cpu().numpy()
            for largest in (engine.largest_force, engine.largest_stress)
        )
        return (forces < np.asarray(self.fmax)) & (stress < np.asarray(self.smax))

    def gradient_converged(self, gradient: np.ndarray) -> bool:
        """Say whether every system meets the criteria."""
        if self._driver is None:
            return super().gradient_converged(gradient)
        return bool(self._met(gradient).all())

    def log(self, gradient: np.ndarray) -> None:
        """Write a line: as in ASE for one or for each, or the progress of the batch for several."""
        if self._driver is not None and (self._single or isinstance(self.logfile, SystemLogs)):
            self._driver.synchronise()  # ASE asks the Atoms
        super().log(gradient)


__getattr__ = rest_of_module(__name__)
