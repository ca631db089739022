"""One trajectory file per system, each ending at its own last step."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase
import numpy as np
from ase.io.trajectory import Trajectory


class Trajectories:
    """Writes each system of a list to a file of its own.

    Files are opened for each image, as ASE does: many systems would need more open files than a
    process may have.

    Parameters
    ----------
    targets
        One path or open trajectory per system, or one path with ``{index}`` in it.
    systems
        The Atoms.
    append
        Add to files that are there instead of replacing them.

    Raises
    ------
    ValueError
        Not one target per system, or one path without ``{index}`` for several systems.
    """

    def __init__(self, targets: Any, systems: Sequence[ase.Atoms], append: bool) -> None:
        self.systems = systems
        self.targets = one_each(targets, len(systems))
        self._written = np.full(len(systems), -1)
        for target in self.targets:
            if isinstance(target, Path) and not append:
                target.unlink(missing_ok=True)

    @property
    def are_empty(self) -> bool:
        """Whether no file has an image yet."""
        return all(_is_empty(target) for target in self.targets)

    def write(self, steps: np.ndarray, description: dict[str, Any]) -> None:
        """Write the systems that have moved since they were last written.

        Parameters
        ----------
        steps
            (B,), steps done by each system.
        description
            What ASE keeps in the header of a file.
        """
        if (self._written < 0).all() and steps.any():
            # Nobody asked for the start, because there are files that have it already.
            self._written[[not _is_empty(target) for target in self.targets]] = 0
        moved = np.flatnonzero(steps != self._written).tolist()
        for index in moved:
            own = {key: _of_system(value, index) for key, value in description.items()}
            self._write_one(self.targets[index], self.systems[index], own)
        self._written = steps.copy()

    @staticmethod
    def _write_one(target: Any, atoms: ase.Atoms, description: dict[str, Any]) -> None:
        if not isinstance(target, Path):
            target.set_description(description)
            target.write(atoms)
            return
        with Trajectory(target, mode="a") as file:
            file.set_description(description)
            file.write(atoms)


def _of_system(value: Any, index: int) -> Any:
    """Return a value, or that of a system where each has its own."""
    return value[index].item() if isinstance(value, np.ndarray) and value.ndim else value


def _is_empty(target: Any) -> bool:
    if isinstance(target, Path):
        return not (target.exists() and target.stat().st_size)
    return len(target) == 0


_INDEX = re.compile(r"\{index(:[^{}]*)?\}")


def has_index(name: Any) -> bool:
    """Say whether a name has ``{index}`` in it, also with a format as ``{index:03d}``."""
    return isinstance(name, (str, Path)) and _INDEX.search(str(name)) is not None


def _numbered(name: str | Path, index: int) -> Path:
    """Return a name with the number of a system in it."""
    return Path(_INDEX.sub(lambda found: found[0].format(index=index), str(name)))


def one_each(
    targets: Any, count: int, kind: str = "trajectory", plural: str = "trajectories"
) -> list[Any]:
    """Return a path or an open file for each system.

    Parameters
    ----------
    targets
        One of them per system, or one path with ``{index}`` in it, or ``{index:03d}``.
    count
        Systems.
    kind, plural
        What the files are called, for the errors.

    Raises
    ------
    ValueError
        Not one target per system, or one path without ``{index}`` for several systems.
    """
    if isinstance(targets, (str, Path)):
        if count > 1 and not has_index(targets):
            raise ValueError(
                f"{count} structures cannot share the {kind} {str(targets)!r}; put {{index}} "
                "into its name, or give a list of names"
            )
        return [_numbered(targets, index) for index in range(count)]
    if hasattr(targets, "write"):
        targets = [targets]
    if len(targets) != count:
        raise ValueError(f"{len(targets)} {plural} for {count} structures")
    return [Path(t) if isinstance(t, (str, Path)) else t for t in targets]
