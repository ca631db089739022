"""Pair tables of soft potentials that end smoothly, as arrays and as files."""

import numpy as np

CUTOFF = 4.7


def soft(depth=1.0, points=150, first=0.05):
    """Return distances, energies and forces."""
    r = np.linspace(first, CUTOFF, points)
    cut, cut_slope = (1 - r / CUTOFF) ** 3, -3 * (1 - r / CUTOFF) ** 2 / CUTOFF
    bare = 6.0 * np.exp(-1.4 * r) - depth * np.exp(-0.5 * r)
    slope = -8.4 * np.exp(-1.4 * r) + 0.5 * depth * np.exp(-0.5 * r)
    return r, bare * cut, -(slope * cut + bare * cut_slope)


def as_text(sections, key="R"):
    """Return a file; distances in it are rounded unless the key is empty."""
    lines = ["# UNITS: metal", ""]
    for name, (r, energy, force) in sections.items():
        ends = f" {key} {float(r[0])!r} {float(r[-1])!r}" if key else ""
        lines += [name, f"N {len(r)}{ends} FPRIME 0.0 0.0", ""]
        for k, row in enumerate(zip(r, energy, force, strict=True)):
            distance = f"{row[0]:.4f}" if key else repr(float(row[0]))
            lines.append(f"{k + 1} {distance} {float(row[1])!r} {float(row[2])!r}")
        lines += ["", "# the next"]
    return "\n".join(lines)
