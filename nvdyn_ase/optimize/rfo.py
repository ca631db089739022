"""Rational function optimization with ASE's interface."""

from typing import Any

import ase.optimize.rfo
import numpy as np

from nvdyn_ase import dynamics
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.bfgs import BFGS
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module


class RFO(BFGS, ase.optimize.rfo.RFO):
    """Rational function optimization, as ``ase.optimize.RFO``, for one Atoms or a list of them.

    A. Banerjee, N. Adams, J. Simons and R. Shepard, J. Phys. Chem. 89, 52 (1985).

    Parameters
    ----------
    args, kwargs
        As those of :class:`BFGS`.
    damping
        Where the steps turn from damped to quasi-Newton, 1/Å (1 by default); one value per system
        for a list.
    eigsh_maxiter
        As in ASE. The engine's solver does not iterate.
    """

    damping = EngineParameter()

    def __init__(
        self,
        *args: Any,
        damping: Any = None,
        eigsh_maxiter: int | None = None,
        **kwargs: Any,
    ) -> None:
        damping = per_system(self.defaults["damping"] if damping is None else damping)
        self._damping = damping
        # ASE's constructor takes a single number.
        super().__init__(*args, damping=np.max(damping), eigsh_maxiter=eigsh_maxiter, **kwargs)

    def _make_engine(self, model: BaseModelMixin) -> dynamics.RFO:
        return dynamics.RFO(model, damping=self._damping, **self._given)

    def initialize(self) -> None:
        """Make the first Hessian; that of each system in a list is the engine's."""
        if self._single:
            super().initialize()
        else:
            BFGS.initialize(self)


__getattr__ = rest_of_module(__name__)
