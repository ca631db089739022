"""``ase.md.langevin.Langevin``, for one Atoms or a list."""

from typing import IO, Any

import ase.md.langevin
from ase import units

from nvdyn_ase import dynamics
from nvdyn_ase.dynamics import Schedule
from nvdyn_ase.md.parameters import AtomsField, GivenParameter
from nvdyn_ase.md.stochastic import StochasticFacade
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module


class Langevin(StochasticFacade, ase.md.langevin.Langevin):
    """Constant temperature, as ``ase.md.Langevin``, for one Atoms or a list of them.

    E. Vanden-Eijnden and G. Ciccotti, Chem. Phys. Lett. 429, 310 (2006), equations 23 and 39.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature
        Deprecated in ASE: ``temperature_K``, in eV.
    friction
        In inverse ASE units of time; for a list also one per system, and as in ASE an array (n, 1)
        with one per atom, of which a list takes one per system.
    fixcm
        As in ASE, where it is deprecated: use ``ase.constraints.FixCom``.
    temperature_K
        As ``friction``.
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
    fr = GivenParameter("friction")
    temp = GivenParameter("temperature", unit=units.kB)
    v = AtomsField("velocities")
    rnd_pos = AtomsField("rnd_pos")
    rnd_vel = AtomsField("rnd_vel")

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        temperature: Any = None,
        friction: Any = None,
        fixcm: bool = True,
        *,
        temperature_K: Any = None,
        rng: Any = None,
        seed: Any = None,
        trajectory: Any = None,
        logfile: IO[str] | str | None = None,
        loginterval: int = 1,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self._open_stochastic(
            *(atoms, model, engine),
            timestep=per_system(timestep),
            temperature=temperature,
            friction=friction,
            fixcm=fixcm,
            temperature_K=temperature_K,
            rng=rng,
            seed=seed,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            **kwargs,
        )

    def _make_engine(self, model: BaseModelMixin) -> dynamics.Langevin:
        return self._with_noise(
            *(dynamics.Langevin, model),
            dt=self.__dict__["dt"],
            temperature=type(self).temp.for_engine(self),
            friction=type(self).fr.for_engine(self),
            fixcm=self.fix_com,
        )

    def updatevars(self) -> None:
        """Update ASE's coefficients for one Atoms; those of a list are the engine's."""
        scheduled = any(isinstance(value, Schedule) for value in (self.temp, self.fr))
        if self._single and not scheduled:
            super().updatevars()


__getattr__ = rest_of_module(__name__)
