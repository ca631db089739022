"""``ase.md.bussi.Bussi``, for one Atoms or a list."""

from typing import IO, Any

import ase.md.bussi
from ase import units

from nvdyn_ase import dynamics
from nvdyn_ase.dynamics import Schedule
from nvdyn_ase.md.parameters import GivenParameter, first_number
from nvdyn_ase.md.stochastic import StochasticFacade
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module


class Bussi(StochasticFacade, ase.md.bussi.Bussi):
    """Stochastic velocity rescaling, as ``ase.md.Bussi``, for one Atoms or a list of them.

    G. Bussi, D. Donadio and M. Parrinello, J. Chem. Phys. 126, 014101 (2007), equation A7.

    With the engine, a change of ``dt``, ``temp`` or ``taut`` between steps takes effect on the
    thermostat; in ASE's own code it is what they were at the start.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them; none may be at rest. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature_K
        K; for a list also one per system.
    taut
        Time constant of the coupling in ASE units; for a list also one per system.
    rng
        As in ASE for one Atoms. For a list, a sequence with one numpy generator per system gives
        ASE's numbers; otherwise each system has a stream of its own, whose seed is drawn from this
        generator, or from ``numpy.random``.
    seed
        Instead of ``rng``: a whole number for streams of their own, or one per system.
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
    taut = EngineParameter()
    temp = GivenParameter("temperature", unit=units.kB)
    transferred_energy = EngineParameter()

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        temperature_K: Any,
        taut: Any,
        rng: Any = None,
        *,
        seed: Any = None,
        trajectory: Any = None,
        logfile: IO[str] | str | None = None,
        loginterval: int = 1,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        given = {"timestep": timestep, "temperature_K": temperature_K, "taut": taut}
        self._given = {name: per_system(value) for name, value in given.items()}
        # ASE calculates with these at once, and can do so with numbers only.
        dt, temperature, tau = map(first_number, self._given.values())
        self._open_stochastic(
            *(atoms, model, engine),
            timestep=dt,
            temperature_K=temperature,
            taut=tau,
            rng=rng,
            seed=seed,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            **kwargs,
        )

    def _make_engine(self, model: BaseModelMixin) -> dynamics.Bussi:
        self.dt, temperature, self.taut = self._given.values()
        self.temp = temperature * units.kB
        if not isinstance(temperature, Schedule):
            self.target_kinetic_energy = 0.5 * self.temp * self.ndof
        return self._with_noise(
            *(dynamics.Bussi, model),
            dt=self.__dict__["dt"],
            temperature=type(self).temp.for_engine(self),
            taut=self.__dict__["taut"],
        )


__getattr__ = rest_of_module(__name__)
