"""What ASE's ``ase.md.nose_hoover_chain`` has, with integrators for one Atoms or a list."""

import warnings
from collections.abc import Sequence
from typing import Any

import ase.md.nose_hoover_chain
import numpy as np
from ase.md.nose_hoover_chain import (
    IsotropicMTKBarostat,
    MTKBarostat,
    NoseHooverChainThermostat,
)

from nvdyn_ase import dynamics
from nvdyn_ase.dynamics import Schedule
from nvdyn_ase.md.conserving import ConservingFacade
from nvdyn_ase.md.parameters import first_number
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = [
    "MTKNPT",
    "IsotropicMTKBarostat",
    "IsotropicMTKNPT",
    "MTKBarostat",
    "MaskedMTKNPT",
    "NoseHooverChainNVT",
    "NoseHooverChainThermostat",
]


class ChainFacade(ConservingFacade):
    """What the integrators with Nosé-Hoover chains have in common.

    ASE's constructors calculate with their arguments at once, and can do so with numbers only: they
    get those of the first system.
    """

    def _open_chain(
        self,
        atoms: Any,
        model: Any,
        engine: bool | None,
        parameters: dict[str, Any],
        **options: Any,
    ) -> None:
        """Choose who runs, with parameters that systems may have their own values of."""
        self._given = {name: per_system(value) for name, value in parameters.items()}
        several = isinstance(atoms, (list, tuple))
        numbers: dict[str, Any] = {
            name: first_number(value) if several or isinstance(value, Schedule) else value
            for name, value in self._given.items()
        }
        numbers["timestep"] = self._given["timestep"]
        numbers |= {"trajectory": None, "logfile": None} | options
        self._open_md(atoms, model, engine, **numbers)

    def _made(self, engine: Any, model: Any, names: Sequence[str], **options: Any) -> Any:
        """Make an engine with the parameters of these names."""
        given = [self._given[name] for name in names]
        return engine(model, self.__dict__["dt"], *given, **options)

    def get_conserved_energy(self) -> Any:
        """Return the conserved energy, eV; of several Atoms one each, (B,)."""
        return self._conserved() if self._driver is not None else super().get_conserved_energy()


class NoseHooverChainNVT(ChainFacade, ase.md.nose_hoover_chain.NoseHooverChainNVT):
    """Constant temperature by a Nosé-Hoover chain, as in ASE, for one Atoms or a list of them.

    G. J. Martyna, M. L. Klein and M. E. Tuckerman, J. Chem. Phys. 97, 2635 (1992).

    ASE's integrator works on copies of positions and momenta that it made at the start. With the
    engine, what you do to positions and momenta afterwards is taken up; ASE's own code changes it
    back without a word.

    Constraints do not act on these copies. ASE's thermostat counts three degrees of freedom per
    atom and acts on momenta that grow where atoms are held, which nobody sees: those that move do
    not have the temperature that was asked for. A list does what one Atoms does, with a warning;
    ``constrained=True`` lets the engine count and move what is free.

    ASE applies constraints to the same positions three times in a step, and computes forces anew if
    that moves atoms again. Bond lengths and internal coordinates do so, and several constraints
    that do not commute, as ``FixAtoms`` and ``FixCom``. ``run`` refuses such systems in a list:
    take ``constrained=True``, or move them one by one by ASE.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature_K
        K; for a list also one per system.
    tdamp
        Time constant of the thermostat in ASE units, about ``100 * timestep``; for a list also one
        per system.
    tchain, tloop
        Links of the chain, and parts of its step.
    constrained
        With the engine, let the thermostat know of constraints.
    kwargs
        As in ASE: ``trajectory``, for a list one per system or a name with ``{index}`` in it;
        ``logfile``, for which see ``MDLogger``, ``loginterval``, and others.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.

    Raises
    ------
    StructureError
        From ``run``: constraints of a system in a list would move atoms again.
    """

    dt = EngineParameter()

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        temperature_K: Any,
        tdamp: Any,
        tchain: int = 3,
        tloop: int = 1,
        *,
        constrained: bool = False,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        self._constrained = constrained
        given = {"timestep": timestep, "temperature_K": temperature_K, "tdamp": tdamp}
        self._open_chain(atoms, model, engine, given, tchain=tchain, tloop=tloop, **kwargs)
        if constrained and self.engine is None:
            raise TypeError("constrained=True needs the engine; give a list, or engine=True")
        if not (constrained or self._single) and self.optimizable.constraints:
            warnings.warn(
                "as in ASE, this thermostat does not know of constraints, and atoms that are free "
                "will not have the temperature asked for; constrained=True counts them alone",
                stacklevel=2,
            )

    def _make_engine(self, model: BaseModelMixin) -> dynamics.NoseHooverChainNVT:
        return self._made(
            *(dynamics.NoseHooverChainNVT, model, ("temperature_K", "tdamp")),
            tchain=self._thermostat._tchain,
            tloop=self._thermostat._tloop,
            as_ase=not self._constrained,
        )


class BarostatFacade(ChainFacade):
    """What the integrators with a barostat have in common."""

    def _open_chain(
        self,
        atoms: Any,
        model: Any,
        engine: bool | None,
        parameters: dict[str, Any],
        **options: Any,
    ) -> None:
        """Refuse constraints, as ASE does, and choose who runs."""
        for index, item in enumerate(atoms if isinstance(atoms, (list, tuple)) else ()):
            if getattr(item, "constraints", ()):
                raise NotImplementedError(
                    f"structure {index}: Current implementation does not support constraints; take "
                    "them off, or choose an integrator at constant volume"
                )
        super()._open_chain(atoms, model, engine, parameters, **options)

    def _with_cell(self, engine: Any, model: BaseModelMixin, **options: Any) -> Any:
        """Make an engine with the parameters of this run."""
        names = ("temperature_K", "pressure_au", "tdamp", "pdamp")
        thermostat, barostat = self._thermostat, self._barostat
        options |= {"tchain": thermostat._tchain, "tloop": thermostat._tloop}
        options |= {"pchain": barostat._pchain, "ploop": barostat._ploop}
        return self._made(engine, model, names, **options)


class IsotropicMTKNPT(BarostatFacade, ase.md.nose_hoover_chain.IsotropicMTKNPT):
    """Constant temperature and pressure, cells that keep their shape, for one Atoms or a list.

    As in ASE. G. J. Martyna, D. J. Tobias and M. L. Klein, J. Chem. Phys. 101, 4177 (1994).

    ASE's integrator works on copies of positions, momenta and cell that it made at the start. With
    the engine, what you do to them afterwards is taken up; ASE's own code changes it back without a
    word.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them, without constraints. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature_K
        K; for a list also one per system.
    pressure_au
        eV/Å³; for a list also one per system.
    tdamp
        Time constant of the thermostat in ASE units, about ``100 * timestep``; for a list also one
        per system.
    pdamp
        Time constant of the cell in ASE units, about ``1000 * timestep``; for a list also one per
        system.
    tchain, pchain
        Links of the chains of atoms and cell.
    tloop, ploop
        Parts into which a step of a chain is divided.
    kwargs
        As in ASE: ``trajectory``, for a list one per system or a name with ``{index}`` in it;
        ``logfile``, for which see ``MDLogger``, ``loginterval``, and others.
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
        temperature_K: Any,
        pressure_au: Any,
        tdamp: Any,
        pdamp: Any,
        tchain: int = 3,
        pchain: int = 3,
        tloop: int = 1,
        ploop: int = 1,
        *,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        given = {"timestep": timestep, "temperature_K": temperature_K, "pressure_au": pressure_au}
        given |= {"tdamp": tdamp, "pdamp": pdamp}
        chains = {"tchain": tchain, "pchain": pchain, "tloop": tloop, "ploop": ploop}
        self._open_chain(atoms, model, engine, given, **chains, **kwargs)

    def _make_engine(self, model: BaseModelMixin) -> dynamics.IsotropicMTKNPT:
        return self._with_cell(dynamics.IsotropicMTKNPT, model)


class MTKNPT(BarostatFacade, ase.md.nose_hoover_chain.MTKNPT):
    """Constant temperature and pressure, cells of any shape, for one Atoms or a list of them.

    As in ASE. G. J. Martyna, D. J. Tobias and M. L. Klein, J. Chem. Phys. 101, 4177 (1994). There
    too the thermostat of the cell counts nine motions where a cell that does not turn has six, so
    that its fluctuations are too large; the engine alone has ``as_ase=False``.

    ASE's integrator works on copies of positions, momenta and cell that it made at the start. With
    the engine, what you do to them afterwards is taken up; ASE's own code changes it back without a
    word.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them, without constraints. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature_K
        K; for a list also one per system.
    pressure_au
        eV/Å³; for a list also one per system.
    tdamp
        Time constant of the thermostat in ASE units, about ``100 * timestep``; for a list also one
        per system.
    pdamp
        Time constant of the cell in ASE units, about ``1000 * timestep``; for a list also one per
        system.
    tchain, pchain
        Links of the chains of atoms and cell.
    tloop, ploop
        Parts into which a step of a chain is divided.
    kwargs
        As in ASE: ``trajectory``, for a list one per system or a name with ``{index}`` in it;
        ``logfile``, for which see ``MDLogger``, ``loginterval``, and others.
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
        temperature_K: Any,
        pressure_au: Any,
        tdamp: Any,
        pdamp: Any,
        tchain: int = 3,
        pchain: int = 3,
        tloop: int = 1,
        ploop: int = 1,
        *,
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        given = {"timestep": timestep, "temperature_K": temperature_K, "pressure_au": pressure_au}
        given |= {"tdamp": tdamp, "pdamp": pdamp}
        chains = {"tchain": tchain, "pchain": pchain, "tloop": tloop, "ploop": ploop}
        self._open_chain(atoms, model, engine, given, **chains, **kwargs)

    def _make_engine(self, model: BaseModelMixin) -> dynamics.MTKNPT:
        return self._with_cell(dynamics.MTKNPT, model, as_ase=True)


class MaskedMTKNPT(MTKNPT, ase.md.nose_hoover_chain.MaskedMTKNPT):
    """Constant temperature and pressure, cells that grow along chosen vectors, as in ASE.

    See :class:`MTKNPT`. ASE 3.29 takes a mask that is a tuple, if any of it is false, to let
    nothing change. Here it means what it says, for one Atoms and for a list.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them, without constraints. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature_K
        K; for a list also one per system.
    pressure_au
        eV/Å³; for a list also one per system.
    tdamp
        Time constant of the thermostat in ASE units, about ``100 * timestep``; for a list also one
        per system.
    pdamp
        Time constant of the cell in ASE units, about ``1000 * timestep``; for a list also one per
        system.
    tchain, pchain
        Links of the chains of atoms and cell.
    tloop, ploop
        Parts into which a step of a chain is divided.
    mask
        Along which of the three cell vectors the cell may grow; the same for all systems.
    kwargs
        As in ASE: ``trajectory``, for a list one per system or a name with ``{index}`` in it;
        ``logfile``, for which see ``MDLogger``, ``loginterval``, and others.
    model
        A batched model or an ASE calculator for all; by default the calculators of the Atoms.
    engine
        Move a single Atoms by the engine too.
    """

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        temperature_K: Any,
        pressure_au: Any,
        tdamp: Any,
        pdamp: Any,
        tchain: int = 3,
        pchain: int = 3,
        tloop: int = 1,
        ploop: int = 1,
        *,
        mask: Sequence[bool],
        model: Any = None,
        engine: bool | None = None,
        **kwargs: Any,
    ) -> None:
        given = {"timestep": timestep, "temperature_K": temperature_K, "pressure_au": pressure_au}
        given |= {"tdamp": tdamp, "pdamp": pdamp}
        chains = {"tchain": tchain, "pchain": pchain, "tloop": tloop, "ploop": ploop}
        kwargs |= chains | {"mask": np.asarray(mask, bool)}
        self._open_chain(atoms, model, engine, given, **kwargs)

    def _make_engine(self, model: BaseModelMixin) -> dynamics.MTKNPT:
        return self._with_cell(dynamics.MaskedMTKNPT, model, mask=self.mask)


__getattr__ = rest_of_module(__name__)
