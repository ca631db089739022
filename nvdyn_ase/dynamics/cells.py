"""Cells that optimizers move: their coordinates, the forces on these, and back to a cell.

Written as ``ase.filters`` has it, equation by equation, for all systems with a filter at once.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.cell_filters import COLLAPSED, CellFilter, voigt
from nvdyn_ase.dynamics.matrices import (
    applied,
    exponential,
    exponential_derivative,
    inverse,
    logarithm,
    trace,
)

Matrices = Float[Tensor, "N 3 3"]
Numbers = Float[Tensor, "N 1 1"]
OfOneKind = Float[Tensor, "K 3 3"]


class Subset:
    """Some rows of something, or all: taking and putting back all of them costs nothing.

    Parameters
    ----------
    mask
        Which, (N,) bool, on the host.
    device
        Where they are.
    """

    def __init__(self, mask: np.ndarray, device: torch.device) -> None:
        self.rows = np.flatnonzero(mask)
        self._index = None if mask.all() else torch.from_numpy(self.rows).to(device)

    def __len__(self) -> int:
        """Return the number of rows that are in it."""
        return len(self.rows)

    def of(self, whole: Tensor) -> Tensor:
        """Take these rows."""
        return whole if self._index is None else whole.index_select(0, self._index)

    def into(self, whole: Tensor, part: Tensor) -> Tensor:
        """Return the whole with these rows replaced."""
        return part if self._index is None else whole.index_copy(0, self._index, part)


class Deformation(NamedTuple):
    """What became of cells: F with ``cell = orig_cell @ F.T``, and what follows from it."""

    F: Matrices
    inverse: Matrices
    log: Matrices | None
    determinant: Numbers


class DeformedCells:
    """Cells whose deformation has rows beside the atoms: unit cell, Fréchet and exp filters.

    Parameters
    ----------
    batch
        The systems.
    kinds
        Its field ``cell_filter`` on the host, (B,).
    """

    def __init__(self, batch: Batch, kinds: np.ndarray) -> None:
        mask, device = (kinds != CellFilter.NONE) & (kinds != CellFilter.STRAIN), batch.device
        self.systems = Subset(mask, device)
        self.atoms = _atoms_of(batch, mask)
        self._unit_cell = Subset(kinds[mask] == CellFilter.UNIT_CELL, device)
        self._frechet = Subset(kinds[mask] == CellFilter.FRECHET, device)
        self._exp = Subset(kinds[mask] == CellFilter.EXP, device)
        self.orig = self.systems.of(batch["orig_cell"])
        self._orig_inverse, determinant = inverse(self.orig)
        self._orig_volume = determinant.abs()
        self._one = torch.eye(3, dtype=self.orig.dtype, device=device)
        self._factor = self._matrix(batch, "cell_factor")
        sizes = batch.num_nodes_per_graph.to(self.orig).view(-1, 1, 1)
        # ASE takes the logarithm of the deformation times the number of atoms.
        self._log_size = self._frechet.of(self.systems.of(sizes)).log() * self._one
        # None where the host knows that there is nothing to do.
        self._mask = _unless(1.0, self.systems.of(batch["cell_mask"]))
        self._pressure = _unless(0.0, self._matrix(batch, "scalar_pressure"))
        self._hydrostatic = _unless(False, self._matrix(batch, "hydrostatic_strain"))
        self._constant_volume = _unless(False, self._matrix(batch, "constant_volume"))
        self._known: tuple[Tensor, int, Deformation] | None = None

    def _matrix(self, batch: Batch, key: str) -> Shaped[Tensor, "N 1 1"]:
        return self.systems.of(batch[key]).unsqueeze(2)

    def deformation(self, batch: Batch) -> Deformation:
        """Return what became of the cells; it is found once for each cell."""
        cell, known = batch["cell"], self._known
        if known is None or known[0] is not cell or known[1] != cell._version:
            known = self._known = (cell, cell._version, self._measured(self.systems.of(cell)))
        return known[2]

    def _measured(self, cell: Matrices) -> Deformation:
        F = (self._orig_inverse @ cell).transpose(1, 2)
        if len(self._frechet) or len(self._exp):
            log = logarithm(F)
            return Deformation(F, log.inverse, log.matrix, log.determinant)
        found = inverse(F)
        return Deformation(F, found.matrix, None, found.determinant)

    def energy(self, batch: Batch, energy: Float[Tensor, "B 1"]) -> Float[Tensor, "B 1"]:
        """Return the energy with pressure times volume, eV."""
        if self._pressure is None:
            return energy
        volume = self._orig_volume * self.deformation(batch).determinant
        work = (self._pressure * volume).view(-1, 1)
        return self.systems.into(energy, self.systems.of(energy) + work)

    def transformed(
        self, batch: Batch, rows: Float[Tensor, "V 3"], matrices: Matrices
    ) -> Float[Tensor, "V 3"]:
        """Return the rows of atoms times a matrix for each of these cells; others as they are."""
        # What stands for the other cells does not matter.
        own = self.systems.into(batch["cell"], matrices).index_select(0, batch.batch)
        product = applied(rows, own)
        every = len(self.systems) == len(batch)
        return product if every else torch.where(self.atoms, product, rows)

    # ---------------------------------------------------------------- coordinates

    def coordinates(self, batch: Batch) -> Matrices:
        """Return the coordinates of the cells: F or its logarithm, times the cell factor."""
        now = self.deformation(batch)
        rows = now.F
        if len(self._frechet):
            assert now.log is not None
            rows = self._frechet.into(rows, self._frechet.of(now.log) + self._log_size)
        return self._factor * rows

    def transformation(self, coordinates: Matrices) -> Matrices:
        """Return T of the cells with these coordinates: ``cell = orig_cell @ T``, as of atoms."""
        F = coordinates / self._factor
        if len(self._frechet):
            F = self._frechet.into(F, exponential(self._frechet.of(F) - self._log_size))
        T = F.transpose(1, 2)
        if self._mask is None:
            return T
        # Where all may change, the bits are those without a mask, which others in the batch have.
        return torch.where(self._mask == 1.0, T, self._one + (T - self._one) * self._mask)

    # ---------------------------------------------------------------- forces

    def forces(self, batch: Batch, stress: Float[Tensor, "B 3 3"]) -> Matrices:
        """Return the forces on the coordinates of the cells, NaN where a cell has collapsed."""
        now, rows = self.deformation(batch), self.systems.of(stress)
        if self._pressure is not None:
            rows = rows + self._pressure * self._one
        virial = -self._orig_volume * now.determinant * rows
        rows = virial
        if len(self._unit_cell):
            rows = self._unit_cell.into(rows, self._unit_cell_forces(now, virial))
        if len(self._frechet):
            rows = self._frechet.into(rows, self._frechet_forces(now, virial))
        if len(self._exp):
            rows = self._exp.into(rows, self._exp_forces(now, virial))
        rows = self._traceless(rows) / self._factor
        return torch.where(now.determinant > COLLAPSED, rows, torch.nan)

    def stress(self, batch: Batch, stress: Float[Tensor, "B 3 3"]) -> Matrices:
        """Return the stress that ASE's filters tell: what may change of it, with the pressure."""
        now, rows = self.deformation(batch), self.systems.of(stress)
        if self._pressure is not None:
            rows = rows + self._pressure * self._one
        if len(self._unit_cell):
            pulled = self._unit_cell.of(rows @ now.inverse.transpose(1, 2))
            rows = self._unit_cell.into(rows, pulled)
        return self._traceless(self._allowed(rows))

    def _unit_cell_forces(self, now: Deformation, virial: Matrices) -> OfOneKind:
        """Return the derivative with respect to the deformation."""
        gradient = virial @ now.inverse.transpose(1, 2)
        return self._unit_cell.of(self._allowed(gradient))

    def _frechet_forces(self, now: Deformation, virial: Matrices) -> OfOneKind:
        """Return the derivative with respect to the logarithm of the deformation."""
        assert now.log is not None
        gradient = self._allowed(virial) @ now.inverse.transpose(1, 2)
        log, gradient = self._frechet.of(now.log), self._frechet.of(gradient)
        # ASE asks for the change along each element; the transposed map takes all at once.
        return exponential_derivative(log.transpose(1, 2), gradient)

    def _exp_forces(self, now: Deformation, virial: Matrices) -> OfOneKind:
        """Return the force that ASE's ``ExpCellFilter`` takes: the virial, unless it is far off."""
        assert now.log is not None
        plain = self._exp.of(self._allowed(virial))
        exact = exponential_derivative(self._exp.of(now.log), plain @ self._exp.of(now.inverse))
        exact = 0.5 * (exact + exact.transpose(1, 2))
        sizes = _dot(exact, exact) * _dot(plain, plain)
        near = (_dot(exact, plain) > 0.8 * sizes.sqrt()) | (sizes == 0.0)
        return torch.where(near, plain, exact)

    def _allowed(self, matrices: Matrices) -> Matrices:
        """Return the part that is hydrostatic, where only that counts, and that the mask lets."""
        if self._hydrostatic is not None:
            mean = trace(matrices).unsqueeze(2) / 3.0 * self._one
            matrices = torch.where(self._hydrostatic, mean, matrices)
        return matrices if self._mask is None else matrices * self._mask

    def _traceless(self, matrices: Matrices) -> Matrices:
        if self._constant_volume is None:
            return matrices
        part = torch.where(self._constant_volume, trace(matrices).unsqueeze(2) / 3.0, 0.0)
        return matrices - part * self._one


class StrainedCells:
    """Cells that are strained with their atoms, which do not move otherwise: ``StrainFilter``.

    Parameters
    ----------
    batch
        The systems.
    kinds
        Its field ``cell_filter`` on the host, (B,).
    """

    def __init__(self, batch: Batch, kinds: np.ndarray) -> None:
        mask = kinds == CellFilter.STRAIN
        self.systems = Subset(mask, batch.device)
        self.atoms = _atoms_of(batch, mask)
        self.orig = self.systems.of(batch["orig_cell"])
        self._mask = voigt(self.systems.of(batch["cell_mask"]))
        self._orig_determinant = inverse(self.orig).determinant
        self._one = torch.eye(3, dtype=self.orig.dtype, device=batch.device)
        self._full = torch.tensor([0, 5, 4, 5, 1, 3, 4, 3, 2], device=batch.device)

    def coordinates(self, batch: Batch) -> Float[Tensor, "S 6"]:
        """Return the strains in Voigt's order."""
        return self.systems.of(batch["strain"])

    def allowed(self, strains: Float[Tensor, "S 6"]) -> Float[Tensor, "S 6"]:
        """Return the strains without the components that may not change."""
        return strains * self._mask

    def transformation(self, strains: Float[Tensor, "S 6"]) -> Matrices:
        """Return T of the cells with these strains: ``cell = orig_cell @ T``."""
        full = strains.index_select(1, self._full).view(-1, 3, 3)
        return self._one + full * (0.5 + 0.5 * self._one)

    def forces(self, batch: Batch, stress: Float[Tensor, "B 3 3"]) -> Float[Tensor, "S 6"]:
        """Return the forces on the strains, minus volume times stress; see ``DeformedCells``."""
        determinant = inverse(self.systems.of(batch["cell"])).determinant
        rows = -determinant.abs().view(-1, 1) * (voigt(self.systems.of(stress)) * self._mask)
        whole = determinant / self._orig_determinant > COLLAPSED
        return torch.where(whole.view(-1, 1), rows, torch.nan)


def _atoms_of(batch: Batch, mask: np.ndarray) -> Bool[Tensor, "V 1"]:
    return torch.from_numpy(np.repeat(mask, batch.num_nodes_list)).view(-1, 1).to(batch.device)


def _unless(usual: float, values: Tensor) -> Tensor | None:
    """Return values, or None if all of them are the usual one; it waits for the device."""
    return values if bool((values != usual).any()) else None


def _dot(a: Matrices, b: Matrices) -> Numbers:
    rows = (a * b).unbind(1)
    columns = (rows[0] + rows[1] + rows[2]).unbind(1)
    return (columns[0] + columns[1] + columns[2]).view(-1, 1, 1)
