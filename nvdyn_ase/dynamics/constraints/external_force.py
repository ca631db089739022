"""Pairs of atoms that are pulled apart."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.constraints.kind import Description, Kind, Member, masses_of, numbers
from nvdyn_ase.dynamics.constraints.pairs import PairRows
from nvdyn_ase.dynamics.constraints.vectors import norm


@dataclass(frozen=True, eq=False)
class ExternalForce(Description):
    """Two atoms pulled apart by a force: ``ExternalForce`` of ASE.

    Parameters
    ----------
    pair
        The two atoms, (2,) int.
    force
        eV/Å.
    """

    pair: np.ndarray
    force: float

    def atoms(self) -> np.ndarray:
        """Return the two atoms."""
        return self.pair

    def removed_dof(self, num_atoms: int) -> int:
        """Return zero."""
        return 0

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[ExternalForce]]") -> "ExternalForceKind":
        """Return what acts for all of them."""
        return ExternalForceKind(batch, members)


class ExternalForceKind(Kind):
    """Adds forces along pairs, and minus force times distance to the energy."""

    has_potential = True

    def __init__(self, batch: Batch, members: Sequence[Member[ExternalForce]]) -> None:
        self._pairs = PairRows(batch, members, [own.pair for _, own in members])
        self._force = numbers(batch, [[own.force] for _, own in members])

    def _pull(self, batch: Batch) -> Float[Tensor, "m 3"]:
        apart = self._pairs.vectors(batch["positions"])
        return self._force * apart / norm(apart)

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Add the force to the one atom and take it from the other."""
        pull = self._pull(batch)
        return self._pairs.added(forces, pull, -pull)

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Add the force to the momenta: not what physics asks for, but what ASE does."""
        pull = self._pull(batch)
        first, second = (masses_of(batch, rows) for rows in (self._pairs.first, self._pairs.second))
        return self._pairs.added(velocities, pull / first, -pull / second)

    def energy(self, batch: Batch, energy: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """Take force times distance away."""
        apart = norm(self._pairs.vectors(batch["positions"]))
        return energy + self._pairs.per_system(-apart * self._force)
