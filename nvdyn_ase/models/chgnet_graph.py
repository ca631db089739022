"""The graphs of CHGNet, from pairs of atoms: which bonds there are, and which meet at an atom.

B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023). The atom graph has one bond for each pair up to
6 Å; each atom gets messages along all its bonds, so each bond stands for two directed edges. The
bond graph has an angle for each ordered pair of different directed edges that start at the same
atom and are shorter than 3 Å. A bond to an image of the same atom starts there twice.
"""

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.network import Bonds


class Sizes(NamedTuple):
    """How much there is of each system, on the host.

    Parameters
    ----------
    bonds, angles
        (B,) int64.
    isolated
        (B,) bool: the system has an atom without bonds.
    """

    bonds: np.ndarray
    angles: np.ndarray
    isolated: np.ndarray


def count(batch: Batch, bonds: Bonds, cutoff: float) -> Sizes:
    """Count the bonds and angles of each system; it waits for the device.

    Parameters
    ----------
    batch, bonds
        The systems and the bonds of the atom graph.
    cutoff
        Of the bond graph, Å.
    """
    short = (bonds.vector * bonds.vector).sum(1) < cutoff**2
    i, j, size = bonds.i, bonds.j, batch.num_nodes
    edges = _count(torch.cat([i, j]), size)
    short_edges = _count(torch.cat([i[short], j[short]]), size)
    of_atoms = torch.stack([edges, short_edges * (short_edges - 1.0), (edges == 0).double()], 1)
    numbers = segment_sum(of_atoms, batch.ptr).cpu().numpy().astype(np.int64)
    return Sizes(numbers[:, 0] // 2, numbers[:, 1], numbers[:, 2] > 0)


def _count(atoms: Int[Tensor, " D"], size: int) -> Float[Tensor, " V"]:
    return torch.bincount(atoms, minlength=size).double()


def find_angles(
    centers: Int[Tensor, " D"], short: Int[Tensor, " S"]
) -> tuple[Int[Tensor, " A"], Int[Tensor, " A"]]:
    """Return the directed edges of each angle: ordered pairs of different ones that start together.

    Parameters
    ----------
    centers
        Atom at which each directed edge starts.
    short
        The directed edges that take part.
    """
    order = short[torch.argsort(centers[short], stable=True)]
    _, counts = torch.unique_consecutive(centers[order], return_counts=True)
    others = torch.repeat_interleave(counts, counts)  # of each edge, how many start with it
    first = torch.repeat_interleave(counts.cumsum(0) - counts, counts)
    rows = torch.arange(len(order), device=order.device)
    one = torch.repeat_interleave(rows, others)
    starts = others.cumsum(0) - others
    within = torch.arange(len(one), device=order.device) - starts[one]
    other = first[one] + within
    distinct = one != other
    return order[one[distinct]], order[other[distinct]]
