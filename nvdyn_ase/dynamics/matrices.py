"""Functions of 3 x 3 matrices of many systems, on the device.

A product of small matrices is one operation, ``@``: for matrices this small torch goes through
them one by one, so that the bits of each do not depend on how many there are.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from nvdyn_ase.data import segment_sum

Matrix = Float[Tensor, "B 3 3"]
Row = Float[Tensor, "B 1"]

# Terms of the exponential's series, and how often its argument is halved before and the result
# squared after. Up to a norm of 4 the first term left out is below 1e-14.
_TERMS, _HALVINGS = 10, 4
# Of the quadrature for the logarithm. With m nodes and an eigenvalue x the error is about
# ((sqrt(x) - 1) / (sqrt(x) + 1))^2m: below 1e-16 from 1/10 to 10.
_NODES = 30
# Terms of the series of an exponential and its integral, without halvings. They give all digits for
# matrices of norm up to 1, which is a cell that grows by a factor of e in one step.
_INTEGRAL_TERMS = 16


def applied(rows: Float[Tensor, "V 3"], matrices: Float[Tensor, "V 3 3"]) -> Float[Tensor, "V 3"]:
    """Return each row times its own matrix."""
    return (rows.unsqueeze(1) @ matrices).squeeze(1)


def trace(matrix: Matrix) -> Row:
    """Return the sum of the diagonal, first to last, (B, 1)."""
    return matrix[:, 0, 0:1] + matrix[:, 1, 1:2] + matrix[:, 2, 2:3]


def symmetric(matrix: Matrix) -> Matrix:
    """Return the symmetric part."""
    return 0.5 * (matrix + matrix.transpose(1, 2))


def squares(rows: Float[Tensor, "B ..."]) -> Row:
    """Return the sum of the squares of each system's few numbers, (B, 1)."""
    return (rows.reshape(len(rows), 1, -1) @ rows.reshape(len(rows), -1, 1)).squeeze(2)


def determinant(matrix: Matrix) -> Row:
    """Return the determinant, (B, 1); of a cell, the volume with the sign of its handedness."""
    a, b, c = matrix.unbind(1)
    return (torch.linalg.cross(a, b).unsqueeze(1) @ c.unsqueeze(2)).squeeze(2)


class Inverse(NamedTuple):
    """The inverse of a matrix, and its determinant."""

    matrix: Float[Tensor, "*N 3 3"]
    determinant: Float[Tensor, "*N 1 1"]


def inverse(matrix: Float[Tensor, "*N 3 3"]) -> Inverse:
    """Return the inverse and the determinant, by the cross products of the rows.

    A singular matrix gives infinities and NaN, and disturbs no other.
    """
    following = torch.cat([matrix[..., 1:, :], matrix], dim=-2)  # b, c, a, b, c
    cofactors = torch.linalg.cross(following[..., :3, :], following[..., 1:4, :], dim=-1)
    products = matrix[..., 0, :] * cofactors[..., 0, :]
    determinant = products[..., 0] + products[..., 1] + products[..., 2]
    determinant = determinant[..., None, None]
    return Inverse(cofactors.transpose(-1, -2) / determinant, determinant)


def exponential(matrix: Float[Tensor, "N d d"]) -> Float[Tensor, "N d d"]:
    """Return the matrix exponential, by its series with scaling and squaring.

    C. Moler and C. Van Loan, SIAM Rev. 45, 3 (2003), methods 1 and 3. The number of operations is
    fixed; the result is good to rounding for norms up to 4, which strains never reach.
    """
    one = _identity(matrix)
    scaled = matrix * 0.5**_HALVINGS
    series = one + scaled / _TERMS
    for k in range(_TERMS - 1, 0, -1):
        series = torch.baddbmm(one, scaled, series, alpha=1.0 / k)
    for _ in range(_HALVINGS):
        series = series @ series
    return series


def exponential_and_integral(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Return ``exp(A)`` and ``(exp(A) - 1) / A``, the integral of ``exp(s A)`` over s in [0, 1].

    They solve ``x' = x A + b`` for a row vector: ``x(1) = x(0) exp(A) + b (exp(A) - 1) / A``.

    Parameters
    ----------
    matrix
        A, (B, 3, 3). A norm of 1 keeps all digits, one of 2 ten of them.
    """
    one = _identity(matrix)
    integral = one.expand_as(matrix)
    for k in range(_INTEGRAL_TERMS, 0, -1):
        integral = torch.baddbmm(one, matrix, integral, alpha=1.0 / (k + 1))
    return torch.baddbmm(one, matrix, integral), integral


def exponential_derivative(
    matrix: Float[Tensor, "N 3 3"], direction: Float[Tensor, "N 3 3"]
) -> Float[Tensor, "N 3 3"]:
    """Return the Fréchet derivative of the exponential at ``matrix`` along ``direction``.

    It is a block of the exponential of a matrix of twice the size: N. J. Higham, Functions of
    Matrices, SIAM 2008, equation 10.43.
    """
    below = torch.cat([torch.zeros_like(matrix), matrix], dim=2)
    block = torch.cat([torch.cat([matrix, direction], dim=2), below], dim=1)
    return exponential(block)[:, :3, 3:]


class Logarithm(NamedTuple):
    """The logarithm of a matrix, and what comes with it for free."""

    matrix: Float[Tensor, "N 3 3"]
    inverse: Float[Tensor, "N 3 3"]
    determinant: Float[Tensor, "N 1 1"]


def logarithm(matrix: Float[Tensor, "N 3 3"]) -> Logarithm:
    """Return the principal logarithm, with the inverse and the determinant of the matrix.

    log(1 + X) is the integral of X (1 + tX)^-1 for t from 0 to 1, by Gauss and Legendre: the
    diagonal Padé approximant in partial fractions, N. J. Higham, SIAM J. Matrix Anal. Appl. 22,
    1126 (2001), equation 1.6. All nodes are inverted at once.
    """
    one = _identity(matrix)
    nodes, weights = _quadrature(matrix.device)
    x = matrix - one
    # The last of them is the matrix as it is: 1 + X may differ from it in the last bit.
    found = inverse(torch.cat([one + nodes * x.unsqueeze(1), matrix.unsqueeze(1)], dim=1))
    ends = torch.arange(0, _NODES * len(x) + 1, _NODES, device=x.device)
    integral = segment_sum((weights * found.matrix[:, :-1]).view(-1, 3, 3), ends)
    return Logarithm(x @ integral, found.matrix[:, -1], found.determinant[:, -1])


def _identity(like: Float[Tensor, "N d d"]) -> Float[Tensor, "1 d d"]:
    return _eye(like.shape[-1], like.device)


@lru_cache
def _eye(size: int, device: torch.device) -> Float[Tensor, "1 d d"]:
    return torch.eye(size, dtype=torch.float64, device=device).unsqueeze(0)


@lru_cache
def _quadrature(device: torch.device) -> tuple[Tensor, Tensor]:
    """Return nodes and weights, (m, 1, 1)."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    columns = (1 + nodes) / 2, weights / 2
    first, second = (torch.from_numpy(column).view(-1, 1, 1).to(device) for column in columns)
    return first, second
