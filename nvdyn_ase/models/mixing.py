"""Parameters of pairs of elements, given one by one or combined from those of the elements."""

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from ase.data import atomic_numbers, chemical_symbols

Element = str | int
Values = float | Mapping[Element, float] | Mapping[tuple[Element, Element], float]


class PairTables(NamedTuple):
    """Parameters of every pair of elements.

    Parameters
    ----------
    elements
        Atomic numbers, sorted; K of them.
    sigma, epsilon
        (K, K), symmetric, Å and eV.
    """

    elements: tuple[int, ...]
    sigma: np.ndarray
    epsilon: np.ndarray


def _lorentz_berthelot(s: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return (s[:, None] + s) / 2.0, np.sqrt(e[:, None] * e)


def _geometric(s: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.sqrt(s[:, None] * s), np.sqrt(e[:, None] * e)


def _waldman_hagler(s: np.ndarray, e: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    sixth = (s[:, None] ** 6 + s**6) / 2.0
    return sixth ** (1.0 / 6.0), np.sqrt(e[:, None] * e) * (s[:, None] * s) ** 3 / sixth


#: Rules that combine sigma and epsilon of two elements. Lorentz-Berthelot: H. A. Lorentz, Ann.
#: Phys. 248, 127 (1881); D. Berthelot, C. R. Acad. Sci. 126, 1703 (1898). Geometric:
#: W. L. Jorgensen, D. S. Maxwell and J. Tirado-Rives, J. Am. Chem. Soc. 118, 11225 (1996).
#: Waldman-Hagler: M. Waldman and A. T. Hagler, J. Comput. Chem. 14, 1077 (1993).
RULES: dict[str, Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "lorentz-berthelot": _lorentz_berthelot,
    "geometric": _geometric,
    "waldman-hagler": _waldman_hagler,
}


def pair_tables(sigma: Values, epsilon: Values, mixing: str) -> PairTables:
    """Return the parameters of every pair of elements that is named.

    Parameters
    ----------
    sigma, epsilon
        A number for all, or a dict with numbers for elements, ``"Ar"`` or 18, for pairs of them,
        ``("Ar", "Kr")`` in either order, or for both. Pairs that are not named are combined.
    mixing
        One of ``RULES``.

    Raises
    ------
    ValueError
        No or an unknown element, a negative number, a pair with two values, or a pair with none and
        nothing to combine.
    """
    sigmas, epsilons = _by_pair("sigma", sigma), _by_pair("epsilon", epsilon)
    elements = tuple(sorted({z for pair in [*sigmas, *epsilons] for z in pair}))
    if not elements:
        raise ValueError("sigma and epsilon name no element; give numbers for it to be any")
    mixed = RULES[mixing](_own(sigma, sigmas, elements), _own(epsilon, epsilons, elements))
    return PairTables(
        elements,
        _complete("sigma", sigma, sigmas, mixed[0], elements),
        _complete("epsilon", epsilon, epsilons, mixed[1], elements),
    )


def check_rule(mixing: str) -> None:
    """Raise ValueError if there is no such rule."""
    if mixing not in RULES:
        raise ValueError(f"mixing={mixing!r} is not one of {', '.join(RULES)}")


def rows_by_number(elements: tuple[int, ...]) -> np.ndarray:
    """Return the place of each atomic number among elements, (Z,) uint64; K for all others."""
    rows = np.full(len(chemical_symbols) + 1, len(elements), np.uint64)
    rows[list(elements)] = np.arange(len(elements))
    return rows


def element_name(number: int) -> str:
    """Return the symbol of an element, or words if there is none of this atomic number."""
    known = 0 <= number < len(chemical_symbols)
    return chemical_symbols[number] if known else f"element {number}"


def _by_pair(name: str, values: Values) -> dict[tuple[int, int], float]:
    """Return what a dict gives for elements and pairs, by their sorted atomic numbers."""
    numbers: dict[tuple[int, int], float] = {}
    for key, value in values.items() if isinstance(values, Mapping) else ():
        first, *rest = key if isinstance(key, tuple) else (key, key)
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name} must not be negative, and is {value} for {key!r}")
        pair = sorted(_atomic_number(name, element) for element in (first, *rest))
        if len(pair) != 2:
            raise ValueError(f"{name}: {key!r} is neither an element nor a pair of elements")
        if numbers.setdefault((pair[0], pair[1]), float(value)) != float(value):
            raise ValueError(f"{name} has two values for {key!r}")
    return numbers


def _atomic_number(name: str, element: Element) -> int:
    if isinstance(element, str) and element in atomic_numbers:
        return atomic_numbers[element]
    if not isinstance(element, str) and 0 <= element < len(chemical_symbols):
        return int(element)
    raise ValueError(f"{name}: {element!r} is not an element")


def _own(
    values: Values, by_pair: dict[tuple[int, int], float], elements: tuple[int, ...]
) -> np.ndarray:
    """Return the value of each element with itself, (K,); NaN where none is given."""
    default = np.nan if isinstance(values, Mapping) else float(values)
    return np.array([by_pair.get((z, z), default) for z in elements])


def _complete(
    name: str,
    values: Values,
    by_pair: dict[tuple[int, int], float],
    mixed: np.ndarray,
    elements: tuple[int, ...],
) -> np.ndarray:
    """Return the values of all pairs, (K, K): the given ones, and the mixed ones elsewhere."""
    if not isinstance(values, Mapping):
        return np.full_like(mixed, values)
    for (a, b), value in by_pair.items():
        i, j = elements.index(a), elements.index(b)
        mixed[i, j] = mixed[j, i] = value
    missing = np.argwhere(np.isnan(mixed))
    if len(missing):
        pair = "-".join(chemical_symbols[elements[k]] for k in missing[0])
        raise ValueError(f"{name} has no value for {pair}, nor for both elements to combine")
    return mixed
