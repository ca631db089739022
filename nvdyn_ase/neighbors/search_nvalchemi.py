"""The search of NVIDIA's nvalchemi-toolkit-ops, in Warp: an optional extra for CUDA."""

import numpy as np
import torch
from nvalchemiops.torch.neighbors import neighbor_list
from torch import Tensor

from nvdyn_ase.data.joining import boundaries, ragged_rows
from nvdyn_ase.neighbors.search_images import FoundThere, number_of_images
from nvdyn_ase.neighbors.standard import FINE, Standard

# Up to so many images per atom it is faster to go through all of them than to sort atoms in bins.
_NAIVE = 20_000


def search_nvalchemi(form: Standard, device: torch.device) -> FoundThere:
    """Return the pairs within reach, each once.

    Parameters
    ----------
    form
        The systems.
    device
        Where to search: CUDA, or the CPU for tests.
    """
    good = np.flatnonzero((form.problem == FINE) & (np.diff(form.ptr) > 0))
    atoms = ragged_rows(form.ptr, good)
    if not len(atoms):
        none = torch.empty(0, dtype=torch.int64, device=device)
        return FoundThere(none, none, none.view(0, 3), none)
    ptr = boundaries(np.diff(form.ptr)[good])
    positions, cell = _boxed(form.positions[atoms], form, good, ptr)
    images = number_of_images(form).sum() / len(atoms)
    arguments = {
        "positions": torch.from_numpy(positions).to(device),
        "cutoff": float(form.reach[good].max()),
        "cell": torch.from_numpy(cell).to(device),
        "pbc": torch.from_numpy(form.pbc[good]).to(device),
        "batch_ptr": torch.from_numpy(ptr.astype(np.int32)).to(device),
        "half_fill": True,
        "method": "batch_naive" if images <= _NAIVE else "batch_cell_list",
    }
    neighbors, counts, shifts = _complete(arguments)
    kept = torch.arange(neighbors.shape[1], device=device) < counts[:, None]
    i, column = kept.nonzero().unbind(1)
    back = torch.from_numpy(atoms).to(device)
    system = torch.from_numpy(np.repeat(good, np.diff(ptr))).to(device)
    j = neighbors[i, column].long()
    return FoundThere(back[i], back[j], shifts[i, column].long(), system[i])


def _complete(arguments: dict[str, object]) -> tuple[Tensor, Tensor, Tensor]:
    """Search until nothing was left out: what has no room in its matrix is dropped silently."""
    room = 64
    while True:
        neighbors, counts, shifts = neighbor_list(**arguments, max_neighbors=room)
        most = int(counts.max())
        if most <= room:
            return neighbors, counts, shifts
        room = most + most // 8


def _boxed(
    x: np.ndarray, form: Standard, good: np.ndarray, ptr: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions and cells such that the atoms are in the cell where it is not periodic too.

    There atoms are sorted in bins of the cell as well. A few that have flown far away may stay
    outside, lest there are more bins than atoms.
    """
    cell, per_system = form.cell[good].copy(), np.diff(ptr)
    system = np.repeat(np.arange(len(good)), per_system)
    f = (x[:, None, :] @ form.inverse[good][system])[:, 0]
    low, high = np.minimum.reduceat(f, ptr[:-1]), np.maximum.reduceat(f, ptr[:-1])
    most = form.reach[good] * np.cbrt(per_system)
    length = np.where(form.pbc[good], 1.0, np.clip(high - low, 1.0, most[:, None] + 1.0))
    low = np.where(form.pbc[good], 0.0, low)
    return x - (low[:, None, :] @ cell)[:, 0][system], cell * length[:, :, None]
