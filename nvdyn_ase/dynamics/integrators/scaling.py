"""Atoms that follow a change of their cell."""

from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.constraints import BatchConstraints
from nvdyn_ase.dynamics.matrices import Matrix, applied, inverse


def change_cell(
    batch: Batch, constraints: BatchConstraints, cell: Matrix, deformation: Tensor | None = None
) -> None:
    """Change the cells and move the atoms with them, as ``Atoms.set_cell(cell, scale_atoms=True)``.

    As in ASE, constraints that know of cells have a say in the new cell, and no constraint holds
    the atoms.

    Parameters
    ----------
    batch, constraints
        The systems, each with three cell vectors, and their constraints.
    cell
        The new cells, Å.
    deformation
        What positions are multiplied with from the right, (B, 3, 3), or the factor of all lengths,
        (B, 1); None: found from the cells, as it is where a constraint has changed them.
    """
    old = batch["cell"]
    allowed = constraints.cell(batch, old, cell)
    if deformation is None or allowed is not cell:
        deformation = inverse(old).matrix @ allowed
    rows, positions = deformation.index_select(0, batch.batch), batch["positions"]
    batch["positions"] = rows * positions if rows.ndim == 2 else applied(positions, rows)
    batch["cell"] = allowed
