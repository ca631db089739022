"""Random numbers that are a function of a key and a counter, so that nothing has to be remembered.

Philox-4x32-10 of J. K. Salmon, M. A. Moraes, R. O. Dror and D. E. Shaw, "Parallel random numbers:
as easy as 1, 2, 3", SC'11 (2011), section 3.3: ten rounds that turn a counter of four words of 32
bits into four random words, in another way for each key of two words. On the CPU one compiled loop
makes all numbers of a step; any other device does it with torch operations. The words are the same.
"""

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit
from torch import Tensor

_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF
_ROUNDS = 10
_TO_UNIT = 2.0**-53  # two words make the 53 bits of a double in [0, 1)

# numba makes a float of a signed and an unsigned integer: every number in the loop is unsigned.
_u = np.uint64
_UM0, _UM1, _UW0, _UW1, _UWORD = _u(_M0), _u(_M1), _u(_W0), _u(_W1), _u(_WORD)
_U32, _U26, _U6, _U5 = _u(32), _u(26), _u(6), _u(5)


@njit(cache=True)
def words(
    c0: np.uint64, c1: np.uint64, c2: np.uint64, c3: np.uint64, k0: np.uint64, k1: np.uint64
) -> tuple[np.uint64, np.uint64, np.uint64, np.uint64]:
    """Return four random words for a counter of four words and a key of two."""
    for _ in range(_ROUNDS):
        left, right = _UM0 * c0, _UM1 * c2
        c0, c1 = (right >> _U32) ^ c1 ^ k0, right & _UWORD
        c2, c3 = (left >> _U32) ^ c3 ^ k1, left & _UWORD
        k0, k1 = (k0 + _UW0) & _UWORD, (k1 + _UW1) & _UWORD
    return c0, c1, c2, c3


@njit(cache=True)
def _fill(
    keys: np.ndarray, positions: np.ndarray, ptr: np.ndarray, first: int, out: np.ndarray
) -> None:
    """Fill (V, 2 n) with uniform numbers."""
    for system in range(len(keys)):
        key, position = _u(keys[system]), _u(positions[system])
        for row in range(ptr[system], ptr[system + 1]):
            for pair in range(out.shape[1] // 2):
                a, b, c, d = words(
                    position & _UWORD,
                    position >> _U32,
                    _u(row - ptr[system]),
                    _u(first + pair),
                    key & _UWORD,
                    key >> _U32,
                )
                out[row, 2 * pair] = float(((a >> _U5) << _U26) | (b >> _U6)) * _TO_UNIT
                out[row, 2 * pair + 1] = float(((c >> _U5) << _U26) | (d >> _U6)) * _TO_UNIT


@njit(cache=True)
def _fill_normal(
    keys: np.ndarray, positions: np.ndarray, ptr: np.ndarray, first: int, out: np.ndarray
) -> None:
    """Fill (V, 2 n) with normal numbers."""
    _fill(keys, positions, ptr, first, out)
    for row in range(out.shape[0]):
        for column in range(0, out.shape[1], 2):
            radius = math.sqrt(-2.0 * math.log(1.0 - out[row, column]))
            angle = 2.0 * math.pi * out[row, column + 1]
            out[row, column] = radius * math.cos(angle)
            out[row, column + 1] = radius * math.sin(angle)


def words_torch(
    counter: list[Int[Tensor, "..."]], key: list[Int[Tensor, "..."]]
) -> list[Int[Tensor, "..."]]:
    """Return four random words for counters of four words and keys of two, as torch operations."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        left, right = c0 * _M0, c2 * _M1  # wraps around; the mask takes the sign off
        c0, c1 = (right >> 32) & _WORD ^ c1 ^ k0, right & _WORD
        c2, c3 = (left >> 32) & _WORD ^ c3 ^ k1, left & _WORD
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return [c0, c1, c2, c3]


class Rows:
    """The rows that numbers are wanted for: which stream each belongs to, and its place in it.

    Parameters
    ----------
    ptr
        First row of each system and the end, (B + 1,), on the host.
    device
        Where the numbers are wanted.

    Attributes
    ----------
    system
        System of each row, (V,).
    place
        Number of each row within its system, (V, 1).
    """

    def __init__(self, ptr: Int[np.ndarray, " B1"], device: torch.device) -> None:
        self.ptr, self.device = ptr, device
        sizes = np.diff(ptr)
        system = np.repeat(np.arange(len(sizes)), sizes)
        self.system = torch.from_numpy(system).to(device)
        place = np.arange(ptr[-1]) - ptr[system]
        self.place = torch.from_numpy(place).to(device).view(-1, 1)


def uniform(
    keys: Int[Tensor, "B 1"], positions: Int[Tensor, "B 1"], rows: Rows, columns: int, first: int
) -> Float[Tensor, "V columns"]:
    """Return uniform numbers in [0, 1).

    Parameters
    ----------
    keys, positions
        Of the stream of each system, and how far it has got.
    rows
        What they are wanted for.
    columns
        Numbers per row.
    first
        Counters of a row begin here; numbers from ranges that do not overlap are independent.
    """
    if keys.device.type != "cpu":
        return uniform_torch(keys, positions, rows, columns, first)
    return _by_loop(keys, positions, rows, columns, first, False)


def normal(
    keys: Int[Tensor, "B 1"], positions: Int[Tensor, "B 1"], rows: Rows, columns: int, first: int
) -> Float[Tensor, "V columns"]:
    """Return normal numbers of mean 0 and variance 1; see :func:`uniform`.

    G. E. P. Box and M. E. Muller, Ann. Math. Stat. 29, 610 (1958), equation 1.
    """
    if keys.device.type != "cpu":
        return normal_torch(keys, positions, rows, columns, first)
    return _by_loop(keys, positions, rows, columns, first, True)


def _by_loop(
    keys: Tensor, positions: Tensor, rows: Rows, columns: int, first: int, are_normal: bool
) -> Tensor:
    # A compiler for the CPU may take it that integers do not overflow, as those of the torch
    # operations do: it calls the loop.
    fill = _filled_in_graph if torch.compiler.is_compiling() else _filled
    count = len(rows.place)
    return fill(keys, positions, torch.from_numpy(rows.ptr), count, columns, first, are_normal)


def _filled(
    keys: Tensor,
    positions: Tensor,
    ptr: Tensor,
    count: int,
    columns: int,
    first: int,
    are_normal: bool,
) -> Tensor:
    """Return (count, columns) numbers."""
    out = np.empty((count, columns + columns % 2))
    fill = _fill_normal if are_normal else _fill
    fill(keys.view(-1).numpy(), positions.view(-1).numpy(), ptr.numpy(), first, out)
    return torch.from_numpy(out)[:, :columns]


@torch.library.custom_op("nvdyn_ase::philox", mutates_args=(), device_types="cpu")
def _filled_in_graph(
    keys: Tensor,
    positions: Tensor,
    ptr: Tensor,
    count: int,
    columns: int,
    first: int,
    are_normal: bool,
) -> Tensor:
    return _filled(keys, positions, ptr, count, columns, first, are_normal).contiguous()


@_filled_in_graph.register_fake
def _shape_of_filled(
    keys: Tensor, positions: Tensor, ptr: Tensor, count: int, columns: int, *_: Any
) -> Tensor:
    return keys.new_empty((count, columns), dtype=torch.float64)


def uniform_torch(
    keys: Int[Tensor, "B 1"], positions: Int[Tensor, "B 1"], rows: Rows, columns: int, first: int
) -> Float[Tensor, "V columns"]:
    """Return what :func:`uniform` returns, as torch operations."""
    u, v = _pairs_torch(keys, positions, rows, columns, first)
    return torch.stack((u, v), dim=2).flatten(1)[:, :columns]


def normal_torch(
    keys: Int[Tensor, "B 1"], positions: Int[Tensor, "B 1"], rows: Rows, columns: int, first: int
) -> Float[Tensor, "V columns"]:
    """Return what :func:`normal` returns, as torch operations."""
    u, v = _pairs_torch(keys, positions, rows, columns, first)
    radius, angle = (-2.0 * (1.0 - u).log()).sqrt(), (2.0 * math.pi) * v
    return torch.stack((radius * angle.cos(), radius * angle.sin()), dim=2).flatten(1)[:, :columns]


def _pairs_torch(
    keys: Tensor, positions: Tensor, rows: Rows, columns: int, first: int
) -> tuple[Tensor, Tensor]:
    """Return two uniform numbers for every counter, (V, n) each."""
    draw = torch.arange(first, first + (columns + 1) // 2, device=keys.device)
    key, position = keys.index_select(0, rows.system), positions.index_select(0, rows.system)
    counter = [position & _WORD, (position >> 32) & _WORD, rows.place, draw]
    a, b, c, d = words_torch(counter, [key & _WORD, (key >> 32) & _WORD])
    return (
        ((a >> 5 << 26) | (b >> 6)).double() * _TO_UNIT,
        ((c >> 5 << 26) | (d >> 6)).double() * _TO_UNIT,
    )
