"""Constant pressure by the method of Martyna, Tobias and Klein, cells that keep their shape."""

from typing import Any, ClassVar

import numpy as np
import torch
from ase.units import kB
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, StructureError
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.integrators.nose_hoover import (
    Bath,
    Chain,
    Row,
    at_least_one,
    bath,
    chain_energy,
    chain_step,
    sizes,
)
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.dynamics.matrices import determinant, squares, trace
from nvdyn_ase.models.base import BaseModelMixin


class NPH(BaseDynamics):
    """Constant pressure and enthalpy, cells that keep their shape.

    G. J. Martyna, D. J. Tobias and M. L. Klein, J. Chem. Phys. 101, 4177 (1994), section II,
    without the thermostat: what :class:`IsotropicMTKNPT` does between two steps of its chains.
    :meth:`conserved_energy` is conserved: the enthalpy, and the energy of the cell's motion.

    Every system needs three cell vectors, and may have no constraints.

    Parameters
    ----------
    model
        A batched model that gives the stress.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number or one per system. Of about this temperature the system is expected to be: it
        decides on the inertia of the cell, and on nothing else.
    pressure
        eV/Å³; one number or one per system.
    pdamp
        Time constant of the cell in ASE units, about ``1000 * dt``; one number or one per system.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        The model gives no stress.
    StructureError
        A system has no volume or, when it is to be moved, has constraints.
    """

    __needs_keys__ = frozenset({"forces", "stress"})
    _mutable_fields = ("positions", "velocities", "cell")
    _writes_in_place = False
    _per_system: ClassVar[tuple[str, ...]] = ("dt", "temperature", "pressure", "pdamp")
    #: How the motion of the cell is described; the field of that name is its velocity.
    _cell_field: ClassVar[str] = "strain_rate"
    _cell_shape: ClassVar[tuple[int, ...]] = (1,)

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        pressure: Any,
        pdamp: Any,
        **engine: Any,
    ) -> None:
        self.dt, self.temperature, self.pressure, self.pdamp = dt, temperature, pressure, pdamp
        super().__init__(model, **engine)
        needs_stress(model, type(self).__name__)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        needs_volume(template_batch, type(self).__name__)
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        system[self._cell_field] = system["dt"].new_zeros(n, *self._cell_shape)
        system["count"] = sizes(template_batch)
        return template_batch.like(system=system)

    # ---------------------------------------------------------------- a step

    def pre_update(self, batch: Batch) -> None:
        """Half a kick of cell and atoms, and the drift of both."""
        refuse_constraints(self, batch)
        half = 0.5 * self.state["dt"]
        self._push_cell(batch, half)
        self._push_atoms(batch, half)
        self._drift(batch, self.state["dt"])

    def post_update(self, batch: Batch) -> None:
        """The other half of the kick of atoms and cell."""
        half = 0.5 * self.state["dt"]
        self._push_atoms(batch, half)
        self._push_cell(batch, half)

    def _push_cell(self, batch: Batch, time: Row) -> None:
        kinetic = 2.0 * kinetic_energy(batch, batch["velocities"])
        volume, stress = determinant(batch["cell"]).abs(), batch["stress"]
        force = dilation_force(stress, volume, kinetic, self.state["pressure"], self.state["count"])
        rate = self.state["strain_rate"]
        self.state["strain_rate"] = rate + time * force / self._inertia(batch)

    def _push_atoms(self, batch: Batch, time: Row) -> None:
        rate = (1.0 + 1.0 / self.state["count"]) * self.state["strain_rate"]
        factor, duration = (row.index_select(0, batch.batch) for row in flow(-rate, time))
        forces, masses = batch["forces"], batch["atomic_masses"].view(-1, 1)
        batch["velocities"] = factor * batch["velocities"] + duration * forces / masses

    def _drift(self, batch: Batch, time: Row) -> None:
        factor, duration = flow(self.state["strain_rate"], time)
        batch["cell"] = factor.unsqueeze(2) * batch["cell"]
        factor, duration = (row.index_select(0, batch.batch) for row in (factor, duration))
        batch["positions"] = factor * batch["positions"] + duration * batch["velocities"]

    # ---------------------------------------------------------------- energies

    def _inertia(self, batch: Batch) -> Row:
        """Return W of the motion of the cell, eV times the square of ASE's unit of time."""
        square = self.state["pdamp"] * self.state["pdamp"]
        return 3.0 * (self.state["count"] + 1.0) * kB * self.state["temperature"] * square

    def _twice_kinetic_of_cell(self, batch: Batch) -> Row:
        return self._inertia(batch) * squares(self.state[self._cell_field])

    def conserved_energy(self, batch: Batch) -> Row:
        """Return the energy of atoms, cell, pressure and thermostats, (B, 1) eV.

        The batch is the one that is being moved, with current forces.
        """
        work = self.state["pressure"] * determinant(batch["cell"]).abs()
        atoms = self.energy(batch) + kinetic_energy(batch, batch["velocities"])
        return atoms + work + 0.5 * self._twice_kinetic_of_cell(batch)


class HeatBaths(NPH):
    """Puts two Nosé-Hoover chains around a step at constant pressure, of atoms and of the cell.

    Parameters
    ----------
    model, dt, temperature, pressure, pdamp
        As in ``NPH``.
    tdamp
        Time constant of the thermostat in ASE units, about ``100 * dt``; one number or one per
        system.
    tchain, pchain
        Links of the chains of atoms and cell.
    tloop, ploop
        Parts into which a step of a chain is divided.
    **engine
        Arguments of ``BaseDynamics``.
    """

    _per_system = ("dt", "temperature", "pressure", "tdamp", "pdamp")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        pressure: Any,
        tdamp: Any,
        pdamp: Any,
        tchain: int = 3,
        pchain: int = 3,
        tloop: int = 1,
        ploop: int = 1,
        **engine: Any,
    ) -> None:
        at_least_one(tchain=tchain, pchain=pchain, tloop=tloop, ploop=ploop)
        self.tdamp = tdamp
        self.tchain, self.pchain, self.tloop, self.ploop = tchain, pchain, tloop, ploop
        super().__init__(model, dt, temperature, pressure, pdamp, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        state = super()._make_new_state(n, template_batch)
        for name, links in (("eta", self.tchain), ("xi", self.pchain)):
            state[name] = state[f"{name}_velocity"] = state["dt"].new_zeros(n, links)
        return state

    def pre_update(self, batch: Batch) -> None:
        """Half a step of both thermostats; half a kick of cell and atoms, and their drift."""
        self._bathe(batch)
        super().pre_update(batch)

    def post_update(self, batch: Batch) -> None:
        """The other half of the kick of atoms and cell, and of the step of both thermostats."""
        super().post_update(batch)
        self._bathe(batch)

    def _bathe(self, batch: Batch) -> None:
        atoms, cell = self._baths(batch)
        kinetic = self._twice_kinetic_of_cell(batch)
        scale = self._turn("xi", kinetic, cell, self.ploop)
        rate = self.state[self._cell_field]
        self.state[self._cell_field] = scale.view(-1, *(1 for _ in rate.shape[1:])) * rate
        kinetic = 2.0 * kinetic_energy(batch, batch["velocities"])
        scale = self._turn("eta", kinetic, atoms, self.tloop)
        batch["velocities"] = scale.index_select(0, batch.batch) * batch["velocities"]

    def _turn(self, name: str, twice_kinetic: Row, bath: Bath, loops: int) -> Row:
        """Move a chain by half a step, and return the factor of the velocities it acts on."""
        scale, chain = chain_step(
            twice_kinetic, self._chain(name), bath, 0.5 * self.state["dt"], loops
        )
        self.state[name], self.state[f"{name}_velocity"] = chain
        return scale

    def _chain(self, name: str) -> Chain:
        return Chain(self.state[name], self.state[f"{name}_velocity"])

    def _baths(self, batch: Batch) -> tuple[Bath, Bath]:
        """Return the thermostats of the atoms and of the cell."""
        temperature, dof = self.state["temperature"], 3.0 * self.state["count"]
        motions, weight = (torch.full_like(dof, number) for number in self._cell_motions())
        return (
            bath(temperature, self.state["tdamp"], dof, dof),
            bath(temperature, self.state["pdamp"], motions, weight),
        )

    def _cell_motions(self) -> tuple[float, float]:
        """Return in how many ways the cell moves, and the weight of the first link."""
        return 1.0, 9.0

    def conserved_energy(self, batch: Batch) -> Row:
        """Return the energy of atoms, cell, pressure and thermostats, (B, 1) eV.

        The batch is the one that is being moved, with current forces.
        """
        atoms, cell = self._baths(batch)
        chains = chain_energy(self._chain("eta"), atoms) + chain_energy(self._chain("xi"), cell)
        return super().conserved_energy(batch) + chains


class IsotropicMTKNPT(HeatBaths):
    """Constant temperature and pressure, cells that keep their shape, as in ``ase.md``.

    G. J. Martyna, D. J. Tobias and M. L. Klein, J. Chem. Phys. 101, 4177 (1994), section II; the
    order of the parts of a step is that of M. E. Tuckerman, J. Alejandre, R. López-Rendón, A. L.
    Jochim and G. J. Martyna, J. Phys. A 39, 5629 (2006), section 4. :meth:`conserved_energy` is
    conserved.

    Every system needs three cell vectors, and may have no constraints. The thermostat acts on three
    degrees of freedom per atom.

    Parameters
    ----------
    model
        A batched model that gives the stress.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number or one per system.
    pressure
        eV/Å³; one number or one per system.
    tdamp
        Time constant of the thermostat in ASE units, about ``100 * dt``; one number or one per
        system.
    pdamp
        Time constant of the cell in ASE units, about ``1000 * dt``; one number or one per system.
    tchain, pchain
        Links of the chains of atoms and cell.
    tloop, ploop
        Parts into which a step of a chain is divided.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        The model gives no stress; a chain without links, or no parts.
    StructureError
        A system has no volume or, when it is to be moved, has constraints.
    """


NPT = IsotropicMTKNPT


# -------------------------------------------------------------------------------- update rules


def dilation_force(
    stress: Float[Tensor, "B 3 3"], volume: Row, twice_kinetic: Row, pressure: Row, count: Row
) -> Row:
    """Return what drives the logarithm of a cell's length, eV.

    J. Chem. Phys. 101, 4177 (1994), section II: three times volume times the pressure inside less
    that outside, and the kinetic energy's share of one degree of freedom.

    Parameters
    ----------
    stress
        Without the momenta's part, eV/Å³, positive in tension.
    volume, twice_kinetic, pressure
        Å³, eV, eV/Å³.
    count
        Atoms of each system.
    """
    virial = -volume * (trace(stress) + 3.0 * pressure)
    return virial + (1.0 + 1.0 / count) * twice_kinetic


def flow(rate: Row, time: Row) -> tuple[Row, Row]:
    """Return a and b so that ``a x + b c`` is where ``x' = rate x + c`` leads in a time.

    Parameters
    ----------
    rate
        Inverse ASE units of time.
    time
        ASE units.
    """
    x = rate * time
    return x.exp(), time * torch.where(x == 0.0, 1.0, torch.expm1(x) / x)


# -------------------------------------------------------------------------------- what is needed


def needs_stress(model: BaseModelMixin, name: str) -> None:
    """Raise ValueError unless the model gives the stress."""
    if not model.model_card.supports_stress:
        raise ValueError(
            f"{name} changes the cell and needs the stress, which {model!r} does not give; take "
            "another model, or an integrator at constant volume"
        )


def needs_volume(batch: Batch, name: str) -> None:
    """Raise StructureError unless every system has three cell vectors."""
    flat = np.flatnonzero(determinant(batch["cell"]).view(-1).cpu().numpy() == 0.0)
    if len(flat):
        raise StructureError(
            int(flat[0]), f"it has no volume; {name} needs three cell vectors for its pressure"
        )


def refuse_constraints(engine: BaseDynamics, batch: Batch) -> None:
    """Raise StructureError if a system that is to be moved has constraints."""
    constrained = engine.constraints(batch).constrained
    if constrained is None:
        return
    moving = engine.moving(batch)
    found = constrained if moving is None else constrained & moving.node
    rows = batch.batch[found.view(-1)]
    if not len(rows):
        return
    raise StructureError(
        int(rows[0]),
        f"it has constraints, and {type(engine).__name__} moves every atom with the cell; take "
        "them off, or choose an integrator at constant volume",
    )
