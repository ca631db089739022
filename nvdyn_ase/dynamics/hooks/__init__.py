"""Hooks: called at the stages of a step."""

from nvdyn_ase.dynamics.hooks.bias import BiasedPotentialHook
from nvdyn_ase.dynamics.hooks.blow_up import BlowUpHook
from nvdyn_ase.dynamics.hooks.converged_snapshot import ConvergedSnapshotHook
from nvdyn_ase.dynamics.hooks.energy_drift import EnergyDriftMonitorHook
from nvdyn_ase.dynamics.hooks.force_clamp import MaxForceClampHook
from nvdyn_ase.dynamics.hooks.freeze import FreezeAtomsHook
from nvdyn_ase.dynamics.hooks.logging import LoggingHook
from nvdyn_ase.dynamics.hooks.nan import NaNDetectorHook
from nvdyn_ase.dynamics.hooks.neighbors import NeighborListHook
from nvdyn_ase.dynamics.hooks.profiler import ProfilerHook, StageTime
from nvdyn_ase.dynamics.hooks.progress import ProgressHook
from nvdyn_ase.dynamics.hooks.protocol import Hook, HookStageEnum
from nvdyn_ase.dynamics.hooks.snapshot import SnapshotHook
from nvdyn_ase.dynamics.hooks.wrap import WrapPeriodicHook

__all__ = [
    "BiasedPotentialHook",
    "BlowUpHook",
    "ConvergedSnapshotHook",
    "EnergyDriftMonitorHook",
    "FreezeAtomsHook",
    "Hook",
    "HookStageEnum",
    "LoggingHook",
    "MaxForceClampHook",
    "NaNDetectorHook",
    "NeighborListHook",
    "ProfilerHook",
    "ProgressHook",
    "SnapshotHook",
    "StageTime",
    "WrapPeriodicHook",
]
