"""``ase.md.nvtberendsen.NVTBerendsen``, for one Atoms or a list."""

from typing import IO, Any

import ase.md.nvtberendsen

from nvdyn_ase import dynamics
from nvdyn_ase.md.md import MolecularDynamicsFacade
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module

# ASE's own, also where somebody puts the facade in its place.
_ASE = ase.md.nvtberendsen.NVTBerendsen


class NVTBerendsen(MolecularDynamicsFacade, _ASE):
    """Berendsen's thermostat, as ``ase.md.NVTBerendsen``, for one Atoms or a list of them.

    H. J. C. Berendsen, J. P. M. Postma, W. F. van Gunsteren, A. DiNola and J. R. Haak, J. Chem.
    Phys. 81, 3684 (1984), equation 11.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature, temperature_K
        K; for a list also one per system.
    taut
        Time constant of the coupling in ASE units; for a list also one per system.
    fixcm
        As in ASE.
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

    _is_opening = False  # by a subclass, whose ASE class calls this constructor by name

    dt = EngineParameter()
    taut = EngineParameter()
    temperature = EngineParameter()

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        temperature: Any = None,
        taut: Any = None,
        fixcm: bool = True,
        *,
        temperature_K: Any = None,
        trajectory: Any = None,
        logfile: IO[str] | str | None = None,
        loginterval: int = 1,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        options = {"temperature": temperature, "taut": per_system(taut), "fixcm": fixcm}
        options |= {"temperature_K": temperature_K, "trajectory": trajectory, "logfile": logfile}
        options |= {"loginterval": loginterval, **kwargs}
        if self._is_opening:
            _ASE.__init__(self, atoms, timestep, **options)
            return
        self._open_md(atoms, model, engine, timestep=per_system(timestep), **options)

    def _make_engine(self, model: BaseModelMixin) -> dynamics.NVTBerendsen:
        options = {name: self.__dict__[name] for name in ("dt", "temperature", "taut")}
        return dynamics.NVTBerendsen(model, fixcm=self.fix_com, **options)


__getattr__ = rest_of_module(__name__)
