"""Functions of symmetric matrices of any size, of many systems of one size at once.

No sum here has bits that depend on how many systems there are: products of large matrices by the
libraries do, and so do eigenvectors, by where a matrix lies in memory.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nvdyn_ase.data import segment_sum

Numbers = Float[Tensor, "G 1"]
Vectors = Float[Tensor, "G d"]
Matrices = Float[Tensor, "G d d"]
Ends = Int[Tensor, " G1"]


class Spectrum(NamedTuple):
    """Eigenvalues in ascending order, and the eigenvectors as columns."""

    values: Vectors
    vectors: Matrices


def ends_of(vectors: Vectors) -> Ends:
    """Return where the components of each vector begin, and the end: the sums here need it."""
    count, d = vectors.shape
    if not d:  # systems all of whose atoms are hidden
        return torch.zeros(count + 1, dtype=torch.int64, device=vectors.device)
    return torch.arange(0, count * d + 1, d, device=vectors.device)


def dots(a: Vectors, b: Vectors, ends: Ends) -> Numbers:
    """Return the scalar product of vectors, summed first to last."""
    return segment_sum((a * b).reshape(-1), ends).view(-1, 1)


def rows_times(vectors: Vectors, matrices: Matrices, ends: Ends) -> Vectors:
    """Return vector times matrix, rows summed first to last."""
    return segment_sum((matrices * vectors.unsqueeze(2)).flatten(0, 1), ends)


def times_columns(matrices: Matrices, vectors: Vectors, ends: Ends) -> Vectors:
    """Return matrix times vector, columns summed first to last."""
    return rows_times(vectors, matrices.transpose(1, 2), ends)


def outer(a: Vectors, b: Vectors) -> Matrices:
    """Return every product of two components."""
    return a.unsqueeze(2) * b.unsqueeze(1)


def spectrum(matrices: Matrices) -> Spectrum:
    """Return the spectrum of symmetric matrices, of which the lower triangles are read.

    That of a matrix which is not finite, or which the solver fails on, is NaN and disturbs no
    other. On a GPU the solver makes the host wait.
    """
    finite = torch.isfinite(matrices).flatten(1).all(1).view(-1, 1)
    values, vectors = _solved(torch.where(finite.unsqueeze(2), matrices, 0.0))
    return Spectrum(torch.where(finite, values, torch.nan), vectors)


def _solved(matrices: Matrices) -> Spectrum:
    if matrices.device.type == "cuda" or not len(matrices):
        try:
            return Spectrum(*torch.linalg.eigh(matrices))
        except torch.linalg.LinAlgError:
            pass  # one of them is to blame
    # One by one each lies at the start of its own memory. In a batch LAPACK would meet some of them
    # at other alignments, and would then add in another order.
    alone = [_solved_alone(matrix) for matrix in matrices]
    values, vectors = zip(*alone, strict=True)
    return Spectrum(torch.stack(values), torch.stack(vectors))


def _solved_alone(matrix: Float[Tensor, "d d"]) -> tuple[Float[Tensor, " d"], Float[Tensor, "d d"]]:
    try:
        return tuple(torch.linalg.eigh(matrix))
    except torch.linalg.LinAlgError:
        return torch.full_like(matrix[0], torch.nan), torch.full_like(matrix, torch.nan)
