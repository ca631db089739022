"""Melchionna's dynamics at constant temperature and stress."""

from typing import Any, NamedTuple

import numpy as np
import torch
from ase.units import kB
from jaxtyping import Bool, Float
from torch import Tensor

from nvdyn_ase.data import Batch, StructureError
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.integrators.mtk import needs_stress, needs_volume
from nvdyn_ase.dynamics.integrators.mtk_flexible import kinetic_tensor
from nvdyn_ase.dynamics.integrators.nose_hoover import Row, Vector, sizes
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.dynamics.matrices import (
    Matrix,
    applied,
    determinant,
    inverse,
    squares,
    symmetric,
    trace,
)
from nvdyn_ase.models.base import BaseModelMixin

# Kinetic energy per atom, eV, below which ASE takes the atoms of a new system to be at rest.
_AT_REST = 1e-5

# Å by which positions and cells may differ before they count as changed, as in ASE.
_UNCHANGED = 1e-10


class Past(NamedTuple):
    """What the centred differences need of the step before.

    Parameters
    ----------
    h_past
        The cell, Å.
    eta_past
        The strain rate.
    zeta_past
        The friction.
    """

    h_past: Matrix
    eta_past: Matrix
    zeta_past: Row


class MelchionnaNPT(BaseDynamics):
    """Constant temperature and stress by Melchionna's equations, as ``ase.md.melchionna``.

    S. Melchionna, G. Ciccotti and B. L. Holian, Mol. Phys. 78, 533 (1993), as modified
    by S. Melchionna, Phys. Rev. E 61, 6165 (2000), with the centred differences of B. L. Holian,
    A. J. De Groot, W. G. Hoover and C. G. Hoover, Phys. Rev. A 41, 4552 (1990).
    :meth:`conserved_energy` is conserved to the first order of the time step, as ASE sums the
    friction up at the ends of steps. The method is unstable where its parameters are not chosen
    well, as ASE says; :class:`MTKNPT` is not.

    Positions come from fractions of the cell in this and in the last step, which are in the state.
    Positions and cells that are changed on the way are changed back by the next step. The total
    momentum should be zero; three degrees of freedom are not counted for it. Constraints act on
    positions and velocities but not on the fractions, as in ASE.

    Parameters
    ----------
    model
        A batched model; with a barostat it gives the stress.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number or one per system.
    externalstress
        Wanted stress, eV/Å³, positive in tension: a symmetric (3, 3), or 6 numbers in the order of
        Voigt; or one number, the pressure, positive in compression. One for all systems or, in a
        sequence of as many, one each.
    ttime
        Time constant of the thermostat in ASE units; one or one per system. None: no thermostat.
    pfactor
        Bulk modulus times the square of the time constant of the barostat; one or one per system.
        None: no barostat.
    mask
        Which strains may change, in the cell's triangle: 3 numbers, 0 or 1, for directions, or
        (3, 3); (B, 3, 3) for one per system. None: all.
    frac_traceless
        Share of the force on the shape that is kept; 0: volume changes and shape does not. Another
        value than 1 makes the mask be ignored, as in ASE. One or one per system.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        A model without stress, or a stress or mask of another shape.
    StructureError
        A cell is not triangular, or has no volume.
    """

    __needs_keys__ = frozenset({"forces", "stress"})
    _mutable_fields = ("positions", "velocities", "cell")
    _writes_in_place = False
    _per_system = ("dt", "temperature", "ttime", "pfactor", "frac_traceless")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        externalstress: Any = 0.0,
        ttime: Any = None,
        pfactor: Any = None,
        mask: Any = None,
        frac_traceless: Any = 1.0,
        **engine: Any,
    ) -> None:
        self.dt, self.temperature, self.frac_traceless = dt, temperature, frac_traceless
        self.externalstress, self.mask = externalstress, mask
        self.ttime, self.pfactor = endless(ttime), endless(pfactor)
        super().__init__(model, **engine)
        if np.isinf(self.pfactor).all():
            self.__needs_keys__ = frozenset({"forces"})  # type: ignore[misc]
        else:
            needs_stress(model, type(self).__name__)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        needs_volume(template_batch, type(self).__name__)
        cell, positions = template_batch["cell"], template_batch["positions"]
        needs_triangle(cell, type(self).__name__)
        system = {name: self.initial(name, template_batch) for name in self._per_system}
        zero, none = torch.zeros_like(system["dt"]), torch.zeros_like(cell)
        system |= {"eta": none, "h": cell, "h_past": none, "eta_past": none}
        system |= {"zeta": zero, "zeta_past": zero, "zeta_integrated": zero, "elapsed": zero}
        system |= {"started": zero > 0.0, "volume0": determinant(cell)}
        system["count"] = sizes(template_batch)
        places = self.places(template_batch)
        stress = places.among(lambda count: voigt_rows(self.externalstress, count))
        system["external"] = stress.to(cell)
        system["free"] = places.among(lambda count: mask_rows(self.mask, count)).to(cell)
        q = torch.zeros_like(positions)
        return template_batch.like(node={"q": q, "q_past": q, "q_future": q}, system=system)

    def set_parameter(self, name: str, value: Any) -> None:
        """Change a parameter between steps; a sequence gives one value per system of the batch."""
        if self._batch is not None and name in ("externalstress", "mask"):
            rows, key = (
                (voigt_rows, "external") if name == "externalstress" else (mask_rows, "free")
            )
            self.state[key] = rows(value, len(self._batch)).to(self.state["volume0"])
        super().set_parameter(name, value)

    # ---------------------------------------------------------------- a step

    def pre_update(self, batch: Batch) -> None:
        """Move cell, friction and fractions on, and the atoms with them."""
        self._start(batch)
        state, dt = self.state, self.state["dt"]
        h, eta, zeta = batch["cell"], state["eta"], state["zeta"]
        past = Past(*(state[name] for name in Past._fields))
        long = 2.0 * dt
        state["h_past"], state["h"] = h, past.h_past + long.unsqueeze(2) * torch.bmm(h, eta)
        state["eta_past"] = eta
        state["eta"] = past.eta_past + long.unsqueeze(2) * self._strain_force(batch, h)
        state["zeta_past"], state["zeta"] = zeta, past.zeta_past + long * self._friction(batch)
        state["zeta_integrated"] = state["zeta_integrated"] + dt * state["zeta"]
        state["elapsed"] = state["elapsed"] + dt
        state["q_past"], state["q"] = state["q"], state["q_future"]
        batch["cell"] = state["h"]
        old, moved = batch["positions"], self._cartesian(batch)
        batch["positions"] = self.constraints(batch).positions(batch, old, moved)

    def post_update(self, batch: Batch) -> None:
        """Find the fractions of the next step, and the velocities between last and next."""
        state = self.state
        state["q_future"] = self._next(batch, state["q"], state["q_past"], batch["cell"])
        velocities = self._velocities(batch, state["q_future"], state["q_past"])
        batch["velocities"] = self.constraints(batch).velocities(batch, velocities)

    def _start(self, batch: Batch) -> None:
        """Give systems that have not moved a past; the others keep theirs."""
        started, atoms = self.state["started"], self.state["started"].index_select(0, batch.batch)
        past = self._past(batch)
        for name, values in zip(Past._fields, past, strict=True):
            known = started.view(-1, *(1 for _ in values.shape[1:]))
            self.state[name] = torch.where(known, self.state[name], values)
        own = self._fractions(batch)
        for name, values in zip(("q", "q_past", "q_future"), own, strict=True):
            self.state[name] = torch.where(atoms, self.state[name], values)
        self.state["started"] = torch.ones_like(started)

    def _past(self, batch: Batch) -> Past:
        """Return what cell and friction would have been a step ago."""
        h, eta, dt = batch["cell"], self.state["eta"], self.state["dt"]
        back = dt.unsqueeze(2)
        return Past(
            h - back * torch.bmm(h, eta),
            eta - back * self._strain_force(batch, h),
            self.state["zeta"] - dt * self._friction(batch),
        )

    def _fractions(self, batch: Batch) -> tuple[Vector, Vector, Vector]:
        """Return the fractions now, and a step ago and ahead, so that they give the velocities.

        A first guess of the past is corrected once, unless the atoms are at rest.
        """
        h, velocities = batch["cell"], batch["velocities"]
        inverted = inverse(h).matrix.index_select(0, batch.batch)
        q = applied(batch["positions"], inverted) - 0.5
        dt = self.state["dt"].index_select(0, batch.batch)
        past = q - dt * applied(velocities, inverted)
        future = self._next(batch, q, past, h)
        reached = self._velocities(batch, future, past)
        resting = kinetic_energy(batch, reached) < _AT_REST * self.state["count"]
        resting = resting.index_select(0, batch.batch)
        better = q - dt * applied((velocities - reached) + velocities, inverted)
        past = torch.where(resting, past, better)
        return q, past, torch.where(resting, future, self._next(batch, q, past, h))

    def _next(self, batch: Batch, q: Vector, q_past: Vector, h: Matrix) -> Vector:
        """Return the fractions of the next step."""
        forces = self.constraints(batch).forces(batch, md=True)
        acceleration = forces / batch["atomic_masses"].view(-1, 1)
        dt, inverted = self.state["dt"], inverse(h).matrix
        before, after = drags(h, inverted, self.state["eta"], self.state["zeta"], dt)
        matrices = (before, inverse(after).matrix, (dt * dt).unsqueeze(2) * inverted)
        before, after, square = (m.index_select(0, batch.batch) for m in matrices)
        moved = 2.0 * q + applied(q_past, before) + applied(acceleration, square)
        return applied(moved, after)

    def _velocities(self, batch: Batch, q_future: Vector, q_past: Vector) -> Vector:
        speed = batch["cell"] / (2.0 * self.state["dt"]).unsqueeze(2)
        return applied(q_future - q_past, speed.index_select(0, batch.batch))

    def _cartesian(self, batch: Batch) -> Vector:
        return applied(self.state["q"] + 0.5, self.state["h"].index_select(0, batch.batch))

    # ---------------------------------------------------------------- forces on cell and friction

    def _strain_force(self, batch: Batch, h: Matrix) -> Matrix:
        """Return the time derivative of the strain rate."""
        if "stress" not in self.__needs_keys__:
            return torch.zeros_like(h)
        volume = determinant(h)
        kinetic = kinetic_tensor(batch) / volume.abs().unsqueeze(2)
        difference = symmetric(batch["stress"]) - kinetic - matrix_of(self.state["external"])
        strength = volume / (self.state["pfactor"] * self.state["volume0"])
        force = triangle(-strength.unsqueeze(2) * difference, is_upper(h))
        return limited(force, self.state["free"], self.state["frac_traceless"])

    def _friction(self, batch: Batch) -> Row:
        """Return the time derivative of the friction."""
        kT, count, ttime = kB * self.state["temperature"], self.state["count"], self.state["ttime"]
        wanted = 1.5 * (count - 1.0) * kT
        excess = kinetic_energy(batch, batch["velocities"]) - wanted
        return 2.0 / (3.0 * count * kT * ttime * ttime) * excess

    # ---------------------------------------------------------------- looking and changing

    def conserved_energy(self, batch: Batch) -> Row:
        """Return the Gibbs free energy, as ASE calls it: with cell, friction and heat, (B, 1) eV.

        The batch is the one that is being moved, with current forces.
        """
        state, count = self.state, self.state["count"]
        kT = kB * state["temperature"]
        volume, mean = determinant(batch["cell"]), trace(matrix_of(state["external"])) / 3.0
        energy = self.energy(batch) + kinetic_energy(batch, batch["velocities"]) - mean * volume
        turned = 1.5 * count * kT * (state["ttime"] * state["zeta"]) ** 2
        bath = turned + 3.0 * kT * (count - 1.0) * state["zeta_integrated"]
        cell = 0.5 * state["pfactor"] * state["volume0"] * squares(state["eta"])
        for part, constant in ((bath, state["ttime"]), (cell, state["pfactor"])):
            energy = energy + torch.where(torch.isinf(constant), 0.0, part)
        return energy

    def changed(self, batch: Batch) -> str:
        """Say what of systems that have moved is not where the last step left it, if anything."""
        started = self.state["started"].view(-1, 1, 1)
        cells = torch.where(started, batch["cell"] - self.state["h"], 0.0)
        if bool((cells.abs() > _UNCHANGED).any()):
            return "computational box has"
        moved = batch["positions"] - self._cartesian(batch)
        moved = torch.where(started.view(-1, 1).index_select(0, batch.batch), moved, 0.0)
        return "atomic positions have" if bool((moved.abs() > _UNCHANGED).any()) else ""

    def set_strain_rate(self, batch: Batch, rate: Any) -> None:
        """Set the strain rate, (3, 3) for all systems or (B, 3, 3); triangular as the cells are."""
        eta = self.state["eta"]
        self.state["eta"] = torch.as_tensor(np.asarray(rate, float)).to(eta).expand_as(eta).clone()
        past = self._past(batch)  # where there is none yet, it will be made anew
        self.state["h_past"], self.state["eta_past"] = past.h_past, past.eta_past

    def refer_to_present_volume(self, batch: Batch) -> None:
        """Take the present volume for that which ``pfactor`` is meant for."""
        self.state["volume0"] = determinant(batch["cell"])


# -------------------------------------------------------------------------------- update rules


def drags(h: Matrix, inverted: Matrix, eta: Matrix, zeta: Row, dt: Row) -> tuple[Matrix, Matrix]:
    """Return what the fractions before and after are multiplied with, for each system.

    Parameters
    ----------
    h, inverted
        The cell, Å, and its inverse.
    eta, zeta
        Strain rate and friction, inverse ASE units of time.
    dt
        ASE units.
    """
    one = torch.eye(3, dtype=h.dtype, device=h.device)
    damping = eta + 0.5 * zeta.unsqueeze(2) * one
    beta = dt.unsqueeze(2) * torch.bmm(h, torch.bmm(damping, inverted))
    return beta - one, beta + one


def is_upper(matrix: Matrix) -> Bool[Tensor, "B 1 1"]:
    """Say which matrices have nothing below the diagonal."""
    below = (matrix[:, 1, 0] == 0.0) & (matrix[:, 2, 0] == 0.0) & (matrix[:, 2, 1] == 0.0)
    return below.view(-1, 1, 1)


def triangle(matrix: Matrix, upper: Bool[Tensor, "B 1 1"]) -> Matrix:
    """Return the upper or the lower triangle of each symmetric matrix."""
    return torch.where(upper, matrix.triu(), matrix.tril())


def limited(force: Matrix, free: Matrix, fraction: Row) -> Matrix:
    """Return the force on the strain rate with the mask or, with a fraction, on shape and volume.

    Parameters
    ----------
    force
        Of all strains.
    free
        1 for a strain that may change.
    fraction
        Share of the force on the shape that is kept; the mask counts where it is 1.
    """
    one = torch.eye(3, dtype=force.dtype, device=force.device)
    mean = (trace(force) / 3.0).unsqueeze(2) * one
    share = fraction.unsqueeze(2)
    return torch.where(share == 1.0, free * force, mean + share * (force - mean))


def matrix_of(voigt: Float[Tensor, "B 6"]) -> Matrix:
    """Return the symmetric matrix of 6 numbers in the order of Voigt."""
    xx, yy, zz, yz, xz, xy = voigt.unbind(1)
    return torch.stack([xx, xy, xz, xy, yy, yz, xz, yz, zz], dim=1).view(-1, 3, 3)


# -------------------------------------------------------------------------------- parameters


def endless(constant: Any) -> Any:
    """Return a time constant, or several, with infinity for None."""
    if isinstance(constant, (list, tuple)):
        return [endless(item) for item in constant]
    return float("inf") if constant is None else constant


def voigt(stress: Any) -> np.ndarray:
    """Return a stress as 6 numbers in the order of Voigt; of one number, the pressure.

    Raises
    ------
    ValueError
        Another shape, or a matrix that is not symmetric.
    """
    array = np.asarray(stress, float)
    if array.ndim == 0:
        return np.array([-array, -array, -array, 0.0, 0.0, 0.0])
    if array.shape == (3, 3):
        if not (array == array.T).all():
            raise ValueError("The external stress must be a symmetric tensor.")
        return array[[0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
    if array.shape != (6,):
        raise ValueError("The external stress has the wrong shape.")
    return array


def voigt_rows(stress: Any, count: int) -> Float[Tensor, "B 6"]:
    """Return the stress of each system.

    Parameters
    ----------
    stress
        As the engine takes it.
    count
        Systems.

    Raises
    ------
    ValueError
        Another shape or number, or one that may be meant in two ways.
    """
    mixed = isinstance(stress, (list, tuple)) and len({np.shape(own) for own in stress}) > 1
    shape = None if mixed else np.shape(stress)
    if shape == (6,) == (count,):
        raise ValueError(
            "externalstress: 6 numbers for 6 systems may be one stress or 6 pressures; give an "
            "array of shape (6, 6)"
        )
    if shape in ((), (6,), (3, 3)):
        return torch.from_numpy(np.tile(voigt(stress), (count, 1)))
    if len(stress) != count:
        raise ValueError(f"externalstress: {len(stress)} values for {count} systems")
    return torch.from_numpy(np.stack([voigt(own) for own in stress]))


def mask_rows(mask: Any, count: int) -> Bool[Tensor, "B 3 3"]:
    """Return which strains of each system may change.

    Raises
    ------
    ValueError
        Another shape.
    """
    array = np.not_equal(np.ones(3) if mask is None else np.asarray(mask), 0)
    if array.shape == (3,):
        array = np.outer(array, array)
    if array.shape not in ((3, 3), (count, 3, 3)):
        raise ValueError("The mask has the wrong shape (must be a 3-vector or 3x3 matrix)")
    return torch.from_numpy(np.broadcast_to(array, (count, 3, 3)).copy())


def needs_triangle(cell: Matrix, name: str) -> None:
    """Raise StructureError unless every cell is a triangular matrix."""
    upper, lower = is_upper(cell), is_upper(cell.transpose(1, 2))
    other = np.flatnonzero(~(upper | lower).view(-1).cpu().numpy())
    if len(other):
        raise StructureError(
            int(other[0]),
            f"its cell is not a triangular matrix, which {name} needs; turn it, as with "
            "atoms.set_cell(atoms.cell.standard_form()[0], scale_atoms=True)",
        )
