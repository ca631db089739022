"""Parameters of the Stillinger-Weber potential of two elements, which differ in all they may."""

import itertools

NAMES = ("epsilon", "sigma", "a", "lambda", "gamma", "costheta0", "A", "B", "p", "q", "tol")

_OWN = {
    "Si": (2.1683, 2.0951, 1.8, 21.0, 1.2, -1 / 3, 7.049556277, 0.6022245584, 4.0, 0.0, 0.0),
    "Ge": (1.93, 2.181, 1.75, 31.0, 1.1, -0.3, 7.2, 0.61, 4.5, 0.5, 0.0),
}


def mixture():
    """Return the parameters of each triple; gamma of a pair depends on who is in the middle."""
    triples = {}
    for i, j, k in itertools.product(_OWN, repeat=3):
        mean = [(2 * a + (b + c)) / 4 for a, b, c in zip(_OWN[i], _OWN[j], _OWN[k], strict=True)]
        if j == k:
            mean = [(a + b) / 2 for a, b in zip(_OWN[i], _OWN[j], strict=True)]
            mean[NAMES.index("gamma")] = _OWN[i][NAMES.index("gamma")]
        mean[NAMES.index("q")] = 0.0 if i == j == k == "Si" else 0.5
        triples[i, j, k] = tuple(mean)
    return triples


def as_text(triples):
    """Return a file, with comments and lines that are cut."""
    lines = ["# UNITS: metal"]
    for symbols, numbers in triples.items():
        words = [repr(number) for number in numbers]
        lines += [" ".join([*symbols, *words[:6]]) + "  # the first half", " ".join(words[6:]), ""]
    return "\n".join(lines)
