"""Energy and forces: the contract of a batched model, built-in potentials, the registry."""

from nvdyn_ase.models.base import (
    BaseModelMixin,
    ModelCard,
    ModelConfig,
    ModelOutputs,
    NeighborConfig,
)
from nvdyn_ase.models.eam import EAM
from nvdyn_ase.models.emt import EMT
from nvdyn_ase.models.harmonic import Harmonic
from nvdyn_ase.models.lennard_jones import LennardJones
from nvdyn_ase.models.morse import Morse
from nvdyn_ase.models.pair_table import PairTable
from nvdyn_ase.models.registry import as_model, register_model
from nvdyn_ase.models.stillinger_weber import StillingerWeber
from nvdyn_ase.models.sums import SumModel
from nvdyn_ase.models.tersoff import Tersoff

__all__ = [
    "EAM",
    "EMT",
    "BaseModelMixin",
    "Harmonic",
    "LennardJones",
    "ModelCard",
    "ModelConfig",
    "ModelOutputs",
    "Morse",
    "NeighborConfig",
    "PairTable",
    "StillingerWeber",
    "SumModel",
    "Tersoff",
    "as_model",
    "register_model",
]
