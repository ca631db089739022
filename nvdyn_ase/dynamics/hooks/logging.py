"""A table of what a run does."""

import csv
import sys
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Self

import numpy as np

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics

_COLUMNS = ("step", "system_id", "status", "energy", "fmax")


class LoggingHook:
    """Writes a table: one line a step for the batch, or with CSV one line per system.

    Parameters
    ----------
    output
        A path, an open text file, or ``"-"`` for the standard output. A path that ends in ``.csv``
        gets columns step, system_id, status, energy (eV) and fmax (eV/Å), one row per system;
        anything else a table with the number of systems that still move, the mean energy (eV) and
        the largest fmax (eV/Å). Both have a column of the conserved energy (eV), or its mean, for
        engines that have one; of systems that have just left the batch it is not known. There is
        none on a stage of a fused run.
    frequency
        Written every so many steps; the last state is written in any case. It waits for the device.
    """

    stage = HookStageEnum.AFTER_STEP

    def __init__(self, output: str | Path | IO[str] = "-", frequency: int = 1) -> None:
        self.output = output
        self.frequency = frequency
        self._csv = str(output).endswith(".csv")
        self.records_last = True if self._csv else "run"
        self._file: IO[str] | None = None
        self._titled = False

    def __repr__(self) -> str:
        """Say where to and how often."""
        return f"LoggingHook({self.output!r}, frequency={self.frequency})"

    def __enter__(self) -> Self:
        """Open the file; a second run appends to it."""
        if isinstance(self.output, (str, Path)) and str(self.output) != "-":
            self._file = open(self.output, "a" if self._titled else "w", newline="")
        return self

    def __exit__(self, *exception: object) -> None:
        """Close the file if it was opened here."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Write the present state; outside of a run the file is opened for it."""
        if self._file is None and isinstance(self.output, (str, Path)) and self.output != "-":
            with self:
                self._write(batch, dynamics, self._file)
            return
        standard = sys.stdout if self.output == "-" else self.output
        self._write(batch, dynamics, self._file or standard)

    def _write(self, batch: Batch, dynamics: "BaseDynamics", target: Any) -> None:
        step = np.full(len(batch), dynamics.step_count)
        columns = {key: _column(batch, key) for key in _COLUMNS[1:]}
        conserved = _conserved(batch, dynamics)
        if conserved is not None:
            columns["conserved_energy"] = conserved
        if self._csv:
            writer = csv.writer(target)
            if not self._titled:
                writer.writerow(("step", *columns))
            writer.writerows(zip(step, *columns.values(), strict=True))
        else:
            last = "" if conserved is None else f" {'mean conserved':>16}"
            if not self._titled:
                titles = f"{'step':>8} {'moving':>8} {'mean energy':>16} {'max fmax':>12}"
                target.write(f"{titles}{last}\n")
            active = dynamics.active(batch)
            moving = len(batch) if active is None else int(active.system.sum())
            energy, fmax = np.nanmean(columns["energy"]), np.nanmax(columns["fmax"])
            last = "" if conserved is None else f" {np.nanmean(conserved):16.6f}"
            target.write(
                f"{dynamics.step_count:8d} {moving:8d} {energy:16.6f} {fmax:12.6f}{last}\n"
            )
        self._titled = True


def _column(batch: Batch, key: str) -> np.ndarray:
    if key not in batch:
        return np.full(len(batch), np.nan)
    return batch[key].detach().view(-1).cpu().numpy()


def _conserved(batch: Batch, dynamics: Any) -> np.ndarray | None:
    if not hasattr(dynamics, "conserved_energy") or dynamics.whole is not None:
        return None
    if dynamics._batch is not batch:  # the state is not that of these systems
        return np.full(len(batch), np.nan)
    return dynamics.conserved_energy(batch).detach().view(-1).cpu().numpy()
