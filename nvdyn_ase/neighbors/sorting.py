"""Sorting in compiled loops; short, because numba's own takes seconds to compile."""

import numpy as np
from numba import njit

# M. Ciura, Lect. Notes Comput. Sci. 2138, 106 (2001), and then a factor of 2.25.
_GAPS = (
    *(1, 4, 10, 23, 57, 132, 301, 701, 1577, 3548, 7983, 17961, 40412, 90927, 204585, 460316),
    *(1035711, 2330349, 5243285, 11797391, 26544129, 59724290, 134379652, 302354217),
)


@njit(cache=True, error_model="numpy")
def sort(values: np.ndarray) -> None:
    """Sort numbers in place: D. Shell, Commun. ACM 2, 30 (1959)."""
    g = 0
    while g + 1 < len(_GAPS) and _GAPS[g + 1] < len(values):
        g += 1
    while g >= 0:
        gap = _GAPS[g]
        for k in range(gap, len(values)):
            value, place = values[k], k
            while place >= gap and values[place - gap] > value:
                values[place] = values[place - gap]
                place -= gap
            values[place] = value
        g -= 1


@njit(cache=True, error_model="numpy")
def to_starts(counts: np.ndarray) -> None:
    """Turn counts into the place where each group begins."""
    total = 0
    for k in range(len(counts)):
        counts[k], total = total, total + counts[k]
