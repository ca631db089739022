"""Stochastic cell rescaling, which ASE does not have, as ASE's integrators are used."""

from collections.abc import Sequence
from typing import IO, Any

import numpy as np
from ase import units
from ase.md.md import MolecularDynamics

from nvdyn_ase import dynamics
from nvdyn_ase.md.conserving import ConservingFacade
from nvdyn_ase.md.parameters import check_lengths
from nvdyn_ase.md.stochastic import StochasticFacade
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system

#: Of the engine, in the order of the constructor here.
_PARAMETERS = ("dt", "temperature", "pressure", "taut", "taup", "compressibility")


class StochasticCellRescaling(StochasticFacade, ConservingFacade, MolecularDynamics):
    """Constant temperature and pressure by stochastic rescaling, for one Atoms or a list of them.

    M. Bernetti and G. Bussi, J. Chem. Phys. 153, 114107 (2020); cells that change their shape, V.
    Del Tatto, P. Raiteri, M. Bernetti and G. Bussi, Appl. Sci. 12, 1139 (2022). A barostat of first
    order, as quick as Berendsen's, that samples the ensemble. The engine moves one Atoms too.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them, each with a volume and momenta, and without
        constraints. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature_K
        K; for a list also one per system.
    pressure_au
        eV/Å³; for a list also one per system.
    taut, taup
        Time constants of thermostat and barostat in ASE units; for a list also one per system.
    compressibility_au
        About that of the material, Å³/eV; for a list also one per system.
    isotropic
        Cells keep their shape.
    mask
        3 numbers, 0 for a direction of space in which nothing is strained; for a list also (B, 3).
        Only for cells that change their shape.
    rng
        A numpy generator, for a list also a sequence with one per system, to draw from; otherwise
        each system of a list has a stream of its own, whose seed is drawn from this generator, or
        from ``numpy.random``.
    seed
        Instead of ``rng``: a whole number for streams of their own, or one per system.
    trajectory
        As in ASE; for a list one per system, or a name with ``{index}`` in it.
    logfile, loginterval, kwargs
        As in ASE; for a list one table for all or, with a file for each, one of each: see
        ``MDLogger``.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    """

    dt = EngineParameter()
    temperature = EngineParameter()
    pressure = EngineParameter()
    taut = EngineParameter()
    taup = EngineParameter()
    compressibility = EngineParameter()
    transferred_energy = EngineParameter()

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        temperature_K: Any,
        pressure_au: Any,
        taut: Any = 0.5e3 * units.fs,
        taup: Any = 1e3 * units.fs,
        *,
        compressibility_au: Any,
        isotropic: bool = True,
        mask: Sequence[Any] = (1, 1, 1),
        rng: Any = None,
        seed: Any = None,
        trajectory: Any = None,
        logfile: IO[str] | str | None = None,
        loginterval: int = 1,
        model: Any = None,
        **kwargs: Any,
    ) -> None:
        given = {"timestep": timestep, "temperature_K": temperature_K, "pressure_au": pressure_au}
        given |= {"taut": taut, "taup": taup, "compressibility_au": compressibility_au}
        if isinstance(atoms, (list, tuple)):
            check_lengths(given, len(atoms))
        values = map(per_system, given.values())
        self._given = dict(zip(_PARAMETERS, values, strict=True))
        self._shape = {"isotropic": isotropic, "mask": mask}
        self.rng = np.random if rng is None else rng
        self._open_stochastic(
            *(atoms, model, True),
            timestep=self._given["dt"],
            rng=rng,
            seed=seed,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            **kwargs,
        )

    def _open_md(self, atoms: Any, model: Any, engine: bool | None, **options: Any) -> None:
        """Let the engine run; ASE's constructor knows of no noise."""
        options.pop("rng")
        super()._open_md(atoms, model, engine, **options)

    def _make_engine(self, model: BaseModelMixin) -> dynamics.StochasticCellRescaling:
        engine = dynamics.StochasticCellRescaling
        return self._with_noise(engine, model, **self._given, **self._shape)

    def set_temperature(self, temperature_K: Any) -> None:
        """Set the temperature, K; for a list also one per system."""
        self.temperature = temperature_K

    def set_pressure(self, pressure_au: Any) -> None:
        """Set the pressure, eV/Å³; for a list also one per system."""
        self.pressure = pressure_au

    def get_conserved_energy(self) -> Any:
        """Return the effective energy, eV; of several Atoms one each, (B,)."""
        return self._conserved()
