"""``ase.md.andersen.Andersen``, for one Atoms or a list."""

from typing import IO, Any

import ase.md.andersen
import numpy as np
from ase import units

from nvdyn_ase import dynamics
from nvdyn_ase.md.parameters import AtomsField, GivenParameter
from nvdyn_ase.md.stochastic import StochasticFacade
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module


class Andersen(StochasticFacade, ase.md.andersen.Andersen):
    """Stochastic collisions, as ``ase.md.Andersen``, for one Atoms or a list of them.

    H. C. Andersen, J. Chem. Phys. 72, 2384 (1980), section IV.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature_K
        K; for a list also one per system.
    andersen_prob
        Probability that a component of an atom's velocity is drawn anew in a step; for a list also
        one per system.
    fixcm
        As in ASE.
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
    andersen_prob = EngineParameter()
    temp = GivenParameter("temperature", unit=units.kB)
    v = AtomsField("velocities")

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        temperature_K: Any,
        andersen_prob: Any,
        fixcm: bool = True,
        rng: Any = np.random,
        *,
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
            temperature_K=per_system(temperature_K),
            andersen_prob=per_system(andersen_prob),
            fixcm=fixcm,
            rng=np.random if rng is None else rng,
            seed=seed,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            **kwargs,
        )

    def set_temperature(self, temperature_K: Any) -> None:
        """Set the temperature, K; for a list also one per system."""
        super().set_temperature(per_system(temperature_K))

    def _make_engine(self, model: BaseModelMixin) -> dynamics.Andersen:
        return self._with_noise(
            *(dynamics.Andersen, model),
            dt=self.__dict__["dt"],
            temperature=type(self).temp.for_engine(self),
            andersen_prob=self.__dict__["andersen_prob"],
            fixcm=self.fix_com,
        )


__getattr__ = rest_of_module(__name__)
