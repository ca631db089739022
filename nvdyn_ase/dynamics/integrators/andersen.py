"""Andersen's thermostat."""

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.units import kB
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.integrators.nve import Number, kick
from nvdyn_ase.dynamics.kinetics import centre_of_mass
from nvdyn_ase.dynamics.noise import HasNoise, Noise
from nvdyn_ase.models.base import BaseModelMixin

# Counters of the uniform numbers, out of the way of those of the normal ones.
_UNIFORM = 1 << 8


class Collisions(NamedTuple):
    """Random numbers of a step.

    Parameters
    ----------
    system
        Normal, for the velocity of the centre of mass, (B, 3).
    atoms
        Normal, for the velocities of atoms that collide, (V, 3).
    chance
        Uniform: a component collides if this is not above the probability, (V, 3).
    """

    system: Float[Tensor, "B 3"]
    atoms: Float[Tensor, "V 3"]
    chance: Float[Tensor, "V 3"]


class Andersen(HasNoise, BaseDynamics):
    """Velocity Verlet with stochastic collisions, as ``ase.md.Andersen``.

    H. C. Andersen, J. Chem. Phys. 72, 2384 (1980), section IV.

    As in ASE the collisions come before the drift and not in its middle. To first order this makes
    the potential energy too large by a fraction ``andersen_prob / 2``, whatever the time step: for
    averages choose a small probability.

    A collision changes one component of a velocity. Constraints that tie components together, as
    those on bond lengths and on the centre of mass, make the system too cold, as in ASE: by one
    part in N + 1 for N equal atoms whose centre of mass is held. Take another thermostat there.

    Parameters
    ----------
    model
        A batched model.
    dt
        Time step in ASE units, as ``5 * ase.units.fs``; one number or one per system.
    temperature
        K; one number or one per system.
    andersen_prob
        Probability that a component of an atom's velocity is drawn anew in a step; one number or
        one per system.
    fixcm
        Keep the centre of mass where it is.
    seed, rng
        Where random numbers come from; see ``Noise``.
    **engine
        Arguments of ``BaseDynamics``.
    """

    __needs_keys__ = frozenset({"forces"})
    _writes_in_place = False
    _per_system = ("dt", "temperature", "andersen_prob")

    def __init__(
        self,
        model: BaseModelMixin,
        dt: Any,
        temperature: Any,
        andersen_prob: Any,
        fixcm: bool = True,
        *,
        seed: Any = None,
        rng: Any = None,
        **engine: Any,
    ) -> None:
        self.dt, self.temperature, self.andersen_prob = dt, temperature, andersen_prob
        self.fixcm = fixcm
        self.noise = Noise("Andersen", seed, rng)
        super().__init__(model, **engine)

    def _make_new_state(self, n: int, template_batch: Batch) -> Batch:
        return template_batch.like(
            system=self.noise.fields(template_batch, self.places(template_batch))
        )

    def pre_update(self, batch: Batch) -> None:
        """Half a kick, the collisions, and the drift."""
        dt = self.node_parameter("dt")
        constraints = self.constraints(batch)
        old, masses = batch["positions"], batch["atomic_masses"].view(-1, 1)
        random = self._collisions(batch)
        self.noise.advance(self.state)
        velocities = batch["velocities"]
        if self.fixcm:
            velocities = velocities + self._push(batch, random.system)
        velocities = kick(velocities, constraints.forces(batch, md=True), masses, dt)
        temperature, chance = (self.node_parameter(n) for n in ("temperature", "andersen_prob"))
        velocities = collide(velocities, random, masses, temperature, chance)
        if self.fixcm:
            velocities = velocities - centre_of_mass(batch, velocities)
        positions = constraints.positions(batch, old, old + velocities * dt)
        if self.fixcm:
            shift = centre_of_mass(batch, old) - centre_of_mass(batch, positions)
            positions = constraints.positions(batch, positions, positions + shift)
        batch["velocities"] = (positions - old) / dt
        batch["positions"] = positions

    def _push(self, batch: Batch, normal: Float[Tensor, "B 3"]) -> Float[Tensor, "V 3"]:
        """Return a velocity for each system as a whole, as a bath would give it."""
        mass = segment_sum(batch["atomic_masses"].view(-1, 1), batch.ptr)
        width = ((kB * self.parameter("temperature")) / mass).sqrt()
        return (width * normal).index_select(0, batch.batch)

    def post_update(self, batch: Batch) -> None:
        """The other half of the kick."""
        dt = self.node_parameter("dt")
        constraints = self.constraints(batch)
        masses = batch["atomic_masses"].view(-1, 1)
        velocities = kick(batch["velocities"], constraints.forces(batch, md=True), masses, dt)
        if self.fixcm:
            velocities = velocities - centre_of_mass(batch, velocities)
        batch["velocities"] = constraints.velocities(batch, velocities)

    def _collisions(self, batch: Batch) -> Collisions:
        if self.noise.is_hosted:
            draw = _with_centre if self.fixcm else _without_centre
            return Collisions(*self.noise.drawn(batch, self.state, draw))
        return Collisions(
            self.noise.system_normals(batch, self.state, 3),
            self.noise.normals(batch, self.state, 1)[0],
            self.noise.uniforms(batch, self.state, _UNIFORM),
        )


def collide(
    velocities: Float[Tensor, "V 3"],
    random: Collisions,
    masses: Float[Tensor, "V 1"],
    temperature: Number,
    probability: Number,
) -> Float[Tensor, "V 3"]:
    """Return the velocities after collisions with a bath.

    Parameters
    ----------
    velocities, masses
        Å per ASE time unit, amu.
    random
        What happens to whom.
    temperature, probability
        Of the bath, K; of a collision.
    """
    drawn = ((kB * temperature) / masses).sqrt() * random.atoms
    return torch.where(random.chance <= probability, drawn, velocities)


def _normal(rng: Any, shape: tuple[int, ...]) -> np.ndarray:
    """Return normal numbers as ASE's Andersen makes them of uniform ones."""
    x, y = rng.random(size=shape), rng.random(size=shape)
    return np.cos(2 * math.pi * x) * (-2 * np.log(1 - y)) ** 0.5


def _with_centre(rng: Any, size: int, row: int) -> tuple[np.ndarray, ...]:
    return _normal(rng, (1, 3)), _normal(rng, (size, 3)), rng.random(size=(size, 3))


def _without_centre(rng: Any, size: int, row: int) -> tuple[np.ndarray, ...]:
    return np.zeros((1, 3)), _normal(rng, (size, 3)), rng.random(size=(size, 3))
