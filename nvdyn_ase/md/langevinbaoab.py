"""``ase.md.langevinbaoab.LangevinBAOAB``, for one Atoms or a list."""

from typing import IO, Any

import ase.md.langevinbaoab
import numpy as np

from nvdyn_ase import dynamics
from nvdyn_ase.dynamics.integrators.baoab import stress_rows
from nvdyn_ase.dynamics.schedules import Schedule
from nvdyn_ase.md.conserving import UnforcedFacade
from nvdyn_ase.md.parameters import check_lengths, first_number
from nvdyn_ase.md.stochastic import StochasticFacade
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module

#: What ASE's code derives from its parameters, and the engine keeps in its own state.
_DERIVED = ("gamma", "barostat_gamma", "BAOAB_prefactor", "_barostat_BAOAB_prefactor", "gamma_mod")


class LangevinBAOAB(StochasticFacade, UnforcedFacade, ase.md.langevinbaoab.LangevinBAOAB):
    """Langevin dynamics of atoms and cells in the order BAOAB, as in ASE, for one Atoms or a list.

    B. Leimkuhler and C. Matthews, J. Chem. Phys. 138, 174102 (2013); D. Quigley and M. I. J.
    Probert, J. Chem. Phys. 120, 11432 (2004). As in ASE the trace of the strain rate acts on all
    nine elements of the friction of the atoms, where Quigley and Probert have it on the diagonal;
    the engine alone has ``as_ase=False``.

    Energy, temperature, enthalpy, or temperature and stress are constant, by which of
    ``temperature_K`` and ``externalstress`` are given. With the engine a change of ``dt``,
    ``T_tau`` or ``P_tau`` takes effect at once; in ASE's own code, with ``set_temperature``. A new
    ``externalstress`` takes effect half a kick of the cell earlier than in ASE's own code.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature_K
        K; for a list also one per system. None: no thermostat.
    externalstress
        eV/Å³, positive in tension, as in ASE: one number, 3, 6, or (3, 3). For a list also a list
        with one of these per system. None: no barostat.
    hydrostatic
        As in ASE.
    T_tau, P_tau, P_mass
        As in ASE; for a list also one per system.
    P_mass_factor, disable_cell_langevin
        As in ASE.
    rng
        As in ASE for one Atoms. For a list, a sequence with one numpy generator, or argument of
        ``numpy.random.default_rng``, per system gives ASE's numbers; otherwise each system has a
        stream of its own, whose seed is drawn from this generator, or from ``numpy.random``.
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
    T_tau = EngineParameter()
    P_tau = EngineParameter()
    barostat_mass = EngineParameter("P_mass")

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        *,
        temperature_K: Any = None,
        externalstress: Any = None,
        hydrostatic: bool = False,
        T_tau: Any = None,
        P_tau: Any = None,
        P_mass: Any = None,
        P_mass_factor: float = 1.0,
        disable_cell_langevin: bool = False,
        rng: Any = None,
        seed: Any = None,
        trajectory: Any = None,
        logfile: IO[str] | str | None = None,
        loginterval: int = 1,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        several = isinstance(atoms, (list, tuple))
        self._moved_by_engine = self._for_engine(atoms, model, engine) is not None
        self._given = {"dt": timestep, "temperature": temperature_K, "T_tau": T_tau}
        self._given |= {"P_tau": P_tau, "P_mass": P_mass, "P_mass_factor": P_mass_factor}
        self._stress = externalstress
        numbers: dict[str, Any] = {"T_tau": T_tau, "P_tau": P_tau, "P_mass": P_mass}
        numbers |= {"temperature_K": temperature_K, "externalstress": externalstress}
        if several:
            check_lengths({"timestep": timestep} | numbers, len(atoms))
            numbers["externalstress"] = self._stress_of_first(len(atoms), hydrostatic)
        for name, value in numbers.items():
            # ASE's constructor calculates with numbers: it gets those of the first system.
            if name != "externalstress" and (several or isinstance(value, Schedule)):
                numbers[name] = _first(value)
        self._open_stochastic(
            atoms,
            model,
            engine,
            timestep=_first(timestep) if several else timestep,
            **numbers,
            hydrostatic=hydrostatic,
            P_mass_factor=P_mass_factor,
            disable_cell_langevin=disable_cell_langevin,
            rng=rng,
            seed=seed,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            **kwargs,
        )

    def _stress_of_first(self, count: int, hydrostatic: bool) -> Any:
        if self._stress is None:
            return None
        first = stress_rows(self._stress, count, hydrostatic)[0].numpy()
        return first[0, 0] if hydrostatic else first

    def _open_md(self, atoms: Any, model: Any, engine: bool | None, **options: Any) -> None:
        """Choose who runs; what a list, or a seed, needs of ASE's generator is nothing."""
        own = isinstance(atoms, (list, tuple)) or self._seed is not None
        rng = options["rng"]
        self._generators = rng
        super()._open_md(atoms, model, engine, **options | {"rng": 0 if own else rng})

    def _make_engine(self, model: BaseModelMixin) -> dynamics.LangevinBAOAB:
        if not self._single:
            self.rng = _as_generators(self._generators)
        elif "rng" not in self.__dict__:  # ASE makes none where no temperature is given
            self.rng = np.random.default_rng(self._generators)
        for name in _DERIVED:
            self.__dict__.pop(name, None)
        stress = self._stress
        if self._single and stress is not None and np.shape(stress):
            stress = [stress]
        return self._with_noise(
            *(dynamics.LangevinBAOAB, model),
            **{name: per_system(value) for name, value in self._given.items()},
            externalstress=stress,
            hydrostatic=self.hydrostatic,
            disable_cell_langevin=self.disable_cell_langevin,
            as_ase=True,
        )

    def _update_accel(self) -> None:
        """Find the accelerations, which an engine does by itself."""
        if not self._moved_by_engine:
            super()._update_accel()

    def _update_force_eps(self) -> None:
        """Find the force on the cell, which an engine does by itself."""
        if not self._moved_by_engine:
            super()._update_force_eps()

    # ---------------------------------------------------------------- parameters

    def set_temperature(self, temperature_K: Any, from_init: bool = False) -> None:
        """Set the temperature, K; for a list also one per system. None: no thermostat."""
        if self._driver is None:
            super().set_temperature(temperature_K, from_init)
        else:
            self._driver.set_parameter("temperature", per_system(temperature_K))

    @property
    def temperature_K(self) -> Any:
        """The temperature, K; of several Atoms one each, if they differ. None: no thermostat."""
        if self._driver is None:
            return self.__dict__["temperature_K"]
        temperature = self._read("temperature")
        return None if np.isnan(temperature).all() else temperature

    @temperature_K.setter
    def temperature_K(self, value: Any) -> None:
        self.__dict__["temperature_K"] = value

    @property
    def externalstress(self) -> Any:
        """The wanted stress, eV/Å³, as in ASE; of several Atoms one each, with a first axis."""
        if self._driver is None or self._stress is None:
            return self.__dict__["externalstress"]
        return self._of_cells("external")

    @externalstress.setter
    def externalstress(self, value: Any) -> None:
        self.__dict__["externalstress"] = value
        if self._driver is not None:
            several = not self._single or np.ndim(value) == 0
            self._driver.set_parameter("externalstress", value if several else [value])

    @property
    def p_eps(self) -> Any:
        """The momentum of the cell, as in ASE; of several Atoms one each, with a first axis."""
        if self._stress is None:
            raise AttributeError("p_eps: there is no barostat")
        return self.__dict__["p_eps"] if self._driver is None else self._of_cells("cell_momentum")

    @p_eps.setter
    def p_eps(self, value: Any) -> None:
        self.__dict__["p_eps"] = value

    def _of_cells(self, name: str) -> Any:
        """Return matrices of the engine's state, or single numbers where these are on diagonals."""
        assert self._driver is not None
        array = self._driver.state()[name].detach().cpu().numpy().copy()
        array = array[:, 0, 0] if self.hydrostatic else array
        return array[0] if self._single else array


def _first(value: Any) -> Any:
    """Return the number of the first system."""
    if value is None:
        return None
    if isinstance(value, Schedule):
        return first_number(value)
    return np.ravel(np.asarray(value, object))[0]


def _as_generators(rng: Any) -> Any:
    """Return what a list was given, with a generator for each of its systems if it is a list."""
    if isinstance(rng, (list, tuple)):
        return [np.random.default_rng(own) for own in rng]
    if rng is None or rng is np.random or isinstance(rng, np.random.Generator):
        return rng
    return np.random.default_rng(rng)


__getattr__ = rest_of_module(__name__)
