"""What a system is: ``AtomicData``, ``Batch``, and the table of fields."""

from nvdyn_ase.data.atomic_data import AtomicData
from nvdyn_ase.data.batch import Batch
from nvdyn_ase.data.blocks import Blocks
from nvdyn_ase.data.errors import StructureError
from nvdyn_ase.data.fields import FIELDS, Field, Level
from nvdyn_ase.data.segments import segment_dot, segment_max, segment_sum

__all__ = [
    "FIELDS",
    "AtomicData",
    "Batch",
    "Blocks",
    "Field",
    "Level",
    "StructureError",
    "segment_dot",
    "segment_max",
    "segment_sum",
]
