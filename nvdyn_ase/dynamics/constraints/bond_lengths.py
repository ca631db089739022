"""Bonds of fixed length."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.data.joining import boundaries
from nvdyn_ase.dynamics.constraints.bond_sweeps import Bonds, Terms, swept
from nvdyn_ase.dynamics.constraints.kind import (
    Description,
    Kind,
    Member,
    masses_of,
    numbers,
    systems_of,
)
from nvdyn_ase.dynamics.constraints.minimum_image import MinimumImage


@dataclass(frozen=True, eq=False)
class BondLengths(Description):
    """Bonds of fixed length: ``FixBondLengths`` of ASE.

    J.-P. Ryckaert, G. Ciccotti and H. J. C. Berendsen, J. Comput. Phys. 23, 327 (1977); H. C.
    Andersen, J. Comput. Phys. 52, 24 (1983).

    Parameters
    ----------
    pairs
        The two atoms of each bond, (m, 2) int, in the order in which they are corrected.
    lengths
        Å, (m,).
    tolerance
        A bond is right if the multiplier that would correct it is no larger.
    reduction
        The reduced cell; see ``MinimumImage``.
    """

    pairs: np.ndarray
    lengths: np.ndarray
    tolerance: float
    reduction: np.ndarray | None

    def atoms(self) -> np.ndarray:
        """Return the atoms that are bound."""
        return np.unique(self.pairs)

    def removed_dof(self, num_atoms: int) -> int:
        """Return one for each bond."""
        return len(self.pairs)

    @staticmethod
    def together(batch: Batch, members: "Sequence[Member[BondLengths]]") -> "BondLengthsKind":
        """Return what acts for all of them."""
        return BondLengthsKind(batch, members)


class BondLengthsKind(Kind):
    """Corrects positions (SHAKE), and forces and velocities (RATTLE), along the bonds.

    Attributes
    ----------
    sweeps
        Over all bonds, on a device where nobody waits for the outcome; on the CPU as many as it
        takes, up to ASE's 500. Molecules of water take 20 to 60.
    """

    sweeps: ClassVar[int] = 100

    reason = (
        "FixBondLengths: the bond lengths did not converge; check that all of them can be had at "
        "once, or take smaller steps (on a GPU, also raise BondLengthsKind.sweeps)"
    )

    def __init__(self, batch: Batch, members: Sequence[Member[BondLengths]]) -> None:
        counts = [len(own.pairs) for _, own in members]
        starts = [int(batch.host_ptr[row]) for row, _ in members]
        pairs = [own.pairs + start for start, (_, own) in zip(starts, members, strict=True)]
        every = np.concatenate(pairs).astype(np.int64)
        device = batch.device
        owner = np.repeat(np.arange(len(members)), counts)
        tolerance = np.repeat([own.tolerance for _, own in members], counts).astype(float)
        self._bonds = Bonds(
            first=torch.from_numpy(every[:, 0].copy()).to(device),
            second=torch.from_numpy(every[:, 1].copy()).to(device),
            ptr=torch.from_numpy(boundaries(np.array(counts))).to(device),
            owner=torch.from_numpy(owner).to(device),
            levels=[torch.from_numpy(chosen).to(device) for chosen in levels(every)],
            tolerance=torch.from_numpy(tolerance[:, None]).to(device),
        )
        lengths = np.concatenate([own.lengths for _, own in members])[:, None]
        self._square = numbers(batch, lengths**2)
        self._systems = systems_of(batch, members)
        reductions = [own.reduction for _, own in members for _ in own.pairs]
        self._image = MinimumImage(batch, systems_of(batch, members, counts), reductions)
        self.failed = torch.zeros(len(batch), dtype=torch.bool, device=device)

    def _bond(self, rows: Float[Tensor, "V 3"]) -> Float[Tensor, "m 3"]:
        bonds = self._bonds
        return rows.index_select(0, bonds.first) - rows.index_select(0, bonds.second)

    def _swept(
        self,
        batch: Batch,
        rows: Float[Tensor, "V 3"],
        instead: Float[Tensor, "V 3"],
        terms: Terms,
        of_positions: bool = False,
    ) -> Float[Tensor, "V 3"]:
        """Return the rows that obey; of a system that does not get there, what is there instead."""
        found, unsettled = swept(rows, self._bonds, terms, of_positions, self.sweeps)
        assert self.failed is not None
        of_systems = torch.zeros_like(self.failed, dtype=torch.uint8)
        of_systems = of_systems.scatter_reduce(0, self._systems, unsettled.byte(), "amax")
        self.failed = self.failed | of_systems.bool()
        return torch.where(self.failed.index_select(0, batch.batch).view(-1, 1), instead, found)

    def _masses(self, batch: Batch) -> list[Float[Tensor, "m 1"]]:
        """Return the inverse masses of both atoms of each bond, and its reduced mass."""
        first, second = (1.0 / masses_of(batch, rows) for rows in self._bonds[:2])
        return [first, second, 1.0 / (first + second)]

    def positions(
        self, batch: Batch, old: Float[Tensor, "V 3"], new: Float[Tensor, "V 3"]
    ) -> Float[Tensor, "V 3"]:
        """Move the atoms along the old bonds until the new ones have their lengths.

        A system of which that cannot be done stays where it was.
        """
        first, second, reduced = self._masses(batch)
        raw = self._bond(old)
        bond, one = self._image(batch, raw), torch.ones_like(first)
        gains = reduced * first, reduced * second
        terms = Terms(bond, bond - raw, self._square, one, one, *gains)
        return self._swept(batch, new, old, terms, of_positions=True)

    def forces(
        self, batch: Batch, forces: Float[Tensor, "V 3"], md: bool = False
    ) -> Float[Tensor, "V 3"]:
        """Take out what would stretch the bonds."""
        first, second, reduced = self._masses(batch)
        bond = self._image(batch, self._bond(batch["positions"]))
        weights, zero = (first, second), torch.zeros_like(bond)
        terms = Terms(bond, zero, self._square, *weights, reduced, reduced)
        return self._swept(batch, forces, forces, terms)

    def velocities(self, batch: Batch, velocities: Float[Tensor, "V 3"]) -> Float[Tensor, "V 3"]:
        """Take out what would stretch the bonds."""
        first, second, reduced = self._masses(batch)
        bond = self._image(batch, self._bond(batch["positions"]))
        one, zero = torch.ones_like(first), torch.zeros_like(bond)
        gains = reduced * first, reduced * second
        terms = Terms(bond, zero, self._square, one, one, *gains)
        return self._swept(batch, velocities, velocities, terms)


def levels(pairs: np.ndarray) -> list[np.ndarray]:
    """Return which bonds can be done together, (m, 2) rows of atoms given, in order.

    Each bond comes in the first level after those of all bonds before it with which it shares an
    atom, so that doing level after level is doing bond after bond.
    """
    reached: dict[int, int] = {}
    found: list[list[int]] = []
    for bond, (a, b) in enumerate(pairs.tolist()):
        level = max(reached.get(a, 0), reached.get(b, 0))
        reached[a] = reached[b] = level + 1
        if level == len(found):
            found.append([])
        found[level].append(bond)
    return [np.array(level, np.int64) for level in found]
