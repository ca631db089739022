"""The geometry that the pairs of a batch were found in, and which systems have left it.

Every pair within the cutoff is among those found within cutoff + skin as long as

    2 max|u| + |F - 1| (cutoff + skin) <= skin,

where F is the deformation that took the cell vectors of then to those of now and u = r - r_then F
is what the atoms moved beyond it: a pair that was d apart is now d F + u_j - u_i apart. F leaves
alone what is normal to the periodic vectors, so that it is the same whatever the others are.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numba import njit
from torch import Tensor

from nvdyn_ase.data import segment_max
from nvdyn_ase.data.joining import boundaries, ragged_rows
from nvdyn_ase.neighbors.standard import Geometry, Standard


class Skin(NamedTuple):
    """How far the pairs must and do reach.

    Parameters
    ----------
    cutoff, skin
        Å.
    """

    cutoff: float
    skin: float

    @property
    def reach(self) -> float:
        """Largest distance of a pair that is found, Å."""
        return self.cutoff + self.skin


def duals(form: Standard, failed: np.ndarray) -> np.ndarray:
    """Return D, (B, 3, 3), such that F - 1 = D (h - h_then), over the periodic vectors.

    It is no number for systems that failed, (B,) bool: they are looked at again whenever their cell
    changes.
    """
    dual = np.empty_like(form.inverse)
    _multiply(form.inverse, form.turn, failed, dual)
    return dual


class HostReference:
    """The geometry of then, on the host; not a number for systems whose pairs are not known.

    Parameters
    ----------
    ptr
        First atom of each system, and the end, (B + 1,).

    Attributes
    ----------
    positions, cell, pbc
        As in ``Geometry``.
    dual
        (B, 3, 3), 1/Å; see :func:`duals`.
    """

    def __init__(self, ptr: np.ndarray) -> None:
        systems = len(ptr) - 1
        self.positions = np.full((ptr[-1], 3), np.nan)
        self.cell = np.full((systems, 3, 3), np.nan)
        self.pbc = np.zeros((systems, 3), bool)
        self.dual = np.zeros((systems, 3, 3))

    def stale(self, now: Geometry, skin: Skin) -> np.ndarray:
        """Return the systems that have left the skin, or whose pairs are not known."""
        mask = np.empty(len(now.cell), np.bool_)
        then = self.positions, self.cell, self.pbc, self.dual
        return np.flatnonzero(mask) if _stale(now, *then, skin.skin, skin.reach, mask) else _NONE

    def take(self, rows: np.ndarray, now: Geometry, dual: np.ndarray) -> None:
        """Make the present geometry of some systems that of then; ``dual`` has a row for each."""
        _take(rows, now, dual, self.positions, self.cell, self.pbc, self.dual)

    def select(
        self, kept: np.ndarray, ptr: np.ndarray, joining: Sequence[int] = ()
    ) -> "HostReference":
        """Return the part of some systems, and behind it new ones of so many atoms."""
        part = HostReference(boundaries(np.asarray(joining, np.int64)))
        atoms = ragged_rows(ptr, kept)
        part.positions = np.concatenate([self.positions[atoms], part.positions])
        for name in ("cell", "pbc", "dual"):
            of_each = getattr(self, name)[kept], getattr(part, name)
            setattr(part, name, np.concatenate(of_each))
        return part


_NONE = np.empty(0, np.int64)


@njit(cache=True, error_model="numpy")
def _multiply(a: np.ndarray, b: np.ndarray, failed: np.ndarray, out: np.ndarray) -> None:
    # In numpy both this and _take cost more than the search for the pairs of a small system.
    for n in range(len(out)):
        for i in range(3):
            for j in range(3):
                whole = a[n, i, 0] * b[n, 0, j] + a[n, i, 1] * b[n, 1, j] + a[n, i, 2] * b[n, 2, j]
                out[n, i, j] = np.nan if failed[n] else whole


@njit(cache=True, error_model="numpy")
def _take(
    rows: np.ndarray,
    now: Geometry,
    new_dual: np.ndarray,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    dual: np.ndarray,
) -> None:
    for k in range(len(rows)):
        b = rows[k]
        for a in range(now.ptr[b], now.ptr[b + 1]):
            for c in range(3):
                positions[a, c] = now.positions[a, c]
        for a in range(3):
            pbc[b, a] = now.pbc[b, a]
            for c in range(3):
                cell[b, a, c] = now.cell[b, a, c]
                dual[b, a, c] = new_dual[k, a, c]


@njit(cache=True, error_model="numpy")
def _stale(
    now: Geometry,
    positions: np.ndarray,
    cell: np.ndarray,
    pbc: np.ndarray,
    dual: np.ndarray,
    skin: float,
    reach: float,
    mask: np.ndarray,
) -> int:
    """Write which systems have left the skin, and return their number."""
    number = 0
    for b in range(len(mask)):
        strain, same = _strain(now.cell[b], cell[b], now.pbc[b], pbc[b], dual[b])
        size = 0.0
        for k in range(9):
            size += strain[k] * strain[k]
        left = 0.5 * (skin - np.sqrt(size) * reach)
        mask[b] = not (same and left >= 0.0)  # the comparisons are false if anything is no number
        for a in range(now.ptr[b], now.ptr[b + 1]):
            x, y, z = positions[a, 0], positions[a, 1], positions[a, 2]
            dx = now.positions[a, 0] - x - (x * strain[0] + y * strain[3] + z * strain[6])
            dy = now.positions[a, 1] - y - (x * strain[1] + y * strain[4] + z * strain[7])
            dz = now.positions[a, 2] - z - (x * strain[2] + y * strain[5] + z * strain[8])
            if not dx * dx + dy * dy + dz * dz <= left * left:
                mask[b] = True
                break
        number += mask[b]
    return number


@njit(cache=True, error_model="numpy")
def _strain(
    now: np.ndarray, then: np.ndarray, pbc: np.ndarray, pbc_then: np.ndarray, dual: np.ndarray
) -> tuple[tuple[float, float, float, float, float, float, float, float, float], bool]:
    """Return F - 1, row by row, and whether pbc is as it was and the cell finite."""
    same, changed = True, False
    for a in range(3):
        same = same and pbc[a] == pbc_then[a]
        for c in range(3):
            changed = changed or now[a, c] != then[a, c]
            same = same and np.isfinite(now[a, c])
    if not changed or not same:
        return (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0), same
    m = np.zeros(9)
    for a in range(3):
        for k in range(3):
            for c in range(3):
                m[3 * a + c] += dual[a, k] * (now[k, c] - then[k, c]) if pbc[k] else 0.0
    return (m[0], m[1], m[2], m[3], m[4], m[5], m[6], m[7], m[8]), same


class DeviceReference:
    """The geometry of then, on a device; see :class:`HostReference`."""

    def __init__(self, ptr: np.ndarray, device: torch.device) -> None:
        there = HostReference(ptr)
        self.positions = torch.from_numpy(there.positions).to(device)
        self.cell = torch.from_numpy(there.cell).to(device)
        self.pbc = torch.from_numpy(there.pbc).to(device)
        self.dual = torch.from_numpy(there.dual).to(device)

    def stale(
        self,
        positions: Float[Tensor, "V 3"],
        cell: Float[Tensor, "B 3 3"],
        pbc: Bool[Tensor, "B 3"],
        systems: Int[Tensor, " V"],
        ptr: Int[Tensor, " B1"],
        skin: Skin,
    ) -> Bool[Tensor, " B"]:
        """Return which systems have left the skin, or whose pairs are not known.

        Parameters
        ----------
        positions, cell, pbc
            The geometry now.
        systems
            System of each atom.
        ptr
            First atom of each system, and the end.
        skin
            How far the pairs must and do reach.
        """
        change = torch.where(pbc[:, :, None], cell - self.cell, 0.0)
        strain = self.dual[:, :, :, None] * change[:, None, :, :]
        strain = torch.where(change[:, None, :, :] == 0.0, 0.0, strain).sum(2)
        carried = (self.positions[:, :, None] * strain[systems]).sum(1)
        moved = (positions - self.positions - carried).square().sum(1)
        left = 0.5 * (skin.skin - strain.square().sum((1, 2)).sqrt() * skin.reach)
        same = (pbc == self.pbc).all(1) & cell.isfinite().all(2).all(1)
        # The comparisons are false if anything is no number.
        return ~(same & (left >= 0.0) & (segment_max(moved, ptr) <= left * left))

    def take(
        self,
        rows: Int[Tensor, " K"],
        atoms: Int[Tensor, " N"],
        now: tuple[Float[Tensor, "V 3"], Float[Tensor, "B 3 3"], Bool[Tensor, "B 3"]],
        dual: Float[Tensor, "K 3 3"],
    ) -> None:
        """Make the present geometry of some systems, and of their atoms, that of then."""
        self.positions[atoms] = now[0][atoms]
        self.cell[rows], self.pbc[rows], self.dual[rows] = now[1][rows], now[2][rows], dual

    def select(
        self, kept: Int[Tensor, " K"], atoms: Int[Tensor, " N"], joining: Sequence[int] = ()
    ) -> "DeviceReference":
        """Return the part of some systems and their atoms, and behind it new ones of so many."""
        part = DeviceReference(boundaries(np.asarray(joining, np.int64)), self.cell.device)
        part.positions = torch.cat([self.positions[atoms], part.positions])
        for name in ("cell", "pbc", "dual"):
            setattr(part, name, torch.cat([getattr(self, name)[kept], getattr(part, name)]))
        return part
