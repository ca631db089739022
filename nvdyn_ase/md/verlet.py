"""``ase.md.verlet.VelocityVerlet``, for one Atoms or a list."""

from typing import IO, Any

import ase.md.verlet

from nvdyn_ase import dynamics
from nvdyn_ase.md.md import MolecularDynamicsFacade
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module


class VelocityVerlet(MolecularDynamicsFacade, ase.md.verlet.VelocityVerlet):
    """Constant energy, as ``ase.md.VelocityVerlet``, for one Atoms or a list of them.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    logfile, loginterval, kwargs
        As in ASE; for a list one table for all or, with a file for each, one of each: see
        ``MDLogger``.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.
    """

    dt = EngineParameter()

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        trajectory: Any = None,
        logfile: IO[str] | str | None = None,
        loginterval: int = 1,
        *,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self._open_md(
            *(atoms, model, engine),
            timestep=per_system(timestep),
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            **kwargs,
        )

    def _make_engine(self, model: BaseModelMixin) -> dynamics.NVE:
        return dynamics.NVE(model, dt=self.__dict__["dt"])


__getattr__ = rest_of_module(__name__)
