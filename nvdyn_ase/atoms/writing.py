"""Writing a batch back into the user's Atoms."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import ase
import numpy as np

from nvdyn_ase.atoms.filling import leave_results
from nvdyn_ase.atoms.learning import teach
from nvdyn_ase.atoms.momenta import to_momenta
from nvdyn_ase.atoms.origin import ORIGIN
from nvdyn_ase.atoms.proxy import unwrapped
from nvdyn_ase.atoms.results import HostResults
from nvdyn_ase.data import Batch, StructureError


def write_back(batch: Batch, atoms: Sequence[ase.Atoms], *, momenta: bool, results: bool) -> None:
    """Put positions, cells, momenta and results of a batch into the user's Atoms, in place.

    Constraints are passed over: whoever moved the batch has applied them. What has not changed is
    not written, so that a structure that did not move keeps its numbers to the last bit. A field
    is copied from the device once for all systems.

    Parameters
    ----------
    batch
        The systems.
    atoms
        The user's objects, in the same order.
    momenta
        Write momenta too.
    results
        The results in the batch are those of its positions: leave them in the calculators; see
        :func:`nvdyn_ase.atoms.filling.leave_results`. Without, calculators are left alone and find
        out by themselves what has changed. A system on which the model failed has no results.

    Raises
    ------
    ValueError
        Not one Atoms per system.
    StructureError
        One has another number of atoms now.
    """
    check_sizes(batch, atoms)
    positions, cells = _host(batch, "positions"), _host(batch, "cell")
    ptr = batch.host_ptr.tolist()
    for row, system in enumerate(atoms):
        _write(system, "positions", positions[ptr[row] : ptr[row + 1]])
        if not np.array_equal(system.cell.array.astype(cells.dtype, copy=False), cells[row]):
            system.cell.array[:] = cells[row]
    if momenta:
        _write_momenta(batch, atoms)
    if results:
        _write_results(batch, atoms, cells)
    if any(batch.constraints):
        teach(batch, atoms, forces=results)


def check_sizes(batch: Batch, atoms: Sequence[ase.Atoms]) -> None:
    """Raise unless there is one Atoms per system, with as many atoms."""
    if len(atoms) != len(batch):
        raise ValueError(f"{len(atoms)} Atoms for {len(batch)} systems")
    for row, (system, size) in enumerate(zip(atoms, batch.num_nodes_list, strict=True)):
        if len(system) != size:
            raise StructureError(
                row,
                f"it has {len(system)} atoms, and had {size} when the run was set up; atoms cannot "
                "be added or removed on the way",
            )


def _host(batch: Batch, key: str) -> np.ndarray:
    return batch[key].detach().cpu().numpy()


def _write(atoms: ase.Atoms, name: str, values: np.ndarray) -> None:
    """Write values that are not there already, as far as their type can tell."""
    array = atoms.arrays[name]
    if np.array_equal(array.astype(values.dtype, copy=False), values):
        return
    if array.dtype == np.float64:
        array[:] = values
    else:  # somebody made it of a type that would round them
        atoms.arrays[name] = values.astype(float)


def _write_momenta(batch: Batch, atoms: Sequence[ase.Atoms]) -> None:
    velocities, masses = _host(batch, "velocities"), _host(batch, "atomic_masses")
    ptr = batch.host_ptr.tolist()
    for row, system in enumerate(atoms):
        own = slice(ptr[row], ptr[row + 1])
        origin = batch.host[row].get(ORIGIN)
        before = None if origin is None else origin.momenta
        momenta = to_momenta(velocities[own], masses[own], before)
        if momenta is None:
            momenta = np.zeros((len(system), 3))
            if not system.has("momenta"):
                continue
        if system.has("momenta"):
            _write(system, "momenta", momenta)
        else:
            system.set_momenta(momenta, apply_constraint=False)


def _write_results(batch: Batch, atoms: Sequence[ase.Atoms], cells: np.ndarray) -> None:
    found = HostResults.of_batch(batch, cells)
    users = Counter(id(unwrapped(system.calc)) for system in atoms)
    sights = Counter(id(system.calc) for system in atoms)
    for row, system in enumerate(atoms):
        if "failure" not in batch.host[row]:
            leave_results(system, found.of_system(row), _is_shared(system.calc, users, sights))


def _is_shared(calculator: Any, users: Counter[int], sights: Counter[int]) -> bool:
    """Say whether an Atoms has no calculator, or proxy of a calculator, for itself."""
    inner = unwrapped(calculator)
    counts = users if inner is calculator else sights
    return calculator is not None and counts[id(calculator)] > 1
