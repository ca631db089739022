"""Stochastic cell rescaling: constant temperature and pressure by a barostat of first order."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from ase.units import kB
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.integrators.bussi import Bussi
from nvdyn_ase.dynamics.integrators.mtk import needs_stress, needs_volume, refuse_constraints
from nvdyn_ase.dynamics.integrators.mtk_flexible import kinetic_tensor
from nvdyn_ase.dynamics.integrators.npt_berendsen import axes
from nvdyn_ase.dynamics.integrators.nve import kick
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
from nvdyn_ase.models.base import BaseModelMixin


class StochasticCellRescaling(Bussi):
    """Constant temperature and pressure by stochastic rescaling of velocities and cells.

    M. Bernetti and G. Bussi, J. Chem. Phys. 153, 114107 (2020), for cells that keep their shape:
    the square root of the volume follows its equation of motion, in which the noise does not depend
    on the volume. Otherwise V. Del Tatto, P. Raiteri, M. Bernetti and G. Bussi, Appl. Sci. 12, 1139
    (2022), in symmetric strains, so that cells do not turn. Velocities are divided by what
    positions are multiplied with. Thermostat: G. Bussi, D. Donadio and M. Parrinello, J. Chem.
    Phys. 126, 014101 (2007).

    The cell changes in the middle of the drift, by the pressure after the first half kick. Turned
    round, such a step goes back along the pressure before its last half kick; with both, the
    probabilities of a step and of its reverse are known, and :meth:`conserved_energy` is exact.

    Every system needs three cell vectors, and may have no constraints.

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
    taut, taup
        Time constants of thermostat and barostat in ASE units; one number or one per system.
    compressibility
        About that of the material, Å³/eV; it sets, with ``taup``, how fast the volume moves, and
        not where to. One number or one per system.
    isotropic
        Cells keep their shape.
    mask
        3 numbers, 0 for a direction of space in which nothing is strained, for all systems; or
        (B, 3). Only for cells that change their shape.
    seed, rng
        Where random numbers come from; see ``Noise``.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    ValueError
        The model gives no stress; a mask of another shape, or for isotropic cells.
    StructureError
        A system has no volume, is at rest or, when it is to be moved, has constraints.
    """

    __needs_keys__ = frozenset({"forces", "stress"})
    _mutable_fields = ("positions", "velocities", "cell")
    _per_system: ClassVar[tuple[str, ...]] = (
        *("dt", "temperature", "taut"),
        *("pressure", "taup", "compressibility"),
    )

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        pressure: Any,
        taut: Any,
        taup: Any,
        compressibility: Any,
        isotropic: bool = True,
        mask: Sequence[Any] = (1, 1, 1),
        **options: Any,
    ) -> None:
        if isotropic and not bool(torch.as_tensor(mask).all()):
            raise ValueError("mask: cells that keep their shape have none; give isotropic=False")
        self.pressure, self.taup, self.compressibility = pressure, taup, compressibility
        self.isotropic, self.mask = isotropic, mask
        super().__init__(model, dt, temperature, taut, **options)
        needs_stress(model, type(self).__name__)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        needs_volume(template_batch, type(self).__name__)
        state = super()._make_new_state(n, template_batch)
        for name in ("dt", "pressure", "temperature", "taup", "compressibility"):
            state[name] = self.initial(name, template_batch)
        state["cell_energy"] = torch.zeros_like(state["dt"])
        none = state["dt"] if self.isotropic else template_batch["cell"]
        state["drift"] = state["kick"] = torch.zeros_like(none)
        if not self.isotropic:
            free = self.places(template_batch).among(lambda count: axes(self.mask, count)).to(none)
            state["free"] = free.unsqueeze(2) * free.unsqueeze(1)
        return state

    # ---------------------------------------------------------------- a step

    def pre_update(self, batch: Batch) -> None:
        """Rescale the velocities; half a kick, and the drift with the change of the cell."""
        refuse_constraints(self, batch)
        (noise,) = self._rescale(batch, more=1 if self.isotropic else 9)
        self._push(batch)
        if self.isotropic:
            self._change_volume(batch, noise)
        else:
            self._change_shape(batch, noise)

    def post_update(self, batch: Batch) -> None:
        """Account for the change of the cell; the other half of the kick."""
        if self.isotropic:
            more = volume_heat(self._volume_drift(batch), *self._last(), self._stiffness())
        else:
            volume, spread = self._volume(batch), self.state["kick"]
            strain = self.state["drift"] + spread
            before = volume * (-trace(strain)).exp()
            back = self._free(strain + self._shape_drift(batch))
            more = shape_heat(back, spread, volume, before, 0.75 * self._stiffness())
        self.state["cell_energy"] = self.state["cell_energy"] + more
        self._push(batch)

    def _push(self, batch: Batch) -> None:
        masses, dt = batch["atomic_masses"].view(-1, 1), self.node_parameter("dt")
        batch["velocities"] = kick(batch["velocities"], batch["forces"], masses, dt)

    def _last(self) -> tuple[Tensor, Tensor]:
        return self.state["drift"], self.state["kick"]

    def _stiffness(self) -> Row:
        """Return time constant over compressibility and time step, eV/Å³."""
        state = self.state
        return state["taup"] / (state["compressibility"] * state["dt"])

    @staticmethod
    def _volume(batch: Batch) -> Row:
        return determinant(batch["cell"]).abs()

    # ---------------------------------------------------------------- cells that keep their shape

    def _change_volume(self, batch: Batch, noise: Row) -> None:
        """Let the atoms drift, and in the middle of it scale cells, positions and velocities."""
        root, kT = self._volume(batch).sqrt(), kB * self.state["temperature"]
        drift = self._volume_drift(batch)
        spread = (0.5 * kT / self._stiffness()).sqrt() * noise
        self.state["drift"], self.state["kick"] = drift, spread
        factor = ((2.0 / 3.0) * ((root + drift + spread) / root).log()).exp()
        batch["cell"] = factor.unsqueeze(2) * batch["cell"]
        rows, half = factor.index_select(0, batch.batch), 0.5 * self.node_parameter("dt")
        velocities = batch["velocities"] / rows
        middle = batch["positions"] + half * batch["velocities"]
        batch["positions"] = rows * middle + half * velocities
        batch["velocities"] = velocities

    def _volume_drift(self, batch: Batch) -> Row:
        """Return by how much pressures alone change the square root of the volume in a step."""
        volume, state = self._volume(batch), self.state
        kinetic = kinetic_energy(batch, batch["velocities"])
        inside = (2.0 * kinetic / volume - trace(batch["stress"])) / 3.0
        kT = kB * state["temperature"]
        return volume_drift(volume, inside, state["pressure"], kT, self._stiffness())

    # ---------------------------------------------------------------- cells that change their shape

    def _change_shape(self, batch: Batch, noise: Float[Tensor, "B 9"]) -> None:
        """Let the atoms drift, and in the middle of it strain cells, positions and velocities."""
        volume, kT = self._volume(batch), kB * self.state["temperature"]
        spread = (kT / (1.5 * volume * self._stiffness())).sqrt()
        kicked = self._free(spread.unsqueeze(2) * symmetric(noise.view(-1, 3, 3)))
        drift = self._free(self._shape_drift(batch))
        self.state["drift"], self.state["kick"] = drift, kicked
        strain = drift + kicked
        stretch, shrink = exponential(strain), exponential(-strain)
        batch["cell"] = batch["cell"] @ stretch
        stretch, shrink = (m.index_select(0, batch.batch) for m in (stretch, shrink))
        half = 0.5 * self.node_parameter("dt")
        velocities = applied(batch["velocities"], shrink)
        middle = batch["positions"] + half * batch["velocities"]
        batch["positions"] = applied(middle, stretch) + half * velocities
        batch["velocities"] = velocities

    def _shape_drift(self, batch: Batch) -> Matrix:
        """Return by how much pressures alone strain the cells in a step."""
        volume = self._volume(batch).unsqueeze(2)
        inside = kinetic_tensor(batch) / volume - symmetric(batch["stress"])
        return shape_drift(inside, self.state["pressure"], self._stiffness())

    def _free(self, strain: Matrix) -> Matrix:
        return self.state["free"] * strain

    # ---------------------------------------------------------------- energies

    def conserved_energy(self, batch: Batch) -> Row:
        """Return the effective energy, (B, 1) eV: enthalpy less what both baths have put in.

        J. Chem. Phys. 153, 114107 (2020), section II; G. Bussi and M. Parrinello, Phys. Rev. E 75,
        056707 (2007), equation 20. The batch is the one that is being moved, with current forces.
        """
        volume, state = self._volume(batch), self.state
        weight = 0.5 if self.isotropic else self._weight()
        entropy = weight * kB * state["temperature"] * volume.log()
        work = state["pressure"] * volume - entropy
        return super().conserved_energy(batch) + work + state["cell_energy"]

    def _weight(self) -> Row:
        """Return the power of the volume in the probability of a strain, and of its kick."""
        free = self.state["free"]
        motions = 0.5 * (squares(free) + trace(free))
        return 1.0 + 0.5 * motions


# -------------------------------------------------------------------------------- update rules


def volume_drift(volume: Row, inside: Row, pressure: Row, kT: Row, stiffness: Row) -> Row:
    """Return by how much pressures change the square root of the volume in a step.

    J. Chem. Phys. 153, 114107 (2020), the equation of motion of the square root of the volume.

    Parameters
    ----------
    volume, kT
        Å³, eV.
    inside, pressure
        Pressure with that of the momenta, and that wanted, eV/Å³.
    stiffness
        Time constant over compressibility and time step, eV/Å³.
    """
    excess = inside - pressure + 0.5 * kT / volume
    return 0.5 * volume.sqrt() * excess / stiffness


def volume_heat(back: Row, drift: Row, spread: Row, stiffness: Row) -> Row:
    """Return kT times the logarithm of the probability of a step over that of its reverse, eV.

    Parameters
    ----------
    back, drift
        What pressures do to the square root of the volume in the reverse step, and did in this.
    spread
        What noise did.
    stiffness
        Time constant over compressibility and time step, eV/Å³.
    """
    both = drift + back
    return stiffness * both * (both + 2.0 * spread)


def shape_drift(inside: Matrix, pressure: Row, stiffness: Row) -> Matrix:
    """Return by how much pressures strain the cells in a step.

    Appl. Sci. 12, 1139 (2022), for symmetric strains, of which the term in kT is not a part.

    Parameters
    ----------
    inside, pressure
        Pressure with that of the momenta, and that wanted, eV/Å³.
    stiffness
        Time constant over compressibility and time step, eV/Å³.
    """
    one = torch.eye(3, dtype=inside.dtype, device=inside.device)
    return (inside - pressure.unsqueeze(2) * one) / (3.0 * stiffness).unsqueeze(2)


def shape_heat(back: Matrix, spread: Matrix, volume: Row, before: Row, stiffness: Row) -> Row:
    """Return kT times the logarithm of the exponentials in the probabilities of a step, eV.

    That in the probability of the step is divided by that of its reverse.

    Parameters
    ----------
    back
        The strain, and what pressures would do in the reverse step.
    spread
        What noise did.
    volume, before
        Volume after and before, Å³.
    stiffness
        Three quarters of the time constant over compressibility and time step, eV/Å³.
    """
    return stiffness * (volume * squares(back) - before * squares(spread))
