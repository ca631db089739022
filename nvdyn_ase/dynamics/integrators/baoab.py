"""Langevin dynamics in the order BAOAB, of atoms and, if there is a barostat, of cells."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from ase import units
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.integrators.mtk import needs_stress, needs_volume
from nvdyn_ase.dynamics.integrators.mtk_flexible import kinetic_tensor
from nvdyn_ase.dynamics.integrators.nve import kick
from nvdyn_ase.dynamics.integrators.scaling import change_cell
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.dynamics.matrices import (
    Matrix,
    Row,
    applied,
    determinant,
    exponential,
    squares,
    symmetric,
    trace,
)
from nvdyn_ase.dynamics.noise import HasNoise, Noise
from nvdyn_ase.models.base import BaseModelMixin

Vector = Float[Tensor, "V 3"]

# ASE units of time: what ASE found the period of a cell to be, over the square root of the inertia
# and times the sixth root of the number of atoms.
_PERIOD = 1.66 * units.fs


class LangevinBAOAB(HasNoise, BaseDynamics):
    """Langevin dynamics of atoms and cells, as ``ase.md.langevinbaoab.LangevinBAOAB``.

    Kick, drift, friction and noise, drift, kick: B. Leimkuhler and C. Matthews, J. Chem. Phys. 138,
    174102 (2013), equations 6 and 7. The mean square displacement in a harmonic well is exact,
    whatever the time step. Cells: D. Quigley and M. I. J. Probert, J. Chem. Phys. 120, 11432
    (2004), equations 5 and 6, whose volume is that of an isotropic cell.

    Without a temperature there is neither friction nor noise; without a stress cells stay as they
    are. So the energy, temperature, enthalpy, or temperature and stress are constant. Constraints
    act on forces and velocities, and not on positions, as in ASE.
    :meth:`conserved_energy` is conserved.

    Parameters
    ----------
    model
        A batched model; with ``externalstress`` it gives the stress.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number or one per system. None: no thermostat.
    externalstress
        Wanted stress with that of the momenta, eV/Å³, positive in tension: one number, 3 on the
        diagonal, 6 in the order of Voigt, or (3, 3); one for all systems or, in a sequence of as
        many, one each. None: no barostat.
    hydrostatic
        Cells keep their shape; the stress is one number, or one per system.
    T_tau
        Time constant of the thermostat in ASE units, ``50 * dt`` by default; one number or one per
        system.
    P_tau
        Time constant of the barostat in ASE units; by default ``20 * T_tau``, and ``1000 * dt`` if
        neither this nor a temperature is given. One number or one per system.
    P_mass
        Inertia of the cell, eV times the square of ASE's unit of time; by default a guess for a
        period of a quarter of ``P_tau``. One number or one per system.
    P_mass_factor
        What that guess is multiplied with.
    disable_cell_langevin
        Neither friction nor noise act on cells.
    as_ase
        ASE 3.29 lets the trace of the strain rate act on all nine elements of the friction of the
        atoms where Quigley and Probert have it on the diagonal. True: as there.
    seed, rng
        Where random numbers come from; see ``Noise``.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        A time constant that is not positive; a stress of another shape, or that may be meant in two
        ways; a model without stress.
    StructureError
        There is a barostat, and a system without a volume.
    """

    __needs_keys__ = frozenset({"forces"})
    _mutable_fields = ("positions", "velocities", "cell")
    _writes_in_place = False
    _per_system = ("dt", "temperature", "T_tau", "P_tau", "P_mass")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any = None,
        externalstress: Any = None,
        hydrostatic: bool = False,
        T_tau: Any = None,
        P_tau: Any = None,
        P_mass: Any = None,
        P_mass_factor: float = 1.0,
        disable_cell_langevin: bool = False,
        as_ase: bool = False,
        *,
        seed: Any = None,
        rng: Any = None,
        **engine: Any,
    ) -> None:
        for name, value in (("T_tau", T_tau), ("P_tau", P_tau)):
            if (np.asarray(value, float) <= 0).any():
                raise ValueError(f"Invalid {name} {value} <= 0")
        self.dt, self.temperature, self.T_tau = dt, temperature, T_tau
        self.P_tau, self.P_mass, self.P_mass_factor = P_tau, P_mass, P_mass_factor
        self.externalstress, self.hydrostatic = externalstress, hydrostatic
        self.disable_cell_langevin, self.as_ase = disable_cell_langevin, as_ase
        self.noise = Noise("LangevinBAOAB", seed, rng)
        super().__init__(model, **engine)
        if self.has_barostat:
            needs_stress(model, type(self).__name__)
            self.__needs_keys__ = frozenset({"forces", "stress"})  # type: ignore[misc]

    @property
    def has_barostat(self) -> bool:
        """Whether cells move."""
        return self.externalstress is not None

    # ---------------------------------------------------------------- parameters

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        system["heat"] = torch.zeros_like(system["dt"])
        if self.has_barostat:
            needs_volume(template_batch, type(self).__name__)
            cell = template_batch["cell"]
            stress, alone = self.externalstress, self.hydrostatic
            rows = self.places(template_batch).among(lambda n: stress_rows(stress, n, alone))
            system["external"] = rows.to(cell)
            system["cell_momentum"] = torch.zeros_like(cell)
            # As in ASE the force on a cell is that before the last half kick of the atoms.
            system["kinetic"] = kinetic_tensor(template_batch)
        self._complete(system, template_batch)
        state = template_batch.like(
            system=system | self.noise.fields(template_batch, self.places(template_batch))
        )
        self._put_coefficients(state, template_batch)
        return state

    def _complete(self, system: dict[str, Tensor], batch: Batch) -> None:
        """Put defaults where nothing is given, which is NaN until then."""
        T_tau = filled(system["T_tau"], lambda: 50.0 * system["dt"])
        short = torch.isnan(system["T_tau"]) & torch.isnan(system["temperature"])
        slow = torch.where(short, 1000.0 * system["dt"], 20.0 * T_tau)
        system["T_tau"], system["P_tau"] = T_tau, filled(system["P_tau"], lambda: slow)
        roots = [[size ** (1.0 / 6.0)] for size in batch.num_nodes_list]
        period = system["P_tau"] / 4.0 / _PERIOD * T_tau.new_tensor(roots)
        guess = self.P_mass_factor * (period * period)
        system["P_mass"] = filled(system["P_mass"], lambda: guess)

    def set_parameter(self, name: str, value: Any) -> None:
        """Change a parameter between steps; a sequence gives one value per system of the batch."""
        if name == "externalstress" and self._batch is not None:
            rows = stress_rows(value, len(self._batch), self.hydrostatic)
            self.state["external"] = rows.to(self.state["external"])
        super().set_parameter(name, value)

    def _parameters_changed(self, batch: Batch) -> None:
        self._put_coefficients(self.state, batch)

    def _put_coefficients(self, state: Batch, batch: Batch) -> None:
        """Keep what follows from the parameters in the state, where it follows its systems."""
        dt, kT = state["dt"], units.kB * state["temperature"]
        friction = torch.where(torch.isnan(kT), 0.0, 1.0 / state["T_tau"])
        decay, spread = ornstein_uhlenbeck(friction, kT, dt)
        masses = batch["atomic_masses"].view(-1, 1)
        spread = spread.index_select(0, batch.batch) / masses.sqrt()
        state["friction"], state["decay"] = friction, decay
        state.add_key("spread", spread, "node", overwrite=True)
        if self.has_barostat:
            on = 0.0 if self.disable_cell_langevin else 1.0
            friction = torch.where(torch.isnan(kT), 0.0, on / state["P_tau"])
            decay, spread = ornstein_uhlenbeck(friction, kT, dt)
            state["cell_decay"], state["cell_spread"] = decay, spread * state["P_mass"].sqrt()

    # ---------------------------------------------------------------- a step

    def pre_update(self, batch: Batch) -> None:
        """Half a kick, half the drift, friction and noise, and the other half of the drift."""
        self._push_cell(batch)
        self._push_atoms(batch)
        self._move_cell(batch)
        self._move_atoms(batch)
        self._bathe(batch)
        self._move_atoms(batch)
        self._move_cell(batch)

    def post_update(self, batch: Batch) -> None:
        """The other half of the kick."""
        if self.has_barostat:
            self.state["kinetic"] = kinetic_tensor(batch)
        self._push_atoms(batch)
        self._push_cell(batch)

    def _push_atoms(self, batch: Batch) -> None:
        constraints, masses = self.constraints(batch), batch["atomic_masses"].view(-1, 1)
        dt, forces = self.node_parameter("dt"), constraints.forces(batch)
        velocities = kick(batch["velocities"], forces, masses, dt)
        batch["velocities"] = constraints.velocities(batch, velocities)

    def _move_atoms(self, batch: Batch) -> None:
        half = 0.5 * self.node_parameter("dt")
        batch["positions"] = batch["positions"] + half * batch["velocities"]

    def _bathe(self, batch: Batch) -> None:
        """Let friction and noise act on the velocities of atoms and cells for a whole step."""
        if self.temperature is None and not self.has_barostat:
            return
        velocities, state = self._slowed(batch), self.state
        if self.temperature is None:
            batch["velocities"] = self.constraints(batch).velocities(batch, velocities)
            return
        # What the cell does to the atoms is no heat: only friction and noise are left out of this.
        heat = -kinetic_energy(batch, velocities) / (state["decay"] * state["decay"])
        xi, *of_cell = self._noise(batch)
        self.noise.advance(state)
        velocities = velocities + state["spread"] * xi
        velocities = self.constraints(batch).velocities(batch, velocities)
        heat = heat + kinetic_energy(batch, velocities)
        batch["velocities"] = velocities
        if of_cell:
            decay, spread = (state[f"cell_{key}"] for key in ("decay", "spread"))
            heat = heat - self._kinetic_of_cell()
            state["cell_momentum"] = (
                decay.unsqueeze(2) * state["cell_momentum"] + spread.unsqueeze(2) * of_cell[0]
            )
            heat = heat + self._kinetic_of_cell()
        state["heat"] = state["heat"] + heat

    def _slowed(self, batch: Batch) -> Vector:
        """Return the velocities after friction, and what the motion of the cell does to them."""
        velocities = batch["velocities"]
        if not self.has_barostat:
            return self.state["decay"].index_select(0, batch.batch) * velocities
        dof = self.constraints(batch).degrees_of_freedom(batch)
        nine = self.as_ase and not self.hydrostatic
        drag = friction_matrix(self._rate(), self.state["friction"], dof, nine)
        factor = exponential(-self.state["dt"].unsqueeze(2) * drag)
        return applied(velocities, factor.index_select(0, batch.batch))

    # ---------------------------------------------------------------- cells

    def _rate(self) -> Matrix:
        """Return the strain rate."""
        return self.state["cell_momentum"] / self.state["P_mass"].unsqueeze(2)

    def _move_cell(self, batch: Batch) -> None:
        """Let cells move for half a step, and the atoms with them."""
        if not self.has_barostat:
            return
        strain = 0.5 * self.state["dt"].unsqueeze(2) * self._rate()
        deformation = exponential(strain)
        change_cell(batch, self.constraints(batch), batch["cell"] @ deformation, deformation)

    def _push_cell(self, batch: Batch) -> None:
        if not self.has_barostat:
            return
        constraints, state = self.constraints(batch), self.state
        stress, volume = constraints.stress(batch, batch["stress"]), determinant(batch["cell"])
        excess = volume.abs().unsqueeze(2) * (state["external"] - symmetric(stress))
        force = cell_force(excess, state["kinetic"], constraints.degrees_of_freedom(batch))
        if self.hydrostatic:
            force = _diagonal(trace(force))
        half = 0.5 * state["dt"].unsqueeze(2)
        state["cell_momentum"] = state["cell_momentum"] + half * force

    def _kinetic_of_cell(self) -> Row:
        # A cell that keeps its shape has one momentum, which stands on the diagonal three times.
        double = 6.0 if self.hydrostatic else 2.0
        return squares(self.state["cell_momentum"]) / (double * self.state["P_mass"])

    def conserved_energy(self, batch: Batch) -> Row:
        """Return the energy of atoms and cell less what friction and noise have put in, (B, 1) eV.

        With a barostat it is the enthalpy, for the mean of the wanted stress: where that is not
        isotropic it is not conserved. The batch is the one that is being moved, with current
        forces.
        """
        energy = self.energy(batch) + kinetic_energy(batch, batch["velocities"])
        if self.has_barostat:
            pressure, volume = trace(self.state["external"]) / -3.0, determinant(batch["cell"])
            energy = energy + pressure * volume.abs() + self._kinetic_of_cell()
        return energy - self.state["heat"]

    # ---------------------------------------------------------------- noise

    def _noise(self, batch: Batch) -> list[Tensor]:
        """Return normal numbers for the atoms and, if noise acts on them, matrices for the cells.

        From generators they are drawn as in ASE: none for what has no friction.
        """
        cells = self.has_barostat and not self.disable_cell_langevin
        if self.noise.is_hosted:
            on = (~torch.isnan(self.state["temperature"])).view(-1).tolist()
            shape = () if self.hydrostatic else (3, 3)

            def draw(rng: Any, size: int, row: int) -> tuple[np.ndarray, ...]:
                normal = rng.normal if on[row] else _nothing
                found = (normal(size=(size, 3)),)
                return (*found, np.reshape(normal(size=shape), (1, -1))) if cells else found

            drawn = self.noise.drawn(batch, self.state, draw)
        else:
            drawn = self.noise.normals(batch, self.state, 1)
            if cells:
                columns = 1 if self.hydrostatic else 9
                drawn = [*drawn, self.noise.system_normals(batch, self.state, columns)]
        return [drawn[0], *(self._matrix(numbers) for numbers in drawn[1:])]

    def _matrix(self, numbers: Float[Tensor, "B n"]) -> Matrix:
        """Return one number on the diagonal, or nine as a symmetric matrix."""
        return _diagonal(numbers) if self.hydrostatic else symmetric(numbers.view(-1, 3, 3))


# -------------------------------------------------------------------------------- update rules


def ornstein_uhlenbeck(friction: Row, kT: Row, dt: Row) -> tuple[Row, Row]:
    """Return what is left of a velocity after a step, and the spread of what noise adds to it.

    J. Chem. Phys. 138, 174102 (2013), after equation 6.

    Parameters
    ----------
    friction
        Inverse ASE units of time.
    kT
        eV, or NaN where there is no thermostat.
    dt
        ASE units.

    Returns
    -------
    decay, spread
        The spread is that of a momentum, over the square root of the mass.
    """
    variance = kT * (1.0 - (-2.0 * friction * dt).exp())
    return (-friction * dt).exp(), torch.where(torch.isnan(kT), 0.0, variance).sqrt()


def cell_force(excess: Matrix, kinetic: Matrix, dof: Row) -> Matrix:
    """Return what drives the strain of a cell, eV.

    J. Chem. Phys. 120, 11432 (2004), equation 6.

    Parameters
    ----------
    excess
        Volume times the wanted stress less that without the momenta's part, eV.
    kinetic
        Sum of ``m v v``, eV.
    dof
        Number of degrees of freedom.
    """
    return excess + kinetic + _diagonal(trace(kinetic) / dof)


def friction_matrix(rate: Matrix, friction: Row, dof: Row, nine: bool) -> Matrix:
    """Return what slows the atoms: friction, the strain rate, and a share of the rate's trace.

    J. Chem. Phys. 120, 11432 (2004), equation 5b.

    Parameters
    ----------
    rate, friction
        Strain rate and friction, inverse ASE units of time.
    dof
        Number of degrees of freedom.
    nine
        The share is on all nine elements instead of the diagonal.
    """
    share = trace(rate) / dof
    if nine:
        return rate + share.unsqueeze(2) + _diagonal(friction)
    return rate + _diagonal(share + friction)


def _diagonal(number: Row) -> Matrix:
    one = torch.eye(3, dtype=number.dtype, device=number.device)
    return number.unsqueeze(2) * one


# -------------------------------------------------------------------------------- parameters


def filled(values: Row, default: Callable[[], Row]) -> Row:
    """Return values with a default where they are NaN."""
    return torch.where(torch.isnan(values), default(), values)


def stress_rows(stress: Any, count: int, hydrostatic: bool) -> Matrix:
    """Return the stress of each system.

    Parameters
    ----------
    stress
        As the engine takes it.
    count
        Systems.
    hydrostatic
        Take single numbers alone.

    Raises
    ------
    ValueError
        Another shape or number, or one that may be meant in two ways.
    """
    mixed = isinstance(stress, (list, tuple)) and len({np.shape(own) for own in stress}) > 1
    shape = None if mixed else np.shape(stress)
    if shape in ((), (1,)):
        rows = [stress] * count
    elif hydrostatic:
        rows = list(stress)
    elif shape in ((3,), (6,), (3, 3)):
        if shape[0] == count:
            raise ValueError(
                f"externalstress: an array of shape {shape} for {count} systems may be one stress "
                "or one for each; give a list with one array of shape (1,) or (3, 3) per system"
            )
        rows = [stress] * count
    else:
        rows = list(stress)
    if len(rows) != count:
        raise ValueError(f"externalstress: {len(rows)} values for {count} systems")
    return torch.from_numpy(np.stack([_stress(own, hydrostatic) for own in rows]))


def _stress(stress: Any, hydrostatic: bool) -> np.ndarray:
    array = np.asarray(stress, float)
    if array.shape in ((), (1,)):
        return array.reshape(()) * np.eye(3)
    if hydrostatic:
        raise ValueError(
            f"externalstress must be scalar when hydrostatic, got '{array}' with shape "
            f"{array.shape}"
        )
    if array.shape == (3,):
        return np.diag(array)
    if array.shape == (6,):
        return array[[0, 5, 4, 5, 1, 3, 4, 3, 2]].reshape(3, 3)
    if array.shape != (3, 3):
        raise ValueError(
            "externalstress must be scalar, 3-vector (diagonal), 6-vector (Voigt), or 3x3 matrix, "
            f'got "{array}" with shape {array.shape}'
        )
    return array


def _nothing(size: Any) -> np.ndarray:
    return np.zeros(size)
