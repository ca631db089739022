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
    MTKNPT,
    NPH,
    NPT,
    NVE,
    Andersen,
    Bussi,
    InhomogeneousNPTBerendsen,
    IsotropicMTKNPT,
    Langevin,
    LangevinBAOAB,
    MaskedMTKNPT,
    MelchionnaNPT,
    NoseHooverChainNVT,
    NPTBerendsen,
    NVTBerendsen,
    NVTLangevin,
    NVTNoseHoover,
    VelocityVerlet,
)
from nvdyn_ase.dynamics.optimizers import FIRE, FIRE2, LBFGS, MDMin, Optimizer
from nvdyn_ase.dynamics.outcome import Outcome
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
    "Bussi",
    "CellFilter",
    "ConvergenceCriterion",
    "ConvergenceHook",
    "DataSink",
    "Hook",
    "HookStageEnum",
    "HostMemory",
    "InhomogeneousNPTBerendsen",
    "IsotropicMTKNPT",
    "Langevin",
    "LangevinBAOAB",
    "LoggingHook",
    "MDMin",
    "MaskedMTKNPT",
    "MelchionnaNPT",
    "NPTBerendsen",
    "NVTBerendsen",
    "NVTLangevin",
    "NVTNoseHoover",
    "NaNDetectorHook",
    "NeighborListHook",
    "NoseHooverChainNVT",
    "Optimizer",
    "Outcome",
    "ProgressHook",
    "SnapshotHook",
    "VelocityVerlet",
    "filter_cells",
]
