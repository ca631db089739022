"""Stochastic velocity rescaling."""

import math
from typing import Any, ClassVar

import numpy as np
import torch
from ase.units import kB
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, StructureError, segment_dot
from nvdyn_ase.dynamics.constraints import BatchConstraints
from nvdyn_ase.dynamics.integrators.nve import NVE
from nvdyn_ase.dynamics.kinetics import kinetic_energy
from nvdyn_ase.dynamics.noise import HasNoise, Noise
from nvdyn_ase.dynamics.parameters import Places, parameter_rows
from nvdyn_ase.models.base import BaseModelMixin

System = Float[Tensor, "B 1"]


class Bussi(HasNoise, NVE):
    """Velocity Verlet with stochastic velocity rescaling, as ``ase.md.Bussi``.

    G. Bussi, D. Donadio and M. Parrinello, J. Chem. Phys. 126, 014101 (2007), equation A7.

    :meth:`conserved_energy` is conserved: total energy minus ``state["transferred_energy"]``.

    Parameters
    ----------
    model
        A batched model.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number or one per system.
    taut
        Time constant of the coupling in ASE units; one number or one per system.
    seed, rng
        Where random numbers come from; see ``Noise``.
    **engine
        Arguments of ``BaseDynamics``.

    Raises
    ------
    StructureError
        A system is at rest.
    """

    _per_system: ClassVar[tuple[str, ...]] = ("dt", "temperature", "taut")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        taut: Any,
        *,
        seed: Any = None,
        rng: Any = None,
        **engine: Any,
    ) -> None:
        self.temperature, self.taut = temperature, taut
        self.noise = Noise("Bussi", seed, rng)
        self._squares: tuple[BatchConstraints, Float[Tensor, "V 3"]] | None = None
        super().__init__(model, dt, **engine)

    # ---------------------------------------------------------------- parameters

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        kinetic = kinetic_energy(template_batch, template_batch["velocities"])
        at_rest = np.flatnonzero(kinetic.view(-1).cpu().numpy() <= 1e-12)
        if len(at_rest):
            raise StructureError(
                int(at_rest[0]),
                "Initial kinetic energy is zero. Please set the initial velocities before running "
                "Bussi NVT.",
            )
        streams = self.noise.fields(template_batch, self.places(template_batch))
        system = {"transferred_energy": torch.zeros_like(kinetic), **streams}
        return template_batch.like(system=system)

    def _init_state(self, batch: Batch) -> None:
        super()._init_state(batch)
        self._parameters_changed(batch)

    def set_parameter(self, name: str, value: Any) -> None:
        """Change a parameter between steps; a sequence gives one value per system of the batch."""
        if name == "transferred_energy" and self._batch is not None:
            places = Places.of(self._batch)
            self.state[name] = parameter_rows(name, value, places, self._batch.device)
            return
        super().set_parameter(name, value)

    def _parameters_changed(self, batch: Batch) -> None:
        """Keep what is left of a deviation after a step in the state."""
        dt, taut = (self._rows(name, batch) for name in ("dt", "taut"))
        left = [[math.exp(-a / b)] for a, b in zip(dt, taut, strict=True)]
        self.state["decay"] = torch.tensor(left, dtype=torch.float64, device=batch.device)

    def _schedules_followed(self, batch: Batch) -> None:
        """The temperature is not in what the state keeps of the parameters."""

    def _rows(self, name: str, batch: Batch) -> list[float]:
        value = self.parameter(name)
        return value.view(-1).tolist() if isinstance(value, Tensor) else [value] * len(batch)

    # ---------------------------------------------------------------- a step

    def pre_update(self, batch: Batch) -> None:
        """Rescale the velocities; half a kick and the drift."""
        self._rescale(batch)
        super().pre_update(batch)

    def _rescale(self, batch: Batch, more: int = 0) -> list[Float[Tensor, "B n"]]:
        """Rescale the velocities, and return so many more normal numbers for each system."""
        constraints = self.constraints(batch)
        dof = constraints.degrees_of_freedom(batch)
        kinetic = kinetic_energy(batch, batch["velocities"])
        first, squares, *others = self._noise(batch, constraints, dof, more)
        self.noise.advance(self.state)
        target = (0.5 * kB) * self.parameter("temperature") * dof
        scale = bussi_scale(kinetic, target, dof, self.state["decay"], first, squares)
        transferred = self.state["transferred_energy"]
        self.state["transferred_energy"] = transferred + (scale * scale - 1.0) * kinetic
        velocities = scale.index_select(0, batch.batch) * batch["velocities"]
        batch["velocities"] = constraints.velocities(batch, velocities)
        return others

    def _noise(
        self, batch: Batch, constraints: BatchConstraints, dof: System, more: int
    ) -> list[Float[Tensor, "B n"]]:
        """Return a normal number, the sum of the squares of one less than ``dof``, and more."""
        if self.noise.is_hosted:
            counts = dof.view(-1).tolist()
            return self.noise.drawn(
                *(batch, self.state),
                lambda rng, _, row: _normal_and_gamma(rng, counts[row], more),
            )
        if self._squares is None or self._squares[0] is not constraints:
            self._squares = constraints, _first_components(batch, dof - 1.0)
        normals = self.noise.normals(batch, self.state, 1)[0]
        squares = segment_dot(self._squares[1] * normals, normals, batch.ptr3)
        whole = self.noise.system_normals(batch, self.state, 1 + more)
        return [whole[:, :1], squares, *([whole[:, 1:]] if more else [])]

    # ---------------------------------------------------------------- energies

    def conserved_energy(self, batch: Batch) -> System:
        """Return the total energy less what the thermostat has put in, (B, 1) eV.

        J. Chem. Phys. 126, 014101 (2007), equation 15. The batch is the one that is being moved,
        with current forces.
        """
        atoms = self.energy(batch) + kinetic_energy(batch, batch["velocities"])
        return atoms - self.state["transferred_energy"]


def bussi_scale(
    kinetic: System, target: System, dof: System, decay: System, first: System, squares: System
) -> System:
    """Return the factor of the velocities.

    Parameters
    ----------
    kinetic, target
        Kinetic energy now, and its mean in the canonical ensemble, eV.
    dof
        Number of degrees of freedom.
    decay
        ``exp(-dt / taut)``.
    first, squares
        A normal number, and the sum of the squares of ``dof - 1`` others.
    """
    share = (1.0 - decay) * target / kinetic / dof
    mixed = 2.0 * first * (decay * share).sqrt()
    return (decay + share * (squares + first * first) + mixed).sqrt()


def _first_components(batch: Batch, count: System) -> Float[Tensor, "V 3"]:
    """Return 1 for the first so many components of each system and 0 for the others."""
    places = torch.arange(3 * batch.num_nodes, device=batch.device).view(-1, 3)
    place = places - batch.ptr3[:-1].index_select(0, batch.batch).view(-1, 1)
    return (place < count.index_select(0, batch.batch)).to(count)


def _normal_and_gamma(rng: Any, dof: float, more: int) -> tuple[np.ndarray, ...]:
    normal = rng.standard_normal()
    gamma = 2.0 * rng.standard_gamma(0.5 * (dof - 1.0))
    found = (np.array([[normal]]), np.array([[gamma]]))
    return (*found, rng.standard_normal((1, more))) if more else found
