"""The graphs of CHGNet, from pairs of atoms: which bonds there are, and which meet at an atom.

B. Deng et al., Nat. Mach. Intell. 5, 1031 (2023). The atom graph has one bond for each pair up to
6 Å; each atom gets messages along all its bonds, so each bond stands for two directed edges. The
bond graph has an angle for each ordered pair of different directed edges that start at the same
atom and are shorter than 3 Å. A bond to an image of the same atom starts there twice.
"""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import Batch, segment_sum
from nvdyn_ase.models.pair_geometry import are_reversed, vectors
from nvdyn_ase.neighbors import FlatPairs


class Bonds(NamedTuple):
    """The bonds of a batch, each once, system by system.

    Parameters
    ----------
    pair
        (U,) int64, place in the list of pairs.
    i, j
        (U,) int64, the atoms, counted over the batch.
    vector
        (U, 3), from i to j, Å, float64.
    num_bonds, num_angles
        (B,) int64, of each system, on the host.
    isolated
        (B,) bool, on the host: the system has an atom without bonds.
    """

    pair: Int[Tensor, " U"]
    i: Int[Tensor, " U"]
    j: Int[Tensor, " U"]
    vector: Float[Tensor, "U 3"]
    num_bonds: np.ndarray
    num_angles: np.ndarray
    isolated: np.ndarray


def find_bonds(batch: Batch, flat: FlatPairs, half: bool, atom: float, bond: float) -> Bonds:
    """Pick the bonds among the pairs of a list that may reach further.

    Parameters
    ----------
    batch, flat
        The systems and their pairs.
    half
        Each pair is there once.
    atom, bond
        Cutoffs of the atom graph and of the bond graph, Å.
    """
    vector = vectors(batch, flat)
    length2 = (vector * vector).sum(1)
    kept = length2 <= atom**2
    if not half:
        kept = kept & ~are_reversed(flat)
    pair = kept.nonzero().view(-1)
    i, j, size = flat.i[pair], flat.j[pair], batch.num_nodes
    short = length2[pair] < bond**2
    edges = _count(torch.cat([i, j]), size)
    short_edges = _count(torch.cat([i[short], j[short]]), size)
    of_atoms = torch.stack([edges, short_edges * (short_edges - 1.0), (edges == 0).double()], 1)
    numbers = segment_sum(of_atoms, batch.ptr).cpu().numpy().astype(np.int64)
    return Bonds(pair, i, j, vector[pair], numbers[:, 0] // 2, numbers[:, 1], numbers[:, 2] > 0)


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


class Chunk(NamedTuple):
    """Systems that are evaluated together, as slices of systems, atoms and bonds."""

    systems: slice
    atoms: slice
    bonds: slice


def chunks(ptr: np.ndarray, bonds: Bonds, size: int, apart: bool) -> Iterator[Chunk]:
    """Cut a batch into runs of systems that follow each other.

    Parameters
    ----------
    ptr
        (B + 1,), first atom of each system, and the end.
    bonds
        Their bonds.
    size
        Most bonds and angles of a run, unless one system has more.
    apart
        Systems without any angle are not put together with others.
    """
    cost = (bonds.num_bonds + bonds.num_angles).tolist()
    angular = (bonds.num_angles > 0).tolist()
    bond_ptr = np.concatenate([[0], np.cumsum(bonds.num_bonds)]).tolist()
    first, total = 0, 0
    for row in range(len(cost) + 1):
        end = row == len(cost)
        if row > first and (
            end or total + cost[row] > size or (apart and angular[row] != angular[first])
        ):
            atoms = slice(int(ptr[first]), int(ptr[row]))
            yield Chunk(slice(first, row), atoms, slice(bond_ptr[first], bond_ptr[row]))
            first, total = row, 0
        if not end:
            total += cost[row]
