"""What can be found out about structures before they are converted."""

from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from nvdyn_ase.atoms.convert import Reading, read


class Readings:
    """Sorts what structures hold in the thread that reads them, for the one that moves them.

    It is kept until :meth:`take` asks for it: of as many structures as are read ahead.
    """

    def __init__(self) -> None:
        self._found: dict[int, Reading] = {}

    def of(self, numbered: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        """Iterate over structures with their positions, and find out about each."""
        for index, atoms in numbered:
            with suppress(Exception):  # it is found again, and told, where it is converted
                self._found[index] = read(atoms, copy_constraints=False)
            yield index, atoms

    def take(self, index: int) -> Reading | None:
        """Return what is known of a structure, and forget it; None if nothing is."""
        return self._found.pop(index, None)
