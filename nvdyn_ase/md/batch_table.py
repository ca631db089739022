"""The log of a list in molecular dynamics: one table for the batch."""

from collections.abc import Sequence
from typing import IO

import numpy as np
from ase import Atoms, units

from nvdyn_ase.md.standing import Standing


class BatchTable:
    """One line for all systems of a list.

    Time (ps), systems that have not failed, and of these: total, potential and kinetic energy (eV),
    per atom or summed; temperature (K) over the degrees of freedom that constraints leave, NaN if
    one cannot say; the conserved energy (eV) and the mean stress (GPa), if wanted. Where systems
    have their own time steps the time is that of the first.

    Parameters
    ----------
    standing
        Knows who moves them, and the time if there is one.
    file
        Open for writing.
    conserved
        Write the conserved energy.
    header, stress, peratom
        Write the titles; the stress; energies per atom.
    """

    def __init__(
        self,
        standing: Standing,
        file: IO[str],
        conserved: bool,
        header: bool = True,
        stress: bool = False,
        peratom: bool = True,
    ) -> None:
        self._standing, self._file = standing, file
        self._stress, self._per_atom = stress, peratom
        self._conserves = conserved
        if header:
            file.write("".join(self._titles()) + "\n")

    def _titles(self) -> list[str]:
        unit = "/N[eV]" if self._per_atom else "[eV]"
        titles = [f"{'Time[ps]':>10} "] if self._standing.has_time else []
        titles.append(f"{'Moving':>8}")
        titles += [f" {name + unit:>13}" for name in ("Etot", "Epot", "Ekin")]
        titles.append(f" {'T[K]':>9}")
        if self._conserves:
            titles.append(f" {'Econs' + unit:>13}")
        if self._stress:
            titles.append(f" {'stress [GPa]: xx, yy, zz, yz, xz, xy':>65}")
        return titles

    def write(self) -> None:
        """Write a line."""
        moving = np.flatnonzero(~self._standing.have_failed())
        systems = [self._standing.systems[row] for row in moving.tolist()]
        energies, temperature = self._energies(systems, moving)
        atoms = max(sum(map(len, systems)), 1) if self._per_atom else 1
        total, potential, kinetic, *conserved = (energy / atoms for energy in energies)
        parts = []
        if self._standing.has_time:
            parts.append(f"{self._standing.times()[0] / (1000 * units.fs):10.4f} ")
        parts.append(f"{len(systems):8d} {total:13.6f} {potential:13.6f} {kinetic:13.6f}")
        parts.append(f" {temperature:9.2f}")
        parts += [f" {energy:13.6f}" for energy in conserved]
        if self._stress:
            stress = [atoms.get_stress(include_ideal_gas=True) for atoms in systems]
            mean = np.mean(stress, axis=0) if stress else np.full(6, np.nan)
            parts += [f" {value / units.GPa:10.3f}" for value in mean]
        self._file.write("".join(parts) + "\n")
        self._file.flush()

    def _energies(self, systems: Sequence[Atoms], moving: np.ndarray) -> tuple[list[float], float]:
        """Return sums, eV: total, potential, kinetic and, if there is one, conserved; and T, K."""
        kinetic = sum(atoms.get_kinetic_energy() for atoms in systems)
        potential = sum(atoms.get_potential_energy() for atoms in systems)
        dof = sum(map(_degrees_of_freedom, systems))
        energies = [potential + kinetic, potential, kinetic]
        if self._conserves and (conserved := self._standing.conserved()) is not None:
            energies.append(float(np.nansum(conserved[moving])))
        return energies, 2.0 * kinetic / (np.maximum(dof, 1) * units.kB)


def _degrees_of_freedom(atoms: Atoms) -> float:
    """Return what ASE counts; NaN if a constraint cannot say, which is no reason to end a run."""
    try:
        return atoms.get_number_of_degrees_of_freedom()
    except Exception:
        return np.nan
