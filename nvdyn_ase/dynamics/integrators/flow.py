"""Flows of linear equations of motion, and the little geometry of cells that they need.

Nothing here depends on what else is in a batch, and nothing waits for the device.
"""

import torch
from jaxtyping import Float
from torch import Tensor

Row = Float[Tensor, "B 1"]
Matrix = Float[Tensor, "B 3 3"]

# Terms of the exponential series. They give all digits for matrices of norm up to 1, which is a
# cell that grows by a factor of e in one step.
_TERMS = 16


def determinant(matrix: Matrix) -> Row:
    """Return the determinant, (B, 1); of a cell, the volume with the sign of its handedness."""
    a, b, c = matrix.unbind(1)
    return torch.bmm(torch.linalg.cross(a, b).unsqueeze(1), c.unsqueeze(2)).squeeze(2)


def inverse(matrix: Matrix) -> Matrix:
    """Return the inverse; infinite or NaN for a singular matrix, of which nobody is told."""
    a, b, c = matrix.unbind(1)
    columns = torch.stack(
        [torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], dim=2
    )
    return columns / determinant(matrix).unsqueeze(2)


def trace(matrix: Matrix) -> Row:
    """Return the sum of the diagonal, first to last, (B, 1)."""
    return matrix[:, 0, 0:1] + matrix[:, 1, 1:2] + matrix[:, 2, 2:3]


def symmetric(matrix: Matrix) -> Matrix:
    """Return the symmetric part."""
    return 0.5 * (matrix + matrix.transpose(1, 2))


def squares(rows: Float[Tensor, "B ..."]) -> Row:
    """Return the sum of the squares of each system's numbers, (B, 1)."""
    return torch.bmm(rows.reshape(len(rows), 1, -1), rows.reshape(len(rows), -1, 1)).squeeze(2)


def exprel(x: Row) -> Row:
    """Return ``(exp(x) - 1) / x``, which is 1 at zero."""
    return torch.where(x == 0.0, 1.0, torch.expm1(x) / x)


def exponentials(matrix: Matrix) -> tuple[Matrix, Matrix]:
    """Return ``exp(A)`` and ``(exp(A) - 1) / A``, the integral of ``exp(s A)`` over s in [0, 1].

    They solve ``x' = x A + b`` for a row vector: ``x(1) = x(0) exp(A) + b (exp(A) - 1) / A``.

    Parameters
    ----------
    matrix
        A, (B, 3, 3). A norm of 1 keeps all digits, one of 2 ten of them.
    """
    one = torch.eye(3, dtype=matrix.dtype, device=matrix.device)
    relative = one.expand_as(matrix)
    for k in range(_TERMS, 0, -1):
        relative = torch.baddbmm(one, matrix, relative, alpha=1.0 / (k + 1))
    return torch.baddbmm(one, matrix, relative), relative


def applied(rows: Float[Tensor, "V 3"], matrices: Float[Tensor, "V 3 3"]) -> Float[Tensor, "V 3"]:
    """Return each row times its own matrix."""
    return torch.bmm(rows.unsqueeze(1), matrices).squeeze(1)
