"""Hooks: called at the stages of a step."""

from nvdyn_ase.dynamics.hooks.blow_up import BlowUpHook
from nvdyn_ase.dynamics.hooks.logging import LoggingHook
from nvdyn_ase.dynamics.hooks.nan import NaNDetectorHook
from nvdyn_ase.dynamics.hooks.neighbors import NeighborListHook
from nvdyn_ase.dynamics.hooks.progress import ProgressHook
from nvdyn_ase.dynamics.hooks.protocol import Hook, HookStageEnum
from nvdyn_ase.dynamics.hooks.snapshot import SnapshotHook

__all__ = [
    "BlowUpHook",
    "Hook",
    "HookStageEnum",
    "LoggingHook",
    "NaNDetectorHook",
    "NeighborListHook",
    "ProgressHook",
    "SnapshotHook",
]
