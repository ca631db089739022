"""How a batch moves: engines, hooks, convergence, optimizers and integrators."""

from nvdyn_ase.dynamics.base import BaseDynamics
from nvdyn_ase.dynamics.cell_filters import CellFilter, filter_cells
from nvdyn_ase.dynamics.convergence import ConvergenceCriterion, ConvergenceHook
from nvdyn_ase.dynamics.hooks import (
    Hook,
    HookStageEnum,
    LoggingHook,
    NaNDetectorHook,
    NeighborListHook,
    ProgressHook,
    SnapshotHook,
)
from nvdyn_ase.dynamics.integrators import (
    NVE,
    Andersen,
    Bussi,
    Langevin,
    NVTBerendsen,
    NVTLangevin,
    VelocityVerlet,
)
from nvdyn_ase.dynamics.optimizers import (
    FIRE,
    FIRE2,
    LBFGS,
    BFGSLineSearch,
    LBFGSLineSearch,
    MDMin,
    Optimizer,
)
from nvdyn_ase.dynamics.outcome import Outcome
from nvdyn_ase.dynamics.sinks import DataSink, HostMemory

__all__ = [
    "FIRE",
    "FIRE2",
    "LBFGS",
    "NVE",
    "Andersen",
    "BFGSLineSearch",
    "BaseDynamics",
    "Bussi",
    "CellFilter",
    "ConvergenceCriterion",
    "ConvergenceHook",
    "DataSink",
    "Hook",
    "HookStageEnum",
    "HostMemory",
    "LBFGSLineSearch",
    "Langevin",
    "LoggingHook",
    "MDMin",
    "NVTBerendsen",
    "NVTLangevin",
    "NaNDetectorHook",
    "NeighborListHook",
    "Optimizer",
    "Outcome",
    "ProgressHook",
    "SnapshotHook",
    "VelocityVerlet",
    "filter_cells",
]
