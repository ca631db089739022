"""What ASE's ``ase.md.nptberendsen`` has, for one Atoms or a list."""

from collections.abc import Sequence
from typing import IO, Any

import ase.md.nptberendsen
from ase import units

from nvdyn_ase import dynamics
from nvdyn_ase.md.nvtberendsen import NVTBerendsen
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["Inhomogeneous_NPTBerendsen", "NPTBerendsen"]

_PARAMETERS = ("dt", "temperature", "pressure", "taut", "taup", "compressibility")


# ASE's own, also where somebody puts the facade in its place.
_ASE = ase.md.nptberendsen.NPTBerendsen


class NPTBerendsen(NVTBerendsen, _ASE):
    """Berendsen's thermostat and barostat, as in ASE, for one Atoms or a list of them.

    H. J. C. Berendsen, J. P. M. Postma, W. F. van Gunsteren, A. DiNola and J. R. Haak, J. Chem.
    Phys. 81, 3684 (1984), equations 11 and 20. Cells keep their shape. As in ASE a step takes two
    force calls, and constraints do not hold the atoms while these move with the cell.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them, each with a volume. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature, temperature_K
        K; for a list also one per system.
    pressure, compressibility
        Deprecated in ASE: as below, in bar and inverse bar.
    pressure_au
        eV/Å³; for a list also one per system.
    taut, taup
        Time constants in ASE units; for a list also one per system.
    compressibility_au
        Å³/eV; for a list also one per system.
    fixcm
        As in ASE.
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    logfile, loginterval, append_trajectory
        As in ASE; for a list one table for all or, with a file for each, one of each: see
        ``MDLogger``.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.
    """

    _more: dict[str, Any] = {}  # noqa: RUF012 - what a subclass gives ASE's constructor besides

    pressure = EngineParameter()
    taup = EngineParameter()
    compressibility = EngineParameter()

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        temperature: Any = None,
        *,
        temperature_K: Any = None,
        pressure: Any = None,
        pressure_au: Any = None,
        taut: Any = 0.5e3 * units.fs,
        taup: Any = 1e3 * units.fs,
        compressibility: Any = None,
        compressibility_au: Any = None,
        fixcm: bool = True,
        trajectory: Any = None,
        logfile: IO[str] | str | None = None,
        loginterval: int = 1,
        append_trajectory: bool = False,
        model: Any = None,
        engine: bool | None = None,
    ) -> None:
        options = {"temperature": temperature, "temperature_K": temperature_K, "fixcm": fixcm}
        scalars = {"pressure": pressure, "pressure_au": pressure_au, "taut": taut, "taup": taup}
        scalars |= {"compressibility": compressibility, "compressibility_au": compressibility_au}
        options |= {name: per_system(value) for name, value in scalars.items()}
        options |= {"trajectory": trajectory, "logfile": logfile, "loginterval": loginterval}
        options |= {"append_trajectory": append_trajectory}
        if self._is_opening:
            _ASE.__init__(self, atoms, timestep, **options)
            return
        self._is_opening = True
        timestep = per_system(timestep)
        self._open_md(atoms, model, engine, timestep=timestep, **options, **self._more)
        self._is_opening = False

    def _make_engine(self, model: BaseModelMixin) -> dynamics.NPTBerendsen:
        return self._made(dynamics.NPTBerendsen, model)

    def _made(self, engine: Any, model: BaseModelMixin, **options: Any) -> Any:
        """Make an engine with the parameters that ASE's constructor has stored."""
        given = {name: self.__dict__[name] for name in _PARAMETERS}
        if given["compressibility"] is None:
            raise TypeError("Missing 'compressibility_au' argument.")
        return engine(model, fixcm=self.fix_com, **given, **options)

    def step(self, forces: Any = None) -> Any:
        """Do one step, as in ASE, and return the forces after it, (V, 3) in eV/Å.

        With the engine no forces are taken: a step begins with those in the scaled cell.
        """
        if forces is not None and self._driver is not None:
            raise TypeError(f"with the engine, {type(self).__name__}.step() takes no forces")
        return super().step(forces)

    def set_pressure(
        self, pressure: Any = None, *, pressure_au: Any = None, pressure_bar: Any = None
    ) -> None:
        """Set the pressure, eV/Å³; in bar with the other keyword or, deprecated, without one."""
        if pressure_bar is not None and pressure is None and pressure_au is None:
            pressure_au = per_system(pressure_bar) * (1e5 * units.Pascal)
        self.pressure = self._process_pressure(per_system(pressure), per_system(pressure_au))


class Inhomogeneous_NPTBerendsen(  # noqa: N801
    NPTBerendsen, ase.md.nptberendsen.Inhomogeneous_NPTBerendsen
):
    """Berendsen's thermostat, and a barostat for each cell vector, for one Atoms or a list of them.

    As in ASE; see :class:`NPTBerendsen`. Angles stay, and vectors along which there is no
    periodicity.

    Parameters
    ----------
    args, kwargs
        As in ``NPTBerendsen``.
    mask
        3 numbers, 0 for a vector that is not to change, for all systems; for a list also (B, 3).
    """

    def __init__(self, *args: Any, mask: Sequence[Any] = (1, 1, 1), **kwargs: Any) -> None:
        self._more = {"mask": mask}
        super().__init__(*args, **kwargs)

    def _make_engine(self, model: BaseModelMixin) -> dynamics.InhomogeneousNPTBerendsen:
        return self._made(dynamics.InhomogeneousNPTBerendsen, model, mask=self.mask)

    @property
    def mask(self) -> Any:
        """Which cell vectors may change."""
        return self.__dict__["mask"]

    @mask.setter
    def mask(self, value: Any) -> None:
        if self._driver is not None:
            self._driver.set_parameter("mask", value)
        self.__dict__["mask"] = value


__getattr__ = rest_of_module(__name__)
