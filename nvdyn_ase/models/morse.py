"""The Morse potential."""

import math

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor

from nvdyn_ase.models import pair_blocks as blocks
from nvdyn_ase.models.base import ModelCard, NeighborConfig
from nvdyn_ase.models.pair_blocks import ENERGY, LENGTH, R2, SLOPE, Whole
from nvdyn_ase.models.pair_potential import PER_ATOM, Geometry, PairPotential, Results, Slots


class Morse(PairPotential):
    """The Morse potential: ``epsilon (x**2 - 2 x)`` with ``x = exp(rho0 (1 - r / r0))``, cut off.

    P. M. Morse, Phys. Rev. 34, 57 (1929), brought to zero by a quintic polynomial; defaults and
    numbers are those of ``ase.calculators.morse``. All elements are the same.

    Parameters
    ----------
    epsilon
        Depth, eV.
    rho0
        How fast the exponential decays; the force constant at the minimum is
        ``2 epsilon (rho0 / r0)**2``.
    r0
        Distance of the minimum, Å.
    rcut1, rcut2
        Where the smooth cutoff begins and ends, in units of ``r0``.
    skin
        How much further than the cutoff the list of pairs reaches, Å; an eighth of it by default.

    Raises
    ------
    ValueError
        A parameter out of its range.
    """

    def __init__(
        self,
        epsilon: float = 1.0,
        rho0: float = 6.0,
        r0: float = 1.0,
        rcut1: float = 1.9,
        rcut2: float = 2.7,
        *,
        skin: float | None = None,
    ) -> None:
        super().__init__()
        for name, value in (("r0", r0), ("rcut2", rcut2)):
            if not (math.isfinite(value) and value > 0):
                raise ValueError(f"{name} must be positive, not {value}")
        for name, value in (("epsilon", epsilon), ("rho0", rho0)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must not be negative, and is {value}")
        if not rcut1 < rcut2:
            raise ValueError(f"rcut1={rcut1} must be less than rcut2={rcut2}")
        self.epsilon, self.rho0, self.r0 = epsilon, rho0, r0
        self.rcut1, self.rcut2, self.skin = rcut1, rcut2, skin
        cutoff = float(rcut2 * r0)
        self.model_card = ModelCard(
            supports_stress=True,
            extra_outputs=PER_ATOM,
            neighbor_config=NeighborConfig(
                cutoff=cutoff, half_list=True, skin=cutoff / 8 if skin is None else skin
            ),
        )

    def __repr__(self) -> str:
        """Say the parameters."""
        names = ("epsilon", "rho0", "r0", "rcut1", "rcut2")
        return f"Morse({', '.join(f'{name}={getattr(self, name)!r}' for name in names)})"

    @property
    def _parameters(self) -> tuple[float, float, float, float, float]:
        """Epsilon, rho0, r0, eV, 1 and Å; begin and end of the smooth cutoff, Å."""
        numbers = self.epsilon, self.rho0, self.r0, self.rcut1 * self.r0, self.rcut2 * self.r0
        epsilon, rho0, r0, inner, outer = (float(number) for number in numbers)
        return epsilon, rho0, r0, inner, outer

    def _run(self, geometry: Geometry, slots: Slots, results: Results) -> None:
        _evaluate(geometry, slots, self._parameters, results)

    def _terms(
        self, r2: Float[Tensor, " E"], kinds: tuple[Int[Tensor, " E"], Int[Tensor, " E"]] | None
    ) -> tuple[Bool[Tensor, " E"], Float[Tensor, " E"], Float[Tensor, " E"]]:
        epsilon, rho0, r0, inner, outer = self._parameters
        r, width = r2.sqrt(), outer - inner
        x = torch.exp(rho0 * (1.0 - r / r0))
        energy, change = epsilon * x * (x - 2.0), -2.0 * epsilon * rho0 / r0 * x * (x - 1.0)
        s = 1.0 - (r - inner) / width
        inside = s >= 1.0
        factor = torch.where(inside, 1.0, s * s * s * (10.0 + s * (6.0 * s - 15.0)))
        left = 1.0 - s
        fall = torch.where(inside, 0.0, -30.0 * s * s * left * left / width)
        slope = (change * factor + energy * fall) / r
        return (r2 > outer**2) | (s <= 0.0), energy * factor, slope


# ---------------------------------------------------------------- loops on the CPU


@njit(cache=True, error_model="numpy", nogil=True)
def _evaluate(
    geometry: Geometry,
    slots: Slots,
    parameters: tuple[float, float, float, float, float],
    results: Results,
) -> None:
    """Fill the results of a batch."""
    ptr, positions, cell, _ = geometry
    start, stop, neighbor, image, image_slot, shifts, half = slots
    energy, forces, stress, energies, stresses = results
    block, images, back, virial = blocks.make_scratch(image_slot)
    for b in range(len(ptr) - 1):
        blocks.place_images(image_slot[b], image_slot[b + 1], shifts, cell[b], images, back)
        first = np.uint64(ptr[b])
        for i in range(first, np.uint64(ptr[b + 1])):
            sums = blocks.open_atom(i, positions)
            p, end = np.uint64(start[i]), np.uint64(stop[i])
            while p < end:
                count = min(end - p, LENGTH)
                blocks.fill(block, count, i, first, p, positions, neighbor, image, images)
                if not half:
                    blocks.drop_reversed(block, count, i - first, p, neighbor, image, back)
                _write_terms(block, count, parameters)
                sums = blocks.add_forces(block, count, first, p, neighbor, forces, sums)
                if len(stress):
                    blocks.add_virial(block, count, virial)
                if len(energies) or len(stresses):
                    blocks.add_shares(block, count, i, first, p, neighbor, energies, stresses)
                p += count
            energy[b] += blocks.close_atom(i, forces, sums)
        blocks.close_system(b, ptr[b], ptr[b + 1], cell[b], virial, stress, stresses)


@njit(cache=True, error_model="numpy")
def _write_terms(
    block: np.ndarray, count: Whole, parameters: tuple[float, float, float, float, float]
) -> None:
    """Write the terms of pairs: zeros beyond the cutoff, where NaN is not.

    The exponentials have a loop of their own, because the compiler makes vector instructions of the
    others only.
    """
    epsilon, rho0, r0, inner, outer = parameters
    width = outer - inner
    for k in range(count):
        r = math.sqrt(block[R2 + k])
        block[SLOPE + k] = r
        block[ENERGY + k] = rho0 * (1.0 - r / r0)
    for k in range(count):
        block[ENERGY + k] = math.exp(block[ENERGY + k])
    for k in range(count):
        r, x = block[SLOPE + k], block[ENERGY + k]
        energy, change = epsilon * x * (x - 2.0), -2.0 * epsilon * rho0 / r0 * x * (x - 1.0)
        s = 1.0 - (r - inner) / width
        inside, beyond = s >= 1.0, (block[R2 + k] > outer * outer) | (s <= 0.0)
        factor = 1.0 if inside else s * s * s * (10.0 + s * (6.0 * s - 15.0))
        left = 1.0 - s
        fall = 0.0 if inside else -30.0 * s * s * left * left / width
        slope = (change * factor + energy * fall) / r
        energy *= factor
        block[ENERGY + k] = 0.0 if beyond else energy
        block[SLOPE + k] = 0.0 if beyond else slope
