"""EAM files of every form, written from functions that are smooth enough to be interpolated."""

import numpy as np
from ase.data import atomic_masses, atomic_numbers

CUTOFF = 5.5


def _column(values):
    return "\n".join(f"{value:.17e}" for value in values) + "\n"


def write_eam(path, form, symbols=("Al", "Cu"), nrho=1000, nr=500):
    """Write a file; return its path as text."""
    count = len(symbols)
    dr, drho = CUTOFF / (nr - 1), 300.0 / (nrho - 1)
    r, rho = np.arange(nr) * dr, np.arange(nrho) * drho
    cut = (1 - r / CUTOFF).clip(0) ** 3
    grids = f"{nrho} {drho:.17e} {nr} {dr:.17e} {CUTOFF}\n"
    halves = [(i, j) for i in range(count) for j in range(i + 1)]
    text = "one\ntwo\nthree\n" if form != "eam" else "one\n"
    if form != "eam":
        text += f"{count} {' '.join(symbols)}\n{grids}"
    for i, symbol in enumerate(symbols):
        number = atomic_numbers[symbol]
        text += f"{number} {atomic_masses[number]} 4.05 fcc\n"
        if form == "eam":
            text += grids
        text += _column(0.001 * rho - (1.0 + 0.1 * i) * np.sqrt(rho + 0.3))
        if form == "eam":
            text += _column(8.0 * np.exp(-r) * cut)
        for j in range(count if form == "fs" else 1):
            text += _column((10 + i + 3 * j) * np.exp(-r * (1.0 + 0.1 * i)) * cut)
    for i, j in [] if form == "eam" else halves:
        text += _column(r * (300 + 50 * i + 20 * j) * np.exp(-2.5 * r) * cut)
    for k in range(2 if form == "adp" else 0):
        for i, j in halves:
            text += _column((0.3 + 0.2 * i - 0.1 * j - 0.25 * k) * np.exp(-0.7 * r) * cut)
    path.write_text(text)
    return str(path)
