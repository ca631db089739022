"""What ASE's constraint objects learn while they act, told to the user's where others acted."""

from collections.abc import Iterator, Sequence
from operator import is_
from typing import Any

import ase
import numpy as np
from ase.constraints import FixBondLengths

from nvdyn_ase.atoms.origin import ORIGIN
from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.constraints import BatchConstraints, BondLengths


def teach(batch: Batch, atoms: Sequence[ase.Atoms], forces: bool) -> None:
    """Tell the user's ``FixBondLengths`` their lengths, and the forces that hold them.

    Parameters
    ----------
    batch
        The systems.
    atoms
        The user's objects, in the same order.
    forces
        The forces in the batch are those of its positions.
    """
    pupils = {
        (row, id(own)): constraint
        for row, system in enumerate(atoms)
        if batch.constraints[row] and _are_the_users(batch, row, system)
        for own, constraint in bonds(batch.constraints[row], system.constraints)
    }
    for row, described in enumerate(batch.constraints):
        for own in described:
            pupil = pupils.get((row, id(own)))
            if pupil is not None and pupil.bondlengths is None:
                pupil.bondlengths = own.lengths.copy()
    if not pupils or not forces or "forces" not in batch:
        return
    for (row, own), held in _holding_forces(batch):
        if (row, id(own)) in pupils:
            forces_of_all = np.zeros((batch.num_nodes_list[row], 3))
            forces_of_all[own.atoms()] = held
            pupils[row, id(own)].constraint_forces = forces_of_all


def _are_the_users(batch: Batch, row: int, atoms: ase.Atoms) -> bool:
    """Say whether the constraints are the very objects that were described."""
    origin = batch.host[row].get(ORIGIN)
    kept = () if origin is None else origin.constraints
    return len(kept) == len(atoms.constraints) and all(map(is_, kept, atoms.constraints))


def bonds(
    described: Sequence[Any], constraints: Sequence[Any]
) -> Iterator[tuple[BondLengths, FixBondLengths]]:
    """Yield the descriptions of bonds, and the objects that they were made of."""
    own = [description for description in described if isinstance(description, BondLengths)]
    objects = [constraint for constraint in constraints if type(constraint) is FixBondLengths]
    yield from zip(own, objects, strict=False)


def _holding_forces(batch: Batch) -> Iterator[tuple[Any, np.ndarray]]:
    """Yield each description of bonds with its row, and what it adds to forces on its atoms."""
    for kind, before, after in BatchConstraints(batch).steps_of_forces(batch):
        members = [member for member in kind.members if isinstance(member.own, BondLengths)]
        if members:
            added = (after - before).detach().cpu().numpy()
            for member in members:
                yield member, added[batch.host_ptr[member.row] + member.own.atoms()]
