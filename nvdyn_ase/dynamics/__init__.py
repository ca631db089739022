"""How a batch moves: engines, hooks, convergence, optimizers and integrators."""

from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.cell_filters import CellFilter, filter_cells
from nvdyn_ase.dynamics.convergence import ConvergenceCriterion, ConvergenceHook
from nvdyn_ase.dynamics.hooks import (
    BlowUpHook,
    Hook,
    HookStageEnum,
    LoggingHook,
    NaNDetectorHook,
    NeighborListHook,
    ProgressHook,
    SnapshotHook,
)
from nvdyn_ase.dynamics.integrators import (
    MTKNPT,
    NPH,
    NPT,
    NVE,
    Andersen,
    Bussi,
    IsotropicMTKNPT,
    Langevin,
    MaskedMTKNPT,
    MelchionnaNPT,
    NoseHooverChainNVT,
    NVTBerendsen,
    NVTLangevin,
    NVTNoseHoover,
    VelocityVerlet,
)
from nvdyn_ase.dynamics.optimizers import FIRE, FIRE2, LBFGS, MDMin, Optimizer
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.schedules import Ramp, Schedule
from nvdyn_ase.dynamics.sinks import DataSink, HostMemory

__all__ = [
    "FIRE",
    "FIRE2",
    "LBFGS",
    "MTKNPT",
    "NPH",
    "NPT",
    "NVE",
    "Andersen",
    "BaseDynamics",
    "BlowUpHook",
    "Bussi",
    "CellFilter",
    "ConvergenceCriterion",
    "ConvergenceHook",
    "DataSink",
    "Hook",
    "HookStageEnum",
    "HostMemory",
    "IsotropicMTKNPT",
    "Langevin",
    "LoggingHook",
    "MDMin",
    "MaskedMTKNPT",
    "MelchionnaNPT",
    "NVTBerendsen",
    "NVTLangevin",
    "NVTNoseHoover",
    "NaNDetectorHook",
    "NeighborListHook",
    "NoseHooverChainNVT",
    "Optimizer",
    "Outcome",
    "ProgressHook",
    "Ramp",
    "Schedule",
    "SnapshotHook",
    "VelocityVerlet",
    "filter_cells",
]
