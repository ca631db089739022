"""Parameters of the Tersoff potential for C and Si, as they were published."""

import itertools

NAMES = ("m", "gamma", "lambda3", "c", "d", "h", "n")
NAMES += ("beta", "lambda2", "B", "R", "D", "lambda1", "A")

# J. Tersoff, Phys. Rev. B 39, 5566 (1989): A, B, lambda1, lambda2, beta, n, c, d, h, R, S.
_ELEMENTS = {
    "C": (1393.6, 346.74, 3.4879, 2.2119, 1.5724e-7, 0.72751, 38049.0, 4.3484, -0.57058, 1.8, 2.1),
    "Si": (1830.8, 471.18, 2.4799, 1.7322, 1.1e-6, 0.78734, 1.0039e5, 16.217, -0.59825, 2.7, 3.0),
}
_CHI = 0.9776

# J. Tersoff, Phys. Rev. B 37, 6991 (1988): silicon, with a lambda3 and a large n.
SILICON_T2 = {
    ("Si", "Si", "Si"): (
        *(3.0, 1.0, 1.3258, 4.8381, 2.0417, 0.0, 22.956, 0.33675),
        *(1.3258, 95.373, 3.0, 0.2, 3.2394, 3264.7),
    )
}


def silicon_carbide():
    """Return the parameters of each triple, in the order of ``NAMES``."""
    triples = {}
    for i, j, k in itertools.product(_ELEMENTS, repeat=3):
        own, two, three = (_ELEMENTS[symbol] for symbol in (i, j, k))
        beta, n, c, d, h = own[4:9]
        strength = 1.0 if i == j else _CHI
        pair = [(own[x] * two[x]) ** 0.5 for x in (0, 1)]
        rates = [(own[x] + two[x]) / 2 for x in (2, 3)]
        inner, outer = ((own[x] * three[x]) ** 0.5 for x in (9, 10))
        triples[i, j, k] = (
            *(3.0, 1.0, 0.0, c, d, h, n, beta, rates[1], strength * pair[1]),
            *((inner + outer) / 2, (outer - inner) / 2, rates[0], pair[0]),
        )
    return triples


def as_text(triples):
    """Return a file, with comments and lines that are cut."""
    lines = ["# DATE: 1989 UNITS: metal"]
    for symbols, numbers in triples.items():
        words = [repr(number) for number in numbers]
        lines += [" ".join([*symbols, *words[:7]]) + "  # the first half", " ".join(words[7:]), ""]
    return "\n".join(lines)
