"""Atoms that do not move."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from nvdyn_ase.data import Batch
from nvdyn_ase.dynamics.hooks.membership import Membership
from nvdyn_ase.dynamics.hooks.protocol import HookStageEnum

if TYPE_CHECKING:
    from nvdyn_ase.dynamics.base import BaseDynamics


class FreezeAtomsHook:
    """Holds some atoms where they are, bit for bit, whatever the method does to them.

    Their forces and velocities are zero, so that ``fmax`` is that of the others. They stay where
    they are in space when a cell changes. A thermostat still counts their degrees of freedom; for
    ASE's way of holding atoms give the structures ``FixAtoms`` instead.

    Parameters
    ----------
    atoms
        Which atoms of which system: by ``system_id``, a mapping from it or a sequence with an entry
        for each; an entry is atoms of that system, counted from its first, or one bool per atom.
        Systems that a mapping does not name move freely. Or the name of a bool field of atoms in
        the batch.

    Raises
    ------
    TypeError
        ``atoms`` has numbers where it should have an entry per system.
    ValueError
        When the batch is seen: atoms that a system does not have, or a system without an entry.
    """

    stage = HookStageEnum.BEFORE_PRE_UPDATE
    stages = (
        HookStageEnum.BEFORE_PRE_UPDATE,
        HookStageEnum.AFTER_PRE_UPDATE,
        HookStageEnum.AFTER_COMPUTE,
        HookStageEnum.BEFORE_POST_UPDATE,
        HookStageEnum.AFTER_POST_UPDATE,
    )
    frequency = 1
    of_one_engine = True

    def __init__(self, atoms: str | Mapping[int, Any] | Sequence[Any]) -> None:
        if not isinstance(atoms, str):
            entries = atoms.values() if isinstance(atoms, Mapping) else atoms
            if any(np.ndim(entry) != 1 for entry in entries):
                raise TypeError(
                    "atoms needs an entry for each system, which is indices or bools of its atoms"
                )
        self.atoms = atoms
        self._membership = Membership()
        self._held: Bool[Tensor, "V 1"] | None = None
        self._before: tuple[Tensor, int, Tensor] | None = None

    def __repr__(self) -> str:
        """Say of how many systems, or which field it is."""
        of = repr(self.atoms) if isinstance(self.atoms, str) else f"{len(self.atoms)} systems"
        return f"FreezeAtomsHook({of})"

    def __call__(self, batch: Batch, dynamics: "BaseDynamics") -> None:
        """Take the forces away, or undo what the method did to these atoms."""
        held, stage = self._held_in(batch), dynamics.current_hook_stage
        if stage is HookStageEnum.AFTER_COMPUTE:
            if "forces" in batch:
                batch["forces"] = torch.where(held, 0.0, batch["forces"])
            return
        active = dynamics.active(batch)
        held = held if active is None else held & active.node
        if "velocities" in dynamics._mutable_fields:
            batch["velocities"] = torch.where(held, 0.0, batch["velocities"])
        if stage in (HookStageEnum.BEFORE_PRE_UPDATE, HookStageEnum.BEFORE_POST_UPDATE):
            now = batch["positions"]
            kept = now.clone() if dynamics._writes_in_place else now
            self._before = now, now._version, kept
        else:
            self._put_back(batch, held)

    def _put_back(self, batch: Batch, held: Bool[Tensor, "V 1"]) -> None:
        assert self._before is not None
        (before, version, kept), self._before = self._before, None
        now = batch["positions"]
        # What has not moved must stay the same tensor: energy and forces belong to it.
        if now is not before or now._version != version:
            batch["positions"] = torch.where(held, kept, now)

    def _held_in(self, batch: Batch) -> Bool[Tensor, "V 1"]:
        if isinstance(self.atoms, str):
            return batch[self.atoms].view(-1, 1)
        ids = self._membership.changed(batch)
        if ids is not None or self._held is None:
            self._held = None  # if there is no mask for these, nobody may take that of others
            ids = batch["system_id"].view(-1).tolist() if ids is None else ids
            sizes = batch.num_nodes_list
            masks = [self._mask(i, size) for i, size in zip(ids, sizes, strict=True)]
            whole = torch.from_numpy(np.concatenate([np.zeros(0, bool), *masks]))
            self._held = whole.view(-1, 1).to(batch.device)
        return self._held

    def _mask(self, system: int, size: int) -> np.ndarray:
        """Return one bool per atom of a system."""
        mask = np.zeros(size, bool)
        if isinstance(self.atoms, Mapping):
            entry = np.asarray(self.atoms.get(system, ()))
        elif system < len(self.atoms):
            entry = np.asarray(self.atoms[system])
        else:
            raise ValueError(f"there is no entry for system {system} among {len(self.atoms)}")
        try:
            mask[entry if entry.size else entry.astype(int)] = True
        except IndexError as error:
            raise ValueError(f"system {system} has {size} atoms: {error}") from None
        return mask
