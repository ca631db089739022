"""Tables of pair energies and forces, in the text format of LAMMPS' ``pair_style table``."""

import numpy as np

from nvdyn_ase.models.potential_files import FilePath, Words, lines_of, without_comments

Table = tuple[np.ndarray, ...]

FORMAT = "a file of pair tables"


def read_sections(path: FilePath) -> dict[str, Table]:
    """Read all sections of a file.

    A section is a word, a line ``N 500`` with ``R 1.0 9.0`` or ``RSQ 1.0 9.0`` if the distances, or
    their squares, are equidistant, and lines with a number, the distance, the energy and the force.
    With ``R`` or ``RSQ`` the distances are computed, as the column is rounded. ``FPRIME``, slopes
    of the force at both ends, is not used.

    Returns
    -------
    dict
        By the name of the section: distances, Å, energies, eV, and forces, eV/Å, (N,) each.

    Raises
    ------
    PotentialFileError
        The file is something else.
    """
    lines = [line for line in without_comments(lines_of(path, FORMAT)) if line.strip()]
    sections: dict[str, Table] = {}
    at = 0
    while at < len(lines):
        name = lines[at].split()[0]
        words = Words(path, lines[at + 1 : at + 2], FORMAT)
        size, spacing, ends = _header(words, name)
        rows = Words(path, lines[at + 2 : at + 2 + size], FORMAT)
        numbers = rows.numbers(f"{size} lines of four numbers in section {name}", 4 * size)
        if len(rows):
            raise rows.error(f"the lines of section {name} should have four numbers each")
        if name in sections:
            raise rows.error(f"there are two sections {name}")
        _, r, energy, force = numbers.reshape(size, 4).T
        if spacing == "R":
            r = np.linspace(*ends, size)
        elif spacing == "RSQ":
            r = np.sqrt(np.linspace(ends[0] ** 2, ends[1] ** 2, size))
        sections[name] = r, energy, force
        at += 2 + size
    if not sections:
        raise Words(path, [], FORMAT).error("it has no sections")
    return sections


def _header(words: Words, name: str) -> tuple[int, str, tuple[float, float]]:
    """Take the line after a section's name: the size, and how distances are spaced."""
    size, spacing, ends = 0, "", (0.0, 0.0)
    while len(words):
        key = words.word("a key")
        if key == "N":
            size = words.whole(f"N of section {name}", 2)
        elif key in ("R", "RSQ"):
            spacing = key
            ends = (
                words.number(f"the first distance of section {name}", positive=True),
                words.number(f"the last distance of section {name}", positive=True),
            )
        elif key == "FPRIME":
            words.numbers(f"FPRIME of section {name}", 2)
        else:
            raise words.error(f"{key} in section {name} should be N, R, RSQ or FPRIME")
    if not size:
        raise words.error(f"the line after {name} should say N and how many lines follow")
    return size, spacing, ends
