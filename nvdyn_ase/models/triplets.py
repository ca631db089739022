"""Torch operations over pairs of pairs that meet at an atom."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import segment_sum
from nvdyn_ase.neighbors import FlatPairs


class Triplets(NamedTuple):
    """Each pair of a half list at both of its ends, and each two ends that meet at an atom.

    Parameters
    ----------
    pair, sign
        (D,), the pair of an end, and 1 where its vector begins, -1 where it ends.
    atom, other
        (D,), the atom of an end, and that of the other end.
    begin, end
        (P,), where the two ends of each pair are.
    first, second
        (T,), two ends at the same atom, sorted by the first.
    first_ptr
        (D + 1,), where the triplets of each first end begin.
    order, second_ptr
        (T,) and (D + 1,), triplets sorted by the second end, and where those of each begin.
    """

    pair: Int[Tensor, " D"]
    sign: Float[Tensor, "D 1"]
    atom: Int[Tensor, " D"]
    other: Int[Tensor, " D"]
    begin: Int[Tensor, " P"]
    end: Int[Tensor, " P"]
    first: Int[Tensor, " T"]
    second: Int[Tensor, " T"]
    first_ptr: Int[Tensor, " D1"]
    order: Int[Tensor, " T"]
    second_ptr: Int[Tensor, " D1"]

    def ends(self, vector: Float[Tensor, "P 3"]) -> Float[Tensor, "D 3"]:
        """Return the vectors of pairs as seen from each end."""
        return vector[self.pair] * self.sign

    def pulls(
        self,
        ends: Float[Tensor, "D 3"],
        first: Float[Tensor, "T 3"],
        second: Float[Tensor, "T 3"],
    ) -> Float[Tensor, "P 3"]:
        """Return derivatives by the vectors of pairs.

        Parameters
        ----------
        ends
            Derivatives by the vectors of ends.
        first, second
            Derivatives of triplets by their two vectors.
        """
        sums = segment_sum(first, self.first_ptr)
        sums = ends + sums + segment_sum(second[self.order], self.second_ptr)
        return sums[self.begin] - sums[self.end]


def triplets_of(flat: FlatPairs, once: bool) -> Triplets:
    """Find all triplets of a half list; it waits for the device.

    Parameters
    ----------
    flat
        The pairs.
    once
        Two ends make one triplet, instead of two in which either is the first.
    """
    pairs, device = len(flat.i), flat.i.device
    ends = torch.arange(2 * pairs, device=device)
    atoms = torch.stack([flat.i, flat.j], 1).view(-1)
    others = torch.stack([flat.j, flat.i], 1).view(-1)
    order = torch.argsort(atoms, stable=True)
    atom = atoms[order]
    place = torch.empty_like(order)
    place[order] = ends
    ptr = torch.searchsorted(atom, torch.arange(len(flat.ptr), device=device))
    degree = ptr.diff()[atom]
    first = torch.repeat_interleave(ends, degree)
    starts = degree.cumsum(0) - degree
    second = ptr[atom[first]] + torch.arange(len(first), device=device) - starts[first]
    kept = first < second if once else first != second
    first, second = first[kept], second[kept]
    by_second = torch.argsort(second, stable=True)
    rows = torch.arange(2 * pairs + 1, device=device)
    return Triplets(
        pair=order // 2,
        sign=(1.0 - 2.0 * (order % 2).double())[:, None],
        atom=atom,
        other=others[order],
        begin=place[0::2],
        end=place[1::2],
        first=first,
        second=second,
        first_ptr=torch.searchsorted(first, rows),
        order=by_second,
        second_ptr=torch.searchsorted(second[by_second], rows),
    )


def slopes(total: Float[Tensor, " N"], *of: Tensor) -> tuple[Tensor, ...]:
    """Return the derivatives of each number by the rows that it alone depends on."""
    return torch.autograd.grad(total.sum(), of)
