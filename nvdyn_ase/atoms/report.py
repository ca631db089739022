"""How each system of a batch ended, for its user."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import ase
import numpy as np
from scipy.spatial import cKDTree

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.cell_filters import collapsed
from nvdyn_ase.dynamics.hooks.blow_up import blow_up_reason
from nvdyn_ase.dynamics.outcome import Outcome


@dataclass(frozen=True)
class Result:
    """One structure and how it ended.

    Parameters
    ----------
    atoms
        The user's object.
    index
        Its position in the input.
    converged
        Whether it met the criterion.
    steps, evaluations
        Accepted steps, and forward passes in which it took part.
    energy
        eV, with what constraints add to it as in ``Atoms.get_potential_energy``; NaN if there is
        none.
    fmax
        Largest force that the optimizer saw, eV/Å; NaN if there is none.
    outcome
        How it ended; ``Outcome.ACTIVE`` while it still moves.
    reason
        Why it failed and what to do; empty if it did not.
    stage_steps
        Steps in each stage of a run of several; empty in a run of one.
    """

    atoms: ase.Atoms
    index: int
    converged: bool
    steps: int
    evaluations: int
    energy: float
    fmax: float
    outcome: Outcome
    reason: str = ""
    stage_steps: tuple[int, ...] = ()

    @classmethod
    def of_batch(
        cls,
        batch: Batch,
        atoms: Sequence[ase.Atoms],
        indices: Sequence[int] | None = None,
        energies: np.ndarray | None = None,
    ) -> list["Result"]:
        """Return the result of every system of a batch.

        Parameters
        ----------
        batch
            The systems.
        atoms
            The user's objects, in the same order, up to date.
        indices
            Their positions in the input; 0, 1, 2, ... by default.
        energies
            (B,), eV; those of the model by default.
        """
        keys = ("steps", "evaluations", "energy", "fmax", "outcome")
        columns = {key: _column(batch, key) for key in keys}
        if energies is not None:
            columns["energy"] = energies
        lost = np.zeros(len(batch), bool)
        if "cell_filter" in batch:
            lost = collapsed(batch).view(-1).cpu().numpy()
        notes = batch["blow_up"].cpu().tolist() if "blow_up" in batch else [None] * len(batch)
        stages = batch["stage_steps"].tolist() if "stage_steps" in batch else [()] * len(batch)
        positions = range(len(batch)) if indices is None else indices
        results = []
        for row, system in enumerate(atoms):
            outcome = Outcome(int(columns["outcome"][row]))
            exploded = notes[row] if outcome is Outcome.EXPLODED else None
            reason = _reason(outcome, system, batch.host[row], bool(lost[row]), exploded)
            results.append(
                cls(
                    atoms=system,
                    index=positions[row],
                    converged=outcome is Outcome.CONVERGED,
                    steps=int(columns["steps"][row]),
                    evaluations=int(columns["evaluations"][row]),
                    energy=float(columns["energy"][row]),
                    fmax=float(columns["fmax"][row]),
                    outcome=outcome,
                    reason=reason,
                    stage_steps=tuple(stages[row]),
                )
            )
        return results


def _column(batch: Batch, key: str) -> np.ndarray:
    if key not in batch:
        return np.full(len(batch), np.nan if key in ("energy", "fmax") else 0)
    return batch[key].detach().view(-1).cpu().numpy()


def _reason(
    outcome: Outcome,
    atoms: ase.Atoms,
    host: Mapping[str, Any],
    lost: bool,
    exploded: Sequence[float] | None,
) -> str:
    if not outcome.failed:
        return ""
    if exploded is not None and exploded[0]:
        return blow_up_reason(exploded)
    if lost:
        return (
            "its cell collapsed or turned inside out; start from a better cell, or take a smaller "
            "maxstep, dt or pressure"
        )
    if "failure" in host:
        return str(host["failure"])
    if outcome is Outcome.NAN:
        return f"energy or forces are not finite; {_closest(atoms)}"
    return outcome.word


def _closest(atoms: ase.Atoms) -> str:
    """Say which two atoms are closest, as the usual cause of a force that is not finite."""
    advice = "check its positions and cell"
    if not np.isfinite(atoms.positions).all() or not (len(atoms) > 1 or atoms.pbc.any()):
        return advice
    i, j, distance = _closest_pair(atoms)
    pair = f"atom {i} and its own image" if i == j else f"atoms {i} and {j}"
    return f"{pair} are {distance:.2g} Å apart: {advice}"


def _closest_pair(atoms: ase.Atoms) -> tuple[int, int, float]:
    """Return two atoms, the same twice if its image is closest, and their distance."""
    cell, count = atoms.cell.complete().array, len(atoms)
    shifts = np.stack(np.meshgrid(*[[0, 1, -1] if p else [0] for p in atoms.pbc]), -1)
    shifts = shifts.reshape(-1, 3)  # the first is none at all
    images = (atoms.positions[None] + (shifts @ cell)[:, None]).reshape(-1, 3)
    distances, found = cKDTree(images).query(atoms.positions, k=2)
    # Of the two nearest, one is the atom itself; which one cannot be said where two coincide.
    nearest = np.where(found[:, 0] == np.arange(count), found[:, 1], found[:, 0])
    i = int(distances[:, 1].argmin())
    j = int(nearest[i]) % count
    return min(i, j), max(i, j), float(distances[i, 1])
