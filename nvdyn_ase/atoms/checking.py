"""Which structures deserve a close look before they are converted."""

from collections.abc import Sequence
from typing import Any

import ase
import numpy as np
from ase.data import atomic_masses

from nvdyn_ase.atoms.constraints import fixed_mask


def suspects(structures: Sequence[Any]) -> list[int]:
    """Return the rows of the structures that deserve a close look, cheaply; often none."""
    try:
        positions = np.concatenate([atoms.arrays["positions"] for atoms in structures])
        numbers = np.concatenate([atoms.arrays["numbers"] for atoms in structures])
        cells = np.stack([atoms.cell.array for atoms in structures])
        pbc = np.stack([atoms.pbc for atoms in structures])
        sizes = np.array([len(atoms) for atoms in structures])
    except (AttributeError, KeyError, ValueError, TypeError):
        return list(range(len(structures)))  # something among them is no proper Atoms
    bad_atoms = ~np.isfinite(positions).all(1) | (numbers < 0) | (numbers >= len(atomic_masses))
    bad = (sizes == 0) | ~np.isfinite(cells).all((1, 2))
    bad[np.repeat(np.arange(len(sizes)), sizes)[bad_atoms]] = True
    vectors = np.where(pbc[:, :, None] & ~bad[:, None, None], cells, 0.0)
    rank = (np.linalg.svd(vectors, compute_uv=False) > 1e-8).sum(1)
    bad |= rank < pbc.sum(1)
    bad |= [bool(atoms.constraints) and not _holdable(atoms) for atoms in structures]
    return np.flatnonzero(bad).tolist()


def _holdable(atoms: ase.Atoms) -> bool:
    try:
        fixed_mask(atoms.constraints, len(atoms))
    except ValueError:
        return False
    return True
