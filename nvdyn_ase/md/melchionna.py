"""What ASE's ``ase.md.melchionna`` has, with the integrator for one Atoms or a list."""

from typing import IO, Any

import ase.md.melchionna
import numpy as np
import torch
from ase import units
from ase.md.melchionna import WeakMethodWrapper

from nvdyn_ase import dynamics
from nvdyn_ase.dynamics import Schedule
from nvdyn_ase.dynamics.integrators.melchionna import mask_rows, voigt_rows
from nvdyn_ase.md.conserving import ConservingFacade
from nvdyn_ase.md.parameters import GivenParameter
from nvdyn_ase.models import BaseModelMixin
from nvdyn_ase.optimize.facade import EngineParameter, per_system
from nvdyn_ase.rest_of_ase import rest_of_module

__all__ = ["MelchionnaNPT", "WeakMethodWrapper"]


class EngineState:
    """An attribute that is a field of the engine's state, with a row per system, if there is one.

    Parameters
    ----------
    name
        Of the field.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __set_name__(self, owner: type, attribute: str) -> None:
        """Remember the attribute's name."""
        self.attribute = attribute

    def __get__(self, facade: Any, owner: type | None = None) -> Any:
        """Read it: a number or (3, 3) for one Atoms, with a first axis for several."""
        if facade is None:
            return self
        if facade._driver is None:
            if self.attribute not in facade.__dict__:
                raise AttributeError(self.attribute)
            return facade.__dict__[self.attribute]
        array = facade._driver.state()[self.name].detach().cpu().numpy().copy()
        array = array[:, 0] if array.ndim == 2 else array
        return array[0] if facade._single else array

    def __set__(self, facade: Any, value: Any) -> None:
        """Write it; one value for all, or one per system."""
        facade.__dict__[self.attribute] = value
        if facade._driver is None:
            return
        facade._driver.together()
        old = facade.engine.state[self.name]
        new = torch.as_tensor(np.asarray(value)).to(old)
        new = new.view(-1, 1) if old.ndim == 2 else new
        facade.engine.state[self.name] = new.expand_as(old).clone()


class MelchionnaNPT(ConservingFacade, ase.md.melchionna.MelchionnaNPT):
    """Constant temperature and stress by Melchionna's equations, for one Atoms or a list of them.

    As ``ase.md.melchionna.MelchionnaNPT``, and as little recommended. S. Melchionna, G. Ciccotti
    and B. L. Holian, Mol. Phys. 78, 533 (1993); S. Melchionna, Phys. Rev. E 61, 6165 (2000).

    As in ASE the total momentum of each Atoms is taken away at the start, and a run does not begin
    if positions or cells were changed since the last one. A change in the middle of a run is
    changed back by the next step.

    Parameters
    ----------
    atoms
        The Atoms to move, or a list of them. They are moved in place.
    timestep
        In ASE units, as ``5 * ase.units.fs``; for a list also one per system.
    temperature
        Deprecated in ASE: ``temperature_K``, in eV.
    externalstress
        eV/Å³, as in ASE: the pressure, 6 numbers, or (3, 3). For a list also a sequence of one of
        these per system.
    ttime, pfactor
        Constants of thermostat and barostat; for a list also one per system. None: without it.
    temperature_K
        K; for a list also one per system.
    mask
        As in ASE; for a list also (B, 3, 3).
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

    dt = EngineParameter()
    temperature = GivenParameter("temperature", unit=units.kB)
    frac_traceless = EngineParameter()
    eta = EngineState("eta")
    eta_past = EngineState("eta_past")
    zeta = EngineState("zeta")
    zeta_past = EngineState("zeta_past")
    zeta_integrated = EngineState("zeta_integrated")
    h = EngineState("h")
    h_past = EngineState("h_past")
    timeelapsed = EngineState("elapsed")

    def __init__(
        self,
        atoms: Any,
        timestep: Any,
        temperature: Any = None,
        externalstress: Any = None,
        ttime: Any = None,
        pfactor: Any = None,
        *,
        temperature_K: Any = None,
        mask: Any = None,
        trajectory: Any = None,
        logfile: IO[str] | str | None = None,
        loginterval: int = 1,
        append_trajectory: bool = False,
        model: Any = None,
        engine: bool | None = None,
    ) -> None:
        self._systems = list(atoms) if isinstance(atoms, (list, tuple)) else [atoms]
        self._open_md(
            *(atoms, model, engine),
            timestep=per_system(timestep),
            temperature=temperature,
            externalstress=externalstress,
            ttime=ttime,
            pfactor=pfactor,
            temperature_K=temperature_K,
            mask=mask,
            trajectory=trajectory,
            logfile=logfile,
            loginterval=loginterval,
            append_trajectory=append_trajectory,
        )

    def _make_engine(self, model: BaseModelMixin) -> dynamics.MelchionnaNPT:
        return dynamics.MelchionnaNPT(
            *(model, self.__dict__["dt"], type(self).temperature.for_engine(self)),
            externalstress=self.__dict__.get("externalstress", 0.0),
            ttime=self.ttime,
            pfactor=self.pfactor_given,
            mask=self.mask,
            frac_traceless=self.__dict__["frac_traceless"],
        )

    def _moved(self) -> dynamics.MelchionnaNPT:
        assert isinstance(self.engine, dynamics.MelchionnaNPT)
        return self.engine

    # ---------------------------------------------------------------- parameters

    def set_stress(self, stress: Any) -> None:
        """Set the external stress, as in ASE; for a list also one per system."""
        if self._single:
            super().set_stress(stress)
        else:
            self.externalstress = voigt_rows(stress, len(self._systems)).numpy()
        if self._driver is not None:
            self._driver.set_parameter("externalstress", self.externalstress)

    def set_mask(self, mask: Any) -> None:
        """Set which strains may change, as in ASE; for a list also (B, 3, 3)."""
        if self._single:
            super().set_mask(mask)
        else:
            self.mask = mask_rows(mask, len(self._systems)).numpy()
        if self._driver is not None:
            self._driver.set_parameter("mask", self.mask)

    def _calculateconstants(self) -> None:
        if self._single and not isinstance(self.temperature, Schedule):
            super()._calculateconstants()
        if self._driver is not None:
            self._moved().refer_to_present_volume(self._driver.together())

    @staticmethod
    def _issymmetric(matrix: np.ndarray) -> bool:  # ASE 3.29 asks for it, and does not have it
        return bool((matrix == matrix.T).all())

    def _triangular(self, matrix: np.ndarray) -> bool:  # under this name ASE 3.29 has it not
        return self._istriangular(matrix)

    def set_strain_rate(self, rate: Any) -> None:
        """Set the strain rate, as in ASE, of all systems; must be a triangular 3x3 matrix."""
        if self._driver is None:
            super().set_strain_rate(rate)
            return
        if rate.shape != (3, 3) or not self._triangular(rate):
            raise ValueError("Strain rate must be a triangular matrix.")
        self._moved().set_strain_rate(self._driver.together(), rate)

    # ---------------------------------------------------------------- running

    @property
    def initialized(self) -> Any:
        """Whether there has been a step, or in ASE's own code the first run has begun."""
        if self._driver is None:
            return self.__dict__["initialized"]
        return bool(self._driver.state()["started"].all())

    @initialized.setter
    def initialized(self, value: Any) -> None:
        self.__dict__["initialized"] = value

    def initialize(self) -> None:
        """Prepare the first step, which an engine does by itself."""
        if self._driver is None:
            super().initialize()

    def have_the_atoms_been_changed(self) -> Any:
        """Say whether the user has changed positions or cells since the last step."""
        driver = self._driver
        if driver is None:
            return super().have_the_atoms_been_changed()
        driver.take_up_changes()
        changed = self._moved().changed(driver.together())
        if changed:
            self._warning(f"The {changed} been modified.")
        return bool(changed)

    # ---------------------------------------------------------------- looking

    def get_time(self) -> Any:
        """Return the time since the start, in ASE units; of several Atoms one each, (B,)."""
        return self.timeelapsed

    def system_times(self) -> np.ndarray:
        """Return the time of each system, (B,), in ASE units."""
        return np.atleast_1d(self.timeelapsed)

    def get_gibbs_free_energy(self) -> Any:
        """Return the Gibbs free energy, which is conserved, eV; of several Atoms one each, (B,)."""
        return self._conserved() if self._driver is not None else super().get_gibbs_free_energy()

    def get_center_of_mass_momentum(self) -> np.ndarray:
        """Return the total momentum, (3,); of several Atoms one each, (B, 3)."""
        if self._driver is not None:
            self._driver.synchronise()
        momenta = np.array([atoms.get_momenta().sum(0) for atoms in self._systems])
        return momenta[0] if self._single else momenta

    def zero_center_of_mass_momentum(self, verbose: int = 0) -> None:
        """Set the total momentum of each Atoms to zero."""
        momenta = self.get_center_of_mass_momentum().reshape(-1, 3)
        for atoms, momentum in zip(self._systems, momenta, strict=True):
            if verbose and np.sqrt(np.sum(momentum * momentum)) > 1e-4:
                numbers = "{:.6g} {:.6g} {:.6g}".format(*momentum)
                self._warning(
                    f"{self.classname}: Setting the center-of-mass momentum to zero (was {numbers})"
                )
            atoms.set_momenta(atoms.get_momenta() - momentum / len(atoms))


__getattr__ = rest_of_module(__name__)
